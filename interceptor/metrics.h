/* A latency histogram in the form of Prometheus. Pure. Thread: one. */
#ifndef CRSC_INTERCEPTOR_METRICS_H
#define CRSC_INTERCEPTOR_METRICS_H

#include <stdint.h>

#include "common/buf.h"

enum { HISTOGRAM_BUCKETS = 18 }; /* 100 us, doubling, up to 6.5 s; then all */

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t sum_us;
};

void histogram_add(struct histogram *h, uint64_t us);

/* Text format 0.0.4. 0 or -ERROR_NOMEM. */
int metrics_histogram(struct buf *out, const char *name, const char *help, const struct histogram *h);
int metrics_value(struct buf *out, const char *name, const char *type, const char *help, double value);

#endif
