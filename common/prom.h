/* Metrics in the text format of Prometheus (version 0.0.4), and histograms of latencies that cost nothing to speak of.
 *
 *   struct prom p = {.out = &text};
 *   prom_family(&p, "crsc_logd_peers", "gauge", "Servers connected.");
 *   prom_value(&p, "peer=\"2\"", 1);
 *
 * A histogram has one writing thread and any number of readers: an observation is two additions without a locked instruction; a reader may see
 * one of the two, never a torn number. Buckets double, from 16 us to 8.4 s. Thread: as said; the rest: any. */
#ifndef CRSC_COMMON_PROM_H
#define CRSC_COMMON_PROM_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/buf.h"

enum { PROM_BUCKETS = 21, PROM_FIRST_US = 16 }; /* the last one is +Inf */

struct prom_histogram {
    _Atomic uint64_t counts[PROM_BUCKETS];
    _Atomic uint64_t sum_us;
};

static inline void prom_add(_Atomic uint64_t *n, uint64_t more)
{
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + more, memory_order_relaxed);
}

/* The smallest bucket whose bound is not below. */
static inline unsigned prom_bucket(uint64_t us)
{
    unsigned i = us <= PROM_FIRST_US ? 0 : 64 - (unsigned)__builtin_clzll((us - 1) / PROM_FIRST_US);
    return i < PROM_BUCKETS ? i : PROM_BUCKETS - 1;
}

static inline void prom_observe(struct prom_histogram *h, uint64_t us)
{
    prom_add(&h->counts[prom_bucket(us)], 1);
    prom_add(&h->sum_us, us);
}

static inline uint64_t prom_observed(const struct prom_histogram *h)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < PROM_BUCKETS; i++) n += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
    return n;
}

static inline uint64_t prom_sum_us(const struct prom_histogram *h)
{
    return atomic_load_explicit(&h->sum_us, memory_order_relaxed);
}

/* Writing. An error (no memory) stays in `rv`; what comes after it is left out. */
struct prom {
    struct buf *out;
    int rv;
    const char *name; /* of the family under way */
};

void prom_family(struct prom *p, const char *name, const char *type, const char *help);
/* `labels`: a="b",c="d" without braces, or NULL; values escaped by prom_label(). */
void prom_value(struct prom *p, const char *labels, double value);
void prom_count(struct prom *p, const char *labels, uint64_t value); /* exact also beyond 2^53 */
void prom_histogram(struct prom *p, const char *name, const char *help, const struct prom_histogram *h);

/* A family with one sample. */
void prom_gauge(struct prom *p, const char *name, const char *help, double value);
void prom_counter(struct prom *p, const char *name, const char *help, uint64_t value);

/* What every process has: process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds, process_start_time_seconds. */
void prom_process(struct prom *p, uint64_t started_us);

/* The value with \ " and newline escaped; cut to the size. */
const char *prom_label(const char *value, char *out, size_t size);

#endif
