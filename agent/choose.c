#include "agent/choose.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { BYTES_US_HERE = 1000, BYTES_US_AWAY = 100 }; /* bytes a microsecond that a restore takes in: 1 GB/s, and 100 MB/s over the network */

static bool newer(const struct candidate *a, const struct candidate *b)
{
    return a->offset != b->offset ? a->offset > b->offset : a->recorded_us > b->recorded_us;
}

/* Saturating: offsets and costs come from outside. */
static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t restore_cost(const struct candidate *c, const struct wish *w)
{
    uint64_t tail = w->last_offset > c->offset ? w->last_offset - c->offset : 0;
    uint64_t bytes = c->size / BYTES_US_HERE + (c->here ? 0 : c->size / BYTES_US_AWAY);
    return plus(plus(w->restore_us, bytes), times(tail, w->replay_us));
}

int choose(const struct candidate *all, size_t n, const struct wish *w, char reason[CHOOSE_REASON_MAX])
{
    int best = -1;
    bool other_template = false, failed = false, automatic = strcmp(w->restore, "auto") == 0;
    if (strcmp(w->restore, "fresh") == 0) {
        snprintf(reason, CHOOSE_REASON_MAX, "the pod asks for a fresh start");
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        const struct candidate *c = &all[i];
        if (!automatic && strcmp(c->id, w->restore) != 0) continue;
        if (strcmp(c->template_hash, w->template_hash) != 0) other_template = true;
        else if (c->unusable || c->failures >= CHOOSE_FAILURES_MAX) failed = true;
        else if (best < 0 || newer(c, &all[best])) best = (int)i;
    }
    if (best < 0) {
        const char *why = failed ? "none of the checkpoints could be used" : other_template ? "the checkpoints are of another pod template" : "no checkpoint";
        if (automatic) snprintf(reason, CHOOSE_REASON_MAX, "%s", why);
        else snprintf(reason, CHOOSE_REASON_MAX, "checkpoint %.64s was asked for: %s", w->restore, why);
        return -1;
    }
    uint64_t replay = times(w->last_offset, w->replay_us);
    if (automatic && w->first_offset <= 1 && replay <= restore_cost(&all[best], w)) {
        snprintf(reason, CHOOSE_REASON_MAX, "replaying all of %" PRIu64 " is cheaper than restoring %.64s", w->last_offset, all[best].id);
        return -1;
    }
    return best;
}

/* Is there none newer of its stream? */
static bool newest(const struct kept *all, size_t n, size_t at)
{
    for (size_t i = 0; i < n; i++)
        if (i != at && strcmp(all[i].stream, all[at].stream) == 0 &&
            (all[i].offset > all[at].offset || (all[i].offset == all[at].offset && i > at)))
            return false;
    return true;
}

int choose_eviction(const struct kept *all, size_t n, uint64_t budget)
{
    uint64_t sum = 0;
    int oldest = -1;
    for (size_t i = 0; i < n; i++) {
        sum = plus(sum, all[i].bytes);
        if (!all[i].busy && !newest(all, n, i) && (oldest < 0 || all[i].used_us < all[oldest].used_us)) oldest = (int)i;
    }
    return sum > budget ? oldest : -1;
}
