#include "operator/drivers/kubernetes/act_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/kube/object.h"

void act_finish(struct act *a, int status, const struct error *e)
{
    act_cb *cb = a->cb;
    void *user = a->user;
    free(a);
    cb(user, status, e);
}

void act_fail(struct act *a, enum error_code code, const char *text)
{
    struct error e;
    int status = error_set(&e, code, "%s", text);
    act_finish(a, status, &e);
}

/* 422 Invalid because of the uid, which cannot be changed. */
static bool is_another(const struct kube_reply *r)
{
    size_t i, max;
    yyjson_val *cause, *causes = object_get(r->root, "details.causes");
    if (r->code != 422) return false;
    yyjson_arr_foreach(causes, i, max, cause)
    {
        if (strcmp(object_text(cause, "field"), "metadata.uid") == 0) return true;
    }
    return false;
}

static void on_reply(void *user, struct kube_reply *r)
{
    struct act *a = user;
    void (*then)(struct act *a) = a->then;
    if (a->names_uid && is_another(r)) r->status = error_set(&r->error, ERROR_CONFLICT, "there is another object of that name");
    bool good = r->status == 0 || (a->gone_is_good && r->status == -ERROR_NOT_FOUND);
    if (r->status == 0 && a->into != NULL && object_name(r->root)[0] != '\0') kube_watch_put(a->into, r->root);
    a->then = NULL;
    a->into = NULL;
    if (!good)
        act_finish(a, r->status, &r->error);
    else if (then != NULL)
        then(a);
    else
        act_finish(a, 0, NULL);
}

bool act_may_write(struct act *a)
{
    if (a->parts->leads(a->parts->user)) return true;
    act_fail(a, ERROR_CANCELED, "this operator does not lead any more");
    return false;
}

void act_ask(struct act *a, const char *node, const char *method, const char *path, const char *body, agents_cb *cb)
{
    struct error e;
    if (!act_may_write(a)) return;
    int rv = agents_call(a->parts->caches->agents, node, method, path, body, cb, a, &e);
    if (rv != 0) act_finish(a, rv, &e);
}

void act_record(struct act *a, const struct crsc_snapshot *s, crsc_snapshots_cb *cb)
{
    if (!act_may_write(a)) return;
    if (*a->parts->log == NULL || crsc_record_snapshot(*a->parts->log, s, cb, a) != 0) act_fail(a, ERROR_UNAVAILABLE, "the log cannot be asked now");
}

void act_call(struct act *a, const char *method, const char *type, const char *body, const char *format, ...)
{
    char path[1024];
    struct error e;
    va_list args;
    if (!act_may_write(a)) return;
    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    const struct kube_request q = {.method = method, .path = path, .body = body, .content_type = type, .timeout_ms = a->timeout_ms};
    int rv = kube_call(a->parts->client, &q, on_reply, a, NULL, &e);
    if (rv != 0) act_finish(a, rv, &e);
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void on_event(void *user, struct kube_reply *r)
{
    (void)user;
    if (r->status != 0 && r->status != -ERROR_CANCELED) log_debug("an event was not taken", "reason=%s", r->error.text);
}

const char *act_api_of(const struct view *v)
{
    return v->world.kind == PROTECT_POD ? "v1" : "apps/v1";
}

const char *act_kind_of(const struct view *v)
{
    return v->world.kind == PROTECT_DEPLOYMENT ? "Deployment" : v->world.kind == PROTECT_STATEFULSET ? "StatefulSet" : "Pod";
}

void act_event(const struct act_parts *parts, const struct view *v, const char *type, const char *reason, const char *format, ...)
{
    char message[900], name[320], path[200];
    struct error e;
    uint64_t now = loop_wall_us();
    va_list args;
    if (!parts->leads(parts->user)) return;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    struct body j = body_new();
    body_text(&j, j.root, "apiVersion", "v1");
    body_text(&j, j.root, "kind", "Event");
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *about = body_map(&j, j.root, "involvedObject"), *source = body_map(&j, j.root, "source");
    snprintf(name, sizeof name, "%.200s.%llx", v->name, (unsigned long long)now);
    body_text(&j, head, "name", name);
    body_text(&j, head, "namespace", v->space);
    body_text(&j, about, "apiVersion", act_api_of(v));
    body_text(&j, about, "kind", act_kind_of(v));
    body_text(&j, about, "namespace", v->space);
    body_text(&j, about, "name", v->name);
    if (v->uid[0] != '\0') body_text(&j, about, "uid", v->uid);
    body_text(&j, source, "component", "crsc-operator");
    body_text(&j, j.root, "reportingComponent", "crsc.io/operator");
    body_text(&j, j.root, "reportingInstance", parts->identity);
    body_text(&j, j.root, "type", type);
    body_text(&j, j.root, "reason", reason);
    body_text(&j, j.root, "message", message);
    body_number(&j, j.root, "count", 1);
    body_time(&j, j.root, "firstTimestamp", now / 1000);
    body_time(&j, j.root, "lastTimestamp", now / 1000);
    char *body = body_end(&j);
    snprintf(path, sizeof path, "/api/v1/namespaces/%s/events", v->space);
    const struct kube_request q = {.method = "POST", .path = path, .body = body};
    if (body != NULL && kube_call(parts->client, &q, on_event, NULL, NULL, &e) != 0) log_debug("an event was not sent", "reason=%s", e.text);
    free(body);
    log_info(message, "workload=%s/%s/%s reason=%s", v->space, v->kind, v->name, reason);
}

/* ---- which ---------------------------------------------------------------------------------------------------- */

void act_run(const struct act_parts *parts, const struct view *v, struct protect_action action, act_cb *cb, void *user)
{
    struct act *a = calloc(1, sizeof *a);
    struct error e;
    if (a == NULL) {
        cb(user, error_set(&e, ERROR_NOMEM, "no memory"), &e);
        return;
    }
    *a = (struct act){.parts = parts, .view = v, .action = action, .cb = cb, .user = user};
    switch (action.what) {
    case PROTECT_MAKE_RECORD: act_make_record(a); break;
    case PROTECT_DELETE_RECORD: act_delete_record(a); break;
    case PROTECT_HOLD_RECORD: act_finalizer(a, parts->caches->records, "protectedworkloads", v->record, true); break;
    case PROTECT_RELEASE_RECORD: act_finalizer(a, parts->caches->records, "protectedworkloads", v->record, false); break;
    case PROTECT_SET_TEMPLATE: act_apply_template(a, true); break;
    case PROTECT_CLEAR_TEMPLATE: act_apply_template(a, false); break;
    case PROTECT_SWITCH_SERVICE: act_set_service(a, true); break;
    case PROTECT_RESTORE_SERVICE: act_set_service(a, false); break;
    case PROTECT_NEW_CHECKPOINT: act_new_checkpoint(a); break;
    case PROTECT_HOLD_CHECKPOINT: act_finalizer(a, parts->caches->checkpoints, "checkpoints", act_checkpoint(a)->name, true); break;
    case PROTECT_START_CHECKPOINT: act_start_checkpoint(a); break;
    case PROTECT_END_CHECKPOINT: act_end_checkpoint(a); break;
    case PROTECT_FAIL_CHECKPOINT: act_note_failed(a, "nobody took it: its pod is gone, or its agent does not answer"); break;
    case PROTECT_DISTRUST_CHECKPOINT: act_distrust_checkpoint(a); break;
    case PROTECT_PASS_CHECKPOINT: act_pass_checkpoint(a); break;
    case PROTECT_REFUSE_CHECKPOINT: act_refuse_checkpoint(a); break;
    case PROTECT_DELETE_CHECKPOINT: act_delete_checkpoint(a); break;
    case PROTECT_FORGET_CHECKPOINT: act_forget_checkpoint(a); break;
    case PROTECT_ABANDON_CHECKPOINT: act_abandon_checkpoint(a); break;
    case PROTECT_PROMOTE:
    case PROTECT_DEMOTE:
    case PROTECT_CLEAR_ROLE: act_set_role(a); break;
    case PROTECT_REPLACE_POD: act_replace_pod(a); break;
    case PROTECT_FENCE: act_fence(a); break;
    case PROTECT_REMOVE_POD: act_remove_pod(a); break;
    case PROTECT_COUNT_REPLICAS: act_count_replicas(a); break;
    }
}
