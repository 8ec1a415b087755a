/* What the log tells of an app that outlived its interceptor: is its state known, or could anything have happened?
 *
 * While an app is served, its interceptor leaves marks in the stream: "this app has executed all requests up to N". What that app got
 * later has a completion, once it was answered. So at the end of the log its state is known when the newest mark names it and every request
 * behind N has its completion: it is that of all requests. One without a completion may have reached the app, or not: then nothing
 * is known, and a state has to be restored. Nothing in between is guessed.
 *
 * An interceptor that ends in order can say more: it gives the app nothing any more, waits for what the app has, and then leaves the mark
 * "this app rests at N": it has executed the requests up to N and no other, in the middle of a replay or with requests of clients left. That is
 * true until somebody else serves the stream. Who does that opens the stream, under the next epoch; so the mark counts for exactly the
 * interceptor whose epoch follows that of the mark. For any later one it proves nothing, as the app may have been given more in between: not
 * even what an older mark would, since the completions behind N may be those of an incarnation before, whose requests this app was being given again.
 *
 * A replay that is cut by the interceptor's sudden death proves nothing either, and no record could make it: as long as it runs, the app has a
 * request at every moment (that is what makes it fast), and whether that one was executed is known from its answer alone, which went to
 * a connection of the dead. A record written before each request says "perhaps", one written behind it comes too late.
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
    PROOF_KNOWN,     /* the state of `identity` is that of requests 1..offset; what is behind is to be replayed to it */
};

struct proof { /* to be read: verdict, identity, offset, outstanding */
    enum proof_verdict verdict;
    char identity[PROOF_IDENTITY_MAX + 1]; /* "": none */
    uint64_t offset;                       /* KNOWN: its state; UNCERTAIN: the first request without a completion, 0: cannot be seen */
    bool rests;                            /* the newest mark says so */
    bool released;                         /* the last event is a release: whoever wrote it answers nothing any more */
    uint32_t outstanding;                  /* UNCERTAIN: requests without a completion */
    uint64_t from, to, executed;           /* the range; the newest mark's */
    uint64_t epoch, mark_epoch;            /* ours, when the range was cut; the newest mark's */
    uint64_t open[PROOF_LOOKBACK / 64];    /* by offset: requests without a completion */
};

/* The range is [from, to], at most PROOF_LOOKBACK offsets; from > to: the stream is empty, and the verdict is there. `epoch` is that under which the
 * stream was opened and found to end at `to`. */
void proof_begin(struct proof *p, uint64_t from, uint64_t to, uint64_t epoch);
void proof_event(struct proof *p, const struct crsc_event *event); /* of the range, in order; others are not looked at */
void proof_end(struct proof *p);                                   /* all were told */

/* The payloads of a mark, of one that says "rests", and of a release: the last word of an interceptor that ends in order. 0 or -ERROR_NOMEM. */
int proof_mark(struct buf *out, const char *identity, uint64_t executed);
int proof_rest(struct buf *out, const char *identity, uint64_t executed);
int proof_release(struct buf *out, uint64_t epoch);

const char *proof_verdict_name(enum proof_verdict verdict); /* "pending", "none", "uncertain", "known" */

#endif
