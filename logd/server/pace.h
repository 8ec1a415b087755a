/* A limit of bytes a second: when may the next ones begin? What was not used is not saved up. Pure. */
#ifndef CRSC_LOGD_SERVER_PACE_H
#define CRSC_LOGD_SERVER_PACE_H

#include <stdint.h>

struct pace {
    uint64_t rate;    /* bytes a second; 0: no limit */
    uint64_t next_us; /* before that nothing begins */
};

/* In ascending order for each call. */
static inline uint64_t pace_take(struct pace *p, uint64_t now_us, uint64_t bytes)
{
    uint64_t begin = p->next_us > now_us ? p->next_us : now_us;
    if (p->rate == 0) return now_us;
    p->next_us = begin + bytes * 1000000 / p->rate;
    return begin;
}

#endif
