/* What the ordering core wants done, one thing at a time; above all: which request the app gets next. */
#include "interceptor/order/internal.h"

#include <string.h>

enum { WINDOW = 512, KEY_BITS = 4096 }; /* how far a blocked key is looked past; a set of keys, as bits */

static bool pull(bool *flag)
{
    bool set = *flag;
    *flag = false;
    return set;
}

/* ---- the next logged request ---------------------------------------------------------------------------------- */

/* The requests not executed yet, in the order of the log, as far as that is known. */
struct pending {
    const struct order *o;
    struct order_entry *own, *replay;
};

static struct order_entry *pending_next(struct pending *p)
{
    for (;;) {
        while (p->own != NULL && order_is_aside(p->own)) p->own = TAILQ_NEXT(p->own, link);
        struct order_entry *own = p->own, *replay = p->replay;
        if (replay != NULL && (own == NULL || own->life != ORDER_LOGGED || replay->offset < own->offset)) {
            p->replay = TAILQ_NEXT(replay, link);
            return replay->offset <= p->o->read_pos || !p->o->reading ? replay : NULL;
        }
        if (own == NULL) return NULL;
        p->own = TAILQ_NEXT(own, link);
        if (own->place == ORDER_ANSWERED) continue;
        if (own->life == ORDER_LOGGED) return p->o->reading && own->offset > p->o->read_pos ? NULL : own;
        /* Its offset will be behind all that was read. */
        bool early = own->life == ORDER_APPENDING && p->o->limits.optimistic && order_state(p->o) != ORDER_REPLAYING;
        return early && !p->o->reading ? own : NULL;
    }
}

/* Everything that it has to follow has been executed, where `first` is the first that was not. */
static bool is_alone(const struct order *o, const struct order_entry *r)
{
    return o->limits.mode == ORDER_SERIAL || r->ordered || (o->limits.mode == ORDER_KEYED && r->key == 0);
}

/* One behind the other on one connection: the app takes them one by one. */
static bool follows(const struct order *o)
{
    return o->limits.mode == ORDER_SERIAL && o->limits.following > 1;
}

static bool may_pass(const struct order *o, const struct order_entry *r, const struct order_entry *first)
{
    uint64_t bound = r->after < o->replay_to ? r->after : o->replay_to;
    return !is_alone(o, r) && !is_alone(o, first) && (first->life != ORDER_LOGGED || first->offset > bound);
}

/* True when it was there. Two keys may share a bit: then one waits without need. */
static bool mark_key(uint64_t *set, uint64_t key)
{
    uint64_t at = key % KEY_BITS, bit = UINT64_C(1) << at % 64;
    bool was = (set[at / 64] & bit) != 0;
    set[at / 64] |= bit;
    return was;
}

static struct order_entry *pick(struct order *o, bool holes_only)
{
    uint64_t keys[KEY_BITS / 64];
    struct pending p = {o, o->first, TAILQ_FIRST(&o->replays)};
    struct order_entry *first = NULL, *r;
    bool keyed = o->limits.mode == ORDER_KEYED;
    if (keyed) memset(keys, 0, sizeof keys);
    for (int i = 0; i < WINDOW && (r = pending_next(&p)) != NULL; i++) {
        if (first == NULL) first = r;
        if (r != first && !follows(o) && !may_pass(o, r, first)) return NULL; /* nor may what is behind it: `after` ascends */
        bool busy = keyed && mark_key(keys, r->key);
        if (r->place != ORDER_AWAY || busy) continue;
        return !holes_only || (!r->from_log && r->number < o->sent_number) ? r : NULL;
    }
    return NULL;
}

static struct order_entry *next_logged(struct order *o)
{
    enum order_state state = order_state(o);
    bool draining = o->drain == ORDER_DRAIN_WANTED && state == ORDER_DRAINING;
    uint32_t most = o->limits.mode == ORDER_SERIAL ? o->limits.following : o->limits.executing;
    if (most == 0) most = 1;
    if ((state != ORDER_ACTIVE && state != ORDER_REPLAYING && !draining) || o->app != ORDER_APP_READY) return NULL;
    return o->n_flying < most ? pick(o, draining && o->n_anchored == 0) : NULL;
}

static struct order_entry *next_read(struct order *o)
{
    struct order_entry *r = TAILQ_FIRST(&o->held);
    if (r != NULL && o->limits.linearizable && (!r->aimed || r->after > order_applied(o))) return NULL;
    return r != NULL && o->n_sent < o->limits.reads && order_state(o) == ORDER_ACTIVE ? r : NULL;
}

static void send(struct order *o, struct order_entry *r)
{
    r->place = ORDER_SENT;
    if (r->read) {
        TAILQ_REMOVE(&o->held, r, link);
        order_unhold(o, r);
        TAILQ_INSERT_TAIL(&o->sent, r, link);
        o->n_sent++;
    } else {
        o->n_flying++;
        if (!r->from_log && r->number > o->sent_number) o->sent_number = r->number;
        if (r->life == ORDER_LOGGED && r->offset > o->sent_offset) o->sent_offset = r->offset;
        if (order_is_replay(o, r) || r->attempts > 0)
            o->counters.replayed++;
        else if (r->from_log)
            o->counters.followed++;
    }
    if (r->attempts < UINT8_MAX) r->attempts++;
}

/* ---- all the rest --------------------------------------------------------------------------------------------- */

static void hand_back(struct order *o, struct order_entry *r, struct order_action *a)
{
    static const enum order_action_kind kinds[] = {
        [ORDER_FINISHED] = ORDER_DO_FINISH, [ORDER_DROPPED] = ORDER_DO_FREE,      [ORDER_REJECTED] = ORDER_DO_REJECT,
        [ORDER_FAILED] = ORDER_DO_FAIL,     [ORDER_ABANDONED] = ORDER_DO_ABANDON,
    };
    TAILQ_REMOVE(&o->out, r, link);
    a->kind = kinds[r->outcome];
    a->entry = r;
}

/* "Gathering" in order.h. */
static bool gathers(const struct order *o)
{
    uint32_t logged = o->lives[ORDER_LOGGED], ready = logged > o->n_flying ? logged - o->n_flying : 0;
    if (o->pouring || ready == 0 || o->limits.mode != ORDER_SERIAL || o->limits.optimistic || o->limits.shared) return false;
    return (o->lives[ORDER_APPENDING] > 0 || o->lives[ORDER_ARRIVED] < ready) && order_state(o) == ORDER_ACTIVE;
}

static bool next_of_log(struct order *o, struct order_action *a)
{
    if (pull(&o->do_stop)) {
        a->kind = ORDER_DO_STOP;
    } else if (o->log_open && pull(&o->do_read)) {
        *a = (struct order_action){.kind = ORDER_DO_READ, .offset = o->read_pos + 1, .to = o->limits.shared ? UINT64_MAX : o->read_to};
    } else if (order_shared_asks(o)) {
        a->kind = ORDER_DO_ASK;
    } else if (o->log_open && !o->unresolved && o->unsent != NULL && !gathers(o)) {
        a->kind = ORDER_DO_APPEND;
        a->entry = o->unsent;
        order_lives(o, o->unsent, ORDER_APPENDING);
        o->unsent->after = o->seen;
        o->unsent->ordered = o->limits.mode == ORDER_SERIAL;
        o->unsent = TAILQ_NEXT(o->unsent, link);
        o->pouring = o->unsent != NULL;
    } else {
        return false;
    }
    return true;
}

static bool next_of_drain(struct order *o, struct order_action *a)
{
    a->number = o->drain_number;
    bool overtaken = o->first != NULL && o->first->number < o->sent_number;
    if (o->drain == ORDER_DRAIN_WANTED && o->n_flying == 0 && o->n_sent == 0 && TAILQ_EMPTY(&o->ripe) && !overtaken &&
        o->n_anchored == 0) {
        o->drain = ORDER_DRAIN_CLOSING;
        o->do_close = true;
    }
    if (pull(&o->do_broken)) {
        a->kind = ORDER_DO_BROKEN;
    } else if (pull(&o->do_reopen)) {
        a->kind = ORDER_DO_REOPEN;
    } else if (pull(&o->do_close)) {
        a->kind = ORDER_DO_CLOSE;
    } else if (pull(&o->do_drained)) {
        a->kind = ORDER_DO_DRAINED;
        a->offset = o->executed;
    } else {
        return false;
    }
    return true;
}

static void give(struct order *o, struct order_entry *r, struct order_action *a)
{
    send(o, r);
    a->kind = ORDER_DO_SEND;
    a->entry = r;
}

/* The app's next request goes before the answer to the last one: it works while that is written. */
bool order_next(struct order *o, struct order_action *a)
{
    struct order_entry *r;
    *a = (struct order_action){0};
    if (pull(&o->do_drop)) {
        a->kind = ORDER_DO_DROP;
    } else if (!TAILQ_EMPTY(&o->out) && (r = next_logged(o)) != NULL) {
        give(o, r, a);
    } else if ((r = TAILQ_FIRST(&o->out)) != NULL || (r = order_shared_refuse(o)) != NULL) {
        hand_back(o, r, a);
    } else if (pull(&o->do_connect)) {
        a->kind = ORDER_DO_CONNECT;
    } else if (next_of_log(o, a) || next_of_drain(o, a)) {
        return true;
    } else if ((r = next_logged(o)) != NULL || (r = next_read(o)) != NULL) {
        give(o, r, a);
    } else {
        return false;
    }
    return true;
}
