#include "common/prom.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <uv.h>

enum { LINE_MAX_BYTES = 512 };

static void __attribute__((format(printf, 2, 3))) add(struct prom *p, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    if (p->rv != 0) return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    p->rv = buf_add(p->out, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

void prom_family(struct prom *p, const char *name, const char *type, const char *help)
{
    p->name = name;
    add(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void prom_value(struct prom *p, const char *labels, double value)
{
    const char *open = labels != NULL ? "{" : "", *close = labels != NULL ? "}" : "";
    add(p, "%s%s%s%s %.17g\n", p->name, open, labels != NULL ? labels : "", close, value);
}

void prom_count(struct prom *p, const char *labels, uint64_t value)
{
    const char *open = labels != NULL ? "{" : "", *close = labels != NULL ? "}" : "";
    add(p, "%s%s%s%s %" PRIu64 "\n", p->name, open, labels != NULL ? labels : "", close, value);
}

void prom_histogram(struct prom *p, const char *name, const char *help, const struct prom_histogram *h)
{
    uint64_t sum = 0, bound = PROM_FIRST_US;
    prom_family(p, name, "histogram", help);
    for (unsigned i = 0; i < PROM_BUCKETS; i++, bound *= 2) {
        sum += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
        if (i < PROM_BUCKETS - 1) add(p, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, (double)bound / 1e6, sum);
        else add(p, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, sum);
    }
    add(p, "%s_sum %.17g\n%s_count %" PRIu64 "\n", name, (double)atomic_load_explicit(&h->sum_us, memory_order_relaxed) / 1e6, name, sum);
}

void prom_gauge(struct prom *p, const char *name, const char *help, double value)
{
    prom_family(p, name, "gauge", help);
    prom_value(p, NULL, value);
}

void prom_counter(struct prom *p, const char *name, const char *help, uint64_t value)
{
    prom_family(p, name, "counter", help);
    prom_count(p, NULL, value);
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL) return 0;
    while (readdir(dir) != NULL) n++;
    closedir(dir);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the directory's own */
}

void prom_process(struct prom *p, uint64_t started_us)
{
    struct rusage usage;
    size_t resident = 0;
    getrusage(RUSAGE_SELF, &usage);
    uv_resident_set_memory(&resident);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    prom_family(p, "process_cpu_seconds_total", "counter", "CPU time of the process, user and system.");
    prom_value(p, NULL, cpu);
    prom_gauge(p, "process_resident_memory_bytes", "Memory of the process that is in RAM.", (double)resident);
    prom_gauge(p, "process_open_fds", "File descriptors in use.", open_files());
    prom_gauge(p, "process_start_time_seconds", "When the process started, since 1970.", (double)started_us / 1e6);
}

const char *prom_label(const char *value, char *out, size_t size)
{
    size_t at = 0;
    for (; *value != '\0' && at + 3 <= size; value++) {
        if (*value == '\\' || *value == '"' || *value == '\n') out[at++] = '\\';
        out[at++] = *value == '\n' ? 'n' : *value;
    }
    out[at] = '\0';
    return out;
}
