#include "interceptor/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum { FIRST_US = 100 };

void histogram_add(struct histogram *h, uint64_t us)
{
    unsigned i = 0;
    for (uint64_t bound = FIRST_US; us > bound && i < HISTOGRAM_BUCKETS - 1; bound *= 2) i++;
    h->counts[i]++;
    h->sum_us += us;
}

static int __attribute__((format(printf, 2, 3))) add(struct buf *out, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    return buf_add(out, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

int metrics_histogram(struct buf *out, const char *name, const char *help, const struct histogram *h)
{
    uint64_t sum = 0, bound = FIRST_US;
    int rv = add(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && rv == 0; i++, bound *= 2) {
        sum += h->counts[i];
        rv = i == HISTOGRAM_BUCKETS - 1
                 ? add(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, sum)
                 : add(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, (double)bound / 1e6, sum);
    }
    if (rv == 0) rv = add(out, "%s_sum %g\n%s_count %" PRIu64 "\n", name, (double)h->sum_us / 1e6, name, sum);
    return rv;
}

int metrics_value(struct buf *out, const char *name, const char *type, const char *help, double value)
{
    return add(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name, value);
}
