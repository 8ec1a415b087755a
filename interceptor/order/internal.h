/* What the core's files share: order.c (events in), shared.c (what differs when others append too) and next.c (actions out). */
#ifndef CRSC_INTERCEPTOR_ORDER_INTERNAL_H
#define CRSC_INTERCEPTOR_ORDER_INTERNAL_H

#include <stddef.h>

#include "interceptor/order/order.h"

/* It takes nothing of the hold bound any more. */
void order_unhold(struct order *o, const struct order_entry *r);
void order_leave_queue(struct order *o, struct order_entry *r);
/* One of the queue lives on as this. */
void order_lives(struct order *o, struct order_entry *r, enum order_life life);
void order_over(struct order *o, struct order_entry *r, enum order_outcome outcome);

/* A murky one that is not found: in the attached state, or still to come. What is behind it does not wait for it. */
static inline bool order_is_aside(const struct order_entry *r)
{
    return r->murky && r->life != ORDER_LOGGED;
}

/* The first of the queue that is not aside. */
static inline struct order_entry *order_head(const struct order *o)
{
    struct order_entry *r = TAILQ_FIRST(&o->queue);
    while (r != NULL && order_is_aside(r)) r = TAILQ_NEXT(r, link);
    return r;
}

/* An app with the state of `offset` is about to be attached. */
void order_shared_attach(struct order *o, uint64_t offset);
/* One of ours is in the attached state: what it was answered is not known. */
void order_shared_abandon(struct order *o, struct order_entry *r);
/* The others with an unknown outcome were found in the log or are not in it; the murky ones may be in the attached state. */
void order_shared_resolve(struct order *o);
/* ORDER_EV_END. True: the end was asked for since the attach: it is the replay's target now. */
bool order_shared_end(struct order *o, uint64_t offset);
/* The next that is rejected for want of an app, if limits.refuses; it is in `out`. NULL: none. */
struct order_entry *order_shared_refuse(struct order *o);
/* The log's end is to be asked for now; it is marked as asked. */
bool order_shared_asks(struct order *o);

#endif
