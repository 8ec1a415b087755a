#include "interceptor/lease/lease.h"

void lease_init(struct lease *l, uint64_t length_us)
{
    *l = (struct lease){.length_us = length_us};
}

void lease_opened(struct lease *l, uint64_t epoch, uint64_t now_us)
{
    bool ours = l->epoch != 0 && epoch == l->epoch + 1;
    if (epoch != 1 && !ours) l->since_us = now_us + l->length_us + l->length_us / 10;
    l->epoch = epoch;
}

void lease_renewed(struct lease *l, uint64_t asked_us)
{
    if (asked_us + l->length_us > l->until_us) l->until_us = asked_us + l->length_us;
}

void lease_free_before(struct lease *l)
{
    l->since_us = 0;
}

void lease_end(struct lease *l)
{
    l->ended = true;
}

bool lease_live(const struct lease *l, uint64_t now_us)
{
    return !l->ended && (l->length_us == 0 || (now_us >= l->since_us && now_us < l->until_us));
}

uint64_t lease_change(const struct lease *l, uint64_t now_us)
{
    if (l->ended || l->length_us == 0 || now_us >= l->until_us) return UINT64_MAX;
    return now_us < l->since_us ? l->since_us : l->until_us;
}
