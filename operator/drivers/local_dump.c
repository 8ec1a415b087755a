#include "operator/drivers/local_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"

/* A call about the dump of the running container for `snapshot`. */
static int begin_for(struct local *l, enum kind kind, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    if (!shelf_id_valid(snapshot)) return error_set(e, ERROR_INVALID, "\"%.100s\" is no name of a snapshot", snapshot);
    if (l->instance.state != WORLD_APP_RUNNING || !l->instance.origin_known)
        return error_set(e, ERROR_CONFLICT, "container %s-%" PRIu64 " does not run", l->name, generation);
    int rc = local_begin_about(l, kind, generation, cb, user, e);
    if (rc == 0) snprintf(l->call.snapshot, sizeof l->call.snapshot, "%s", snapshot);
    return rc;
}

/* ---- copying ahead -------------------------------------------------------------------------------------------- */

static void on_precopied(void *user, const struct precopy_result *result)
{
    struct local *l = user;
    struct driver_outcome *o = &l->call.outcome;
    l->precopy = NULL;
    o->rounds = result->rounds;
    for (unsigned i = 0; i < result->rounds; i++) o->round_bytes += result->bytes[i];
    o->lost = result->harmed;
    if (precopy_in_vain(result)) {
        l->rest = PRECOPY_REST;
        log_info("copied ahead for nothing: the next dumps are plain", "workload=%s snapshot=%s dumps=%u reason=%s", l->name, l->call.snapshot, l->rest,
                 result->futile ? "the app writes as much meanwhile" : result->error.text);
    }
    if (result->cramped) log_info("not copied ahead: there is not room enough on the disk", "workload=%s snapshot=%s", l->name, l->call.snapshot);
    memcpy(l->copied.parent, result->parent, sizeof l->copied.parent);
    for (unsigned i = 0; i < result->rounds; i++)
        log_debug("copied ahead", "workload=%s snapshot=%s round=%u bytes=%" PRIu64, l->name, l->call.snapshot, i + 1, result->bytes[i]);
    local_finish_with(l, result->status, &result->error, result->detail);
}

int local_precopy(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    char id[RUNC_ID_MAX], path[PATH_MAX];
    int rc = begin_for(l, PRECOPY, generation, snapshot, cb, user, e);
    if (rc != 0) return rc;
    rc = shelf_dump_begins(l->shelf, snapshot, e);
    if (rc == 0) {
        shelf_dump_path(l->shelf, snapshot, path);
        rc = precopy_start(l->loop, l->runc, containers_id(l->name, generation, id), path, l->rest > 0 ? 0 : l->precopy_rounds, on_precopied, l, &l->precopy, e);
        if (rc != 0) shelf_dump_gone(l->shelf, snapshot);
    }
    if (rc != 0) {
        l->call = (struct call){0};
        return rc;
    }
    if (l->rest > 0) l->rest--;
    l->copied = (struct copied){.generation = generation};
    snprintf(l->copied.snapshot, sizeof l->copied.snapshot, "%s", snapshot);
    return 0;
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
    local_finish(l);
}

/* After a failed dump: is the container as it was? Not if CRIU was ended with its own code still inside the processes. */
static void on_queried_after(void *user, const struct runc_result *result)
{
    struct local *l = user;
    bool runs = result->status == 0 && result->container == RUNC_RUNNING;
    l->call.outcome.lost = !runs || l->call.cut;
    if (!l->call.outcome.lost) record_unmark_dump(l->records, l->instance.generation);
    task_start(l->loop, &l->task, l, run_drop_dump, on_dump_dropped);
}

static void on_resumed(void *user, const struct runc_result *result)
{
    struct local *l = user;
    (void)result; /* what is, is asked for */
    local_command(l, QUERY, l->instance.generation, on_queried_after);
}

static void on_dumped(void *user, const struct runc_result *result)
{
    struct local *l = user;
    if (result->status != 0 && l->copied.parent[0] != '\0') {
        l->rest = 1;
        log_info("the dump upon what was copied ahead failed: the next one is plain", "workload=%s snapshot=%s", l->name, l->call.snapshot);
    }
    l->copied = (struct copied){0};
    if (result->status != 0) {
        local_fail(l, result->status, &result->error, result->detail);
        l->call.cut = result->criu == RUNC_CRIU_CUT;
        local_command(l, RESUME, l->instance.generation, on_resumed); /* killed at its bound it could not do so itself */
        return;
    }
    record_unmark_dump(l->records, l->instance.generation);
    shelf_dump_complete(l->shelf, l->call.snapshot, l->record.spec);
    local_finish(l);
}

/* What was copied of another container, or came to nothing. */
static void on_copy_dropped(void *owner, int status, const struct error *e)
{
    struct local *l = owner;
    if (status == 0) {
        local_command(l, CHECKPOINT, l->instance.generation, on_dumped);
        return;
    }
    record_unmark_dump(l->records, l->instance.generation);
    local_finish_with(l, status, e, "");
}

int local_dump(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    int rc = begin_for(l, DUMP, generation, snapshot, cb, user, e);
    if (rc != 0) return rc;
    bool begun = strcmp(l->copied.snapshot, snapshot) == 0, drops = begun && (l->copied.generation != generation || l->copied.parent[0] == '\0');
    if (!begun || drops) l->copied = (struct copied){0};
    rc = record_mark_dump(l->records, generation, e);
    if (rc == 0 && !begun) rc = shelf_dump_begins(l->shelf, snapshot, e);
    if (rc == 0 && drops) task_start(l->loop, &l->task, l, run_drop_dump, on_copy_dropped);
    else if (rc == 0) local_command(l, CHECKPOINT, generation, on_dumped);
    if (rc == 0) return 0;
    record_unmark_dump(l->records, generation);
    l->call = (struct call){0};
    return rc;
}

/* ---- the store's lane ----------------------------------------------------------------------------------------- */

int local_pack(struct driver *d, const char *snapshot, uint64_t offset, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    if (l->closing) return error_set(e, ERROR_CANCELED, "the containers' driver is closing");
    return packer_pack(&l->packer, l->name, l->stream, snapshot, offset, cb, user, e);
}

int local_discard(struct driver *d, const char *snapshot, driver_cb *cb, void *user, struct error *e)
{
    struct local *l = local_of(d);
    if (l->closing) return error_set(e, ERROR_CANCELED, "the containers' driver is closing");
    return packer_discard(&l->packer, snapshot, cb, user, e);
}

bool local_has(const struct driver *d, const char *snapshot)
{
    return shelf_has(local_of(d)->shelf, snapshot);
}
