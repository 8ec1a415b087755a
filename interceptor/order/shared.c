/* The ordering core when several interceptors append to the stream: "Shared" in order.h. */
#include "interceptor/order/internal.h"

#include <assert.h>
#include <stddef.h>

uint64_t order_applied(const struct order *o)
{
    const struct order_entry *own = order_head(o), *replay = TAILQ_FIRST(&o->replays);
    uint64_t applied = o->read_pos;
    if (own != NULL && own->life == ORDER_LOGGED && own->offset <= applied) applied = own->offset - 1;
    if (replay != NULL && replay->offset <= applied) applied = replay->offset - 1;
    return applied;
}

bool order_refuses(const struct order *o)
{
    return o->limits.refuses && (o->app != ORDER_APP_READY || o->aiming || order_applied(o) < o->replay_to);
}

struct order_entry *order_shared_refuse(struct order *o)
{
    struct order_entry *r = o->unsent;
    if (!order_refuses(o)) return NULL;
    if (r != NULL) {
        assert(r->life == ORDER_ARRIVED); /* certainly in no log */
        order_leave_queue(o, r);
    } else if ((r = TAILQ_FIRST(&o->held)) != NULL) {
        TAILQ_REMOVE(&o->held, r, link);
        order_unhold(o, r);
    }
    if (r != NULL) order_over(o, r, ORDER_REJECTED);
    return r;
}

void order_shared_abandon(struct order *o, struct order_entry *r)
{
    order_leave_queue(o, r);
    order_over(o, r, r->waiting ? ORDER_ABANDONED : ORDER_DROPPED);
    o->counters.abandoned++;
}

/* An append without an answer is behind all that was read: what was read of ours is LOGGED since. */
void order_shared_attach(struct order *o, uint64_t offset)
{
    struct order_entry *r, *next;
    for (r = TAILQ_FIRST(&o->queue); r != NULL && r->life != ORDER_ARRIVED; r = next) {
        next = TAILQ_NEXT(r, link);
        if (r->life == ORDER_LOGGED && r->offset <= offset)
            order_shared_abandon(o, r);
        else if (r->life != ORDER_LOGGED && offset > o->read_pos)
            r->murky = true;
    }
}

void order_shared_resolve(struct order *o)
{
    struct order_entry *r, *next;
    for (r = TAILQ_FIRST(&o->queue); r != NULL; r = next) {
        next = TAILQ_NEXT(r, link);
        if (r->life == ORDER_UNKNOWN) order_shared_abandon(o, r);
    }
}

bool order_shared_end(struct order *o, uint64_t offset)
{
    struct order_entry *r;
    if (!o->asking) return false;
    o->asking = false;
    if (offset > o->known) o->known = offset;
    TAILQ_FOREACH_REVERSE(r, &o->held, order_list, link)
    {
        if (r->aimed) break; /* all before it are: they came earlier, or were with the app already */
        if (r->number > o->asked_number) continue;
        r->aimed = true;
        r->after = offset;
    }
    if (!o->asked_aim || !o->aiming) return false;
    o->aiming = false;
    o->read_to = o->replay_to = o->known;
    return true;
}

bool order_shared_asks(struct order *o)
{
    const struct order_entry *newest = TAILQ_LAST(&o->held, order_list);
    bool reads = o->limits.linearizable && newest != NULL && !newest->aimed && order_state(o) != ORDER_WAITING;
    bool aims = o->aiming && !o->asked_aim;
    if (!o->limits.shared || !o->log_open || o->asking || (!reads && !aims)) return false;
    o->asking = true;
    o->asked_aim = o->aiming;
    o->asked_number = o->numbers;
    return true;
}
