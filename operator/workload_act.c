#include "operator/workload_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"

/* ---- outcomes ------------------------------------------------------------------------------------------------- */

static void finish(struct flight *f)
{
    struct workload *w = f->workload;
    struct world world;
    if (w->closing) return;
    if (f->result.outcome == RECONCILE_OK) workload_tell_done(w, f);
    workload_see(w, &world);
    reconcile_done(&w->core, f->action.lane, &world, &f->result);
    workload_pump(w);
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
    if (act == RECONCILE_PRECOPY) {
        w->rounds = outcome->rounds;
        w->round_bytes = outcome->round_bytes;
        w->counts.rounds += outcome->rounds;
        w->counts.round_bytes += outcome->round_bytes;
    }
    if (outcome->status == 0) {
        if (act == RECONCILE_PACK) {
            w->pack_us = outcome->elapsed_us;
            w->size = outcome->size;
            snprintf(w->digest, sizeof w->digest, "%s", outcome->digest);
            snprintf(w->image, sizeof w->image, "%s", outcome->image != NULL ? outcome->image : "");
        }
        log_debug("action done", "workload=%s action=%s elapsed_ms=%.1f detail=%s", w->name, reconcile_act_name(act),
                  (double)outcome->elapsed_us / 1000, outcome->detail);
        finish(f);
        return;
    }
    bool corrupt = outcome->status == -ERROR_CORRUPT || outcome->status == -ERROR_NOT_FOUND;
    set_failed(f, outcome->status, &outcome->error);
    if (act == RECONCILE_RESTORE && corrupt) f->result.outcome = RECONCILE_CORRUPT;
    f->result.lost = outcome->lost;
    f->result.tried = outcome->tried;
    workload_tell_failed(f, outcome->detail);
    finish_failed(f, f->action.lane == RECONCILE_LANE_APP && act != RECONCILE_PRECOPY); /* a copy changes nothing, and the app may just have ended */
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
    workload_tell_failed(f, "");
    if (act == RECONCILE_ATTACH && !f->action.again && was_refused(answer->status) && ++w->refusals < WORKLOAD_REFUSALS_MAX) unmark(f);
    else finish(f); /* a mark that stays, of an instance that the interceptor does not know: it is killed */
    if (w->refusals >= WORKLOAD_REFUSALS_MAX) w->refusals = 0;
}

static void on_recorded(void *user, const struct error *e)
{
    struct flight *f = user;
    if (f->workload->closing) return;
    if (e != NULL) {
        set_failed(f, -(int)e->code, e);
        f->result.refused = was_refused(-(int)e->code);
        workload_tell_failed(f, "");
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
        rv = interceptor_attach(w->interceptor, f->action.identity, f->action.offset, w->parts.words->upstream, f->action.again,
                                on_interceptor_done, f, &e);
    if (rv == 0) return;
    set_failed(f, rv, &e);
    workload_tell_failed(f, outcome->detail);
    finish_failed(f, true);
}

static int do_restore(struct workload *w, struct flight *f, struct error *e)
{
    const struct crsc_snapshot *s = records_find(w->records, f->action.snapshot);
    if (s == NULL) return error_set(e, ERROR_INTERNAL, "snapshot %.100s is not known", f->action.snapshot);
    return w->driver->ops->restore(w->driver, replicas_holder(w, s->id), s->id, s->sha256, f->action.offset, on_driver_done, f, e);
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
    case RECONCILE_PRECOPY: return d->ops->precopy(d, a->generation, a->snapshot, on_driver_done, f, e);
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

void workload_start(struct workload *w, const struct reconcile_action *a)
{
    struct flight *f = &w->flights[a->lane];
    struct error e = {0};
    *f = (struct flight){.workload = w, .action = *a, .begun_us = loop_monotonic_us()};
    bool starts = a->act == RECONCILE_START_FRESH || a->act == RECONCILE_RESTORE;
    w->revived = w->revived || starts;
    if (w->gone_us != 0 && w->reacted_us == 0 && a->lane == RECONCILE_LANE_APP) w->reacted_us = f->begun_us;
    if (a->act == RECONCILE_KILL) snprintf(w->cause, sizeof w->cause, "%s", a->reason);
    log_write(starts || a->act == RECONCILE_KILL ? LOG_INFO : LOG_DEBUG, reconcile_act_name(a->act),
              "workload=%s generation=%" PRIu64 " snapshot=%s offset=%" PRIu64 " reason=%s", w->name, a->generation, a->snapshot, a->offset,
              a->reason);
    int rv = begin(w, f, &e);
    if (rv == 0) return;
    struct world world;
    set_failed(f, rv, &e);
    f->result.refused = was_refused(rv) && a->act == RECONCILE_RECORD;
    workload_tell_failed(f, "");
    workload_see(w, &world);
    reconcile_done(&w->core, a->lane, &world, &f->result);
}
