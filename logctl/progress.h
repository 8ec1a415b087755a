/* Progress of long work, on stderr and only when that is a terminal: how much is done, how fast, how long it will take.
 *
 *   backup [=========>          ]  47%  1.2 GiB of 2.6 GiB  310 MiB/s  4s left
 *
 * Thread: one. */
#ifndef CRSC_LOGCTL_PROGRESS_H
#define CRSC_LOGCTL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROGRESS_LINE_MAX = 200 };
enum progress_unit { PROGRESS_BYTES, PROGRESS_COUNT, PROGRESS_MS };

struct progress {
    const char *what; /* "backup"; borrowed */
    enum progress_unit unit;
    uint64_t total; /* 0: not known; then there is no bar and no time left */
    uint64_t begun_ms, told_ms;
    bool shown, terminal;
};

void progress_begin(struct progress *p, const char *what, enum progress_unit unit, uint64_t total);
void progress_set(struct progress *p, uint64_t done); /* as often as one likes: it is shown ten times a second */
void progress_end(struct progress *p);                /* removes the line */

/* The line as it is after `ms` milliseconds. Pure: its own function for its own test. */
const char *progress_line(const struct progress *p, uint64_t done, uint64_t ms, char out[static PROGRESS_LINE_MAX]);

#endif
