#include "operator/workload_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"

enum { LOOK_AGAIN_MS = 500 };

/* ---- the world ------------------------------------------------------------------------------------------------ */

static bool has(const void *user, const char *id)
{
    const struct driver *d = user;
    return d->ops->has(d, id);
}

static void judge(const void *user, struct world_snapshot *s)
{
    replicas_judge(user, s);
}

/* Why the interceptor at that address cannot be this workload's; NULL: it can. It is not touched then: its app is somebody else's, or it would serve
 * a stream that others serve too as if it were alone. */
static const char *foreign_reason(const struct workload *w)
{
    const struct interceptor_extra *x = interceptor_client_extra(w->interceptor);
    if (x->stream[0] == '\0') return NULL;
    if (strcmp(x->stream, w->parts.words->stream) != 0)
        return "the interceptor at this address is of another stream: correct the workload file or the interceptor's --stream";
    if (replicas_several(w->replicas) && !x->shared) return "the interceptor of one of several replicas must run with --replication log";
    return NULL;
}

static bool foreign_interceptor(struct workload *w)
{
    const char *why = foreign_reason(w);
    if (why != NULL && !w->foreign)
        log_error(why, "workload=%s interceptor=%s stream=%s its_stream=%s", w->name, w->parts.words->interceptor, w->parts.words->stream,
                  interceptor_client_extra(w->interceptor)->stream);
    w->foreign = why != NULL;
    return w->foreign;
}

void workload_look(struct workload *w, struct world *ret_world)
{
    const struct records_view view = {
        .spec = w->driver->spec, .has = has, .user = w->driver, .judge = replicas_several(w->replicas) ? judge : NULL, .judge_user = w};
    *ret_world = (struct world){.now_us = loop_monotonic_us(),
                                .wall_us = loop_wall_us(),
                                .instance = *w->driver->ops->instance(w->driver),
                                .interceptor = *interceptor_client_world(w->interceptor)};
    if (foreign_interceptor(w)) ret_world->interceptor = (struct world_interceptor){.state = WORLD_UNREACHABLE};
    ret_world->away = w->away;
    records_see(w->records, &view, &ret_world->log);
}

void workload_see(struct workload *w, struct world *ret_world)
{
    bool turn = replicas_turn(w); /* first: it looks at all of them, and what the log shows of ours is borrowed */
    workload_look(w, ret_world);
    ret_world->turn = turn;
}

/* ---- the turning wheel ---------------------------------------------------------------------------------------- */

static void close_parts(struct workload *w);

static void on_looked(void *user, const struct driver_outcome *outcome);
static void on_timer(uv_timer_t *timer);

static void look(struct workload *w)
{
    struct error e = {0};
    int rv = w->driver->ops->look(w->driver, on_looked, w, &e);
    if (rv == 0) return;
    log_warn("the machine's containers cannot be looked at", "workload=%s reason=%s", w->name, e.text);
    uv_timer_start(&w->timer, on_timer, LOOK_AGAIN_MS, 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct workload *w = timer->data;
    if (w->looked || w->stopping) workload_pump(w);
    else look(w);
}

static void on_looked(void *user, const struct driver_outcome *outcome)
{
    struct workload *w = user;
    w->looked = outcome->status == 0;
    if (!w->looked && !w->closing) {
        log_warn("the machine's containers cannot be looked at", "workload=%s reason=%s detail=%s", w->name, outcome->error.text,
                 outcome->detail);
        uv_timer_start(&w->timer, on_timer, LOOK_AGAIN_MS, 0);
        return;
    }
    workload_pump(w);
}

/* A dump goes on to its resume before we stop: else requests would wait for the lease's end. */
static bool may_stop(const struct workload *w)
{
    return w->core.stage < RECONCILE_DRAINED || w->core.stage > RECONCILE_RESUMED;
}

void workload_pump(struct workload *w)
{
    struct world world;
    struct reconcile_action a;
    if (w->closing) return;
    if (w->stopping && may_stop(w)) {
        close_parts(w);
        return;
    }
    w->poked = false;
    workload_see(w, &world);
    while (reconcile_next(&w->core, &world, &a)) {
        workload_start(w, &a);
        workload_see(w, &world);
    }
    workload_tell_reason(w);
    replicas_look(w->replicas);
    workload_see(w, &world);
    workload_tell_state(w, &world);
    uv_timer_stop(&w->timer);
    if (w->core.wake_us == UINT64_MAX && !w->poked) return;
    uint64_t wait = !w->poked && w->core.wake_us > world.now_us ? w->core.wake_us - world.now_us : 0;
    uv_timer_start(&w->timer, on_timer, (wait + 999) / 1000, 0);
}

void workload_poke(struct workload *w)
{
    if (w->closing || (!w->looked && !w->stopping)) return;
    w->poked = true;
    uv_update_time(w->parts.loop);
    uv_timer_start(&w->timer, on_timer, 0, 0);
}

void workload_gone(struct workload *w, const char *cause)
{
    if (w->gone_us != 0) return;
    w->gone_us = loop_monotonic_us();
    w->gone_wall_us = loop_wall_us();
    if (w->cause[0] == '\0') snprintf(w->cause, sizeof w->cause, "%s", cause);
}

void workload_back(struct workload *w)
{
    w->gone_us = w->reacted_us = w->gone_wall_us = 0;
    w->cause[0] = '\0';
}

void workload_set_away(struct workload *w, bool away, const char *why)
{
    if (w->away == away) return;
    w->away = away;
    workload_back(w);
    if (!away) snprintf(w->cause, sizeof w->cause, "%s", why);
    workload_poke(w);
}

/* That is why the interceptor missed it, if it did so first, and unless we killed it. */
static void note_end(struct workload *w)
{
    if (!w->core.killing) w->cause[0] = '\0';
    workload_gone(w, "its process ended");
    if (w->cause[0] == '\0') snprintf(w->cause, sizeof w->cause, "its process ended");
}

static void on_change(void *user)
{
    struct workload *w = user;
    if (w->closing || (!w->looked && !w->stopping)) return;
    if (!w->away && w->driver->ops->instance(w->driver)->state == WORLD_APP_EXITED) note_end(w);
    workload_poke(w);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static int make_driver(struct workload *w, struct error *e)
{
    const struct workload_settings *words = w->parts.words;
    const struct settings *s = w->parts.settings;
    const struct local_options options = {.name = words->name,
                                          .stream = words->stream,
                                          .bundle = words->bundle,
                                          .state_dir = s->state_dir,
                                          .runc_root = s->runc_root,
                                          .runc = s->runc,
                                          .criu = w->parts.checkpoints ? s->criu : NULL, /* it may not be there at all */
                                          .timeout_ms = (uint32_t)s->command_timeout,
                                          .precopy_rounds = w->parts.checkpoints ? (unsigned)s->precopy_rounds : 0};
    return local_new(w->parts.loop, &options, on_change, w, &w->driver, e);
}

int workload_new(const struct workload_parts *parts, struct workload **ret_workload, struct error *e)
{
    const struct workload_settings *words = parts->words;
    struct workload *w = calloc(1, sizeof *w);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    w->parts = *parts;
    w->name = words->name;
    w->begun_us = loop_monotonic_us();
    w->away = w->spare = words->spare;
    int rv = make_driver(w, e);
    const struct reconcile_policy policy = {.precopy = rv == 0 && w->driver->precopies,
                                            .checkpoints = parts->checkpoints,
                                            .interval_us = words->checkpoint_interval * 1000,
                                            .retain = (uint32_t)words->retain,
                                            .drain_ms = (uint32_t)words->drain_timeout,
                                            .lease_ms = (uint32_t)words->checkpoint_timeout};
    reconcile_init(&w->core, &policy);
    uv_timer_init(parts->loop, &w->timer);
    w->timer.data = w;
    if (rv == 0) rv = interceptor_client_new(parts->loop, words->interceptor, on_change, w, &w->interceptor, e);
    if (rv == 0) rv = records_new(parts->loop, parts->client, words->stream, parts->settings->node, on_change, w, &w->records, e);
    if (rv == 0) rv = restores_new(parts->loop, parts->client, words->stream, parts->settings->node, words->name, &w->restores, e);
    if (rv == 0 && replicas_join(w, parts->sibling) != 0) rv = error_set(e, ERROR_NOSPACE, "too many replicas of one stream");
    if (rv != 0) return error_prefix(e, "workload %s", words->name);
    if (parts->sibling != NULL) records_share(w->records, parts->sibling->records);
    uv_timer_start(&w->timer, on_timer, 0, 0);
    *ret_workload = w;
    return 0;
}

static void on_part_closed(void *user)
{
    struct workload *w = user;
    if (--w->open > 0) return;
    w->done(w->done_user);
}

static void close_parts(struct workload *w)
{
    w->closing = true;
    w->open = 2;
    replicas_leave(w);
    restores_stop(w->restores);
    uv_timer_stop(&w->timer);
    interceptor_client_close(w->interceptor, on_part_closed, w);
    w->driver->ops->close(w->driver, w->stop_containers, on_part_closed, w);
}

void workload_stop(struct workload *w, bool stop_containers, void (*done)(void *user), void *user)
{
    assert(!w->stopping);
    w->stopping = true;
    w->stop_containers = stop_containers;
    w->done = done;
    w->done_user = user;
    workload_pump(w);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct workload *w = handle->data;
    void (*done)(void *user) = w->done;
    void *user = w->done_user;
    free(w);
    done(user);
}

static void on_restores_freed(void *user)
{
    struct workload *w = user;
    uv_close((uv_handle_t *)&w->timer, on_timer_closed);
}

static void on_records_freed(void *user)
{
    struct workload *w = user;
    restores_free(w->restores, on_restores_freed, w);
}

void workload_free(struct workload *w, void (*done)(void *user), void *user)
{
    w->done = done;
    w->done_user = user;
    records_free(w->records, on_records_freed, w);
}
