#include "operator/drivers/local_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"
#include "operator/drivers/spec.h"

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
    local_close_when_idle(l);
}

void local_sweep(struct local *l)
{
    task_start(l->loop, &l->sweep.task, l, run_sweep, on_swept);
}

static void on_started(void *user, const struct runc_result *result)
{
    struct local *l = user;
    struct error e = result->error;
    int rc = result->status;
    if (rc == -ERROR_NOT_FOUND || rc == -ERROR_CORRUPT) rc = -ERROR_IO; /* those blame the snapshot, which was verified */
    l->call.outcome.tried = l->call.kind == RESTORE && rc != 0 && result->criu == RUNC_CRIU_FAILED;
    if (rc == 0 && result->container == RUNC_RUNNING) rc = local_set_running(l, &result->process, &e);
    if (rc == 0) {
        l->sweep.old = l->call.containers;
        l->call.containers = (struct containers){0};
    }
    local_sweep(l);
    local_finish_with(l, rc, &e, result->detail);
}

/* Deleting and unpacking have both ended. */
static void run_container(struct local *l)
{
    struct call *c = &l->call;
    if (--c->open > 0) return;
    if (c->outcome.status == 0) {
        local_command(l, c->kind == RESTORE ? RESTORE_FROM : RUN, c->record.generation, on_started);
        return;
    }
    if (l->sweep.unpacked[0] != '\0') local_sweep(l);
    local_finish(l);
}

static int run_unpack(void *owner, struct error *e)
{
    struct local *l = owner;
    const struct call *c = &l->call;
    struct oci_image_labels expected = {.offset = c->record.offset};
    snprintf(expected.stream, sizeof expected.stream, "%s", l->stream);
    snprintf(expected.spec, sizeof expected.spec, "%s", c->spec);
    return shelf_unpack(c->image, c->digest, &expected, l->sweep.unpacked, e);
}

static void on_unpacked(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status != 0) local_fail(l, status, e, "");
    run_container(l);
}

static void delete_next(struct local *l);

static void on_deleted(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) {
        local_fail(l, result->status == -ERROR_NOT_FOUND ? -ERROR_IO : result->status, &result->error, result->detail);
        run_container(l);
        return;
    }
    delete_next(l);
}

static void delete_next(struct local *l)
{
    struct call *c = &l->call;
    if (c->next < c->containers.n) local_command(l, DELETE, c->containers.generations[c->next++], on_deleted);
    else run_container(l);
}

/* The record of the new container is there before anything of the container is. */
static int run_prepare(void *owner, struct error *e)
{
    struct local *l = owner;
    struct call *c = &l->call;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/config.json", l->bundle);
    int rc = spec_digest(path, c->spec, e);
    if (rc == -ERROR_NOT_FOUND || rc == -ERROR_CORRUPT) rc = -ERROR_IO; /* it is not the snapshot's fault */
    snprintf(path, sizeof path, "%.*s/restore", PATH_MAX - 40, l->dir);
    if (rc == 0) rc = tree_make(path, e);
    if (rc == 0) rc = containers_list(l->records, l->runc_root, l->name, &c->containers, e);
    if (rc != 0) return rc;
    if (c->containers.n > 0 && local_newest(&c->containers) >= c->record.generation)
        c->record.generation = local_newest(&c->containers) + 1;
    memcpy(c->record.spec, c->spec, sizeof c->record.spec);
    return record_write(l->records, &c->record, e);
}

static void on_prepared(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    struct call *c = &l->call;
    if (status != 0) {
        local_finish_with(l, status, e, "");
        return;
    }
    bool changed = strcmp(l->spec, c->spec) != 0;
    memcpy(l->spec, c->spec, sizeof l->spec);
    local_set_instance(l, c->record.generation, &c->record);
    if (changed && c->kind == RESTORE) {
        struct error why;
        int rc = error_set(&why, ERROR_CONFLICT, "%s/config.json has changed: no checkpoint of the earlier one fits", l->bundle);
        local_finish_with(l, rc, &why, "");
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

int local_start(struct driver *d, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = local_begin(l, START, cb, user, e);
    if (rc == 0) prepare(l);
    return rc;
}

int local_restore(struct driver *d, const struct driver *from, const char *snapshot, const char *digest, uint64_t offset, driver_cb *cb, void *user,
                  struct error *e)
{
    struct local *l = local_of(d);
    if (!shelf_id_valid(snapshot)) return error_set(e, ERROR_INVALID, "\"%.100s\" is no name of a snapshot", snapshot);
    if (strlen(digest) >= OCI_DIGEST_MAX) return error_set(e, ERROR_INVALID, "\"%.100s\" is no digest", digest);
    int rc = local_begin(l, RESTORE, cb, user, e);
    if (rc != 0) return rc;
    l->call.record.offset = offset;
    snprintf(l->call.record.snapshot, sizeof l->call.record.snapshot, "%s", snapshot);
    snprintf(l->call.snapshot, sizeof l->call.snapshot, "%s", snapshot);
    snprintf(l->call.digest, sizeof l->call.digest, "%s", digest);
    shelf_image_path(local_of(from)->shelf, snapshot, l->call.image);
    prepare(l);
    return 0;
}
