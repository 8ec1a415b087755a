/* What the engine's two files share: engine.c (requests) and control.c (attach, drain, status). */
#ifndef CRSC_INTERCEPTOR_ENGINE_INTERNAL_H
#define CRSC_INTERCEPTOR_ENGINE_INTERNAL_H

#include "interceptor/engine.h"
#include "interceptor/log.h"
#include "interceptor/replay/digests.h"
#include "interceptor/replay/reader.h"
#include "interceptor/upstream/upstream.h"

enum { DRAINS_KEPT = 16 }; /* ended drains whose token is still known */

struct drain {
    char token[ENGINE_TOKEN_MAX + 1];
    uint64_t number, offset, lease_ms;
    bool running, drained, unbroken;
    engine_drained_cb *done; /* NULL: told, or nobody asks any more */
    void *waiter;
};

/* What a change is made of: compared after each turn. */
struct face {
    enum order_state state;
    enum order_app app;
    enum order_drain drain;
    bool fenced, log_open, hold;
    uint64_t attaches, drains;
};

struct engine {
    uv_loop_t *loop;
    const struct settings *settings;
    struct order order;
    struct log *log;
    struct reader *reader;
    struct upstream *upstream;
    struct digests *digests;
    void *sha; /* EVP_MD_CTX */
    bool pumping;
    /* the answer that order_step(ANSWERED) is about, while that goes on */
    const struct http_message *answer;
    struct answer_digest digest;
    /* the app */
    char identity[ENGINE_IDENTITY_MAX + 1], address[ENGINE_UPSTREAM_MAX + 1];
    char detail[ERROR_TEXT_MAX]; /* why the log, the app or the replay is not well */
    uint64_t attaches, replay_done;
    /* drains */
    struct drain drains[DRAINS_KEPT];
    unsigned n_drains; /* ever; the last is drains[(n_drains - 1) % DRAINS_KEPT] */
    uv_timer_t drain_timer;
    /* status */
    char instance[24];
    struct face face;
    uint64_t version, mismatches, compared, lost_us, attached_us, active_us;
    struct histogram append, total;
    void (*on_change)(void *user);
    void *user;
    unsigned closing;
    void (*done)(void *user);
    void *done_user;
};

/* One event, then all that follows from it. As order_step(). */
int engine_step(struct engine *engine, const struct order_event *ev, struct error *e);

/* Does what the core wants done after an order_step(). */
void engine_pump(struct engine *engine);

/* control.c: what the core says of drains, and whether something changed. */
void control_drained(struct engine *engine, uint64_t number, uint64_t offset);
void control_broken(struct engine *engine, uint64_t number);
void control_look(struct engine *engine);

#endif
