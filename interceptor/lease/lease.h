/* The lease that goes with an epoch: an interceptor answers only while nobody else can be answering for the same stream.
 *
 * Whoever opens the stream under a new epoch fences the one before it in the log at once; but that one learns of it only when it asks. So an
 * interceptor asks (a linearizable question: is the epoch still ours?) again and again, and its lease is live for `length` from the moment at
 * which it began to ask what was answered yes. Whoever comes after it waits until that must be over: `length` and a tenth from its own
 * opening, as every yes was asked for before it. A clean stop leaves a release in the log, and then nobody waits.
 *
 *                 ask ... yes                      ask ... no: fenced
 *   older    ------|=======|==== live ====|- - - - -|
 *   newer    ----------------| opened, waits .............|==== live ====
 *
 * Rests on: clocks that measure (not: show) the same time within a tenth, and the same `length` for all interceptors of a stream. What a
 * process was about to write when it was frozen it writes when it wakes: that much no lease can prevent.
 *
 * Pure. Times are monotonic microseconds. Thread: one. */
#ifndef CRSC_INTERCEPTOR_LEASE_LEASE_H
#define CRSC_INTERCEPTOR_LEASE_LEASE_H

#include <stdbool.h>
#include <stdint.h>

struct lease {
    uint64_t length_us; /* 0: there are no leases, it is always live */
    uint64_t epoch;     /* the last that we opened; 0: none */
    uint64_t since_us;  /* not before: an older interceptor's may be live until then */
    uint64_t until_us;  /* live before that */
    bool ended;         /* released or fenced */
};

void lease_init(struct lease *l, uint64_t length_us);
/* We opened `epoch`. Whose was the one before it? Nobody's (it is 1), ours, or another's. */
void lease_opened(struct lease *l, uint64_t epoch, uint64_t now_us);
void lease_renewed(struct lease *l, uint64_t asked_us); /* the epoch was still ours, as asked at that moment */
void lease_free_before(struct lease *l);                /* the one before us has released the stream */
void lease_end(struct lease *l);                        /* for good */
bool lease_live(const struct lease *l, uint64_t now_us);
/* When lease_live() changes by time alone; UINT64_MAX: never. */
uint64_t lease_change(const struct lease *l, uint64_t now_us);

#endif
