/* Recoveries that were seen, noted as Restore objects. */
#include "operator/drivers/kubernetes/act_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "operator/kube/object.h"

struct restores {
    const struct act_parts *parts;
    const struct view *view;
    uint32_t next; /* pod that is looked at next */
    char name[VIEW_NAME_MAX]; /* of the object being made */
    bool ended;               /* the client is closing */
    act_cb *cb;
    void *user;
};

static void restores_go_on(struct restores *r);
static char *restore_status(const struct restores *r);

static void on_status_noted(void *user, struct kube_reply *reply)
{
    struct restores *r = user;
    r->ended = reply->status == -ERROR_CANCELED;
    if (reply->status != 0 && !r->ended) log_warn("a recovery cannot be noted", "reason=%s", reply->error.text);
    if (reply->status == 0) kube_watch_put(r->parts->caches->restores, reply->root);
    restores_go_on(r);
}

/* The object is there; what it tells is its status. */
static void on_restore_made(void *user, struct kube_reply *reply)
{
    struct restores *r = user;
    char path[700], *body;
    struct error e;
    const struct view_pod *pod = &r->view->pods[r->next - 1];
    if (reply->status != 0 && reply->status != -ERROR_EXISTS) {
        r->ended = reply->status == -ERROR_CANCELED;
        if (!r->ended) log_warn("a recovery cannot be noted", "reason=%s", reply->error.text);
        restores_go_on(r);
        return;
    }
    body = restore_status(r);
    snprintf(path, sizeof path, "/apis/crsc.io/v1alpha1/namespaces/%s/restores/%s/status", r->view->space, r->name);
    const struct kube_request q = {.method = "PATCH", .path = path, .body = body, .content_type = KUBE_MERGE};
    if (body == NULL || !r->parts->leads(r->parts->user) || kube_call(r->parts->client, &q, on_status_noted, r, NULL, &e) != 0) restores_go_on(r);
    else
        act_event(r->parts, r->view, "Normal", "Recovered", "pod %s on %s: %s%s%s, %llu requests replayed", pod->name, pod->node, pod->seen.began,
                  pod->seen.snapshot[0] != '\0' ? " from " : "", pod->seen.snapshot, (unsigned long long)pod->seen.replayed);
    free(body);
}

static uint64_t hash_of(const char *a, const char *b)
{
    uint64_t h = UINT64_C(1469598103934665603); /* FNV-1a */
    for (; *a != '\0'; a++) h = (h ^ (unsigned char)*a) * UINT64_C(1099511628211);
    for (; *b != '\0'; b++) h = (h ^ (unsigned char)*b) * UINT64_C(1099511628211);
    return h;
}

/* A recovery: a state came back, or a fresh app got requests of before. A first start is none. */
static bool is_recovery(const struct agent_container *c)
{
    return c->active && c->identity[0] != '\0' && (strcmp(c->began, "restored") == 0 || c->replayed > 0);
}

static char *restore_status(const struct restores *r)
{
    const struct view_pod *pod = &r->view->pods[r->next - 1];
    const struct agent_container *c = &pod->seen;
    struct body j = body_new();
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    body_text(&j, status, "phase", "Done");
    body_text(&j, status, "pod", pod->name);
    body_text(&j, status, "node", pod->node);
    body_text(&j, status, "began", c->began);
    if (c->snapshot[0] != '\0') body_text(&j, status, "checkpoint", c->snapshot);
    if (c->reason[0] != '\0') body_text(&j, status, "reason", c->reason);
    body_number(&j, status, "offset", c->offset);
    body_number(&j, status, "replayed", c->replayed);
    if (c->lost_us != 0 && c->attached_us > c->lost_us) body_number(&j, status, "restoreMilliseconds", (c->attached_us - c->lost_us) / 1000);
    if (c->active_us > c->attached_us) body_number(&j, status, "replayMilliseconds", (c->active_us - c->attached_us) / 1000);
    if (c->lost_us != 0 && c->active_us > c->lost_us) body_number(&j, status, "totalMilliseconds", (c->active_us - c->lost_us) / 1000);
    body_time(&j, status, "finishedAt", c->active_us / 1000);
    return body_end(&j);
}

static bool note_restore(struct restores *r, const struct view_pod *pod)
{
    const struct agent_container *c = &pod->seen;
    const struct view *v = r->view;
    char path[300];
    struct error e;
    snprintf(r->name, sizeof r->name, "%.200s-%llx", v->record, (unsigned long long)hash_of(pod->uid, c->identity));
    yyjson_val *there = kube_watch_get(r->parts->caches->restores, v->space, r->name);
    if (!is_recovery(c) || object_text(there, "status.phase")[0] != '\0') return false;
    struct body j = body_new();
    body_text(&j, j.root, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, j.root, "kind", "Restore");
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *spec = body_map(&j, j.root, "spec");
    body_text(&j, head, "name", r->name);
    body_text(&j, head, "namespace", v->space);
    body_text(&j, body_map(&j, head, "labels"), "crsc.io/protected-workload", v->record);
    yyjson_mut_val *owner = yyjson_mut_arr_add_obj(j.doc, body_array(&j, head, "ownerReferences"));
    body_text(&j, owner, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, owner, "kind", "ProtectedWorkload");
    body_text(&j, owner, "name", v->record);
    body_text(&j, owner, "uid", v->record_uid);
    body_text(&j, spec, "workload", v->record);
    body_text(&j, spec, "cause", "observed");
    char *body = body_end(&j);
    snprintf(path, sizeof path, "/apis/crsc.io/v1alpha1/namespaces/%s/restores", v->space);
    const struct kube_request q = {.method = "POST", .path = path, .body = body};
    bool sent = body != NULL && r->parts->leads(r->parts->user) && kube_call(r->parts->client, &q, on_restore_made, r, NULL, &e) == 0;
    free(body);
    return sent;
}

static void restores_go_on(struct restores *r)
{
    while (!r->ended && r->next < r->view->world.n_pods)
        if (note_restore(r, &r->view->pods[r->next++])) return;
    act_cb *cb = r->cb;
    void *user = r->user;
    free(r);
    cb(user, 0, NULL);
}

void act_restores(const struct act_parts *parts, const struct view *v, act_cb *cb, void *user)
{
    struct restores *r = v->world.record && !v->world.record_deleting ? malloc(sizeof *r) : NULL;
    if (r == NULL) {
        cb(user, 0, NULL);
        return;
    }
    *r = (struct restores){.parts = parts, .view = v, .cb = cb, .user = user};
    restores_go_on(r);
}
