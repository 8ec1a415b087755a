#include "logctl/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/loop.h"
#include "logctl/format.h"

enum { BAR = 20, EVERY_MS = 100, AMOUNT_MAX = 32 };

static const char *amount(enum progress_unit unit, uint64_t n, char out[static AMOUNT_MAX])
{
    if (unit == PROGRESS_BYTES) format_size(n, out);
    else if (unit == PROGRESS_MS) format_duration(n, out);
    else snprintf(out, AMOUNT_MAX, "%" PRIu64, n);
    return out;
}

const char *progress_line(const struct progress *p, uint64_t done, uint64_t ms, char out[static PROGRESS_LINE_MAX])
{
    char bar[BAR + 1], a[AMOUNT_MAX], b[AMOUNT_MAX], rate[AMOUNT_MAX], left[FORMAT_SIZE_MAX];
    size_t at = (size_t)snprintf(out, PROGRESS_LINE_MAX, "%.30s", p->what);
    if (done > p->total && p->total > 0) done = p->total;
    if (p->total > 0) {
        double part = (double)done / (double)p->total;
        size_t full = (size_t)(part * BAR);
        memset(bar, ' ', BAR);
        memset(bar, '=', full);
        if (full < BAR) bar[full] = '>';
        bar[BAR] = '\0';
        at += (size_t)snprintf(out + at, PROGRESS_LINE_MAX - at, " [%s] %3d%%  %s of %s", bar, (int)(part * 100), amount(p->unit, done, a),
                               amount(p->unit, p->total, b));
    } else {
        at += (size_t)snprintf(out + at, PROGRESS_LINE_MAX - at, "  %s", amount(p->unit, done, a));
    }
    if (p->unit != PROGRESS_MS && ms > 0) {
        double per_s = (double)done * 1000 / (double)ms;
        at += (size_t)snprintf(out + at, PROGRESS_LINE_MAX - at, "  %s/s", amount(p->unit, (uint64_t)per_s, rate));
    }
    if (p->total > 0 && done > 0 && ms > 0)
        snprintf(out + at, PROGRESS_LINE_MAX - at, "  %s left", format_duration((uint64_t)((double)ms * (double)(p->total - done) / (double)done), left));
    return out;
}

void progress_begin(struct progress *p, const char *what, enum progress_unit unit, uint64_t total)
{
    *p = (struct progress){.what = what, .unit = unit, .total = total, .begun_ms = loop_monotonic_us() / 1000, .terminal = isatty(STDERR_FILENO) == 1};
}

void progress_set(struct progress *p, uint64_t done)
{
    char line[PROGRESS_LINE_MAX];
    uint64_t now = loop_monotonic_us() / 1000;
    if (!p->terminal || (p->shown && now - p->told_ms < EVERY_MS)) return;
    p->told_ms = now;
    p->shown = true;
    fprintf(stderr, "\r\033[K%s", progress_line(p, done, now - p->begun_ms, line));
    fflush(stderr);
}

void progress_end(struct progress *p)
{
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}
