/* A producer's appends that are not acknowledged yet, in order, cut into batches.
 *
 * A batch is one Append frame. It takes events until it is sent or full; from the first sending on its boundaries never
 * change, so that a repetition carries the same sequence and the same events and the log can tell that it has them
 * already.
 *
 *   front [acked][on its way][on its way][due][due, still open] back
 *
 * At most OUTBOX_FLIGHT batches are on their way; meanwhile later events gather in the last one. Answers are taken
 * out in order. When one batch is refused all behind it will be too (the log accepts sequences without gap only), so
 * outbox_rewind() makes it and all behind it due again: go-back-N.
 *
 * Pure: no I/O, no clock (times are passed in and only given back). Thread: any, one at a time. */
#ifndef CRSC_CLIENT_OUTBOX_H
#define CRSC_CLIENT_OUTBOX_H

#include "client/crsc.h"
#include "common/buf.h"

struct outbox;

enum {
    OUTBOX_FLIGHT = 8,            /* batches on their way */
    OUTBOX_BATCH_EVENTS = 1024,   /* events in a batch */
    OUTBOX_BATCH_BYTES = 1 << 20, /* payload bytes in a batch; a bigger event travels alone */
    OUTBOX_EVENT_COST = 64,       /* bytes of the window an event takes beside its payload */
};

struct outbox_batch {
    uint64_t id;                     /* of its frame while it is on its way; 0: it is not */
    uint64_t sequence;               /* of its first event; the first of all is 1 */
    uint64_t made_ms;                /* when its first event came */
    const struct crsc_event *events; /* payload pointers unset: the bytes are in body */
    uint32_t n;
    struct buf body;
};

struct outbox *outbox_new(uint32_t window_bytes); /* NULL without memory */
struct outbox *outbox_free(struct outbox *o);     /* with everything in it */

struct outbox_ticket {
    crsc_appended_cb *done;
    void *user;
};

/* Adds an event (payload copied) at the back. -ERROR_BUSY when it does not fit the window (an empty outbox takes any),
 * -ERROR_TOO_LARGE, -ERROR_INVALID for an unknown kind, -ERROR_NOMEM. */
int outbox_push(struct outbox *o, const struct crsc_event *event, struct outbox_ticket ticket, uint64_t now_ms);

/* The next batch to send, or NULL when there is none or enough are on their way. Then outbox_sent(); `id` is not 0. */
struct outbox_batch *outbox_due(struct outbox *o);
void outbox_sent(struct outbox *o, struct outbox_batch *batch, uint64_t id);

/* The batch on its way with this id, or NULL: then the answer is to a sending that was given up. */
struct outbox_batch *outbox_find(struct outbox *o, uint64_t id);

/* Its events have the offsets from first_offset on. Any order. */
void outbox_acked(struct outbox *o, struct outbox_batch *batch, uint64_t first_offset);

/* Everything not acknowledged from this sequence on is due again. -ERROR_SEQUENCE (and nothing done) when no
 * unacknowledged batch begins there. */
int outbox_rewind(struct outbox *o, uint64_t sequence);
void outbox_rewind_all(struct outbox *o);

/* Takes out the frontmost event if its offset is known. */
bool outbox_take(struct outbox *o, struct outbox_ticket *ret_ticket, uint64_t *ret_offset);
/* Takes out the frontmost event whatever is known of it: the end of a producer. */
bool outbox_abandon(struct outbox *o, struct outbox_ticket *ret_ticket);

uint64_t outbox_events(const struct outbox *o);
/* made_ms of the frontmost unacknowledged batch; UINT64_MAX when there is none. */
uint64_t outbox_oldest_ms(const struct outbox *o);
uint64_t outbox_next_sequence(const struct outbox *o); /* that an event pushed now would get */

#endif
