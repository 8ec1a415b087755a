/* The engine's other half: what a person or the operator asks of it, and what it tells. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/loop.h"
#include "interceptor/engine_internal.h"

/* ---- the app -------------------------------------------------------------------------------------------------- */

static bool is_there(const struct engine *engine)
{
    return engine->order.app == ORDER_APP_STARTING || engine->order.app == ORDER_APP_READY;
}

static void take_identity(struct engine *engine, const char *identity)
{
    snprintf(engine->identity, sizeof engine->identity, "%s", identity);
    engine->attaches++;
    engine->attached_us = loop_wall_us();
}

/* A process that was started after the one we were told of had died, and before we noticed, may have been given
 * requests already, taken for its predecessor. Then its state is not the one it was started with. */
static int attach_mistaken(struct engine *engine, const char *identity, struct order_event *ev, const char *upstream,
                           bool *ret_done, struct error *e)
{
    const struct order *o = &engine->order;
    bool fed = order_was_fed(o);
    if (!fed || engine->attaches == 0 || !upstream_is_same(engine->upstream, upstream)) return 0;
    if (ev->offset != o->attached || (o->app != ORDER_APP_READY && o->unsettled)) {
        struct order_event suspect = {.kind = ORDER_EV_SUSPECT};
        snprintf(engine->detail, sizeof engine->detail, "it was given requests while it was taken for %.100s",
                 engine->identity);
        engine_step(engine, &suspect, NULL);
        return error_set(
            e, ERROR_CONFLICT,
            "this process was given requests already, while it was taken for %.100s: start another one, and POST "
            "/detach before that",
            engine->identity);
    }
    log_info("the app was known under another identity", "identity=%s was=%s executed=%" PRIu64, identity,
             engine->identity, o->executed);
    ev->offset = o->executed;
    if (o->app != ORDER_APP_READY) return 0;
    take_identity(engine, identity);
    *ret_done = true;
    return 0;
}

static int attach_app(struct engine *engine, const char *identity, const struct order_event *ev, const char *upstream,
                      struct error *e)
{
    char before[sizeof engine->address];
    bool again = ev->same && is_there(engine);
    if (again && strcmp(upstream, engine->address) != 0)
        return error_set(e, ERROR_CONFLICT, "this process is attached already, at %s", engine->address);
    /* The core may want the connection begun before this returns. */
    memcpy(before, engine->address, sizeof before);
    snprintf(engine->address, sizeof engine->address, "%s", upstream);
    int rv = order_step(&engine->order, ev, e);
    if (rv != 0) memcpy(engine->address, before, sizeof before);
    if (rv != 0 || again) return rv;
    take_identity(engine, identity);
    engine->detail[0] = '\0';
    progress_begin(&engine->progress, ev->offset, loop_monotonic_us());
    digests_clear(engine->digests);
    repeats_attached(engine, ev->offset);
    disputes_attached(engine);
    log_info("an app was attached", "identity=%s offset=%" PRIu64 " upstream=%s", identity, ev->offset, upstream);
    return 0;
}

int engine_attach(struct engine *engine, const char *identity, uint64_t offset, const char *upstream, bool proven, struct error *e)
{
    struct sockaddr_storage where;
    bool done = false;
    struct order_event ev = {.kind = ORDER_EV_ATTACH,
                             .offset = offset,
                             .same = engine->attaches > 0 && strcmp(identity, engine->identity) == 0};
    if (identity[0] == '\0' || strlen(identity) > ENGINE_IDENTITY_MAX)
        return error_set(e, ERROR_INVALID, "identity: 1 to %d bytes are wanted", ENGINE_IDENTITY_MAX);
    if (strlen(upstream) > ENGINE_UPSTREAM_MAX)
        return error_set(e, ERROR_INVALID, "upstream: at most %d bytes", ENGINE_UPSTREAM_MAX);
    if (upstream_address(upstream, &where, e) != 0) {
        error_prefix(e, "upstream");
        return -ERROR_INVALID;
    }
    int rv = marks_check(engine, identity, offset, proven, e);
    if (rv == 0 && !ev.same && engine->order.drain == ORDER_DRAIN_NONE) rv = attach_mistaken(engine, identity, &ev, upstream, &done, e);
    if (rv == 0 && !done) rv = attach_app(engine, identity, &ev, upstream, e);
    engine_pump(engine);
    return rv;
}

int engine_detach(struct engine *engine, const char *identity, struct error *e)
{
    struct order_event ev = {.kind = ORDER_EV_DETACH};
    if (engine->attaches == 0 || strcmp(identity, engine->identity) != 0)
        return error_set(e, ERROR_CONFLICT, "another process is attached: \"%s\"", engine->identity);
    int rv = engine_step(engine, &ev, e);
    if (rv == 0) log_info("the app was detached", "identity=%s", identity);
    return rv;
}

int engine_role(struct engine *engine, bool standby, struct error *e)
{
    if (!engine->settings->shared) return error_set(e, ERROR_CONFLICT, "roles are for replicas: --replication log");
    if (standby != engine->standby)
        log_info(standby ? "a standby from now on" : "active from now on", "executed=%" PRIu64 " last=%" PRIu64, engine->order.executed,
                 engine->order.known);
    engine->standby = standby;
    control_look(engine);
    return 0;
}

void engine_leave(struct engine *engine)
{
    engine->leaving = true;
    control_look(engine);
}

int engine_replicas(struct engine *engine, unsigned replicas, struct error *e)
{
    if (!engine->settings->shared) return error_set(e, ERROR_CONFLICT, "there are no other replicas: --replication log");
    if (replicas == 1 || replicas > VERDICT_REPLICAS_MAX) return error_set(e, ERROR_INVALID, "0, or 2 to %d replicas are wanted", VERDICT_REPLICAS_MAX);
    if (replicas != engine->replicas) log_info("another number of replicas", "replicas=%u before=%u", replicas, engine->replicas);
    disputes_count(engine, replicas);
    return 0;
}

int engine_hold(struct engine *engine, bool hold, struct error *e)
{
    struct order_event ev = {.kind = hold ? ORDER_EV_HOLD : ORDER_EV_RELEASE};
    return engine_step(engine, &ev, e);
}

/* ---- drains --------------------------------------------------------------------------------------------------- */

static struct drain *last_drain(struct engine *engine)
{
    return engine->n_drains > 0 ? &engine->drains[(engine->n_drains - 1) % DRAINS_KEPT] : NULL;
}

static struct drain *find_drain(struct engine *engine, const char *token)
{
    for (unsigned i = 0; i < DRAINS_KEPT && i < engine->n_drains; i++)
        if (strcmp(engine->drains[i].token, token) == 0) return &engine->drains[i];
    return NULL;
}

static void tell(struct drain *d, const struct error *e)
{
    engine_drained_cb *done = d->done;
    d->done = NULL;
    if (done != NULL) done(d->waiter, e, d->offset);
}

static void on_drain_time(uv_timer_t *timer)
{
    struct engine *engine = timer->data;
    struct drain *d = last_drain(engine);
    struct order_event ev = {.kind = ORDER_EV_EXPIRED};
    if (d == NULL || !d->running) return;
    log_warn(d->drained ? "a drain's lease has run out: what is dumped now is worth nothing"
                        : "could not drain in time",
             "token=%s offset=%" PRIu64, d->token, d->offset);
    if (!d->drained) {
        struct error e;
        error_set(&e, ERROR_TIMEOUT, "requests were still in flight when drain_ms had passed: resumed");
        tell(d, &e);
    }
    engine_step(engine, &ev, NULL);
}

void control_drained(struct engine *engine, uint64_t number, uint64_t offset)
{
    struct drain *d = last_drain(engine);
    if (d == NULL || d->number != number || !d->running) return;
    d->offset = offset;
    d->drained = true;
    if (offset > engine->drained) engine->drained = offset;
    uv_timer_start(&engine->drain_timer, on_drain_time, d->lease_ms, 0);
    log_info("drained", "token=%s offset=%" PRIu64, d->token, offset);
    control_look(engine); /* the answer has the version of what it tells */
    tell(d, NULL);
}

void control_broken(struct engine *engine, uint64_t number)
{
    struct drain *d = last_drain(engine);
    struct error e;
    if (d == NULL || d->number != number) return;
    uv_timer_stop(&engine->drain_timer);
    d->running = d->unbroken = false;
    error_set(&e, ERROR_CONFLICT, "the drain was broken: %s", order_reason(&engine->order));
    tell(d, &e);
}

int engine_checkpoint(struct engine *engine, const char *token, uint64_t lease_ms, uint64_t drain_ms,
                      engine_drained_cb *done, void *waiter, struct error *e)
{
    struct order_event ev = {.kind = ORDER_EV_DRAIN};
    if (token[0] == '\0' || strlen(token) > ENGINE_TOKEN_MAX)
        return error_set(e, ERROR_INVALID, "token: 1 to %d bytes are wanted", ENGINE_TOKEN_MAX);
    if (find_drain(engine, token) != NULL)
        return error_set(e, ERROR_CONFLICT, "this token was used before: take a new one for each drain");
    if (uploads_moving(engine))
        return error_set(e, ERROR_CONFLICT, "a large request is being moved behind the checkpoint before: try again a little later");
    int rv = order_step(&engine->order, &ev, e);
    if (rv != 0) return rv;
    struct drain *d = &engine->drains[engine->n_drains++ % DRAINS_KEPT];
    *d = (struct drain){.number = engine->order.drain_number,
                        .lease_ms = lease_ms,
                        .running = true,
                        .unbroken = true,
                        .done = done,
                        .waiter = waiter};
    snprintf(d->token, sizeof d->token, "%s", token);
    uv_timer_start(&engine->drain_timer, on_drain_time, drain_ms, 0);
    engine_pump(engine);
    return 0;
}

void engine_forget(struct engine *engine, void *waiter)
{
    struct drain *d = last_drain(engine);
    struct order_event ev = {.kind = ORDER_EV_EXPIRED};
    if (d == NULL || d->done == NULL || d->waiter != waiter) return;
    d->done = NULL;
    engine_step(engine, &ev, NULL);
}

int engine_resume(struct engine *engine, const char *token, uint64_t *ret_offset, bool *ret_unbroken, struct error *e)
{
    struct drain *d = find_drain(engine, token);
    if (d == NULL)
        return error_set(e, ERROR_NOT_FOUND,
                         "no drain with this token is known: what was dumped under it is worth nothing");
    if (d->running) {
        struct order_event ev = {.kind = ORDER_EV_RESUME};
        d->running = false;
        d->unbroken = d->drained;
        uv_timer_stop(&engine->drain_timer);
        struct error ended;
        error_set(&ended, ERROR_CONFLICT, "ended by POST /resume");
        tell(d, &ended);
        engine_step(engine, &ev, NULL);
    }
    *ret_offset = d->offset;
    *ret_unbroken = d->unbroken;
    return 0;
}

/* ---- status --------------------------------------------------------------------------------------------------- */

void control_look(struct engine *engine)
{
    const struct order *o = &engine->order;
    struct face now = {.state = order_state(o),
                       .app = o->app,
                       .drain = o->drain,
                       .proof = engine->proof.verdict,
                       .fenced = o->fenced,
                       .log_open = o->log_open,
                       .lapsed = o->lapsed,
                       .hold = o->hold,
                       .standby = engine->standby,
                       .leaving = engine->leaving,
                       .diverged = engine->diverged,
                       .disagreement = engine->disagreement,
                       .attaches = engine->attaches,
                       .drains = engine->n_drains};
    struct face *was = &engine->face;
    if (now.state == was->state && now.app == was->app && now.drain == was->drain && now.proof == was->proof && now.fenced == was->fenced &&
        now.log_open == was->log_open && now.lapsed == was->lapsed && now.hold == was->hold && now.standby == was->standby && now.leaving == was->leaving && now.diverged == was->diverged &&
        now.disagreement == was->disagreement && now.attaches == was->attaches &&
        now.drains == was->drains)
        return;
    if (now.app != was->app && (now.app == ORDER_APP_LOST || now.app == ORDER_APP_SUSPECT) &&
        was->app != ORDER_APP_SUSPECT)
        engine->lost_us = loop_wall_us();
    if (now.state == ORDER_ACTIVE && was->state != ORDER_ACTIVE) engine->active_us = loop_wall_us();
    if (now.state != was->state)
        log_info("state", "state=%s reason=%s executed=%" PRIu64 " last=%" PRIu64 " held=%u",
                 order_state_name(now.state), order_reason(o), o->executed, o->known, o->n_held);
    *was = now;
    engine->version++;
    engine->on_change(engine->user);
}

void engine_status(const struct engine *engine, struct engine_status *s)
{
    const struct order *o = &engine->order;
    const struct drain *d = last_drain((struct engine *)engine);
    bool well = order_state(o) == ORDER_ACTIVE || order_state(o) == ORDER_DRAINING;
    *s = (struct engine_status){
        .instance = engine->instance,
        .version = engine->version,
        .state = order_state(o),
        .reason = order_reason(o),
        .detail = well ? "" : engine->detail,
        .ready = o->log_open && well && !engine->standby && !engine->leaving,
        .shared = engine->settings->shared,
        .standby = engine->standby,
        .leaving = engine->leaving,
        .replicas = engine->replicas,
        .app_version = engine->settings->app_version,
        .diverged = engine->diverged,
        .agreed = engine->agreed,
        .disagreement = engine->disagreement,
        .divergences = engine->divergences,
        .disagreements = engine->disagreements,
        .stream = engine->settings->stream,
        .identity = engine->attaches > 0 && o->app != ORDER_APP_NONE ? engine->identity : NULL,
        .upstream = engine->address,
        .proof = engine->attaches == 0 ? &engine->proof : NULL,
        .epoch = o->epoch,
        .fenced = o->fenced,
        .last = o->known,
        .executed = o->executed,
        .app = o->app,
        .counters = o->counters,
        .held = o->n_held,
        .digest_mismatches = engine->mismatches,
        .digests_compared = engine->compared,
        .repeated = engine->repeated,
        .replay_from = o->replay_from,
        .replay_to = o->replay_to,
        .replay = progress_look(&engine->progress, o->replay_to, order_state(o) == ORDER_REPLAYING, loop_monotonic_us()),
        .token = d != NULL ? d->token : NULL,
        .drain_offset = d != NULL ? d->offset : 0,
        .unbroken = d != NULL && d->unbroken && d->drained,
        .lost_us = engine->lost_us,
        .attached_us = engine->attached_us,
        .active_us = engine->active_us,
        .tunnels = engine->n_tunnels,
        .refused = engine->refused,
        .append = &engine->append,
        .total = &engine->total,
    };
}
