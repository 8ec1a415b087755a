/* Several ordering cores on one log, from seeds: three interceptors, each with an app and clients of its own, killed apps, checkpoints
 * attached to any of them, lost logs, slow readers.
 *
 * Each app keeps a hash chain over what it executed, so that two states are equal only if their histories are. As every state is
 * a prefix of the one log, linearizability is one number: whoever asks after somebody was shown the effect of offset N
 * must be shown N or more. `CRSC_SEED=n` runs one seed; `CRSC_RUNS=n` that many. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/order/order.h"

enum { REPLICAS = 3, REQUESTS = 500, EVENTS = 1500, CHECKPOINTS = 64, STEPS = 900, READS = 4 };

struct request {
    struct order_entry entry;
    uint64_t id;     /* equal for a client's request and what is read back of it; 0: a read */
    uint64_t floor;  /* the highest offset that anybody had been shown the effect of when it came */
    uint64_t answer; /* the chain, when it was executed */
    uint64_t saw;    /* a read: the offset of the app's state when it answered */
    bool in_world, client, rejected;
};

struct event {
    uint64_t id, epoch, sequence;
};

struct appending {
    struct request *request; /* NULL: a completion, or told already */
    uint64_t id, sequence, offset;
};

struct app {
    uint64_t chain, offset; /* of the last request executed */
};

struct replica {
    struct order order;
    struct app app;
    bool alive, connecting, connected, told_lost;
    struct request *sent[READS + 1];
    unsigned n_sent;
    bool open;
    uint64_t epoch, sequence;
    struct appending flight[EVENTS];
    unsigned first, n_flight; /* of this epoch, not acknowledged; behind a loss: may still be committed */
    bool reading, asked;
    uint64_t read_next, end; /* the log's end when it was asked for */
    bool draining, drained;
    struct app at_drain;
    uint64_t drain_number, drain_offset;
};

static struct world {
    uint64_t random, seed, calm, lag; /* the larger, the fewer faults; the slower the log's answers */
    struct replica replicas[REPLICAS];
    struct request requests[REQUESTS];
    unsigned n_requests;
    struct event log[EVENTS + 1];
    uint64_t last, epoch, shown; /* shown: the highest offset whose effect somebody saw */
    struct app saved[CHECKPOINTS];
    uint64_t saved_at[CHECKPOINTS];
    unsigned n_saved;
    bool quiet;
} w;

static struct {
    uint64_t answered, reads, followed, abandoned, refused, attaches, losses, drains, suspects;
} sum;

static uint64_t dice(uint64_t n)
{
    w.random ^= w.random << 13;
    w.random ^= w.random >> 7;
    w.random ^= w.random << 17;
    return (w.random >> 11) % n;
}

#define must(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "seed %" PRIu64 ": line %d: does not hold: %s\n", w.seed, __LINE__, #condition);           \
            fail();                                                                                                    \
        }                                                                                                              \
    } while (0)

#define STEP(r, ...) order_step(&(r)->order, &(struct order_event){__VA_ARGS__}, &(struct error){0})

static struct request *of(struct order_entry *entry)
{
    return (struct request *)((char *)entry - offsetof(struct request, entry));
}

static uint64_t chained(uint64_t chain, uint64_t id)
{
    uint64_t x = (chain ^ id) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static uint64_t history(uint64_t offset)
{
    uint64_t chain = 0;
    for (uint64_t o = 1; o <= offset; o++)
        if (w.log[o].id != 0) chain = chained(chain, w.log[o].id);
    return chain;
}

static struct request *fresh(void)
{
    if (w.n_requests == REQUESTS) return NULL;
    struct request *q = &w.requests[w.n_requests++];
    q->in_world = true;
    q->entry.bytes = 10;
    return q;
}

static void show(uint64_t offset)
{
    if (offset > w.shown) w.shown = offset;
}

/* ---- the log -------------------------------------------------------------------------------------------------- */

static void append(struct replica *r, struct request *q)
{
    must(r->open);
    if (r->first + r->n_flight == EVENTS) return;
    r->flight[r->first + r->n_flight++] =
        (struct appending){.request = q, .id = q != NULL ? q->id : 0, .sequence = ++r->sequence};
}

/* The first of an epoch that is not in the log yet. */
static void commit_one(struct replica *r)
{
    for (unsigned i = 0; i < r->n_flight && w.last < EVENTS; i++) {
        struct appending *a = &r->flight[r->first + i];
        if (a->offset > 0) continue;
        for (uint64_t o = 1; o <= w.last && a->id != 0; o++) must(w.log[o].id != a->id); /* L3, and exactly once */
        a->offset = ++w.last;
        w.log[w.last] = (struct event){a->id, r->epoch, a->sequence};
        return;
    }
}

static void tell(struct replica *r, struct appending *a)
{
    struct request *q = a->request;
    a->request = NULL;
    STEP(r, .kind = ORDER_EV_LOGGED, .entry = q != NULL ? &q->entry : NULL, .offset = a->offset);
}

static void acknowledge_one(struct replica *r)
{
    if (!r->open || r->n_flight == 0 || r->flight[r->first].offset == 0) return;
    r->n_flight--;
    tell(r, &r->flight[r->first++]);
}

static void lose_log(struct replica *r)
{
    if (!r->open) return;
    r->open = false;
    sum.losses++;
    for (unsigned i = 0; i < r->n_flight; i++) {
        struct appending *a = &r->flight[r->first + i];
        if (a->request == NULL) continue;
        if (a->offset == 0 && dice(3) == 0) { /* it, and what is behind it, never left */
            for (unsigned k = i; k < r->n_flight; k++) {
                struct request *q = r->flight[r->first + k].request;
                if (q != NULL) STEP(r, .kind = ORDER_EV_UNKNOWN, .entry = &q->entry);
            }
            r->n_flight = i;
            break;
        }
        STEP(r, .kind = ORDER_EV_UNKNOWN, .entry = &a->request->entry, .epoch = r->epoch, .sequence = a->sequence);
        a->request = NULL;
    }
    STEP(r, .kind = ORDER_EV_LOG_LOST);
}

static void open_log(struct replica *r)
{
    if (r->open) return;
    r->first = r->n_flight = 0; /* the older epoch of this name is fenced */
    r->sequence = 0;
    r->epoch = ++w.epoch;
    r->open = true;
    STEP(r, .kind = ORDER_EV_LOG_OPENED, .epoch = r->epoch, .offset = w.last);
}

static void read_one(struct replica *r)
{
    if (!r->reading || r->read_next > w.last) return;
    const struct event *ev = &w.log[r->read_next];
    struct request *q = NULL;
    if (ev->id != 0 && (q = fresh()) == NULL) return;
    if (q != NULL) q->id = ev->id;
    for (unsigned i = 0; i < r->n_flight && r->open && ev->epoch == r->epoch; i++) {
        struct appending *a = &r->flight[r->first + i];
        if (a->sequence == ev->sequence && a->request != NULL) tell(r, a);
    }
    must(STEP(r, .kind = ORDER_EV_READ, .entry = q != NULL ? &q->entry : NULL, .offset = r->read_next++, .epoch = ev->epoch,
              .sequence = ev->sequence, .ordered = true) == 0);
}

/* ---- the app -------------------------------------------------------------------------------------------------- */

static void app_acts(struct replica *r)
{
    if (!r->alive || r->n_sent == 0) return;
    unsigned i = (unsigned)dice(r->n_sent);
    struct request *q = r->sent[i];
    must(!r->drained);
    if (!w.quiet && dice(40) == 0) {
        if (q->entry.read) {
            r->sent[i] = r->sent[--r->n_sent];
            STEP(r, .kind = ORDER_EV_READ_DROPPED, .entry = &q->entry);
        } else {
            STEP(r, .kind = ORDER_EV_SUSPECT);
            sum.suspects++;
        }
        return;
    }
    r->sent[i] = r->sent[--r->n_sent];
    if (q->entry.read) {
        q->saw = r->app.offset;
    } else {
        must(q->entry.offset > r->app.offset && w.log[q->entry.offset].id == q->id);
        q->answer = r->app.chain = chained(r->app.chain, q->id);
        r->app.offset = q->entry.offset;
        must(r->app.chain == history(r->app.offset)); /* O1: in the log's order, none left out */
    }
    STEP(r, .kind = ORDER_EV_ANSWERED, .entry = &q->entry);
}

static void attach(struct replica *r)
{
    unsigned which = (unsigned)dice(w.n_saved);
    if (dice(2) == 0) which = w.n_saved - 1;
    if (STEP(r, .kind = ORDER_EV_ATTACH, .offset = w.saved_at[which]) != 0) return;
    sum.attaches++;
    r->alive = true;
    r->told_lost = false;
    r->app = w.saved[which];
}

static void drain(struct replica *r)
{
    if (!r->draining) {
        if (STEP(r, .kind = ORDER_EV_DRAIN) != 0) return;
        r->draining = true;
        r->drain_number = r->order.drain_number;
    } else if (r->drained) {
        must(STEP(r, .kind = ORDER_EV_RESUME) == 0);
        r->draining = r->drained = false;
        if (!r->alive || w.n_saved == CHECKPOINTS) return;
        must(r->app.chain == r->at_drain.chain); /* O4 */
        w.saved_at[w.n_saved] = r->drain_offset;
        w.saved[w.n_saved++] = r->at_drain;
        sum.drains++;
    }
}

/* ---- what a core wants done ----------------------------------------------------------------------------------- */

static void finish(struct replica *r, struct request *q)
{
    if (q->entry.read) {
        sum.reads++;
        must(q->saw >= q->floor); /* linearizable */
        show(q->saw);
        return;
    }
    must(q->answer == history(q->entry.offset) && q->id == w.log[q->entry.offset].id);
    if (q->entry.from_log) return;
    must(q->client && q->entry.offset > q->floor);
    q->client = false; /* O3 */
    sum.answered++;
    show(q->entry.offset);
    if (r->open) append(r, NULL);
}

static void hand_back(struct replica *r, const struct order_action *a)
{
    struct request *q = of(a->entry);
    bool in_log = false;
    must(q->in_world && q->entry.life == ORDER_OVER);
    q->in_world = false;
    for (uint64_t o = 1; o <= w.last; o++) in_log |= q->id != 0 && w.log[o].id == q->id;
    switch (a->kind) {
    case ORDER_DO_FINISH: finish(r, q); break;
    case ORDER_DO_FREE: must(q->entry.from_log || !q->entry.waiting); break;
    case ORDER_DO_FAIL: must(q->entry.read); break;
    case ORDER_DO_ABANDON:
        must(!q->entry.read && (in_log || q->entry.murky));
        sum.abandoned++;
        break;
    default:
        must(a->kind == ORDER_DO_REJECT && !in_log && q->client);
        q->rejected = true;
        sum.refused += order_refuses(&r->order);
    }
}

static void perform(struct replica *r, const struct order_action *a)
{
    switch (a->kind) {
    case ORDER_DO_DROP:
        r->n_sent = 0;
        r->connecting = r->connected = false;
        break;
    case ORDER_DO_CONNECT: r->connecting = true; break;
    case ORDER_DO_REOPEN: break;
    case ORDER_DO_STOP: r->reading = false; break;
    case ORDER_DO_ASK:
        must(!r->asked);
        r->asked = true;
        r->end = w.last;
        break;
    case ORDER_DO_READ:
        must(a->to == UINT64_MAX);
        r->reading = true;
        r->read_next = a->offset;
        break;
    case ORDER_DO_APPEND: append(r, of(a->entry)); break;
    case ORDER_DO_SEND:
        must(r->connected && !r->drained && r->n_sent <= READS);
        must(!a->entry->read || r->order.app == ORDER_APP_READY);
        r->sent[r->n_sent++] = of(a->entry);
        break;
    case ORDER_DO_CLOSE: STEP(r, .kind = ORDER_EV_CLOSED, .number = a->number); break;
    case ORDER_DO_DRAINED:
        r->drained = true;
        r->drain_offset = a->offset;
        r->at_drain = r->app;
        must(!r->alive || r->app.chain == history(a->offset));
        break;
    case ORDER_DO_BROKEN: r->draining = r->drained = false; break;
    default: hand_back(r, a);
    }
}

static void pump(struct replica *r)
{
    struct order_action a;
    while (order_next(&r->order, &a)) perform(r, &a);
    if (order_refuses(&r->order)) must(r->order.lives[ORDER_ARRIVED] == 0 && TAILQ_EMPTY(&r->order.held)); /* nobody waits who need not */
}

/* ---- runs ----------------------------------------------------------------------------------------------------- */

static void arrive(struct replica *r)
{
    struct request *q = w.n_requests < REQUESTS / 3 ? fresh() : NULL; /* the rest is for what is read back */
    if (q == NULL) return;
    q->entry.read = dice(3) == 0;
    q->id = q->entry.read ? 0 : w.n_requests;
    q->client = true;
    q->floor = w.shown;
    STEP(r, .kind = ORDER_EV_ARRIVED, .entry = &q->entry);
}

/* The answer to ASK comes later, and may be newer than the question. */
static void answer_end(struct replica *r)
{
    if (!r->asked) return;
    r->asked = false;
    STEP(r, .kind = ORDER_EV_END, .offset = dice(3) > 0 ? r->end : r->end + dice(w.last - r->end + 1));
}

static void leave(struct replica *r)
{
    struct request *q = w.n_requests > 0 ? &w.requests[dice(w.n_requests)] : NULL;
    struct order_entry *entry;
    if (q == NULL || !q->in_world || !q->client || !q->entry.waiting) return;
    TAILQ_FOREACH(entry, &r->order.queue, link)
    if (of(entry) == q) break;
    if (entry != NULL) STEP(r, .kind = ORDER_EV_GONE, .entry = entry);
}

static void connect(struct replica *r)
{
    if (!r->connecting || !r->alive || r->connected) return;
    r->connected = true;
    STEP(r, .kind = ORDER_EV_CONNECTED);
}

static void something(struct replica *r)
{
    uint64_t what = dice(100);
    bool fault = dice(w.calm) == 0;
    if (what < 20) arrive(r);
    else if (what < 32) commit_one(r);
    else if (what < 42) {
        if (dice(w.lag) == 0) acknowledge_one(r);
    } else if (what < 60) read_one(r);
    else if (what < 78) app_acts(r);
    else if (what < 82) {
        if (dice(w.lag) == 0) answer_end(r);
    } else if (what < 84) leave(r);
    else if (what < 87 && (!r->alive || r->order.app != ORDER_APP_READY || fault)) attach(r);
    else if (what < 88 && fault) r->alive = false;
    else if (what < 90 && !r->alive && !r->told_lost) {
        r->told_lost = true;
        STEP(r, .kind = ORDER_EV_LOST);
    } else if (what < 91 && fault) lose_log(r);
    else if (what < 93) open_log(r);
    else if (what < 97) drain(r);
    else if (what < 98 && fault) STEP(r, .kind = ORDER_EV_EXPIRED);
    else connect(r);
}

/* No more faults: everything that waits comes to its end, and all apps are the same. */
static void settle(void)
{
    w.quiet = true;
    for (int k = 0; k < REPLICAS; k++) {
        struct replica *r = &w.replicas[k];
        if (r->draining) STEP(r, .kind = ORDER_EV_EXPIRED);
        pump(r);
        if (!r->alive || (r->order.app != ORDER_APP_READY && r->order.app != ORDER_APP_STARTING)) attach(r);
        open_log(r);
        pump(r);
    }
    for (int i = 0; i < 6000 && w.n_requests < REQUESTS; i++) {
        struct replica *r = &w.replicas[i % REPLICAS];
        void (*const turns[])(struct replica *) = {commit_one, acknowledge_one, connect, read_one, answer_end, app_acts};
        for (unsigned t = 0; t < sizeof turns / sizeof *turns; t++) {
            turns[t](r);
            pump(r);
        }
    }
    if (w.n_requests == REQUESTS || w.last == EVENTS) return; /* the model's memory is full: this run ends here */
    for (int k = 0; k < REPLICAS; k++) {
        struct replica *r = &w.replicas[k];
        must(order_state(&r->order) == ORDER_ACTIVE && order_applied(&r->order) == w.last);
        must(r->app.chain == history(w.last) && r->order.n_held == 0 && r->order.held_bytes == 0);
        sum.followed += r->order.counters.followed;
    }
    for (unsigned i = 0; i < w.n_requests; i++) must(!w.requests[i].in_world);
    for (uint64_t o = 1; o <= w.last; o++) must(w.log[o].id == 0 || !w.requests[w.log[o].id - 1].rejected);
}

static void run(uint64_t seed)
{
    struct order_limits limits = {.shared = true, .linearizable = true, .hold_requests = 40, .hold_bytes = 400, .reads = READS};
    memset(&w, 0, sizeof w);
    w.seed = seed;
    w.random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (int i = 0; i < 8; i++) dice(2);
    w.calm = 1 + dice(10);
    w.lag = 1 + dice(12);
    w.n_saved = 1;
    limits.refuses = dice(2) == 0;
    for (int k = 0; k < REPLICAS; k++) order_init(&w.replicas[k].order, &limits);
    for (int i = 0; i < STEPS && w.n_requests < REQUESTS; i++) {
        struct replica *r = &w.replicas[dice(REPLICAS)];
        something(r);
        pump(r);
    }
    settle();
}

static void test_random(void **state)
{
    (void)state;
    const char *one = getenv("CRSC_SEED"), *many = getenv("CRSC_RUNS");
    uint64_t from = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t runs = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 2000;
    for (uint64_t seed = from; seed < from + runs; seed++) run(seed);
    printf("%" PRIu64 " seeds from %" PRIu64 ": %" PRIu64 " requests answered, %" PRIu64 " reads, %" PRIu64 " followed, %" PRIu64
           " abandoned, %" PRIu64 " refused, %" PRIu64 " attaches, %" PRIu64 " suspects, %" PRIu64 " checkpoints, the log lost %" PRIu64 " times\n",
           runs, from, sum.answered, sum.reads, sum.followed, sum.abandoned, sum.refused, sum.attaches, sum.suspects, sum.drains, sum.losses);
    if (one != NULL || runs < 1000) return; /* else it would show nothing */
    assert_true(sum.answered > 10 * runs && sum.reads > 5 * runs && sum.followed > 10 * runs);
    assert_true(sum.refused > runs && sum.abandoned > runs / 10 && sum.drains > runs / 4 && sum.losses > runs && sum.suspects > runs / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
