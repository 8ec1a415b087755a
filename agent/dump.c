#include "agent/dump.h"

#include <poll.h>
#include <string.h>
#include <uv.h>

#include "agent/mntns.h"
#include "checkpoint/runc.h"
#include "common/log.h"

enum { BUSY_MS = 50 };

struct dump {
    const struct dump_options *options;
    const char *id, *image_dir; /* image_dir NULL: only thaw it */
    dump_ready *ready;
    void *user;
    int status;
    struct dump_outcome outcome;
    char parent[PRECOPY_PARENT_MAX];
    bool copied; /* the rounds are behind */
    struct error error;
};

static void on_dumped(void *user, const struct runc_result *r)
{
    struct dump *d = user;
    d->status = r->status;
    d->error = r->error;
    d->outcome.us = r->elapsed_us;
    d->outcome.harmed = r->status != 0 && r->criu == RUNC_CRIU_CUT;
    if (r->status != 0 && *r->detail != '\0') log_warn("runc and CRIU said", "container=%s detail=%s", d->id, r->detail);
}

static void on_copied(void *user, const struct precopy_result *r)
{
    struct dump *d = user;
    d->copied = true;
    d->outcome.rounds = r->rounds;
    memcpy(d->outcome.round_bytes, r->bytes, sizeof r->bytes);
    memcpy(d->parent, r->parent, sizeof d->parent);
    d->outcome.harmed = r->harmed;
    d->outcome.futile = precopy_in_vain(r);
    if (r->cramped) log_info("no pre-copy: there is not room enough on the disk", "container=%s", d->id);
    if (r->status == 0) return;
    log_warn("a round of pre-copy failed: the dump is a plain one", "container=%s reason=%s detail=%s", d->id, r->error.text, r->detail);
    d->error = r->error;
    d->status = r->harmed ? r->status : 0;
}

/* While it serves. A failure: it is harmed. */
static int copy_ahead(struct dump *d, uv_loop_t *loop, struct runc *runc)
{
    struct precopy *unused;
    struct error e;
    if (d->options->precopy_rounds == 0 || !runc_tracks(runc)) return 0;
    if (precopy_start(loop, runc, d->id, d->image_dir, d->options->precopy_rounds, on_copied, d, &unused, &e) != 0) return 0;
    while (!d->copied) uv_run(loop, UV_RUN_ONCE);
    return d->status;
}

/* Starts what is wanted. A command of an earlier life is waited for: it is killed when it is older than its bound. */
static int begin(struct dump *d, uv_loop_t *loop, struct runc *runc)
{
    int rc;
    if (d->image_dir != NULL) {
        rc = copy_ahead(d, loop, runc);
        if (rc == 0) rc = d->ready(d->user, &d->error);
        const char *parent = d->parent[0] != '\0' ? d->parent : NULL;
        return rc != 0 ? rc : runc_checkpoint(runc, d->id, d->image_dir, parent, true, on_dumped, d, &d->error);
    }
    while ((rc = runc_resume(runc, d->id, on_dumped, d, &d->error)) == -ERROR_BUSY) poll(NULL, 0, BUSY_MS);
    return rc;
}

static int run(void *user, struct error *e)
{
    struct dump *d = user;
    const struct dump_options *o = d->options;
    struct runc_options options = {.runc = *o->runc != '\0' ? o->runc : NULL, .criu = *o->criu != '\0' ? o->criu : NULL, .root = o->runc_root,
        .work = o->work, .timeout_ms = o->timeout_ms, .precopy = d->image_dir != NULL && o->precopy_rounds > 0};
    struct runc *runc;
    uv_loop_t loop;
    if (uv_loop_init(&loop) != 0) return error_set(e, ERROR_NOMEM, "no memory for a loop");
    d->status = runc_new(&loop, &options, &runc, &d->error);
    if (d->status == 0) {
        d->status = begin(d, &loop, runc);
        runc_close(runc, NULL, NULL);
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&loop);
    if (d->status != 0 && e != NULL) *e = d->error;
    return d->status;
}

int dump_container(const struct dump_options *o, const char *id, const char *image_dir, dump_ready *ready, void *user, struct dump_outcome *ret_outcome,
                   struct error *e)
{
    struct dump d = {.options = o, .id = id, .image_dir = image_dir, .ready = ready, .user = user};
    int rc = mntns_do(o->mount_namespace, run, &d, e);
    *ret_outcome = d.outcome;
    return rc;
}

bool dump_left(const struct dump_options *o, const char *id)
{
    return runc_left(o->work, id);
}

int dump_settle(const struct dump_options *o, const char *id, bool *ret_harmed, struct error *e)
{
    struct dump d = {.options = o, .id = id};
    int rc = mntns_do(o->mount_namespace, run, &d, e);
    *ret_harmed = runc_cut(o->work, id);
    return rc;
}
