/* What the log tells of an app that outlived its interceptor: is its state known, or could anything have happened?
 *
 * While an app is served, its interceptor leaves marks in the stream: "this app has executed all requests up to N". What that app got
 * later has a completion, once it was answered. So at the end of the log its state is known when the newest mark names it and every request
 * behind N has its completion: it is that of all requests. One without a completion may have reached the app, or not: then nothing
 * is known, and a state has to be restored. Nothing in between is guessed.
 *
 * That holds for pessimistic logging, where the app gets nothing that the log does not have; under optimistic logging no marks are left.
 *
 * Source of the range looked at: the newest PROOF_LOOKBACK events. A mark is left at least each PROOF_MARK_EVERY offsets.
 * Pure. Thread: one. */
#ifndef CRSC_INTERCEPTOR_REPLAY_PROOF_H
#define CRSC_INTERCEPTOR_REPLAY_PROOF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/crsc.h"
#include "common/buf.h"

enum { PROOF_LOOKBACK = 4096, PROOF_MARK_EVERY = 1024, PROOF_IDENTITY_MAX = 255 };

enum proof_verdict {
    PROOF_PENDING,   /* not all was looked at */
    PROOF_NONE,      /* no app was served, as far as the range tells */
    PROOF_UNCERTAIN, /* `identity` was, and a request may have reached it or not */
    PROOF_KNOWN,     /* the state of `identity` is that of requests 1..offset */
};

struct proof { /* to be read: verdict, identity, offset, outstanding */
    enum proof_verdict verdict;
    char identity[PROOF_IDENTITY_MAX + 1]; /* "": none */
    uint64_t offset;                       /* KNOWN: its state; UNCERTAIN: the first request without a completion, 0: cannot be seen */
    bool released;                         /* the last event is a release: whoever wrote it answers nothing any more */
    uint32_t outstanding;                  /* UNCERTAIN: requests without a completion */
    uint64_t from, to, executed;           /* the range; the newest mark's */
    uint64_t open[PROOF_LOOKBACK / 64];    /* by offset: requests without a completion */
};

/* The range is [from, to], at most PROOF_LOOKBACK offsets; from > to: the stream is empty, and the verdict is there. */
void proof_begin(struct proof *p, uint64_t from, uint64_t to);
void proof_event(struct proof *p, const struct crsc_event *event); /* of the range, in order; others are not looked at */
void proof_end(struct proof *p);                                   /* all were told */

/* The payloads of a mark, and of a release: the last word of an interceptor that ends in order. 0 or -ERROR_NOMEM. */
int proof_release(struct buf *out, uint64_t epoch);
int proof_mark(struct buf *out, const char *identity, uint64_t executed);

const char *proof_verdict_name(enum proof_verdict verdict); /* "pending", "none", "uncertain", "known" */

#endif
