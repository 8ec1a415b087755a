/* Pods replaced and removed, producers fenced; what replicas are told, and which of them takes clients. */
#include "operator/drivers/kubernetes/act_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/kube/object.h"
#include "operator/webhook/inject.h"

enum { ROLE_CALL_MS = 3000 }; /* clients wait; what became of it the next look will see */

#define STANDBY_COST "-1000" /* others: 0 */

static const struct view_pod *act_pod(const struct act *a)
{
    return &a->view->pods[a->action.which];
}

static void delete_pod(struct act *a, const char *options)
{
    a->gone_is_good = true;
    a->into = a->parts->caches->pods;
    char body[256];
    snprintf(body, sizeof body, "{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\"%s,\"preconditions\":{\"uid\":\"%s\"}}", options, act_pod(a)->uid);
    act_call(a, "DELETE", NULL, body, "/api/v1/namespaces/%s/pods/%s", a->view->space, act_pod(a)->name);
}

static bool is_stuck(const struct act *a)
{
    return protect_is_stuck(&a->view->world, a->action.which);
}

static const char *why_replaced(const struct act *a)
{
    const struct protect_pod *pod = &a->view->world.pods[a->action.which];
    if (is_stuck(a)) return "it could not begin with the checkpoint that its image is of";
    if (protect_is_behind(&a->view->world, a->action.which)) return "its container was started from its pod's image again, and what came since takes longer to be replayed than a new pod";
    if (pod->unknown) return "nobody knows which state it began with";
    if (!pod->injected) return "it started without an interceptor, as no operator answered then";
    if (pod->diverged != 0) return "its app has diverged: its answers are not those of the majority of replicas";
    if (pod->fenced) return "another interceptor, which is gone, took its stream";
    return "its container died again, and the kubelet would wait longer than a new pod takes";
}

static void delete_replaced(struct act *a)
{
    act_event(a->parts, a->view, "Warning", "PodReplaced", "pod %s is replaced: %s", act_pod(a)->name, why_replaced(a));
    delete_pod(a, ",\"gracePeriodSeconds\":1");
}

/* The time first: a loop must be seen even by an operator that is killed in it. */
void act_replace_pod(struct act *a)
{
    const struct view *v = a->view;
    if (!v->world.pods[a->action.which].injected || is_stuck(a)) { /* it did not die: that is no loop */
        delete_replaced(a);
        return;
    }
    struct body j = body_new();
    yyjson_mut_val *list = body_array(&j, body_map(&j, j.root, "status"), "replacedAt");
    char when[OBJECT_TIME_MAX];
    uint64_t oldest = UINT64_MAX;
    unsigned n = 0;
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) {
        n += v->world.replaced_ms[i] != 0;
        if (v->world.replaced_ms[i] < oldest) oldest = v->world.replaced_ms[i];
    }
    for (int i = 0; i < PROTECT_REPLACEMENTS; i++) {
        uint64_t at = v->world.replaced_ms[i];
        if (at == 0 || (n == PROTECT_REPLACEMENTS && at == oldest)) continue;
        object_time_text(at, when);
        yyjson_mut_arr_add_strcpy(j.doc, list, when);
    }
    object_time_text(v->world.now_ms, when);
    yyjson_mut_arr_add_strcpy(j.doc, list, when);
    a->then = delete_replaced;
    a->into = a->parts->caches->records;
    ACT_SEND(a, &j, "PATCH", KUBE_MERGE, RECORDS "/%s/status", v->space, v->record);
}

void act_remove_pod(struct act *a)
{
    act_event(a->parts, a->view, "Warning", "NodeLost", "node %s is lost: pod %s is removed, its replacement restores the newest checkpoint",
              act_pod(a)->node, act_pod(a)->name);
    delete_pod(a, ",\"gracePeriodSeconds\":0");
}

static void on_fenced(void *user, const struct error *e, uint64_t epoch)
{
    struct act *a = user;
    if (e == NULL)
        log_info("fenced", "stream=%s epoch=%llu node=%s", act_pod(a)->stream, (unsigned long long)epoch, act_pod(a)->node);
    act_finish(a, e != NULL ? -(int)e->code : 0, e);
}

/* The epoch that was read + 1: one that a replacement opened meanwhile is not less, and stays. */
static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct act *a = user;
    if (e != NULL) {
        act_finish(a, -(int)e->code, e);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(streams[i].name, act_pod(a)->stream) != 0) continue;
        if (!act_may_write(a)) return;
        if (crsc_fence(*a->parts->log, streams[i].name, streams[i].epoch + 1, on_fenced, a) != 0) act_fail(a, ERROR_UNAVAILABLE, "the log cannot be asked now");
        return;
    }
    act_finish(a, 0, NULL); /* it never wrote anything */
}

void act_fence(struct act *a)
{
    if (*a->parts->log == NULL || crsc_list_streams(*a->parts->log, act_pod(a)->stream, on_streams, a) != 0)
        act_fail(a, ERROR_UNAVAILABLE, "the log cannot be asked now");
}

/* ---- replicas ------------------------------------------------------------------------------------------------- */

static void on_counted(void *user, int status, const struct error *e, yyjson_val *root)
{
    struct act *a = user;
    (void)root;
    if (status == 0) agents_note_replicas(a->parts->caches->agents, act_pod(a)->uid, protect_replicas(&a->view->world, a->action.which));
    act_finish(a, status == -ERROR_NOT_FOUND ? 0 : status, e); /* its container is another one by now */
}

void act_count_replicas(struct act *a)
{
    char path[200];
    snprintf(path, sizeof path, "/v1/containers/%.70s/replicas?count=%u", act_pod(a)->seen.id, protect_replicas(&a->view->world, a->action.which));
    act_ask(a, act_pod(a)->node, "POST", path, NULL, on_counted);
}

/* A standby's promotion, that is: the time is what it took from the look at which somebody was missing. */
static void on_promoted(struct act *a)
{
    uint64_t now_ms = loop_wall_us() / 1000, since_ms = a->view->world.now_ms;
    act_event(a->parts, a->view, "Normal", "StandbyPromoted", "pod %s takes clients: one that did is lost, or is to be another one; took %llu ms", act_pod(a)->name,
              (unsigned long long)(now_ms > since_ms ? now_ms - since_ms : 0));
    act_finish(a, 0, NULL);
}

/* Without an operator a scale-down leaves those that serve. What somebody else wrote there is theirs. */
static void set_cost(const struct act *a, struct body *j, yyjson_mut_val *head)
{
    const char *cost = act_pod(a)->cost;
    bool standby = a->action.what == PROTECT_DEMOTE, ours = strcmp(cost, STANDBY_COST) == 0;
    if (standby ? cost[0] != '\0' : !ours) return;
    yyjson_mut_val *annotations = body_map(j, head, "annotations");
    if (standby) body_text(j, annotations, VIEW_COST, STANDBY_COST);
    else yyjson_mut_obj_add_null(j->doc, annotations, VIEW_COST);
}

/* With the uid: a pod that was made anew under that name meanwhile is another one, and the API server says so (422, or 409). */
void act_set_role(struct act *a)
{
    struct body j = body_new();
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *labels = body_map(&j, head, "labels");
    body_text(&j, head, "uid", act_pod(a)->uid);
    if (a->action.what == PROTECT_CLEAR_ROLE) yyjson_mut_obj_add_null(j.doc, labels, INJECT_ROLE);
    else body_text(&j, labels, INJECT_ROLE, a->action.what == PROTECT_PROMOTE ? INJECT_SERVING : INJECT_STANDBY);
    set_cost(a, &j, head);
    a->gone_is_good = a->action.what == PROTECT_CLEAR_ROLE;
    a->into = a->parts->caches->pods;
    a->names_uid = true;
    a->timeout_ms = ROLE_CALL_MS;
    if (a->action.what == PROTECT_PROMOTE && a->view->world.pods[a->action.which].role == PROTECT_STANDBY) a->then = on_promoted;
    ACT_SEND(a, &j, "PATCH", KUBE_MERGE, "/api/v1/namespaces/%s/pods/%s", a->view->space, act_pod(a)->name);
}
