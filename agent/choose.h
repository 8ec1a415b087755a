/* What the agent decides: the state a container begins with, and which kept images go when the disk's budget is used up.
 *
 * Pure: no clock, no I/O. Thread: any. */
#ifndef CRSC_AGENT_CHOOSE_H
#define CRSC_AGENT_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHOOSE_REASON_MAX = 160, CHOOSE_FAILURES_MAX = 2 };

struct candidate { /* a snapshot that the log calls valid */
    const char *id, *template_hash;
    uint64_t offset, size, recorded_us;
    bool here;         /* its image is on this node */
    bool unusable;     /* tried for this very start, without success */
    unsigned failures; /* of CRIU with it, on this node */
};

struct wish {
    const char *restore; /* "auto", "fresh", or a snapshot's id */
    const char *template_hash;
    uint64_t first_offset, last_offset; /* of the stream; the first is over 1 when it was trimmed */
    uint64_t replay_us;                 /* a request's replay takes */
    uint64_t restore_us;                /* a restore takes, besides its bytes */
};

/* The index of the candidate to restore, or -1 for a fresh start, with the reason. Never one of another template, never one that failed
 * CHOOSE_FAILURES_MAX times; of the rest the newest: the highest offset, then the last recorded. A fresh start where replaying
 * everything is cheaper, but only if everything is still in the log. */
int choose(const struct candidate *all, size_t n, const struct wish *w, char reason[CHOOSE_REASON_MAX]);

struct kept { /* an image on this node */
    const char *stream;
    uint64_t offset, bytes, used_us;
    bool busy; /* being read or written */
};

/* The index of the image to remove next, or -1: all of them fit, or those left must stay. Each stream's newest stays, and what is busy; of the rest
 * the longest unused goes first. */
int choose_eviction(const struct kept *all, size_t n, uint64_t budget);

#endif
