/* Random histories of the ordering core against a model, in each ordering and logging: clients, a log that may be lost, an
 * app that dies, checkpoints.
 *
 * The model's app keeps a hash chain per key over the requests it executed (in serial order: one chain; concurrent: no
 * chain, the requests commute), so that two histories give the same answer only if they are the same as far as the
 * mode promises. Its log is an array. What is checked is O1 to O4 of order.h; that what a client had seen the effect of
 * before a request of his came is executed before that one, also by later incarnations; that nothing is shown which is
 * not durable; and that nothing of a tainted app is shown at all. `CRSC_SEED=n` runs one seed; `CRSC_RUNS=n` that many. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/order/order.h"

enum { REQUESTS = 400, EVENTS = 2000, CHECKPOINTS = 64, STEPS = 600, SENT_MAX = 16, KEYS = 4, READS = 8 };

struct request {
    struct order_entry entry;
    uint64_t id;              /* of the client's request; from the log: the same one's */
    uint64_t sequence;        /* as appended last */
    uint64_t came;            /* when */
    bool executed;            /* by the app, since it was sent */
    uint64_t turn;            /* counts what was sent */
    bool saw[REQUESTS + 8];   /* a read: what the app had executed when it answered, by id */
    bool in_world;            /* not handed back yet */
    uint64_t answer;
};

struct event {
    uint64_t id, epoch, sequence; /* id 0: a completion */
    uint64_t after, key;
    bool ordered;
    uint64_t answer;              /* what the client was told; 0: nothing yet */
};

struct appending {
    struct request *request; /* NULL: a completion */
    uint64_t sequence;
    uint64_t offset; /* 0: not in the log yet */
};

struct state { /* of the app, or of a checkpoint */
    uint64_t count, chains[KEYS];
    bool has[REQUESTS + 8]; /* by id; no padding: states are compared as bytes */
};

struct world {
    uint64_t random, seed;
    struct order order;
    struct request requests[REQUESTS];
    unsigned n_requests, outcomes;
    struct event log[EVENTS + 1]; /* by offset */
    uint64_t last, epoch, sequence;
    uint64_t calm, lag; /* the larger, the fewer faults; the slower the log */
    bool open, fenced, quiet, stopped;
    struct appending flight[EVENTS];
    unsigned first, n_flight;
    struct state app;
    uint64_t attached;
    bool tainted; /* the app has executed what the log will not have in this place */
    bool alive, connecting, connected, told_lost;
    struct request *sent[SENT_MAX];
    unsigned n_sent;
    struct state saved[CHECKPOINTS];
    uint64_t saved_at[CHECKPOINTS];
    unsigned n_saved;
    bool draining, drained, reading;
    uint64_t drain_number, drain_offset;
    struct state at_drain;
    uint64_t read_next, read_to;
    uint64_t now, seen[REQUESTS + 1]; /* when somebody was first shown the effect of that id; 0: never */
    uint64_t key[REQUESTS + 1];
    uint64_t turns, behind, together, taints, early, rests, cut_replays, logged_finished, attaches, drains, losses, log_losses, reads, replayed;
};

static uint64_t dice(struct world *w, uint64_t n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (w->random >> 11) % n;
}

#define must(w, condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "seed %" PRIu64 ": %s:%d: does not hold: %s\n", (w)->seed, __FILE__, __LINE__,             \
                    #condition);                                                                                       \
            fail();                                                                                                    \
        }                                                                                                              \
    } while (0)

static int step(struct world *w, struct order_event ev)
{
    struct error e;
    return order_step(&w->order, &ev, &e);
}

#define STEP(w, ...) step((w), (struct order_event){__VA_ARGS__})

static uint64_t chained(uint64_t chain, uint64_t id)
{
    uint64_t x = (chain ^ id) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static bool serial(const struct world *w)
{
    return w->order.limits.mode == ORDER_SERIAL;
}

static bool concurrent(const struct world *w)
{
    return w->order.limits.mode == ORDER_CONCURRENT;
}

/* Executes; returns the answer. Without a key (and in serial order) it touches every chain. */
static uint64_t apply(const struct world *w, struct state *s, uint64_t id, uint64_t key)
{
    uint64_t answer = 0;
    s->count++;
    s->has[id] = true;
    for (uint64_t k = 0; k < KEYS && !concurrent(w); k++) {
        if (!serial(w) && key != 0 && k != key - 1) continue;
        s->chains[k] = chained(s->chains[k], id);
        answer = chained(answer, s->chains[k]);
    }
    return concurrent(w) ? chained(7, id) : answer;
}

/* The state whose history is exactly the log's requests up to `offset`; `ret_answer` is the last one's. */
static struct state history(const struct world *w, uint64_t offset, uint64_t *ret_answer)
{
    struct state s = {0};
    for (uint64_t o = 1; o <= offset; o++)
        if (w->log[o].id != 0) *ret_answer = apply(w, &s, w->log[o].id, w->log[o].key);
    return s;
}

static struct request *fresh(struct world *w)
{
    if (w->n_requests == REQUESTS) return NULL;
    struct request *r = &w->requests[w->n_requests++];
    r->in_world = true;
    r->entry.bytes = 10;
    return r;
}

static struct request *of(struct order_entry *entry)
{
    return (struct request *)((char *)entry - offsetof(struct request, entry));
}

/* ---- the log -------------------------------------------------------------------------------------------------- */

static void append(struct world *w, struct request *r)
{
    must(w, w->open && w->first + w->n_flight < EVENTS);
    w->flight[w->first + w->n_flight++] = (struct appending){.request = r, .sequence = ++w->sequence};
    if (r != NULL) r->sequence = w->sequence;
}

static bool commit_one(struct world *w)
{
    for (unsigned i = 0; i < w->n_flight; i++) {
        struct appending *a = &w->flight[w->first + i];
        if (a->offset > 0) continue;
        if (w->last == EVENTS) return false;
        for (uint64_t o = 1; o <= w->last && a->request != NULL; o++) must(w, w->log[o].id != a->request->id);
        a->offset = ++w->last;
        w->log[w->last] =
            (struct event){.id = a->request != NULL ? a->request->id : 0, .epoch = w->epoch, .sequence = a->sequence};
        if (a->request == NULL) return true;
        must(w, a->request->entry.after < w->last);
        w->log[w->last].after = a->request->entry.after;
        w->log[w->last].ordered = a->request->entry.ordered;
        w->log[w->last].key = a->request->entry.key;
        return true;
    }
    return false;
}

static void acknowledge_one(struct world *w)
{
    if (w->n_flight == 0 || w->flight[w->first].offset == 0) return;
    struct appending a = w->flight[w->first++];
    w->n_flight--;
    STEP(w, .kind = ORDER_EV_LOGGED, .entry = a.request != NULL ? &a.request->entry : NULL, .offset = a.offset);
}

static void lose_log(struct world *w)
{
    if (!w->open) return;
    w->log_losses++;
    for (uint64_t n = dice(w, 4); n > 0 && commit_one(w); n--) {
    }
    bool never_left = false, ahead = false;
    for (unsigned i = 0; i < w->n_flight; i++) {
        struct appending *a = &w->flight[w->first + i];
        if (a->offset == 0 && dice(w, 3) == 0) never_left = true;
        if (a->request == NULL) continue;
        if (a->request->entry.place != ORDER_AWAY) ahead = true;
        STEP(w, .kind = ORDER_EV_UNKNOWN, .entry = &a->request->entry, .epoch = w->epoch,
             .sequence = never_left ? 0 : a->sequence);
    }
    w->first = w->n_flight = 0;
    w->open = false;
    if (ahead && w->connected) w->tainted = true;
    if (ahead) w->taints++;
    STEP(w, .kind = ORDER_EV_LOG_LOST);
    if (ahead) must(w, w->order.app == ORDER_APP_SUSPECT);
}

static void open_log(struct world *w)
{
    if (w->open || w->fenced) return;
    w->open = true;
    w->sequence = 0;
    STEP(w, .kind = ORDER_EV_LOG_OPENED, .epoch = ++w->epoch, .offset = w->last);
}

static void read_some(struct world *w)
{
    for (uint64_t n = 1 + dice(w, 4); n > 0 && w->reading && w->read_next <= w->read_to; n--) {
        const struct event *ev = &w->log[w->read_next];
        struct request *r = NULL;
        if (ev->id != 0) {
            if ((r = fresh(w)) == NULL) return;
            r->id = ev->id;
            r->entry.key = ev->key;
        }
        must(w, STEP(w, .kind = ORDER_EV_READ, .entry = r != NULL ? &r->entry : NULL, .offset = w->read_next,
                     .epoch = ev->epoch, .sequence = ev->sequence, .after = ev->after, .ordered = ev->ordered) == 0);
        w->read_next++;
        if (!w->order.reading) return;
    }
}

/* ---- the app -------------------------------------------------------------------------------------------------- */

/* O1: what this one has to follow has been executed. */
static void check_turn(struct world *w, const struct request *r)
{
    uint64_t place = 1; /* in the log; it may not be there yet */
    while (place <= w->last && w->log[place].id != r->id) place++;
    must(w, !w->app.has[r->id]);
    for (uint64_t o = 1; o <= w->last; o++) {
        uint64_t id = w->log[o].id;
        if (id == 0 || id == r->id || w->app.has[id]) continue;
        bool before = o < place;
        bool same = w->log[o].key == r->entry.key || w->log[o].key == 0 || r->entry.key == 0;
        must(w, !before || !(serial(w) || (!concurrent(w) && same)));
        must(w, w->seen[id] == 0 || w->seen[id] > w->requests[r->id - 1].came);
    }
}

static void execute(struct world *w, struct request *r)
{
    if (r->executed) return;
    r->executed = true;
    must(w, !w->drained && !w->tainted);
    if (r->entry.read) return;
    check_turn(w, r);
    if (r->entry.life != ORDER_LOGGED) {
        must(w, w->order.limits.optimistic);
        w->early++;
    }
    r->answer = apply(w, &w->app, r->id, r->entry.key);
}

static void unsend(struct world *w, unsigned i)
{
    w->sent[i] = w->sent[--w->n_sent];
}

/* Which one the app turns to. In serial order those that are logged came on one connection: the first of them. */
static unsigned which(struct world *w)
{
    unsigned i = (unsigned)dice(w, w->n_sent);
    if (!serial(w) || w->sent[i]->entry.read) return i;
    for (unsigned k = 0; k < w->n_sent; k++)
        if (!w->sent[k]->entry.read && w->sent[k]->turn < w->sent[i]->turn) i = k;
    return i;
}

static void app_acts(struct world *w)
{
    if (!w->alive || w->n_sent == 0) return;
    unsigned i = which(w);
    struct request *r = w->sent[i];
    uint64_t what = dice(w, w->quiet ? 8 : 20);
    if (what < 4) {
        execute(w, r);
    } else if (what < 18) {
        execute(w, r);
        if (r->entry.read) memcpy(r->saw, w->app.has, sizeof r->saw);
        unsend(w, i);
        STEP(w, .kind = ORDER_EV_ANSWERED, .entry = &r->entry);
    } else if (r->entry.read) {
        unsend(w, i);
        STEP(w, .kind = ORDER_EV_READ_DROPPED, .entry = &r->entry);
    } else {
        if (dice(w, 2) == 0) execute(w, r);
        unsend(w, i);
        STEP(w, .kind = ORDER_EV_SUSPECT);
    }
}

static void attach(struct world *w)
{
    uint64_t which = dice(w, w->n_saved);
    if (STEP(w, .kind = ORDER_EV_ATTACH, .offset = w->saved_at[which]) != 0) return;
    w->attaches++;
    w->alive = true;
    w->told_lost = false;
    w->tainted = false;
    w->app = w->saved[which];
    w->attached = w->saved_at[which];
}

static void kill_app(struct world *w)
{
    if (w->alive) w->losses++;
    w->alive = false; /* noticed later, or never when another one is attached first */
}

static void notice(struct world *w)
{
    if (w->alive || w->told_lost) return;
    w->told_lost = true;
    STEP(w, .kind = ORDER_EV_LOST);
}

static void drain(struct world *w)
{
    if (!w->draining) {
        if (STEP(w, .kind = ORDER_EV_DRAIN) != 0) return;
        w->draining = true;
        w->drain_number = w->order.drain_number;
    } else if (dice(w, 8) == 0) {
        STEP(w, .kind = ORDER_EV_EXPIRED);
        must(w, STEP(w, .kind = ORDER_EV_RESUME) != 0);
    } else if (w->drained) {
        must(w, STEP(w, .kind = ORDER_EV_RESUME) == 0);
        w->draining = w->drained = false;
        w->drains++;
        /* O4: the drain was never broken: the app's state is still that of the requests up to the offset. */
        if (!w->alive) return;
        must(w, memcmp(&w->app, &w->at_drain, sizeof w->app) == 0);
        if (w->n_saved == CHECKPOINTS) return;
        w->saved_at[w->n_saved] = w->drain_offset;
        w->saved[w->n_saved++] = w->at_drain;
    }
}

/* ---- what the core wants done --------------------------------------------------------------------------------- */

static void show(struct world *w, uint64_t id)
{
    if (w->seen[id] == 0) w->seen[id] = w->now;
}

/* All that was executed is durable when it is shown, and nothing that was shown before the read came is missing. */
static void finish_read(struct world *w, const struct request *r)
{
    bool durable[REQUESTS + 1] = {false};
    w->reads++;
    if (!r->entry.waiting) return;
    for (uint64_t o = 1; o <= w->last; o++) durable[w->log[o].id] = true;
    for (uint64_t id = 1; id <= REQUESTS; id++) {
        must(w, !r->saw[id] || durable[id]);
        must(w, r->saw[id] || w->seen[id] == 0 || w->seen[id] > r->came);
        if (r->saw[id]) show(w, id);
    }
}

static void finish(struct world *w, struct request *r)
{
    uint64_t answer = 0;
    must(w, !w->fenced && !w->tainted);
    must(w, !w->order.lapsed || r->entry.from_log);
    if (r->entry.read) {
        finish_read(w, r);
        return;
    }
    struct event *ev = &w->log[r->entry.offset];
    must(w, ev->id == r->id);
    history(w, r->entry.offset, &answer);
    must(w, r->answer == answer);
    if (r->entry.from_log) return;
    must(w, ev->answer == 0); /* O3 */
    ev->answer = r->answer;
    w->logged_finished++;
    show(w, r->id);
    if (w->open) append(w, NULL);
}

static void hand_back(struct world *w, struct order_action *a)
{
    struct request *r = of(a->entry);
    must(w, r->in_world && r->entry.life == ORDER_OVER);
    r->in_world = false;
    switch (a->kind) {
    case ORDER_DO_FINISH: finish(w, r); break;
    case ORDER_DO_FREE: must(w, !r->entry.waiting); break;
    case ORDER_DO_FAIL: must(w, r->entry.read && r->entry.waiting); break;
    case ORDER_DO_ABANDON: must(w, w->fenced); break;
    default:
        /* 503 means: not logged, for certain. */
        for (uint64_t o = 1; o <= w->last; o++) must(w, w->log[o].id != r->id || r->id == 0);
    }
}

static void perform(struct world *w, struct order_action *a)
{
    switch (a->kind) {
    case ORDER_DO_DROP:
        w->n_sent = 0;
        w->connecting = w->connected = false;
        break;
    case ORDER_DO_CONNECT: w->connecting = true; break;
    case ORDER_DO_REOPEN: break;
    case ORDER_DO_STOP: w->reading = false; break;
    case ORDER_DO_READ:
        must(w, !w->reading);
        w->reading = true;
        w->read_next = a->offset;
        w->read_to = a->to;
        break;
    case ORDER_DO_APPEND: append(w, of(a->entry)); break;
    case ORDER_DO_SEND:
        must(w, w->connected && w->n_sent < SENT_MAX && !w->drained && !w->fenced && !w->stopped);
        of(a->entry)->executed = false;
        of(a->entry)->turn = ++w->turns;
        if (serial(w) && !a->entry->read && w->order.n_flying > 1) w->behind++;
        w->sent[w->n_sent++] = of(a->entry);
        if (!a->entry->read && w->order.n_flying > 1) w->together++;
        if (a->entry->from_log) w->replayed++;
        break;
    case ORDER_DO_CLOSE:
        must(w, w->n_sent == 0);
        if (dice(w, 4) > 0) STEP(w, .kind = ORDER_EV_CLOSED, .number = a->number);
        break;
    case ORDER_DO_DRAINED:
        must(w, w->draining && a->number == w->drain_number);
        w->drained = true;
        w->drain_offset = a->offset;
        if (w->alive) {
            uint64_t answer;
            struct state h = history(w, a->offset, &answer);
            must(w, memcmp(&w->app, &h, sizeof h) == 0);
            w->at_drain = w->app;
        }
        break;
    case ORDER_DO_BROKEN:
        must(w, a->number == w->drain_number);
        w->draining = w->drained = false;
        break;
    default: hand_back(w, a);
    }
}

static void pump(struct world *w)
{
    struct order_action a;
    while (order_next(&w->order, &a)) perform(w, &a);
}

/* ---- runs ----------------------------------------------------------------------------------------------------- */

static void arrive(struct world *w)
{
    if (w->n_requests > REQUESTS / 2) return; /* the rest is for replays */
    struct request *r = fresh(w);
    if (r == NULL) return;
    r->entry.read = dice(w, 4) == 0;
    r->id = r->entry.read ? 0 : w->n_requests;
    r->entry.key = dice(w, 8) == 0 ? 0 : 1 + dice(w, KEYS);
    r->came = w->now;
    STEP(w, .kind = ORDER_EV_ARRIVED, .entry = &r->entry);
}

static void leave(struct world *w)
{
    struct request *r = w->n_requests > 0 ? &w->requests[dice(w, w->n_requests)] : NULL;
    if (r == NULL || !r->in_world || r->entry.from_log || !r->entry.waiting) return;
    STEP(w, .kind = ORDER_EV_GONE, .entry = &r->entry);
}

static void fence(struct world *w)
{
    w->fenced = true;
    w->open = false;
    w->first = w->n_flight = 0;
    STEP(w, .kind = ORDER_EV_FENCED);
}

/* `calm`: what a run is about, from one fault upon the other to long stretches of service. */
static void something(struct world *w)
{
    uint64_t what = dice(w, 100);
    if (what < 22)
        arrive(w);
    else if (what < 34)
        commit_one(w);
    else if (what < 50) {
        if (dice(w, w->lag) == 0) acknowledge_one(w);
    } else if (what < 72)
        app_acts(w);
    else if (what < 82)
        read_some(w);
    else if (what < 84)
        leave(w);
    else if (what < 86) {
        if (!w->told_lost && w->alive && dice(w, w->calm) > 0) return;
        attach(w);
    } else if (what < 87) {
        if (dice(w, w->calm) == 0) kill_app(w);
    } else if (what < 89)
        notice(w);
    else if (what < 90) {
        if (dice(w, w->calm) == 0) lose_log(w);
    } else if (what < 92)
        open_log(w);
    else if (what < 93)
        STEP(w, .kind = dice(w, 2 + w->calm) == 0 ? ORDER_EV_HOLD : ORDER_EV_RELEASE);
    else if (what < 94)
        STEP(w, .kind = dice(w, 2 + w->calm) == 0 ? ORDER_EV_LAPSED : ORDER_EV_LEASED);
    else if (what < 97)
        drain(w);
    else if (what < 98) {
        if (dice(w, 4 * w->calm) == 0) STEP(w, .kind = ORDER_EV_DETACH);
    } else if (w->connecting && w->alive) {
        w->connected = true;
        STEP(w, .kind = ORDER_EV_CONNECTED);
    }
}

/* No more faults: everything that waits must come to its end, and the app must have all of the log. */
static void settle(struct world *w)
{
    w->quiet = true;
    if (w->draining) STEP(w, .kind = ORDER_EV_EXPIRED);
    pump(w);
    if (!w->alive || w->order.app != ORDER_APP_READY) attach(w);
    STEP(w, .kind = ORDER_EV_RELEASE);
    STEP(w, .kind = ORDER_EV_LEASED);
    open_log(w); /* for the core these are calls that follow each other with no pull between them */
    for (int i = 0; i < 20000 && w->n_requests < REQUESTS; i++) {
        w->now++;
        pump(w);
        commit_one(w);
        acknowledge_one(w);
        pump(w);
        app_acts(w);
        pump(w);
        read_some(w);
        pump(w);
        if (w->connecting && !w->connected) {
            w->connected = true;
            STEP(w, .kind = ORDER_EV_CONNECTED);
        }
    }
    if (w->n_requests == REQUESTS) return; /* the model's memory is full: this run ends here */
    must(w, order_state(&w->order) == ORDER_ACTIVE);
    for (unsigned i = 0; i < w->n_requests; i++) must(w, !w->requests[i].in_world);
    must(w, w->order.n_held == 0 && w->order.held_bytes == 0 && w->order.n_sent == 0);
    for (int life = 0; life < ORDER_OVER; life++) must(w, w->order.lives[life] == 0);
    uint64_t answer;
    struct state h = history(w, w->last, &answer);
    must(w, memcmp(&w->app, &h, sizeof h) == 0);
}

/* A clean end, anywhere: the app gets nothing more, whatever happens yet; and when its state is said to be known, it is that. */
static void stop(struct world *w)
{
    uint64_t offset = 0, answer;
    w->stopped = true;
    STEP(w, .kind = ORDER_EV_STOP);
    pump(w);
    must(w, !w->draining && order_state(&w->order) == ORDER_WAITING);
    bool replaying = w->order.app == ORDER_APP_READY && w->order.executed < w->order.replay_to;
    for (uint64_t n = dice(w, 60); n > 0 && w->n_requests < REQUESTS; n--) {
        something(w);
        pump(w);
    }
    for (uint64_t n = 4 * SENT_MAX; n > 0 && w->n_sent > 0 && dice(w, 40) > 0; n--) {
        app_acts(w);
        pump(w);
    }
    if (!order_rests(&w->order, &offset) || !w->alive) return;
    must(w, !w->tainted && offset <= w->last);
    struct state h = history(w, offset, &answer);
    must(w, memcmp(&w->app, &h, sizeof h) == 0);
    w->rests++;
    w->cut_replays += replaying && offset < w->order.replay_to;
}

static void run(struct world *w, uint64_t seed, struct world *sum)
{
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (int i = 0; i < 8; i++) dice(w, 2);
    w->calm = 1 + dice(w, 12);
    w->lag = 1 + dice(w, 4);
    w->n_saved = 1;
    struct order_limits limits = {.mode = (enum order_mode)(seed % 3),
                                  .optimistic = seed / 3 % 2 == 1,
                                  .executing = 1 + (uint32_t)dice(w, SENT_MAX - READS),
                                  .following = (uint32_t)dice(w, SENT_MAX - READS),
                                  .hold_requests = 4 + (uint32_t)dice(w, 60),
                                  .hold_bytes = 100 + dice(w, 500),
                                  .reads = 1 + (uint32_t)dice(w, READS)};
    order_init(&w->order, &limits);
    if (dice(w, 4) > 0) open_log(w);
    bool fences = dice(w, 6) == 0;
    for (int i = 0; i < STEPS && w->n_requests < REQUESTS; i++) {
        w->now++;
        something(w);
        pump(w);
        if (fences && i == STEPS - 50) {
            fence(w);
            pump(w);
            for (unsigned k = 0; k < w->n_requests; k++) must(w, !w->requests[k].in_world);
        }
    }
    if (!fences && dice(w, 4) == 0)
        stop(w);
    else if (!fences)
        settle(w);
    sum->logged_finished += w->logged_finished;
    sum->attaches += w->attaches;
    sum->drains += w->drains;
    sum->losses += w->losses;
    sum->log_losses += w->log_losses;
    sum->reads += w->reads;
    sum->together += w->together;
    sum->behind += w->behind;
    sum->taints += w->taints;
    sum->early += w->early;
    sum->replayed += w->replayed;
    sum->rests += w->rests;
    sum->cut_replays += w->cut_replays;
}

static void test_random(void **state)
{
    (void)state;
    static struct world w, sum;
    const char *one = getenv("CRSC_SEED"), *many = getenv("CRSC_RUNS");
    uint64_t from = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t runs = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 2000;
    for (uint64_t seed = from; seed < from + runs; seed++) run(&w, seed, &sum);
    printf("%" PRIu64 " seeds from %" PRIu64 ": %" PRIu64 " requests answered, %" PRIu64 " replayed, %" PRIu64
           " reads, %" PRIu64 " attaches, %" PRIu64 " deaths, %" PRIu64 " drains, the log lost %" PRIu64
           " times, %" PRIu64 " taints, %" PRIu64 " executed early, %" PRIu64 " beside others, %" PRIu64 " behind another in the app's connection, %" PRIu64 " at rest after a stop, %" PRIu64 " of them in a replay\n",
           runs, from, sum.logged_finished, sum.replayed, sum.reads, sum.attaches, sum.losses, sum.drains,
           sum.log_losses, sum.taints, sum.early, sum.together, sum.behind, sum.rests, sum.cut_replays);
    if (one == NULL && runs >= 1000) { /* else it would show nothing */
        assert_true(sum.logged_finished > 10 * runs);
        assert_true(sum.behind > runs && sum.together > runs && sum.early > runs / 2 && sum.taints > runs / 100);
        assert_true(sum.rests > runs / 50 && sum.cut_replays > runs / 500);
        assert_true(sum.replayed > runs && sum.drains > runs / 4 && sum.log_losses > runs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
