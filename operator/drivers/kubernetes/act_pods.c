/* Pods replaced and removed, producers fenced. */
#include "operator/drivers/kubernetes/act_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "operator/kube/object.h"

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

static void delete_replaced(struct act *a)
{
    bool injected = a->view->world.pods[a->action.which].injected;
    act_event(a->parts, a->view, "Warning", "PodReplaced", "pod %s is replaced: %s", act_pod(a)->name,
              injected ? "its container died again, and the kubelet would wait longer than a new pod takes"
                       : "it started without an interceptor, as no operator answered then");
    delete_pod(a, ",\"gracePeriodSeconds\":1");
}

/* The time first: a loop must be seen even by an operator that is killed in it. */
void act_replace_pod(struct act *a)
{
    const struct view *v = a->view;
    if (!v->world.pods[a->action.which].injected) { /* it did not die: that is no loop */
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
