/* One epoch of one producer: which of its sequences were applied, and at which offsets.
 *
 * A producer's sequences are dense from 1. Its history is kept as runs: within a run offsets are dense too, so an
 * exclusive producer's whole life is one run; a new run begins where another producer's events lie between. Remembered
 * are the newest STREAMS_DEDUP_MAX sequences in at most SESSION_RUNS_MAX runs (what fits an index value). What is
 * forgotten is a function of what was applied, so that every replica, restarted or not, forgets the same.
 *
 * Pure; heap object; part of struct stream. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_SESSION_H
#define CRSC_LOGD_STREAMS_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SESSION_RUNS_MAX = 224 };

struct session_run {
    uint64_t sequence, offset; /* of its first event; it ends where the next begins, the last at session.last */
};

struct session {
    uint64_t epoch;
    uint64_t last;        /* highest sequence applied; 0: none yet */
    uint64_t used_offset; /* the stream's last offset when this session last did something: who is idle longest? */
    struct session_run *runs; /* owned; by sequence */
    uint32_t n_runs, cap_runs;
    bool dirty;           /* the index does not have this state yet */
    uint8_t producer_len;
    char producer[];      /* zero-terminated */
};

/* NULL without memory. */
struct session *session_new(uint64_t epoch, const char *producer, size_t producer_len);
struct session *session_free(struct session *s);

enum session_verdict {
    SESSION_NEXT,      /* new, and next in line: apply it */
    SESSION_DUPLICATE, /* all of it is there: same answer */
    SESSION_GAP,       /* something before it is missing */
    SESSION_OVERLAP,   /* a part of it is there: its batches were cut otherwise */
    SESSION_SPLIT,     /* all of it is there, but not side by side: its batches were cut otherwise */
    SESSION_FORGOTTEN, /* it was given long ago; where it went is not known any more */
};

/* What is a batch of `count` >= 1 events from `sequence` >= 1 on? ret_offset: of a duplicate's first event. */
enum session_verdict session_judge(const struct session *s, uint64_t sequence, uint32_t count, uint64_t *ret_offset);

/* Notes that the batch next in line went to `offset`. 0 or -ERROR_NOMEM (nothing changed). */
int session_applied(struct session *s, uint32_t count, uint64_t offset);

#endif
