#include "operator/workload.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/drivers/local.h"
#include "operator/interceptor_client.h"
#include "operator/reconcile/reconcile.h"
#include "operator/records.h"

enum {
    LOOK_AGAIN_MS = 500,
    REFUSALS_MAX = 3, /* of attaching an instance: then it goes, another one is started */
};

/* An action of a lane, from the core's word to its outcome. */
struct flight {
    struct workload *workload;
    struct reconcile_action action;
    struct reconcile_result result; /* while the driver looks again after a failure */
    uint64_t begun_us;
};

struct workload {
    struct workload_parts parts;
    const char *name;
    struct reconcile core;
    struct driver *driver;
    struct interceptor_client *interceptor;
    struct records *records;
    struct flight flights[RECONCILE_LANES];
    uv_timer_t timer;
    bool looked;
    bool foreign; /* the interceptor's stream is not ours */
    unsigned refusals; /* of attaching, in a row */
    char said[WORLD_REASON_MAX]; /* the core's reason, when it was last logged */

    /* for people: of the last death, and of the checkpoint under way */
    uint64_t gone_us, restore_us, announced; /* monotonic time, duration, generation */
    bool revived;
    uint64_t drain_us, pause_us, dump_us, pack_us, size;
    char digest[DRIVER_DIGEST_MAX], image[1024];

    bool stopping, stop_containers, closing;
    unsigned open; /* parts that are not closed yet */
    void (*done)(void *user);
    void *done_user;
};

static void pump(struct workload *w);

/* ---- the world ------------------------------------------------------------------------------------------------ */

static bool has(const void *user, const char *id)
{
    const struct driver *d = user;
    return d->ops->has(d, id);
}

/* Does another stream's interceptor answer at that address? It is not touched: its app is somebody else's. */
static bool foreign_interceptor(struct workload *w)
{
    const char *theirs = interceptor_client_extra(w->interceptor)->stream, *ours = w->parts.words->stream;
    bool foreign = theirs[0] != '\0' && strcmp(theirs, ours) != 0;
    if (foreign && !w->foreign)
        log_error("the interceptor at this address is of another stream: correct the workload file or the interceptor's --stream",
                  "workload=%s interceptor=%s stream=%s its_stream=%s", w->name, w->parts.words->interceptor, ours, theirs);
    w->foreign = foreign;
    return foreign;
}

static void see(struct workload *w, struct world *ret_world)
{
    const struct records_view view = {.spec = w->driver->spec, .has = has, .user = w->driver};
    *ret_world = (struct world){.now_us = loop_monotonic_us(),
                                .wall_us = loop_wall_us(),
                                .instance = *w->driver->ops->instance(w->driver),
                                .interceptor = *interceptor_client_world(w->interceptor)};
    if (foreign_interceptor(w)) ret_world->interceptor = (struct world_interceptor){.state = WORLD_UNREACHABLE};
    records_see(w->records, &view, &ret_world->log);
}

/* ---- what people are told ------------------------------------------------------------------------------------- */

static double ms(uint64_t us)
{
    return (double)us / 1000;
}

static void tell_reason(struct workload *w)
{
    if (strcmp(w->said, w->core.reason) == 0) return;
    snprintf(w->said, sizeof w->said, "%s", w->core.reason);
    if (w->said[0] != '\0') log_info("not served now", "workload=%s reason=%s", w->name, w->said);
}

/* The first time that an instance is seen to serve. */
static void tell_active(struct workload *w, const struct world *world)
{
    const struct world_instance *i = &world->instance;
    bool serves = i->state == WORLD_APP_RUNNING && world->interceptor.state == WORLD_ACTIVE &&
                  strcmp(i->identity, world->interceptor.identity) == 0;
    if (!serves || w->announced == i->generation + 1) return;
    w->announced = i->generation + 1;
    const struct interceptor_extra *x = interceptor_client_extra(w->interceptor);
    const char *what = !w->revived ? "taken over" : i->generation == 1 && i->offset + x->replay_done == 0 ? "started" : "recovered";
    uint64_t since = w->gone_us != 0 ? world->now_us - w->gone_us : 0;
    log_info(what,
             "workload=%s stream=%s identity=%s snapshot=%s offset=%" PRIu64 " replayed=%" PRIu64 " restore_ms=%.1f recover_ms=%.1f",
             w->name, w->parts.words->stream, i->identity, i->snapshot, i->offset, x->replay_done, ms(w->restore_us), ms(since));
    w->gone_us = 0;
    w->revived = false;
}

static void tell_failed(const struct flight *f, const char *detail)
{
    const struct reconcile_action *a = &f->action;
    log_warn("action failed", "workload=%s action=%s generation=%" PRIu64 " snapshot=%s reason=%s detail=%s", f->workload->name,
             reconcile_act_name(a->act), a->generation, a->snapshot, f->result.reason, detail);
}

static void tell_done(struct workload *w, const struct flight *f)
{
    const struct reconcile_action *a = &f->action;
    if (a->act == RECONCILE_RECORD && a->state == WORLD_VALID)
        log_info("checkpoint valid",
                 "workload=%s stream=%s snapshot=%s offset=%" PRIu64 " size=%" PRIu64 " pause_ms=%.1f dump_ms=%.1f pack_ms=%.1f", w->name,
                 w->parts.words->stream, a->snapshot, a->offset, w->size, ms(w->pause_us), ms(w->dump_us), ms(w->pack_us));
    else if (a->act == RECONCILE_RECORD && a->state == WORLD_FAILED)
        log_warn("checkpoint failed", "workload=%s snapshot=%s offset=%" PRIu64 " reason=%s", w->name, a->snapshot, a->offset, a->reason);
}

/* ---- outcomes ------------------------------------------------------------------------------------------------- */

static void finish(struct flight *f)
{
    struct workload *w = f->workload;
    struct world world;
    if (w->closing) return;
    if (f->result.outcome == RECONCILE_OK) tell_done(w, f);
    see(w, &world);
    reconcile_done(&w->core, f->action.lane, &world, &f->result);
    pump(w);
}

static void on_looked_again(void *user, const struct driver_outcome *outcome)
{
    (void)outcome; /* a container that cannot be looked at is as the driver last saw it */
    finish(user);
}

/* What a failed call did is to be seen before anything is decided. */
static void finish_failed(struct flight *f, bool look)
{
    struct workload *w = f->workload;
    struct error e;
    if (look && w->driver->ops->look(w->driver, on_looked_again, f, &e) == 0) return;
    finish(f);
}

static void set_failed(struct flight *f, int status, const struct error *e)
{
    f->result.outcome = RECONCILE_FAILED;
    snprintf(f->result.reason, sizeof f->result.reason, "%s", e != NULL ? e->text : error_name(-status));
}

static void on_driver_done(void *user, const struct driver_outcome *outcome)
{
    struct flight *f = user;
    struct workload *w = f->workload;
    enum reconcile_act act = f->action.act;
    if (w->closing) return;
    if (act == RECONCILE_START_FRESH || act == RECONCILE_RESTORE) w->restore_us = outcome->elapsed_us;
    if (act == RECONCILE_DUMP) w->dump_us = outcome->elapsed_us;
    if (outcome->status == 0) {
        if (act == RECONCILE_PACK) {
            w->pack_us = outcome->elapsed_us;
            w->size = outcome->size;
            snprintf(w->digest, sizeof w->digest, "%s", outcome->digest);
            snprintf(w->image, sizeof w->image, "%s", outcome->image != NULL ? outcome->image : "");
        }
        log_debug("action done", "workload=%s action=%s elapsed_ms=%.1f detail=%s", w->name, reconcile_act_name(act),
                  ms(outcome->elapsed_us), outcome->detail);
        finish(f);
        return;
    }
    bool corrupt = outcome->status == -ERROR_CORRUPT || outcome->status == -ERROR_NOT_FOUND;
    set_failed(f, outcome->status, &outcome->error);
    if (act == RECONCILE_RESTORE && corrupt) f->result.outcome = RECONCILE_CORRUPT;
    f->result.lost = outcome->lost;
    tell_failed(f, outcome->detail);
    finish_failed(f, f->action.lane == RECONCILE_LANE_APP);
}

static bool was_refused(int status)
{
    return status == -ERROR_INVALID || status == -ERROR_CONFLICT || status == -ERROR_NOT_FOUND || status == -ERROR_TOO_LARGE;
}

static void on_unmarked(void *user, const struct driver_outcome *outcome)
{
    (void)outcome; /* if it failed, the mark stays, and the instance is killed: safe */
    finish(user);
}

/* It surely was not told of this instance: the mark goes. */
static void unmark(struct flight *f)
{
    struct driver *d = f->workload->driver;
    struct error e;
    if (d->ops->mark(d, f->action.generation, false, on_unmarked, f, &e) != 0) finish(f);
}

static void on_interceptor_done(void *user, const struct interceptor_answer *answer)
{
    struct flight *f = user;
    struct workload *w = f->workload;
    enum reconcile_act act = f->action.act;
    if (w->closing) return;
    if (act == RECONCILE_RESUME && w->drain_us != 0) {
        w->pause_us = loop_monotonic_us() - w->drain_us;
        w->drain_us = 0;
    }
    f->result.offset = answer->offset;
    f->result.unbroken = answer->unbroken;
    if (answer->status == 0) {
        if (act == RECONCILE_ATTACH) w->refusals = 0;
        finish(f);
        return;
    }
    set_failed(f, answer->status, &answer->error);
    f->result.refused = was_refused(answer->status);
    tell_failed(f, "");
    if (act == RECONCILE_ATTACH && was_refused(answer->status) && ++w->refusals < REFUSALS_MAX) unmark(f);
    else finish(f); /* a mark that stays, of an instance that the interceptor does not know: it is killed */
    if (w->refusals >= REFUSALS_MAX) w->refusals = 0;
}

static void on_recorded(void *user, const struct error *e)
{
    struct flight *f = user;
    if (f->workload->closing) return;
    if (e != NULL) {
        set_failed(f, -(int)e->code, e);
        f->result.refused = was_refused(-(int)e->code);
        tell_failed(f, "");
    }
    finish(f);
}

/* ---- doing ---------------------------------------------------------------------------------------------------- */

static void on_marked(void *user, const struct driver_outcome *outcome)
{
    struct flight *f = user;
    struct workload *w = f->workload;
    struct error e = outcome->error;
    int rv = outcome->status;
    if (w->closing) return;
    if (rv == 0)
        rv = interceptor_attach(w->interceptor, f->action.identity, f->action.offset, w->parts.words->upstream,
                                on_interceptor_done, f, &e);
    if (rv == 0) return;
    set_failed(f, rv, &e);
    tell_failed(f, outcome->detail);
    finish_failed(f, true);
}

static int do_restore(struct workload *w, struct flight *f, struct error *e)
{
    const struct crsc_snapshot *s = records_find(w->records, f->action.snapshot);
    if (s == NULL) return error_set(e, ERROR_INTERNAL, "snapshot %.100s is not known", f->action.snapshot);
    return w->driver->ops->restore(w->driver, s->id, s->sha256, f->action.offset, on_driver_done, f, e);
}

static int do_record(struct workload *w, struct flight *f, struct error *e)
{
    const struct reconcile_action *a = &f->action;
    const struct crsc_snapshot *before = records_find(w->records, a->snapshot);
    struct crsc_snapshot s = {.id = a->snapshot, .offset = a->offset, .state = (enum crsc_snapshot_state)a->state, .reason = a->reason};
    if (a->state == WORLD_TAKING) s.template_hash = w->driver->spec;
    if (before == NULL || before->started_us == 0) s.started_us = loop_wall_us();
    if (a->state != WORLD_TAKING) s.finished_us = before != NULL && before->finished_us != 0 ? before->finished_us : loop_wall_us();
    if (a->state == WORLD_VALID) {
        s.image = w->image;
        s.sha256 = w->digest;
        s.size = w->size;
    }
    int rv = records_put(w->records, &s, on_recorded, f);
    return rv == 0 ? 0 : error_set(e, (enum error_code)-rv, "it cannot be recorded: %s", error_name(-rv));
}

static int begin(struct workload *w, struct flight *f, struct error *e)
{
    const struct reconcile_action *a = &f->action;
    struct driver *d = w->driver;
    struct interceptor_client *i = w->interceptor;
    switch (a->act) {
    case RECONCILE_START_FRESH: return d->ops->start(d, on_driver_done, f, e);
    case RECONCILE_RESTORE: return do_restore(w, f, e);
    case RECONCILE_ADOPT: return d->ops->adopt(d, a->generation, on_driver_done, f, e);
    case RECONCILE_KILL: return d->ops->kill(d, a->generation, on_driver_done, f, e);
    case RECONCILE_ATTACH: return d->ops->mark(d, a->generation, true, on_marked, f, e);
    case RECONCILE_DRAIN:
        w->drain_us = f->begun_us;
        return interceptor_drain(i, a->snapshot, a->lease_ms, a->drain_ms, on_interceptor_done, f, e);
    case RECONCILE_DUMP: return d->ops->dump(d, a->generation, a->snapshot, on_driver_done, f, e);
    case RECONCILE_RESUME: return interceptor_resume(i, a->snapshot, on_interceptor_done, f, e);
    case RECONCILE_PACK: return d->ops->pack(d, a->snapshot, a->offset, on_driver_done, f, e);
    case RECONCILE_RECORD: return do_record(w, f, e);
    case RECONCILE_DISCARD: return d->ops->discard(d, a->snapshot, on_driver_done, f, e);
    case RECONCILE_NOTHING: break;
    }
    return error_set(e, ERROR_INTERNAL, "no such action");
}

static void start(struct workload *w, const struct reconcile_action *a)
{
    struct flight *f = &w->flights[a->lane];
    struct error e = {0};
    *f = (struct flight){.workload = w, .action = *a, .begun_us = loop_monotonic_us()};
    bool starts = a->act == RECONCILE_START_FRESH || a->act == RECONCILE_RESTORE;
    w->revived = w->revived || starts;
    log_write(starts || a->act == RECONCILE_KILL ? LOG_INFO : LOG_DEBUG, reconcile_act_name(a->act),
              "workload=%s generation=%" PRIu64 " snapshot=%s offset=%" PRIu64 " reason=%s", w->name, a->generation, a->snapshot, a->offset,
              a->reason);
    int rv = begin(w, f, &e);
    if (rv == 0) return;
    struct world world;
    set_failed(f, rv, &e);
    f->result.refused = was_refused(rv) && a->act == RECONCILE_RECORD;
    tell_failed(f, "");
    see(w, &world);
    reconcile_done(&w->core, a->lane, &world, &f->result);
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
    if (w->looked || w->stopping) pump(w);
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
    pump(w);
}

/* A dump goes on to its resume before we stop: else requests would wait for the lease's end. */
static bool may_stop(const struct workload *w)
{
    return w->core.stage < RECONCILE_DRAINED || w->core.stage > RECONCILE_RESUMED;
}

static void pump(struct workload *w)
{
    struct world world;
    struct reconcile_action a;
    if (w->closing) return;
    if (w->stopping && may_stop(w)) {
        close_parts(w);
        return;
    }
    see(w, &world);
    while (reconcile_next(&w->core, &world, &a)) {
        start(w, &a);
        see(w, &world);
    }
    tell_reason(w);
    tell_active(w, &world);
    uv_timer_stop(&w->timer);
    if (w->core.wake_us == UINT64_MAX) return;
    uint64_t wait = w->core.wake_us > world.now_us ? w->core.wake_us - world.now_us : 0;
    uv_timer_start(&w->timer, on_timer, (wait + 999) / 1000, 0);
}

/* Not from inside somebody else's callback: on the loop's next turn. */
static void on_change(void *user)
{
    struct workload *w = user;
    if (w->closing || (!w->looked && !w->stopping)) return;
    if (w->gone_us == 0 && w->driver->ops->instance(w->driver)->state == WORLD_APP_EXITED) w->gone_us = loop_monotonic_us();
    uv_update_time(w->parts.loop);
    uv_timer_start(&w->timer, on_timer, 0, 0);
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
                                          .criu = s->criu,
                                          .timeout_ms = (uint32_t)s->command_timeout};
    return local_new(w->parts.loop, &options, on_change, w, &w->driver, e);
}

int workload_new(const struct workload_parts *parts, struct workload **ret_workload, struct error *e)
{
    const struct workload_settings *words = parts->words;
    struct workload *w = calloc(1, sizeof *w);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    w->parts = *parts;
    w->name = words->name;
    const struct reconcile_policy policy = {.checkpoints = parts->checkpoints,
                                            .interval_us = words->checkpoint_interval * 1000,
                                            .retain = (uint32_t)words->retain,
                                            .drain_ms = (uint32_t)words->drain_timeout,
                                            .lease_ms = (uint32_t)words->checkpoint_timeout};
    reconcile_init(&w->core, &policy);
    uv_timer_init(parts->loop, &w->timer);
    w->timer.data = w;
    int rv = make_driver(w, e);
    if (rv == 0) rv = interceptor_client_new(parts->loop, words->interceptor, on_change, w, &w->interceptor, e);
    if (rv == 0) rv = records_new(parts->loop, parts->client, words->stream, parts->settings->node, on_change, w, &w->records, e);
    if (rv != 0) return error_prefix(e, "workload %s", words->name);
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
    pump(w);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct workload *w = handle->data;
    void (*done)(void *user) = w->done;
    void *user = w->done_user;
    free(w);
    done(user);
}

static void on_records_freed(void *user)
{
    struct workload *w = user;
    uv_close((uv_handle_t *)&w->timer, on_timer_closed);
}

void workload_free(struct workload *w, void (*done)(void *user), void *user)
{
    w->done = done;
    w->done_user = user;
    records_free(w->records, on_records_freed, w);
}
