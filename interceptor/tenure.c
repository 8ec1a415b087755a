/* The engine's part for the lease that goes with its epoch (lease/lease.h): asks whether the stream is still ours, tells the core when nothing
 * may be told, and leaves a release in the log at a clean end. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"
#include "interceptor/engine_internal.h"

enum { ASKS = 4, RELEASE_MS = 1000 };        /* in the length of a lease; the bound of a release */
enum { REST_MS = 3000, REST_LOOK_MS = 5 };   /* at the end: for the app to finish what it has */

static void on_change(uv_timer_t *timer);

void tenure_look(struct engine *engine)
{
    uint64_t now = loop_monotonic_us();
    bool live = lease_live(&engine->lease, now);
    if (engine->lease.epoch == 0 || engine->releasing) return; /* the log was never open: nothing is told anyway */
    if (live == engine->order.lapsed) {
        if (!live && !engine->lease.ended) log_warn("the lease on the stream is not live: nothing is answered", "epoch=%" PRIu64, engine->lease.epoch);
        struct order_event ev = {.kind = live ? ORDER_EV_LEASED : ORDER_EV_LAPSED};
        engine_step(engine, &ev, NULL);
        if (live) answers_durable(engine);
    }
    uint64_t at = lease_change(&engine->lease, now);
    if (at != UINT64_MAX) uv_timer_start(&engine->tenure_change, on_change, (at - now) / 1000 + 1, 0);
}

static void on_change(uv_timer_t *timer)
{
    tenure_look(timer->data);
}

/* A question may outlive the engine: without a majority it ends with the client, which is closed later. */
struct ask {
    struct engine *engine; /* NULL: gone */
};

static void on_asked(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct ask *ask = user;
    struct engine *engine = ask->engine;
    free(ask);
    if (engine == NULL) return;
    const struct order *o = &engine->order;
    engine->ask = NULL;
    for (size_t i = 0; e == NULL && i < n; i++) {
        if (strcmp(streams[i].name, engine->settings->stream) == 0 && streams[i].epoch == o->epoch) lease_renewed(&engine->lease, engine->asked_us);
    }
    if (e == NULL && o->log_open) log_overtaken(engine->log, streams, n); /* while it is open none of these is ours */
    tenure_look(engine);
}

static void on_ask(uv_timer_t *timer)
{
    struct engine *engine = timer->data;
    if (engine->ask != NULL || !engine->order.log_open || (engine->ask = malloc(sizeof *engine->ask)) == NULL) return;
    engine->ask->engine = engine;
    engine->asked_us = loop_monotonic_us();
    if (crsc_list_streams(engine->client, engine->settings->stream, on_asked, engine->ask) == 0) return;
    free(engine->ask);
    engine->ask = NULL;
}

void tenure_free(struct engine *engine, uv_close_cb on_closed)
{
    if (engine->ask != NULL) engine->ask->engine = NULL;
    uv_close((uv_handle_t *)&engine->tenure_ask, on_closed);
    uv_close((uv_handle_t *)&engine->tenure_change, on_closed);
    uv_close((uv_handle_t *)&engine->tenure_rest, on_closed);
}

void tenure_opened(struct engine *engine, uint64_t epoch)
{
    uint64_t now = loop_monotonic_us(), length = engine->settings->lease;
    bool first = engine->lease.epoch == 0;
    lease_opened(&engine->lease, epoch, now);
    if (first && length > 0) engine_step(engine, &(struct order_event){.kind = ORDER_EV_LAPSED}, NULL);
    tenure_look(engine);
    if (length > 0) uv_timer_start(&engine->tenure_ask, on_ask, 0, (length + ASKS - 1) / ASKS);
}

void tenure_proof(struct engine *engine)
{
    if (engine->proof.released) lease_free_before(&engine->lease);
    tenure_look(engine);
}

/* An append of ours came into the log after that moment. */
void tenure_appended(struct engine *engine, uint64_t asked_us)
{
    lease_renewed(&engine->lease, asked_us);
    if (engine->order.lapsed) tenure_look(engine);
}

void tenure_end(struct engine *engine)
{
    lease_end(&engine->lease);
    uv_timer_stop(&engine->tenure_ask);
    tenure_look(engine);
}

void tenure_new(struct engine *engine)
{
    lease_init(&engine->lease, engine->settings->lease * 1000);
    uv_timer_init(engine->loop, &engine->tenure_ask);
    uv_timer_init(engine->loop, &engine->tenure_change);
    uv_timer_init(engine->loop, &engine->tenure_rest);
    engine->tenure_ask.data = engine->tenure_change.data = engine->tenure_rest.data = engine;
}

/* ---- a clean end ------------------------------------------------------------------------------------------------ */

static void released(struct engine *engine)
{
    void (*done)(void *user) = engine->released;
    engine->released = NULL;
    uv_timer_stop(&engine->tenure_change);
    if (done != NULL) done(engine->released_user);
}

static void on_release_time(uv_timer_t *timer)
{
    released(timer->data);
}

void tenure_note(struct engine *engine)
{
    if (engine->releasing && engine->released != NULL && log_idle(engine->log)) released(engine);
}

static void release(struct engine *engine)
{
    struct buf text = BUF_INIT;
    bool open = engine->order.log_open;
    marks_rest(engine);
    tenure_end(engine);
    engine->releasing = true;
    bool sent = open && engine->settings->lease > 0 && proof_release(&text, engine->order.epoch) == 0 && log_append_mark(engine->log, text.data, text.len);
    buf_fini(&text);
    uv_timer_start(&engine->tenure_change, on_release_time, sent || !log_idle(engine->log) ? RELEASE_MS : 0, 0);
}

/* The lease lives on meanwhile: what the app answers counts. */
static void on_rest_time(uv_timer_t *timer)
{
    struct engine *engine = timer->data;
    if (engine->order.n_flying > 0 && uv_now(engine->loop) < engine->rest_by_ms) return;
    uv_timer_stop(timer);
    release(engine);
}

void engine_release(struct engine *engine, void (*done)(void *user), void *user)
{
    engine->released = done;
    engine->released_user = user;
    engine->rest_by_ms = uv_now(engine->loop) + REST_MS;
    engine_step(engine, &(struct order_event){.kind = ORDER_EV_STOP}, NULL);
    uv_timer_start(&engine->tenure_rest, on_rest_time, 0, REST_LOOK_MS);
}
