#include "operator/drivers/local.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "checkpoint/runc.h"
#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"
#include "operator/drivers/containers.h"
#include "operator/drivers/packer.h"
#include "operator/drivers/record.h"
#include "operator/drivers/shelf.h"
#include "operator/drivers/task.h"
#include "operator/drivers/watch.h"

enum { BUSY_RETRY_MS = 20, PATH_ROOM = SHELF_ID_MAX + 100 };

enum kind { IDLE, LOOK, START, RESTORE, ADOPT, KILL, MARK, DUMP, STOP };

/* The call under way in the app's lane. While a task runs, what it uses here belongs to the task. */
struct call {
    enum kind kind;
    driver_cb *cb;
    void *user;
    uint64_t begun_us;
    char snapshot[WORLD_ID_MAX];        /* RESTORE, DUMP */
    char digest[OCI_DIGEST_MAX];        /* RESTORE */
    struct record record;               /* LOOK: what was read; else: what is written */
    bool known, harmed;                 /* LOOK: there is such a record; a dump of it was cut short */
    struct containers containers;       /* of the workload, as found at the beginning */
    size_t next;                        /* of those, to be deleted */
    char spec[DRIVER_DIGEST_MAX];       /* START, RESTORE: the specification's digest now */
    unsigned open;                      /* RESTORE: deleting, unpacking */
    struct driver_outcome outcome;      /* the first failure, until everything under way has ended */
    char detail[RUNC_DETAIL_MAX];
};

/* The command of runc under way, and what it is followed by. */
struct step {
    enum verb { QUERY, DELETE, RUN, PAUSE, CHECKPOINT, RESUME, RESTORE_FROM } verb;
    uint64_t generation;
    uint64_t deadline_us; /* of waiting while it is busy */
    runc_cb next;
    uv_timer_t timer;
};

/* What a restore leaves to be removed, while the app runs already. */
struct sweep {
    struct task task;
    struct containers old; /* their records */
    char unpacked[PATH_MAX];
    bool awaited; /* a call waits for its end */
};

struct local {
    struct driver driver; /* first */
    uv_loop_t *loop;
    char *name, *stream, *bundle, *runc_root;
    char dir[PATH_MAX], records[PATH_MAX];
    char spec[DRIVER_DIGEST_MAX];
    uint32_t timeout_ms;
    int lock;
    struct runc *runc;
    struct shelf *shelf;
    void (*on_change)(void *user);
    void *user;

    /* the newest container */
    struct world_instance instance;
    struct record record; /* valid while instance.origin_known */
    struct watch *watch;
    uint64_t last_generation; /* of all that were ever seen: numbers are not used again */
    bool cleared;             /* what an earlier life was restoring is removed */

    struct call call;
    struct step step;
    struct task task, unpacking;
    struct sweep sweep;
    struct packer packer;

    bool closing, stop;
    void (*closed)(void *user);
    void *closed_user;
};

static struct local *local_of(const struct driver *d)
{
    return (struct local *)(uintptr_t)d;
}

static void close_when_idle(struct local *l);

/* ---- the instance as it is known ------------------------------------------------------------------------------ */

static void set_ended(struct local *l)
{
    l->watch = watch_stop(l->watch);
    l->instance.state = WORLD_APP_EXITED;
    l->instance.identity[0] = '\0';
}

static void on_end(void *user)
{
    struct local *l = user;
    set_ended(l);
    if (!l->closing) l->on_change(l->user);
}

static void set_none(struct local *l)
{
    l->watch = watch_stop(l->watch);
    l->instance = (struct world_instance){.state = WORLD_APP_NONE};
}

/* It is there, not running as far as we know. `r` NULL: nobody knows where its state came from. */
static void set_instance(struct local *l, uint64_t generation, const struct record *r)
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
static int set_running(struct local *l, const struct process *p, struct error *e)
{
    int rc = watch_start(l->loop, p, on_end, l, &l->watch, e);
    if (rc == -ERROR_NOT_FOUND) return 0;
    if (rc != 0) return rc;
    l->instance.state = WORLD_APP_RUNNING;
    process_identity(p, l->instance.identity);
    return 0;
}

static const struct world_instance *local_instance(const struct driver *d)
{
    return &local_of(d)->instance;
}

/* ---- calls: begin and end ------------------------------------------------------------------------------------- */

static int begin(struct local *l, enum kind kind, driver_cb *cb, void *user, struct error *e)
{
    if (l->closing) return error_set(e, ERROR_CANCELED, "the containers' driver is closing");
    if (l->call.kind != IDLE) return error_set(e, ERROR_BUSY, "another action on the container is under way");
    l->call = (struct call){.kind = kind, .cb = cb, .user = user, .begun_us = loop_monotonic_us()};
    return 0;
}

/* As begin(), for a call about one instance. */
static int begin_about(struct local *l, enum kind kind, uint64_t generation, driver_cb *cb, void *user, struct error *e)
{
    bool there = l->instance.state == WORLD_APP_RUNNING || l->instance.state == WORLD_APP_EXITED;
    if (!there || l->instance.generation != generation)
        return error_set(e, ERROR_CONFLICT, "container %s-%" PRIu64 " is not the present one", l->name, generation);
    return begin(l, kind, cb, user, e);
}

/* Notes a failure; the first one is told. */
static void fail(struct local *l, int status, const struct error *e, const char *detail)
{
    struct call *c = &l->call;
    if (c->outcome.status != 0) return;
    c->outcome.status = status;
    c->outcome.error = *e;
    snprintf(c->detail, sizeof c->detail, "%s", detail);
}

static int run_sweep(void *owner, struct error *e);
static void on_swept(void *owner, int status, const struct error *e);

/* Not before the first look: it waited for the earlier life's commands, which may read those files. */
static void clear_once(struct local *l)
{
    if (l->cleared) return;
    l->cleared = true;
    snprintf(l->sweep.unpacked, sizeof l->sweep.unpacked, "%.*s/restore", PATH_MAX - 40, l->dir);
    task_start(l->loop, &l->sweep.task, l, run_sweep, on_swept);
}

static void finish(struct local *l)
{
    struct call c = l->call;
    l->call = (struct call){0};
    if (c.kind == LOOK && c.outcome.status == 0) clear_once(l);
    containers_free(&c.containers);
    c.outcome.elapsed_us = loop_monotonic_us() - c.begun_us;
    c.outcome.detail = c.detail;
    if (c.cb != NULL) c.cb(c.user, &c.outcome);
    close_when_idle(l);
}

static void finish_with(struct local *l, int status, const struct error *e, const char *detail)
{
    if (status != 0) fail(l, status, e, detail);
    finish(l);
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
    case PAUSE: return runc_pause(l->runc, id, s->next, l, e);
    case RESUME: return runc_resume(l->runc, id, s->next, l, e);
    case RUN: return runc_run(l->runc, id, l->bundle, s->next, l, e);
    case RESTORE_FROM: return runc_restore(l->runc, id, l->bundle, l->sweep.unpacked, s->next, l, e);
    case CHECKPOINT:
        shelf_dump_path(l->shelf, l->call.snapshot, path);
        return runc_checkpoint(l->runc, id, path, true, s->next, l, e);
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
static void command(struct local *l, enum verb verb, uint64_t generation, runc_cb next)
{
    struct error e;
    l->step.verb = verb;
    l->step.generation = generation;
    l->step.next = next;
    l->step.deadline_us = loop_monotonic_us() + (uint64_t)l->timeout_ms * 2000;
    if (issue(l, &e) != 0) uv_timer_start(&l->step.timer, on_step_timer, 0, 0);
}

/* ---- look ----------------------------------------------------------------------------------------------------- */

static uint64_t newest(const struct containers *c)
{
    return c->generations[c->n - 1];
}

static int run_look(void *owner, struct error *e)
{
    struct local *l = owner;
    struct call *c = &l->call;
    int rc = containers_list(l->records, l->runc_root, l->name, &c->containers, e);
    if (rc != 0 || c->containers.n == 0) return rc;
    rc = record_read(l->records, newest(&c->containers), &c->record, e);
    c->known = rc == 0;
    c->harmed = record_dump_marked(l->records, newest(&c->containers));
    return rc == -ERROR_NOT_FOUND || rc == -ERROR_CORRUPT ? 0 : rc;
}

static void on_queried(void *user, const struct runc_result *result)
{
    struct local *l = user;
    struct call *c = &l->call;
    struct error e = result->error;
    int rc = result->status;
    if (rc == 0) {
        set_instance(l, newest(&c->containers), c->known ? &c->record : NULL);
        if (result->container == RUNC_RUNNING && !c->harmed) rc = set_running(l, &result->process, &e);
        else if (result->container == RUNC_RUNNING || result->container == RUNC_PAUSED)
            log_warn("a dump of the container was cut short: it counts as ended", "container=%s-%" PRIu64, l->name,
                     l->instance.generation);
    }
    finish_with(l, rc, &e, result->detail);
}

static void on_look(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status != 0) {
        finish_with(l, status, e, "");
    } else if (l->call.containers.n == 0) {
        set_none(l);
        finish(l);
    } else {
        command(l, QUERY, newest(&l->call.containers), on_queried);
    }
}

static int local_look(struct driver *d, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = begin(l, LOOK, cb, user, e);
    if (rc == 0) task_start(l->loop, &l->task, l, run_look, on_look);
    return rc;
}

/* ---- start and restore: prepare, then delete what was before while the image is unpacked, then run ------------ */

static int run_sweep(void *owner, struct error *e)
{
    struct local *l = owner;
    struct sweep *s = &l->sweep;
    int rc = 0;
    for (size_t i = 0; i < s->old.n; i++)
        if (record_remove(l->records, s->old.generations[i], e) != 0) rc = -ERROR_IO;
    return s->unpacked[0] == '\0' ? rc : tree_remove(s->unpacked, e);
}

static int run_prepare(void *owner, struct error *e);
static void on_prepared(void *owner, int status, const struct error *e);

static void on_swept(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status != 0) log_warn("what a restore left cannot be removed", "workload=%s reason=%s", l->name, e->text);
    containers_free(&l->sweep.old);
    l->sweep.unpacked[0] = '\0';
    if (l->sweep.awaited) task_start(l->loop, &l->task, l, run_prepare, on_prepared);
    l->sweep.awaited = false;
    close_when_idle(l);
}

static void on_started(void *user, const struct runc_result *result)
{
    struct local *l = user;
    struct error e = result->error;
    int rc = result->status;
    if (rc == -ERROR_NOT_FOUND || rc == -ERROR_CORRUPT) rc = -ERROR_IO; /* those blame the snapshot, which was verified */
    if (rc == 0 && result->container == RUNC_RUNNING) rc = set_running(l, &result->process, &e);
    if (rc == 0) {
        l->sweep.old = l->call.containers;
        l->call.containers = (struct containers){0};
    }
    task_start(l->loop, &l->sweep.task, l, run_sweep, on_swept);
    finish_with(l, rc, &e, result->detail);
}

/* Deleting and unpacking have both ended. */
static void run_container(struct local *l)
{
    struct call *c = &l->call;
    if (--c->open > 0) return;
    if (c->outcome.status == 0) {
        command(l, c->kind == RESTORE ? RESTORE_FROM : RUN, c->record.generation, on_started);
        return;
    }
    if (l->sweep.unpacked[0] != '\0') task_start(l->loop, &l->sweep.task, l, run_sweep, on_swept);
    finish(l);
}

static int run_unpack(void *owner, struct error *e)
{
    struct local *l = owner;
    const struct call *c = &l->call;
    struct oci_image_labels expected = {.offset = c->record.offset};
    char image[PATH_MAX];
    snprintf(expected.stream, sizeof expected.stream, "%s", l->stream);
    snprintf(expected.spec, sizeof expected.spec, "%s", c->spec);
    shelf_image_path(l->shelf, c->snapshot, image);
    return shelf_unpack(image, c->digest, &expected, l->sweep.unpacked, e);
}

static void on_unpacked(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status != 0) fail(l, status, e, "");
    run_container(l);
}

static void delete_next(struct local *l);

static void on_deleted(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) {
        fail(l, result->status == -ERROR_NOT_FOUND ? -ERROR_IO : result->status, &result->error, result->detail);
        run_container(l);
        return;
    }
    delete_next(l);
}

static void delete_next(struct local *l)
{
    struct call *c = &l->call;
    if (c->next < c->containers.n) command(l, DELETE, c->containers.generations[c->next++], on_deleted);
    else run_container(l);
}

/* The record of the new container is there before anything of the container is. */
static int run_prepare(void *owner, struct error *e)
{
    struct local *l = owner;
    struct call *c = &l->call;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/config.json", l->bundle);
    int rc = oci_file_digest(path, c->spec, e);
    if (rc == -ERROR_NOT_FOUND || rc == -ERROR_CORRUPT) rc = -ERROR_IO; /* it is not the snapshot's fault */
    snprintf(path, sizeof path, "%.*s/restore", PATH_MAX - 40, l->dir);
    if (rc == 0) rc = tree_make(path, e);
    if (rc == 0) rc = containers_list(l->records, l->runc_root, l->name, &c->containers, e);
    if (rc != 0) return rc;
    if (c->containers.n > 0 && newest(&c->containers) >= c->record.generation)
        c->record.generation = newest(&c->containers) + 1;
    memcpy(c->record.spec, c->spec, sizeof c->record.spec);
    return record_write(l->records, &c->record, e);
}

static void on_prepared(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    struct call *c = &l->call;
    if (status != 0) {
        finish_with(l, status, e, "");
        return;
    }
    bool changed = strcmp(l->spec, c->spec) != 0;
    memcpy(l->spec, c->spec, sizeof l->spec);
    set_instance(l, c->record.generation, &c->record);
    if (changed && c->kind == RESTORE) {
        struct error why;
        int rc = error_set(&why, ERROR_CONFLICT, "%s/config.json has changed: no checkpoint of the earlier one fits", l->bundle);
        finish_with(l, rc, &why, "");
        return;
    }
    c->open = c->kind == RESTORE ? 2 : 1;
    if (c->kind == RESTORE) {
        snprintf(l->sweep.unpacked, sizeof l->sweep.unpacked, "%.*s/restore/%" PRIu64, PATH_MAX - 40, l->dir, c->record.generation);
        task_start(l->loop, &l->unpacking, l, run_unpack, on_unpacked);
    }
    delete_next(l);
}

static void prepare(struct local *l)
{
    l->call.record.generation = l->last_generation + 1;
    l->sweep.awaited = l->sweep.task.active;
    if (!l->sweep.awaited) task_start(l->loop, &l->task, l, run_prepare, on_prepared);
}

static int local_start(struct driver *d, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = begin(l, START, cb, user, e);
    if (rc == 0) prepare(l);
    return rc;
}

static int local_restore(struct driver *d, const char *snapshot, const char *digest, uint64_t offset, driver_cb *cb, void *user,
                         struct error *e)
{
    struct local *l = local_of(d);
    if (!shelf_id_valid(snapshot)) return error_set(e, ERROR_INVALID, "\"%.100s\" is no name of a snapshot", snapshot);
    if (strlen(digest) >= OCI_DIGEST_MAX) return error_set(e, ERROR_INVALID, "\"%.100s\" is no digest", digest);
    int rc = begin(l, RESTORE, cb, user, e);
    if (rc != 0) return rc;
    l->call.record.offset = offset;
    snprintf(l->call.record.snapshot, sizeof l->call.record.snapshot, "%s", snapshot);
    snprintf(l->call.snapshot, sizeof l->call.snapshot, "%s", snapshot);
    snprintf(l->call.digest, sizeof l->call.digest, "%s", digest);
    prepare(l);
    return 0;
}

/* ---- adopt and mark: the record changes ----------------------------------------------------------------------- */

static int run_write(void *owner, struct error *e)
{
    struct local *l = owner;
    return record_write(l->records, &l->call.record, e);
}

static void on_written(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    const struct record *r = &l->call.record;
    if (status == 0 && l->instance.generation == r->generation) {
        l->record = *r;
        l->instance.origin_known = true;
        l->instance.offset = r->offset;
        l->instance.attached = r->attached;
        l->instance.fits = strcmp(r->spec, l->spec) == 0;
    }
    finish_with(l, status, e, "");
}

static int local_adopt(struct driver *d, uint64_t generation, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = begin_about(l, ADOPT, generation, cb, user, e);
    if (rc != 0) return rc;
    l->call.record = (struct record){.generation = generation};
    memcpy(l->call.record.spec, l->spec, sizeof l->spec); /* what else could it have been started from */
    task_start(l->loop, &l->task, l, run_write, on_written);
    return 0;
}

static int local_mark(struct driver *d, uint64_t generation, bool attached, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    if (!l->instance.origin_known)
        return error_set(e, ERROR_CONFLICT, "container %s-%" PRIu64 " has no record of its origin", l->name, generation);
    int rc = begin_about(l, MARK, generation, cb, user, e);
    if (rc != 0) return rc;
    l->call.record = l->record;
    l->call.record.attached = attached;
    task_start(l->loop, &l->task, l, run_write, on_written);
    return 0;
}

/* ---- kill ----------------------------------------------------------------------------------------------------- */

static int run_forget(void *owner, struct error *e)
{
    struct local *l = owner;
    return record_remove(l->records, l->instance.generation, e);
}

static void on_forgotten(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status == 0) set_none(l);
    finish_with(l, status, e, "");
}

static void on_killed(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) {
        finish_with(l, result->status, &result->error, result->detail);
        return;
    }
    set_ended(l);
    task_start(l->loop, &l->task, l, run_forget, on_forgotten);
}

static int local_kill(struct driver *d, uint64_t generation, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = begin_about(l, KILL, generation, cb, user, e);
    if (rc == 0) command(l, DELETE, generation, on_killed);
    return rc;
}

/* ---- dump ----------------------------------------------------------------------------------------------------- */

static int run_drop_dump(void *owner, struct error *e)
{
    struct local *l = owner;
    char path[PATH_MAX];
    shelf_dump_path(l->shelf, l->call.snapshot, path);
    return tree_remove(path, e);
}

/* A dump whose files stay is on the shelf still: it will be discarded. */
static void on_dump_dropped(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status == 0) shelf_dump_gone(l->shelf, l->call.snapshot);
    else log_warn("a failed dump cannot be removed", "workload=%s snapshot=%s reason=%s", l->name, l->call.snapshot, e->text);
    finish(l);
}

/* After a failed dump: is the container as it was? */
static void on_queried_after(void *user, const struct runc_result *result)
{
    struct local *l = user;
    bool runs = result->status == 0 && result->container == RUNC_RUNNING;
    l->call.outcome.lost = !runs || l->call.outcome.status == -ERROR_TIMEOUT;
    if (!l->call.outcome.lost) record_unmark_dump(l->records, l->instance.generation);
    task_start(l->loop, &l->task, l, run_drop_dump, on_dump_dropped);
}

static void on_resumed(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) fail(l, result->status, &result->error, result->detail);
    if (l->call.outcome.status != 0) {
        command(l, QUERY, l->instance.generation, on_queried_after);
        return;
    }
    record_unmark_dump(l->records, l->instance.generation);
    shelf_dump_complete(l->shelf, l->call.snapshot, l->record.spec);
    finish(l);
}

static void on_dumped(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) fail(l, result->status, &result->error, result->detail);
    command(l, RESUME, l->instance.generation, on_resumed);
}

/* Frozen first, so that CRIU need not wait for it (runc.h). */
static void on_paused(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) {
        fail(l, result->status, &result->error, result->detail);
        command(l, RESUME, l->instance.generation, on_resumed);
        return;
    }
    command(l, CHECKPOINT, l->instance.generation, on_dumped);
}

static int local_dump(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    if (!shelf_id_valid(snapshot)) return error_set(e, ERROR_INVALID, "\"%.100s\" is no name of a snapshot", snapshot);
    if (l->instance.state != WORLD_APP_RUNNING || !l->instance.origin_known)
        return error_set(e, ERROR_CONFLICT, "container %s-%" PRIu64 " does not run", l->name, generation);
    int rc = begin_about(l, DUMP, generation, cb, user, e);
    if (rc != 0) return rc;
    snprintf(l->call.snapshot, sizeof l->call.snapshot, "%s", snapshot);
    rc = record_mark_dump(l->records, generation, e);
    if (rc == 0) rc = shelf_dump_begins(l->shelf, snapshot, e);
    if (rc == 0) {
        command(l, PAUSE, generation, on_paused);
        return 0;
    }
    record_unmark_dump(l->records, generation);
    l->call = (struct call){0};
    return rc;
}

/* ---- the store's lane ----------------------------------------------------------------------------------------- */

static int local_pack(struct driver *d, const char *snapshot, uint64_t offset, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    if (l->closing) return error_set(e, ERROR_CANCELED, "the containers' driver is closing");
    return packer_pack(&l->packer, l->name, l->stream, snapshot, offset, cb, user, e);
}

static int local_discard(struct driver *d, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    if (l->closing) return error_set(e, ERROR_CANCELED, "the containers' driver is closing");
    return packer_discard(&l->packer, snapshot, cb, user, e);
}

static bool local_has(const struct driver *d, const char *snapshot)
{
    return shelf_has(local_of(d)->shelf, snapshot);
}

/* ---- the end -------------------------------------------------------------------------------------------------- */

/* What may be half-made, too. */
static void free_parts(struct local *l)
{
    shelf_free(l->shelf);
    if (l->lock >= 0) close(l->lock); /* and unlocks */
    free(l->name);
    free(l->stream);
    free(l->bundle);
    free(l->runc_root);
    free(l);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct local *l = handle->data;
    void (*closed)(void *user) = l->closed;
    void *user = l->closed_user;
    free_parts(l);
    if (closed != NULL) closed(user);
}

static void on_runc_closed(void *user)
{
    struct local *l = user;
    uv_close((uv_handle_t *)&l->step.timer, on_timer_closed);
}

static void stop_next(struct local *l);

static void on_stopped(void *user, const struct runc_result *result)
{
    struct local *l = user;
    struct call *c = &l->call;
    if (result->status == 0) record_remove(l->records, c->containers.generations[c->next], NULL);
    else log_error("a container is left", "container=%s-%" PRIu64 " reason=%s detail=%s", l->name,
                   c->containers.generations[c->next], result->error.text, result->detail);
    c->next++;
    stop_next(l);
}

static void stop_next(struct local *l)
{
    struct call *c = &l->call;
    if (c->next < c->containers.n) command(l, DELETE, c->containers.generations[c->next], on_stopped);
    else finish(l);
}

static int run_list(void *owner, struct error *e)
{
    struct local *l = owner;
    return containers_list(l->records, l->runc_root, l->name, &l->call.containers, e);
}

static void on_listed(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status != 0) log_error("containers are left, as they cannot be listed", "workload=%s reason=%s", l->name, e->text);
    stop_next(l);
}

static void close_when_idle(struct local *l)
{
    if (!l->closing || l->call.kind != IDLE || l->packer.task.active || l->sweep.task.active || l->runc == NULL) return;
    if (l->stop) {
        l->stop = false;
        l->call = (struct call){.kind = STOP};
        task_start(l->loop, &l->task, l, run_list, on_listed);
        return;
    }
    struct runc *runc = l->runc;
    l->runc = NULL;
    l->watch = watch_stop(l->watch);
    runc_close(runc, on_runc_closed, l);
}

static void local_close(struct driver *d, bool stop, void (*done)(void *user), void *user)
{
    struct local *l = local_of(d);
    l->closing = true;
    l->stop = stop;
    l->closed = done;
    l->closed_user = user;
    close_when_idle(l);
}

static void on_packer_idle(void *user)
{
    close_when_idle(user);
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

static const struct driver_ops ops = {
    .look = local_look,
    .instance = local_instance,
    .start = local_start,
    .restore = local_restore,
    .adopt = local_adopt,
    .kill = local_kill,
    .mark = local_mark,
    .dump = local_dump,
    .pack = local_pack,
    .discard = local_discard,
    .has = local_has,
    .close = local_close,
};

static int take_lock(struct local *l, struct error *e)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/lock", PATH_MAX - 8, l->dir);
    l->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (l->lock < 0) return error_errno(e, ERROR_IO, errno, "%s cannot be made", path);
    if (flock(l->lock, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EWOULDBLOCK) return error_set(e, ERROR_BUSY, "another operator uses %s", l->dir);
    return error_errno(e, ERROR_IO, errno, "%s cannot be locked", path);
}

static int make_parts(struct local *l, const struct local_options *o, struct error *e)
{
    char path[PATH_MAX];
    int rc = tree_make(l->records, e);
    if (rc == 0) rc = take_lock(l, e);
    snprintf(path, sizeof path, "%s/config.json", o->bundle);
    if (rc == 0) rc = oci_file_digest(path, l->spec, e);
    if (rc == 0) rc = shelf_new(l->dir, &l->shelf, e);
    snprintf(path, sizeof path, "%.*s/work", PATH_MAX - 16, l->dir);
    const struct runc_options runc = {
        .runc = o->runc, .criu = o->criu, .root = o->runc_root, .work = path, .timeout_ms = l->timeout_ms};
    if (rc == 0) rc = runc_new(l->loop, &runc, &l->runc, e);
    return rc;
}

static int copy_words(struct local *l, const struct local_options *o, struct error *e)
{
    l->name = strdup(o->name);
    l->stream = strdup(o->stream);
    l->bundle = strdup(o->bundle);
    l->runc_root = strdup(o->runc_root);
    if (l->name == NULL || l->stream == NULL || l->bundle == NULL || l->runc_root == NULL)
        return error_set(e, ERROR_NOMEM, "no memory");
    snprintf(l->dir, sizeof l->dir, "%s/%s", o->state_dir, o->name);
    snprintf(l->records, sizeof l->records, "%.*s/instances", PATH_MAX - 16, l->dir);
    return 0;
}

static int check(const struct local_options *o, struct error *e)
{
    int rc = containers_check_name(o->name, e);
    if (rc != 0) return rc;
    if (o->state_dir[0] != '/' || o->runc_root[0] != '/' || o->bundle[0] != '/')
        return error_set(e, ERROR_INVALID, "bundle, state directory and runc's root are absolute paths");
    if (strlen(o->state_dir) + strlen(o->name) + PATH_ROOM > PATH_MAX || strlen(o->bundle) + PATH_ROOM > PATH_MAX)
        return error_set(e, ERROR_INVALID, "the path of the bundle or of the state directory is too long");
    return 0;
}

int local_new(uv_loop_t *loop, const struct local_options *options, void (*on_change)(void *user), void *user,
              struct driver **ret_driver, struct error *e)
{
    int rc = check(options, e);
    if (rc != 0) return rc;
    struct local *l = calloc(1, sizeof *l);
    if (l == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    l->driver = (struct driver){.ops = &ops, .spec = l->spec};
    l->loop = loop;
    l->lock = -1;
    l->on_change = on_change;
    l->user = user;
    l->timeout_ms = options->timeout_ms != 0 ? options->timeout_ms : RUNC_TIMEOUT_MS;
    rc = copy_words(l, options, e);
    if (rc == 0) rc = make_parts(l, options, e);
    if (rc != 0) {
        free_parts(l);
        return rc;
    }
    uv_timer_init(loop, &l->step.timer);
    l->step.timer.data = l;
    l->packer = (struct packer){.loop = loop, .shelf = l->shelf, .on_idle = on_packer_idle, .user = l};
    *ret_driver = &l->driver;
    return 0;
}
