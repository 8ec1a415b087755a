#include "interceptor/replay/progress.h"

void progress_begin(struct progress *p, uint64_t from, uint64_t now_us)
{
    *p = (struct progress){.from = from, .read_to = from, .begun_us = now_us, .ended_us = now_us};
}

void progress_read(struct progress *p, uint64_t offset, bool request)
{
    if (offset <= p->read_to) return;
    p->read_to = offset;
    p->found += request;
}

void progress_done(struct progress *p, uint64_t now_us)
{
    p->done++;
    p->ended_us = now_us;
}

struct progress_view progress_look(const struct progress *p, uint64_t to, bool going_on, uint64_t now_us)
{
    struct progress_view v = {.done = p->done, .total = p->found};
    if (p->read_to > p->from && to > p->read_to)
        v.total = (uint64_t)((double)p->found * (double)(to - p->from) / (double)(p->read_to - p->from));
    if (v.total < v.done) v.total = v.done;
    uint64_t spent = (going_on ? now_us : p->ended_us) - p->begun_us;
    if (p->done == 0 || spent == 0) return v;
    v.per_s = (double)p->done * 1e6 / (double)spent;
    if (going_on) v.eta_ms = (uint64_t)((double)(v.total - v.done) * 1000 / v.per_s);
    return v;
}
