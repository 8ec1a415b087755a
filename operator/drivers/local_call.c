#include "operator/drivers/local_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"

/* ---- the instance as it is known ------------------------------------------------------------------------------ */

void local_set_ended(struct local *l)
{
    l->watch = watch_stop(l->watch);
    l->instance.state = WORLD_APP_EXITED;
    l->instance.identity[0] = '\0';
}

static void on_end(void *user)
{
    struct local *l = user;
    local_set_ended(l);
    if (!l->closing) l->on_change(l->user);
}

void local_set_none(struct local *l)
{
    l->watch = watch_stop(l->watch);
    l->instance = (struct world_instance){.state = WORLD_APP_NONE};
}

/* It is there, not running as far as we know. `r` NULL: nobody knows where its state came from. */
void local_set_instance(struct local *l, uint64_t generation, const struct record *r)
{
    struct world_instance *i = &l->instance;
    l->watch = watch_stop(l->watch);
    *i = (struct world_instance){.state = WORLD_APP_EXITED, .generation = generation, .origin_known = r != NULL};
    if (generation > l->last_generation) l->last_generation = generation;
    if (r == NULL) return;
    l->record = *r;
    i->offset = r->offset;
    i->attached = r->attached;
    i->fits = strcmp(r->spec, l->spec) == 0;
    memcpy(i->snapshot, r->snapshot, sizeof i->snapshot);
}

/* A process that ends before it can be watched has ended. */
int local_set_running(struct local *l, const struct process *p, struct error *e)
{
    int rc = watch_start(l->loop, p, on_end, l, &l->watch, e);
    if (rc == -ERROR_NOT_FOUND) return 0;
    if (rc != 0) return rc;
    l->instance.state = WORLD_APP_RUNNING;
    process_identity(p, l->instance.identity);
    return 0;
}

uint64_t local_newest(const struct containers *c)
{
    return c->generations[c->n - 1];
}

/* ---- calls: begin and end ------------------------------------------------------------------------------------- */

int local_begin(struct local *l, enum kind kind, driver_cb *cb, void *user, struct error *e)
{
    if (l->closing) return error_set(e, ERROR_CANCELED, "the containers' driver is closing");
    if (l->call.kind != IDLE) return error_set(e, ERROR_BUSY, "another action on the container is under way");
    l->call = (struct call){.kind = kind, .cb = cb, .user = user, .begun_us = loop_monotonic_us()};
    return 0;
}

/* As local_begin(), for a call about one instance. */
int local_begin_about(struct local *l, enum kind kind, uint64_t generation, driver_cb *cb, void *user, struct error *e)
{
    bool there = l->instance.state == WORLD_APP_RUNNING || l->instance.state == WORLD_APP_EXITED;
    if (!there || l->instance.generation != generation)
        return error_set(e, ERROR_CONFLICT, "container %s-%" PRIu64 " is not the present one", l->name, generation);
    return local_begin(l, kind, cb, user, e);
}

/* Notes a failure; the first one is told. */
void local_fail(struct local *l, int status, const struct error *e, const char *detail)
{
    struct call *c = &l->call;
    if (c->outcome.status != 0) return;
    c->outcome.status = status;
    c->outcome.error = *e;
    snprintf(c->detail, sizeof c->detail, "%s", detail);
}

/* Not before the first look: it waited for the earlier life's commands, which may read those files. */
static void clear_once(struct local *l)
{
    if (l->cleared) return;
    l->cleared = true;
    snprintf(l->sweep.unpacked, sizeof l->sweep.unpacked, "%.*s/restore", PATH_MAX - 40, l->dir);
    local_sweep(l);
}

void local_finish(struct local *l)
{
    struct call c = l->call;
    l->call = (struct call){0};
    if (c.kind == LOOK && c.outcome.status == 0) clear_once(l);
    containers_free(&c.containers);
    c.outcome.elapsed_us = loop_monotonic_us() - c.begun_us;
    c.outcome.detail = c.detail;
    if (c.cb != NULL) c.cb(c.user, &c.outcome);
    local_close_when_idle(l);
}

void local_finish_with(struct local *l, int status, const struct error *e, const char *detail)
{
    if (status != 0) local_fail(l, status, e, detail);
    local_finish(l);
}

/* ---- commands of runc, tried again while an earlier operator's is not done ------------------------------------ */

static int issue(struct local *l, struct error *e)
{
    struct step *s = &l->step;
    char id[RUNC_ID_MAX], path[PATH_MAX];
    containers_id(l->name, s->generation, id);
    switch (s->verb) {
    case QUERY: return runc_query(l->runc, id, s->next, l, e);
    case DELETE: return runc_delete(l->runc, id, s->next, l, e);
    case RESUME: return runc_resume(l->runc, id, s->next, l, e);
    case RUN: return runc_run(l->runc, id, l->bundle, s->next, l, e);
    case RESTORE_FROM: return runc_restore(l->runc, id, l->bundle, l->sweep.unpacked, s->next, l, e);
    case CHECKPOINT:
        shelf_dump_path(l->shelf, l->call.snapshot, path);
        return runc_checkpoint(l->runc, id, path, l->copied.parent[0] != '\0' ? l->copied.parent : NULL, true, s->next, l, e);
    }
    return error_set(e, ERROR_INTERNAL, "no such command");
}

static void on_step_timer(uv_timer_t *timer)
{
    struct local *l = timer->data;
    struct runc_result result = {.detail = ""};
    result.status = issue(l, &result.error);
    if (result.status == 0) return;
    if (result.status == -ERROR_BUSY && loop_monotonic_us() < l->step.deadline_us)
        uv_timer_start(timer, on_step_timer, BUSY_RETRY_MS, 0);
    else l->step.next(l, &result);
}

/* `next` is called back with `l`, always later. */
void local_command(struct local *l, enum verb verb, uint64_t generation, runc_cb next)
{
    struct error e;
    l->step.verb = verb;
    l->step.generation = generation;
    l->step.next = next;
    l->step.deadline_us = loop_monotonic_us() + (uint64_t)l->timeout_ms * 2000;
    if (issue(l, &e) != 0) uv_timer_start(&l->step.timer, on_step_timer, 0, 0);
}
