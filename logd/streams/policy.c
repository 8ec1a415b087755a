#include "logd/streams/policy.h"

#include <stdlib.h>

#include "common/mutant.h"
#include "logd/streams/command_codec.h"

bool policy_equal(const struct streams_policy *a, const struct streams_policy *b)
{
    return a->keep_snapshots == b->keep_snapshots && a->max_age_us == b->max_age_us && a->max_bytes == b->max_bytes &&
           a->beyond_snapshots == b->beyond_snapshots;
}

int policy_check(const struct streams_policy *p, struct error *e)
{
    if (p->keep_snapshots > STREAMS_SNAPSHOTS_MAX)
        return error_set(e, ERROR_INVALID, "a retention policy keeps at most %d snapshots, not %u", STREAMS_SNAPSHOTS_MAX, p->keep_snapshots);
    if (p->max_age_us > COMMAND_NUMBER_MAX || p->max_bytes > COMMAND_NUMBER_MAX)
        return error_set(e, ERROR_INVALID, "a retention policy's bound is too large: leave it out");
    if (p->beyond_snapshots && p->max_age_us == 0 && p->max_bytes == 0)
        return error_set(e, ERROR_INVALID, "a retention policy that goes beyond snapshots needs an age or a number of bytes");
    if (p->beyond_snapshots && p->keep_snapshots > 0)
        return error_set(e, ERROR_INVALID, "a retention policy either keeps what snapshots need or goes beyond them");
    return 0;
}

static int highest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

bool policy_bound(const struct stream *t, uint64_t *ret_offset)
{
    const struct streams_policy *p = &t->policy;
    uint64_t offsets[STREAMS_SNAPSHOTS_MAX];
    uint32_t n = 0, keep = p->keep_snapshots > 0 ? p->keep_snapshots : 1;
    if (!streams_policy_is_set(p)) return false;
    if (p->beyond_snapshots) {
        *ret_offset = t->last_offset;
        return true;
    }
    for (uint32_t i = 0; i < t->snapshots.n; i++)
        if (snapshot_usable(t->snapshots.all[i], t->first_offset)) offsets[n++] = t->snapshots.all[i]->out.offset;
    if (n < keep) return false;
    qsort(offsets, n, sizeof *offsets, highest_first);
    *ret_offset = offsets[keep - 1] + MUTANT(policy_too_far);
    return true;
}
