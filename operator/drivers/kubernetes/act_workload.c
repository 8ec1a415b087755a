/* The ProtectedWorkload, the pod template, the Services. */
#include "operator/drivers/kubernetes/act_internal.h"

#include <stdio.h>
#include <string.h>

#include "operator/kube/object.h"
#include "operator/webhook/inject.h"

static void put_spec(struct body *j, const struct view *v, const struct policy *p)
{
    const struct policy_annotation *t = policy_table();
    yyjson_mut_val *spec = body_map(j, j->root, "spec"), *ref = body_map(j, spec, "workloadRef");
    char field[POLICY_NAME_MAX], value[POLICY_TEXT_MAX];
    body_text(j, ref, "kind", act_kind_of(v));
    body_text(j, ref, "name", v->name);
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) {
        policy_field(&t[i], field);
        policy_text(p, &t[i], value, sizeof value);
        if (strcmp(t[i].name, "checkpoint-restore") == 0 || value[0] == '\0') continue;
        yyjson_mut_val *key = yyjson_mut_strcpy(j->doc, field);
        if (t[i].kind == POLICY_BOOL)
            yyjson_mut_obj_add(spec, key, yyjson_mut_bool(j->doc, value[0] == 't'));
        else if (t[i].kind == POLICY_NUMBER)
            yyjson_mut_obj_add(spec, key, yyjson_mut_uint(j->doc, strtoull(value, NULL, 10)));
        else
            yyjson_mut_obj_add(spec, key, yyjson_mut_strcpy(j->doc, value));
    }
}

void act_make_record(struct act *a)
{
    const struct view *v = a->view;
    struct policy defaults;
    struct body j = body_new();
    policy_defaults(&defaults);
    body_text(&j, j.root, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, j.root, "kind", "ProtectedWorkload");
    yyjson_mut_val *head = body_map(&j, j.root, "metadata");
    body_text(&j, head, "name", v->record);
    body_text(&j, head, "namespace", v->space);
    body_text(&j, body_map(&j, head, "labels"), "crsc.io/made-by", "annotation");
    yyjson_mut_arr_add_str(j.doc, body_array(&j, head, "finalizers"), VIEW_FINALIZER);
    yyjson_mut_val *owner = yyjson_mut_arr_add_obj(j.doc, body_array(&j, head, "ownerReferences"));
    body_text(&j, owner, "apiVersion", act_api_of(v));
    body_text(&j, owner, "kind", act_kind_of(v));
    body_text(&j, owner, "name", v->name);
    body_text(&j, owner, "uid", v->uid);
    /* what does not go together the API server would refuse, and then there would be nothing to say so */
    bool good = policy_check(&v->annotated, NULL) == 0 && policy_check_replicas(&v->annotated, v->world.kind == PROTECT_DEPLOYMENT, 1, NULL) == 0;
    put_spec(&j, v, v->annotated.enabled && good ? &v->annotated : &defaults);
    a->into = a->parts->caches->records;
    if (!v->world.record) act_event(a->parts, v, "Normal", "Protecting", "protection begins: ProtectedWorkload %s", v->record);
    ACT_SEND(a, &j, "PATCH", KUBE_APPLY, RECORDS "/%s?fieldManager=" KUBE_FIELD_MANAGER "&force=true", v->space, v->record);
}

void act_delete_record(struct act *a)
{
    a->gone_is_good = true;
    act_event(a->parts, a->view, "Normal", "Unprotecting", "protection ends: Services, template and checkpoints are put back");
    act_call(a, "DELETE", NULL, NULL, RECORDS "/%s", a->view->space, a->view->record);
}

/* A finalizer is put or taken by a merge patch of the whole list, bound to the version that was read. */
void act_finalizer(struct act *a, struct kube_watch *cache, const char *plural, const char *name, bool on)
{
    yyjson_val *one, *o = kube_watch_get(cache, a->view->space, name), *all = object_get(o, "metadata.finalizers");
    size_t i, max;
    struct body j = body_new();
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *list = body_array(&j, head, "finalizers");
    if (o == NULL) {
        free(body_end(&j));
        act_finish(a, 0, NULL);
        return;
    }
    yyjson_arr_foreach(all, i, max, one)
    {
        if (!yyjson_equals_str(one, VIEW_FINALIZER)) yyjson_mut_arr_append(list, yyjson_val_mut_copy(j.doc, one));
    }
    if (on) yyjson_mut_arr_add_str(j.doc, list, VIEW_FINALIZER);
    body_text(&j, head, "resourceVersion", object_text(o, "metadata.resourceVersion"));
    a->into = on ? cache : NULL; /* without it, a deleted one is gone: the watch says so */
    a->gone_is_good = true;
    ACT_SEND(a, &j, "PATCH", KUBE_MERGE, "/apis/crsc.io/v1alpha1/namespaces/%s/%s/%s", a->view->space, plural, name);
}

/* ---- the template --------------------------------------------------------------------------------------------- */

struct put {
    struct body *j;
    yyjson_mut_val *map;
};

static void put_annotation(void *user, const char *key, const char *value)
{
    struct put *p = user;
    body_text(p->j, p->map, key, value);
}

/* Server-side apply: what we own of the template is exactly this; applying nothing takes back everything that we own. */
void act_apply_template(struct act *a, bool on)
{
    const struct view *v = a->view;
    if (on && !pki_serves(*a->parts->pki, v->space)) { /* its pods would wait for the Secret: made first */
        act_fail(a, ERROR_BUSY, "the namespace's certificate is being issued");
        return;
    }
    struct body j = body_new();
    body_text(&j, j.root, "apiVersion", "apps/v1");
    body_text(&j, j.root, "kind", act_kind_of(v));
    yyjson_mut_val *head = body_map(&j, j.root, "metadata");
    body_text(&j, head, "name", v->name);
    body_text(&j, head, "namespace", v->space);
    if (on) {
        yyjson_mut_val *template = body_map(&j, body_map(&j, j.root, "spec"), "template"), *pod = body_map(&j, template, "metadata");
        struct put p = {&j, body_map(&j, pod, "annotations")};
        view_template_annotations(v, put_annotation, &p);
        body_text(&j, body_map(&j, pod, "labels"), INJECT_LABEL, "true"); /* also on a pod that misses the webhook: it has to be seen */
        if (v->world.redirects) { /* Services lead to such a pod: it must not run */
            yyjson_mut_val *gates = body_array(&j, body_map(&j, template, "spec"), "schedulingGates");
            body_text(&j, yyjson_mut_arr_add_obj(j.doc, gates), "name", INJECT_GATE);
        }
    }
    a->into = v->world.kind == PROTECT_DEPLOYMENT ? a->parts->caches->deployments : a->parts->caches->statefulsets;
    a->gone_is_good = true;
    ACT_SEND(a, &j, "PATCH", KUBE_APPLY, "/apis/apps/v1/namespaces/%s/%ss/%s?fieldManager=" KUBE_FIELD_MANAGER "&force=true", v->space, v->kind,
              v->name);
}

/* ---- Services ------------------------------------------------------------------------------------------------- */

static yyjson_val *original_target(yyjson_val *record, uint64_t port)
{
    size_t i, max;
    yyjson_val *one, *all = yyjson_obj_get(record, "ports");
    yyjson_arr_foreach(all, i, max, one)
    {
        if (object_number(one, "port") == port) return yyjson_obj_get(one, "targetPort");
    }
    return NULL;
}

/* What a Service had: {"workload":"deployment/x","notReady":false,"ports":[{"port":80,"targetPort":8080}]}. A port without a targetPort is
 * recorded with its own number, which is what it means. */
static void put_record(struct body *j, yyjson_mut_val *annotations, const struct view *v, yyjson_val *service, yyjson_val *containers)
{
    char workload[VIEW_KEY_MAX];
    size_t i, max;
    yyjson_val *port, *ports = object_get(service, "spec.ports");
    struct body r = body_new();
    snprintf(workload, sizeof workload, "%s/%s", v->kind, v->name);
    body_text(&r, r.root, "workload", workload);
    yyjson_mut_obj_add_bool(r.doc, r.root, "notReady", object_true(service, "spec.publishNotReadyAddresses"));
    yyjson_mut_val *list = body_array(&r, r.root, "ports");
    yyjson_arr_foreach(ports, i, max, port)
    {
        yyjson_val *target = yyjson_obj_get(port, "targetPort");
        if (!view_port_matches(v, port, containers)) continue;
        yyjson_mut_val *one = yyjson_mut_arr_add_obj(r.doc, list);
        body_number(&r, one, "port", object_number(port, "port"));
        yyjson_mut_obj_add_val(r.doc, one, "targetPort", target != NULL ? yyjson_val_mut_copy(r.doc, target) : yyjson_mut_uint(r.doc, object_number(port, "port")));
    }
    char *record = body_end(&r);
    if (record != NULL) body_text(j, annotations, VIEW_PORTS, record);
    free(record);
}

/* Whether it leads only to pods that take clients: that is a part of the selector, and ours alone, as no template has the label. */
static void put_choice(struct body *j, yyjson_mut_val *spec, bool chooses, bool before)
{
    if (chooses == before) return;
    yyjson_mut_val *selector = body_map(j, spec, "selector");
    if (chooses) body_text(j, selector, INJECT_ROLE, INJECT_SERVING);
    else yyjson_mut_obj_add_null(j->doc, selector, INJECT_ROLE);
}

void act_set_service(struct act *a, bool on)
{
    const struct view *v = a->view;
    const char *name = v->services[a->action.which];
    const struct caches *c = a->parts->caches;
    size_t i, max;
    yyjson_val *port, *o = kube_watch_get(c->services, v->space, name), *ports = object_get(o, "spec.ports");
    struct kube_watch *kind = v->world.kind == PROTECT_DEPLOYMENT ? c->deployments : v->world.kind == PROTECT_STATEFULSET ? c->statefulsets : c->pods;
    yyjson_val *target = kube_watch_get(kind, v->space, v->name);
    yyjson_val *containers = object_get(target, v->world.kind == PROTECT_POD ? "spec.containers" : "spec.template.spec.containers");
    const char *record_text = object_annotation(o, VIEW_PORTS);
    yyjson_doc *record = yyjson_read(record_text, strlen(record_text), YYJSON_READ_NOFLAG);
    struct body j = body_new();
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *annotations = body_map(&j, head, "annotations"), *spec = body_map(&j, j.root, "spec");
    yyjson_mut_val *list = body_array(&j, spec, "ports");
    body_text(&j, head, "resourceVersion", object_text(o, "metadata.resourceVersion"));
    bool switched = v->world.services[a->action.which].switched; /* on: before, and only what it publishes has to change */
    bool not_ready = !on || switched ? object_true(yyjson_doc_get_root(record), "notReady") : object_true(o, "spec.publishNotReadyAddresses");
    yyjson_mut_obj_add_bool(j.doc, spec, "publishNotReadyAddresses", not_ready || (on && v->publishes_unready));
    put_choice(&j, spec, on && protect_chooses(&v->world, a->action.which), v->world.services[a->action.which].chooses);
    if (on && !switched)
        put_record(&j, annotations, v, o, containers);
    else if (!on)
        yyjson_mut_obj_add_null(j.doc, annotations, VIEW_PORTS);
    yyjson_arr_foreach(ports, i, max, port)
    {
        yyjson_mut_val *copy = yyjson_val_mut_copy(j.doc, port), *to = NULL;
        yyjson_val *was = original_target(yyjson_doc_get_root(record), object_number(port, "port"));
        if (on && view_port_matches(v, port, containers)) to = yyjson_mut_str(j.doc, INJECT_PORT_NAME);
        if (!on && was != NULL && strcmp(object_text(port, "targetPort"), INJECT_PORT_NAME) == 0) to = yyjson_val_mut_copy(j.doc, was);
        if (to != NULL) {
            yyjson_mut_obj_remove_key(copy, "targetPort");
            yyjson_mut_obj_add_val(j.doc, copy, "targetPort", to);
        }
        yyjson_mut_arr_append(list, copy);
    }
    yyjson_doc_free(record);
    a->into = c->services;
    a->gone_is_good = true;
    if (!on || !switched) act_event(a->parts, v, "Normal", on ? "ServiceSwitched" : "ServiceRestored", on ? "Service %s leads to the interceptor now" : "Service %s leads to the app again", name);
    ACT_SEND(a, &j, "PATCH", KUBE_MERGE, "/api/v1/namespaces/%s/services/%s", v->space, name);
}
