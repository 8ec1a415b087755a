#include "operator/drivers/local_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"
#include "operator/drivers/spec.h"

static const struct world_instance *local_instance(const struct driver *d)
{
    return &local_of(d)->instance;
}

/* ---- look ----------------------------------------------------------------------------------------------------- */

static int run_look(void *owner, struct error *e)
{
    struct local *l = owner;
    struct call *c = &l->call;
    int rc = containers_list(l->records, l->runc_root, l->name, &c->containers, e);
    if (rc != 0 || c->containers.n == 0) return rc;
    rc = record_read(l->records, local_newest(&c->containers), &c->record, e);
    c->known = rc == 0;
    c->harmed = record_dump_marked(l->records, local_newest(&c->containers));
    return rc == -ERROR_NOT_FOUND || rc == -ERROR_CORRUPT ? 0 : rc;
}

/* Where logs and notes of runc's commands are. Returns `path`. */
static const char *work_path(const struct local *l, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.*s/work", PATH_MAX - 16, l->dir);
    return path;
}

static void on_queried(void *user, const struct runc_result *result)
{
    struct local *l = user;
    struct call *c = &l->call;
    struct error e = result->error;
    int rc = result->status;
    if (rc == 0) {
        local_set_instance(l, local_newest(&c->containers), c->known ? &c->record : NULL);
        char id[RUNC_ID_MAX], work[PATH_MAX];
        c->harmed = c->harmed || runc_cut(work_path(l, work), containers_id(l->name, local_newest(&c->containers), id)); /* no command of it runs any more */
        if (result->container == RUNC_RUNNING && !c->harmed) rc = local_set_running(l, &result->process, &e);
        else if (result->container == RUNC_RUNNING || result->container == RUNC_PAUSED)
            log_warn("a dump of the container was cut short: it counts as ended", "container=%s-%" PRIu64, l->name,
                     l->instance.generation);
    }
    local_finish_with(l, rc, &e, result->detail);
}

static void on_look(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status != 0) {
        local_finish_with(l, status, e, "");
    } else if (l->call.containers.n == 0) {
        local_set_none(l);
        local_finish(l);
    } else {
        local_command(l, QUERY, local_newest(&l->call.containers), on_queried);
    }
}

static int local_look(struct driver *d, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = local_begin(l, LOOK, cb, user, e);
    if (rc == 0) task_start(l->loop, &l->task, l, run_look, on_look);
    return rc;
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
    local_finish_with(l, status, e, "");
}

static int local_adopt(struct driver *d, uint64_t generation, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = local_begin_about(l, ADOPT, generation, cb, user, e);
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
    int rc = local_begin_about(l, MARK, generation, cb, user, e);
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
    if (status == 0) local_set_none(l);
    local_finish_with(l, status, e, "");
}

static void on_killed(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0) {
        local_finish_with(l, result->status, &result->error, result->detail);
        return;
    }
    local_set_ended(l);
    task_start(l->loop, &l->task, l, run_forget, on_forgotten);
}

static int local_kill(struct driver *d, uint64_t generation, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = local_begin_about(l, KILL, generation, cb, user, e);
    if (rc == 0) local_command(l, DELETE, generation, on_killed);
    return rc;
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
    if (c->next < c->containers.n) local_command(l, DELETE, c->containers.generations[c->next], on_stopped);
    else local_finish(l);
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

void local_close_when_idle(struct local *l)
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
    if (l->precopy != NULL) precopy_stop(l->precopy);
    local_close_when_idle(l);
}

static void on_packer_idle(void *user)
{
    local_close_when_idle(user);
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
    .precopy = local_precopy,
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
    if (rc == 0) rc = spec_digest(path, l->spec, e);
    if (rc == 0) rc = shelf_new(l->dir, &l->shelf, e);
    const struct runc_options runc = {
        .runc = o->runc, .criu = o->criu, .root = o->runc_root, .work = work_path(l, path), .timeout_ms = l->timeout_ms, .precopy = o->precopy_rounds > 0};
    if (rc == 0) rc = runc_new(l->loop, &runc, &l->runc, e);
    l->precopy_rounds = o->precopy_rounds;
    l->driver.precopies = rc == 0 && runc_tracks(l->runc);
    if (rc == 0 && l->precopy_rounds > 0)
        log_info(l->driver.precopies ? "memory is copied ahead of dumps" : "no pre-copy: CRIU cannot track here which pages are written", "workload=%s", l->name);
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
