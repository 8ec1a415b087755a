/* Checkpoints: asked for, noted, forgotten. */
#include "operator/drivers/kubernetes/act_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/kube/object.h"

const struct view_checkpoint *act_checkpoint(const struct act *a)
{
    return &a->view->checkpoints[a->action.which];
}

/* Unique within the stream for ever: the stream's time in milliseconds, and the workload for people. */
void act_new_checkpoint(struct act *a)
{
    const struct view *v = a->view;
    const struct view_pod *pod = &v->pods[a->action.which];
    char name[64];
    struct body j = body_new();
    snprintf(name, sizeof name, "%.40s-%llx", pod->name[0] != '\0' && v->world.kind != PROTECT_DEPLOYMENT ? pod->name : v->name,
             (unsigned long long)v->world.now_ms);
    body_text(&j, j.root, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, j.root, "kind", "Checkpoint");
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *labels = body_map(&j, head, "labels"), *spec = body_map(&j, j.root, "spec");
    body_text(&j, head, "name", name);
    body_text(&j, head, "namespace", v->space);
    body_text(&j, labels, VIEW_SCHEDULED, "true");
    body_text(&j, labels, "crsc.io/protected-workload", v->record);
    yyjson_mut_arr_add_str(j.doc, body_array(&j, head, "finalizers"), VIEW_FINALIZER);
    yyjson_mut_val *owner = yyjson_mut_arr_add_obj(j.doc, body_array(&j, head, "ownerReferences"));
    body_text(&j, owner, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, owner, "kind", "ProtectedWorkload");
    body_text(&j, owner, "name", v->record);
    body_text(&j, owner, "uid", v->record_uid);
    yyjson_mut_obj_add_bool(j.doc, owner, "blockOwnerDeletion", false);
    body_text(&j, spec, "workload", v->record);
    body_text(&j, spec, "pod", pod->name);
    body_text(&j, spec, "podUID", pod->uid);
    a->into = a->parts->caches->checkpoints;
    ACT_SEND(a, &j, "POST", NULL, CHECKPOINTS, v->space);
}

static void patch_checkpoint(struct act *a, struct body *j)
{
    a->into = a->parts->caches->checkpoints;
    a->gone_is_good = true;
    ACT_SEND(a, j, "PATCH", KUBE_MERGE, CHECKPOINTS "/%s/status", a->view->space, act_checkpoint(a)->name);
}

static void note_running(struct act *a)
{
    const struct protect_checkpoint *c = &a->view->world.checkpoints[a->action.which];
    const struct view_pod *pod = &a->view->pods[c->pod];
    struct body j = body_new();
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    body_text(&j, status, "phase", "Running");
    body_text(&j, status, "stream", pod->stream);
    body_text(&j, status, "pod", pod->name);
    body_text(&j, status, "node", pod->node);
    body_text(&j, status, "templateHash", pod->hash);
    body_time(&j, status, "startedAt", a->view->world.now_ms);
    patch_checkpoint(a, &j);
}

static void on_started(void *user, int status, const struct error *e, yyjson_val *root)
{
    struct act *a = user;
    (void)root;
    if (status != 0)
        act_finish(a, status, e);
    else
        note_running(a);
}

void act_start_checkpoint(struct act *a)
{
    const struct protect_checkpoint *c = &a->view->world.checkpoints[a->action.which];
    const struct view_pod *pod = &a->view->pods[c->pod];
    char path[512], body[1024];
    snprintf(path, sizeof path, "/v1/checkpoints/%.64s?stream=%s", act_checkpoint(a)->name, pod->stream);
    snprintf(body, sizeof body, "{\"namespace\":\"%s\",\"pod\":\"%s\",\"pod_uid\":\"%s\"}", a->view->space, pod->name, pod->uid);
    act_ask(a, pod->node, "PUT", path, body, on_started);
}

void act_note_failed(struct act *a, const char *message)
{
    struct body j = body_new();
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    body_text(&j, status, "phase", "Failed");
    body_text(&j, status, "message", message);
    body_time(&j, status, "finishedAt", a->view->world.now_ms);
    act_event(a->parts, a->view, "Warning", "CheckpointFailed", "checkpoint %s failed: %s", act_checkpoint(a)->name, message);
    patch_checkpoint(a, &j);
}

void act_end_checkpoint(struct act *a)
{
    const struct view_checkpoint *c = act_checkpoint(a);
    const struct agent_checkpoint *seen = agents_checkpoint(a->parts->caches->agents, c->node, c->stream, c->name);
    if (seen == NULL) {
        act_fail(a, ERROR_UNAVAILABLE, "the agent says nothing of the checkpoint any more");
        return;
    }
    if (strcmp(seen->phase, "valid") != 0) {
        act_note_failed(a, seen->error[0] != '\0' ? seen->error : "the agent does not say why");
        return;
    }
    struct body j = body_new();
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    body_text(&j, status, "phase", "Valid");
    body_number(&j, status, "offset", seen->offset);
    body_text(&j, status, "image", seen->image);
    body_text(&j, status, "digest", seen->digest);
    body_number(&j, status, "sizeBytes", seen->size);
    body_text(&j, status, "templateHash", seen->hash);
    yyjson_mut_obj_add_uint(j.doc, status, "pauseMilliseconds", (uint64_t)(seen->pause_ms + 0.5));
    yyjson_mut_obj_add_uint(j.doc, status, "dumpMilliseconds", (uint64_t)(seen->dump_ms + 0.5));
    yyjson_mut_obj_add_uint(j.doc, status, "pushMilliseconds", (uint64_t)(seen->push_ms + 0.5));
    body_time(&j, status, "finishedAt", seen->finished_us > 0 ? seen->finished_us / 1000 : a->view->world.now_ms);
    log_info("checkpoint valid", "workload=%s/%s/%s checkpoint=%s offset=%llu size=%llu pause_ms=%.1f", a->view->space, a->view->kind, a->view->name,
             seen->id, (unsigned long long)seen->offset, (unsigned long long)seen->size, seen->pause_ms);
    patch_checkpoint(a, &j);
}

void act_delete_checkpoint(struct act *a)
{
    a->gone_is_good = true;
    a->into = a->parts->caches->checkpoints; /* the answer is the object, deleting now */
    act_call(a, "DELETE", NULL, NULL, CHECKPOINTS "/%s", a->view->space, act_checkpoint(a)->name);
}

#define DISTRUST "the replica that took it has diverged"

static void on_distrusted(void *user, const struct error *e, const struct crsc_snapshot *s, size_t n)
{
    struct act *a = user;
    (void)s;
    (void)n;
    if (e != NULL && e->code != ERROR_NOT_FOUND && e->code != ERROR_CONFLICT) /* the log does not have it, or has given it up */
        act_finish(a, -(int)e->code, e);
    else
        act_note_failed(a, DISTRUST);
}

/* The log first: agents choose from there. */
void act_distrust_checkpoint(struct act *a)
{
    const struct view_checkpoint *c = act_checkpoint(a);
    const struct crsc_snapshot s = {.stream = c->stream, .id = c->name, .state = CRSC_FAILED, .node = c->node, .offset = c->offset, .image = c->image, .sha256 = c->digest, .template_hash = c->hash,
                                    .finished_us = loop_wall_us(), .reason = DISTRUST};
    act_record(a, &s, on_distrusted);
}

/* ---- one that a pod could not begin with ------------------------------------------------------------------------ */

static void refusal_text(const struct act *a, char *text, size_t cap)
{
    const struct view *v = a->view;
    snprintf(text, cap, "a pod could not begin with it");
    for (uint32_t i = 0; i < v->world.n_pods; i++)
        if (v->world.pods[i].begins && v->world.pods[i].checkpoint == (int)a->action.which && v->pods[i].unable[0] != '\0')
            snprintf(text, cap, "pod %.80s could not begin with it: %.220s", v->pods[i].name, v->pods[i].unable);
}

/* Whether a pod that begins without a checkpoint could have everything: whoever chooses for the next ones has to know. */
static void note_unusable(struct act *a, uint64_t log_first)
{
    char text[400];
    struct body j = body_new();
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    bool refused = a->action.what == PROTECT_REFUSE_CHECKPOINT;
    refusal_text(a, text, sizeof text);
    if (refused) body_text(&j, status, "phase", "Failed");
    body_text(&j, status, "message", text);
    body_time(&j, status, "unusableAt", a->view->world.now_ms);
    body_number(&j, status, "logFirstOffset", log_first);
    act_event(a->parts, a->view, "Warning", "CheckpointUnusable", "checkpoint %s: %s%s", act_checkpoint(a)->name, text, refused ? "" : "; for now others are tried");
    patch_checkpoint(a, &j);
}

static void on_log_known(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct act *a = user;
    uint64_t first = 1; /* of a stream to which nobody has written yet */
    if (e != NULL) {
        act_finish(a, -(int)e->code, e);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (strcmp(streams[i].name, act_checkpoint(a)->stream) == 0) first = streams[i].first_offset;
    note_unusable(a, first);
}

void act_pass_checkpoint(struct act *a)
{
    if (*a->parts->log == NULL || crsc_list_streams(*a->parts->log, act_checkpoint(a)->stream, on_log_known, a) != 0)
        act_fail(a, ERROR_UNAVAILABLE, "the log cannot be asked now");
}

static void on_refused(void *user, const struct error *e, const struct crsc_snapshot *s, size_t n)
{
    struct act *a = user;
    (void)s;
    (void)n;
    if (e != NULL && e->code != ERROR_NOT_FOUND && e->code != ERROR_CONFLICT)
        act_finish(a, -(int)e->code, e);
    else
        act_pass_checkpoint(a);
}

/* The log first, with what tells its image: pods that run on what was restored from it are known by that. */
void act_refuse_checkpoint(struct act *a)
{
    const struct view_checkpoint *c = act_checkpoint(a);
    char text[400];
    refusal_text(a, text, sizeof text);
    const struct crsc_snapshot s = {.stream = c->stream, .id = c->name, .state = CRSC_FAILED, .node = c->node, .offset = c->offset, .image = c->image, .sha256 = c->digest,
                                    .template_hash = c->hash, .finished_us = loop_wall_us(), .reason = text};
    act_record(a, &s, on_refused);
}

static void take_off(struct act *a)
{
    act_finalizer(a, a->parts->caches->checkpoints, "checkpoints", act_checkpoint(a)->name, false);
}

static void on_removed(void *user, int status, const struct error *e, yyjson_val *root)
{
    struct act *a = user;
    (void)root;
    if (status != 0 && status != -ERROR_NOT_FOUND)
        act_finish(a, status, e);
    else
        take_off(a);
}

/* The image: from the node that has it, and from the registry. A lost node is not waited for: the log says that nobody may choose it. */
static void remove_image(struct act *a)
{
    char path[1400];
    const struct view_checkpoint *c = act_checkpoint(a);
    snprintf(path, sizeof path, "/v1/checkpoints/%.64s?stream=%s&registry=true&image=%s", c->name, c->stream, c->image);
    if (view_node_lost(a->parts->caches, c->node, a->view->world.now_ms)) {
        act_event(a->parts, a->view, "Warning", "ImageLeftBehind", "checkpoint %s: its image could not be removed, as node %s is lost", c->name, c->node);
        take_off(a);
    } else {
        act_ask(a, c->node, "DELETE", path, NULL, on_removed);
    }
}

static void on_forgotten(void *user, const struct error *e, const struct crsc_snapshot *s, size_t n)
{
    struct act *a = user;
    (void)s;
    (void)n;
    if (e != NULL && e->code != ERROR_NOT_FOUND && e->code != ERROR_CONFLICT && e->code != ERROR_INVALID)
        act_finish(a, -(int)e->code, e);
    else
        remove_image(a);
}

/* The log first: nobody chooses it any more; then its bytes. What the log never heard of has nothing to be forgotten there. */
void act_forget_checkpoint(struct act *a)
{
    const struct view_checkpoint *c = act_checkpoint(a);
    const struct protect_checkpoint *w = &a->view->world.checkpoints[a->action.which];
    const struct crsc_snapshot s = {.stream = c->stream, .id = c->name, .state = CRSC_DELETED, .node = c->node, .offset = c->offset, .sha256 = c->digest, .template_hash = c->hash,
                                    .finished_us = loop_wall_us(), .reason = "deleted in Kubernetes"};
    if (w->phase == PROTECT_NEW || c->stream[0] == '\0')
        take_off(a); /* no agent was told of it */
    else
        act_record(a, &s, on_forgotten);
}

void act_abandon_checkpoint(struct act *a)
{
    act_event(a->parts, a->view, "Warning", "ImageLeftBehind", "checkpoint %s: its image could not be removed and is left in the registry or on node %s",
              act_checkpoint(a)->name, act_checkpoint(a)->node);
    take_off(a);
}
