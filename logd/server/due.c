#include "logd/server/due.h"

#include "common/mutant.h"

/* The bounds do not keep all of this run and of what follows: *ret_last is the last event that they let go, as far as this run tells. The events of a run have
 * one time; how its bytes are shared among them is not known here: what comes before it is all that surely has too much behind it. */
static bool goes(const struct streams_info *info, const struct streams_run *run, uint64_t now_us, uint64_t *ret_last)
{
    const struct streams_policy *p = &info->policy;
    bool old = p->max_age_us > 0 && now_us > p->max_age_us && run->time_us < now_us - p->max_age_us;
    bool beyond = p->max_bytes > 0 && info->bytes - run->before > p->max_bytes;
    if (old || beyond) *ret_last = old || MUTANT(policy_bytes) ? run->first_offset + run->count - 1 : run->first_offset - 1;
    return old || beyond;
}

int due_offset(const struct streams_info *info, uint64_t bound, uint64_t now_us, due_find_cb *find, void *user, uint64_t *ret_offset, struct error *e)
{
    uint64_t low = info->first_offset, high = bound, last = 0;
    if (info->policy.max_age_us == 0 && info->policy.max_bytes == 0) {
        *ret_offset = bound >= low ? bound : 0;
        return 0;
    }
    for (unsigned asked = 0; low <= high; asked++) { /* what is before `low` goes; what is behind `high` stays */
        struct streams_run run;
        /* The first run is asked first, and the next if that one is not kept whole: most of the time nothing goes, and nothing more has to be asked. */
        uint64_t at = asked < 2 ? low : low + (high - low) / 2;
        int rv = find(user, info->id, at, &run, e);
        if (rv != 0) return rv;
        if (goes(info, &run, now_us, &last)) {
            low = run.first_offset + run.count;
        } else if (run.first_offset <= low) {
            break;
        } else {
            high = run.first_offset - 1;
        }
    }
    if (last < bound && low > bound && low <= info->last_offset) { /* the bound is within a run: the next one tells of its events */
        struct streams_run run;
        int rv = find(user, info->id, low, &run, e);
        if (rv != 0) return rv;
        goes(info, &run, now_us, &last);
    }
    if (last < info->first_offset) last = 0;
    *ret_offset = last < bound ? last : bound;
    return 0;
}
