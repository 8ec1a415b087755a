#include "operator/drivers/kubernetes/wishes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "operator/drivers/kubernetes/body.h"
#include "operator/kube/object.h"
#include "operator/reconcile/wish.h"

#define HOSTNAME "kubernetes.io/hostname"

struct wish {
    const struct act_parts *parts;
    const struct view *view;
    enum wish_kind kind;
    enum wish_do what;
    char name[VIEW_NAME_MAX], uid[64], checkpoint[AGENTS_ID_MAX + 1], node[VIEW_NAME_MAX];
    const struct view_pod *pod, *next; /* of the view; NULL: none */
    const char *why;
    act_cb *cb;
    void *user;
};

/* ---- what is asked for ---------------------------------------------------------------------------------------- */

static enum wish_phase phase_of(yyjson_val *o)
{
    static const char *const names[][2] = {{"Running", ""}, {"Moving", ""}, {"Checkpointing", "t"}, {"Done", "d"}, {"Failed", "f"}};
    const char *phase = object_text(o, "status.phase");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(phase, names[i][0]) != 0) continue;
        return names[i][1][0] == 't' ? WISH_TAKING : names[i][1][0] == 'd' ? WISH_DONE : names[i][1][0] == 'f' ? WISH_FAILED : WISH_MOVING;
    }
    return WISH_NEW;
}

struct search {
    const char *space, *record;
    bool moving; /* only those whose pod is on its way */
    yyjson_val *oldest;
};

static bool older(yyjson_val *a, yyjson_val *b)
{
    int order = strcmp(object_text(a, "metadata.creationTimestamp"), object_text(b, "metadata.creationTimestamp"));
    return order != 0 ? order < 0 : strcmp(object_name(a), object_name(b)) < 0;
}

static bool each_wish(void *user, yyjson_val *o)
{
    struct search *s = user;
    enum wish_phase phase = phase_of(o);
    if (strcmp(object_space(o), s->space) != 0 || strcmp(object_text(o, "spec.workload"), s->record) != 0 || object_deleting(o)) return true;
    if (object_text(o, "spec.cause")[0] != '\0' || phase == WISH_DONE || phase == WISH_FAILED || (s->moving && phase != WISH_MOVING)) return true;
    if (s->oldest == NULL || older(o, s->oldest)) s->oldest = o;
    return true;
}

static yyjson_val *oldest_of(const struct kube_watch *kind, const char *space, const char *record, bool moving)
{
    struct search s = {.space = space, .record = record, .moving = moving};
    kube_watch_each(kind, each_wish, &s);
    return s.oldest;
}

/* ---- what is seen --------------------------------------------------------------------------------------------- */

static const char *label_of_node(const struct caches *c, const char *node)
{
    return object_label(kube_watch_get(c->nodes, "", node), HOSTNAME);
}

static bool node_takes_pods(const struct wish *x, const char *node)
{
    const struct caches *c = x->parts->caches;
    yyjson_val *o = kube_watch_get(c->nodes, "", node);
    return o != NULL && !object_true(o, "spec.unschedulable") && strcmp(object_text(object_condition(o, "Ready"), "status"), "True") == 0 &&
           label_of_node(c, node)[0] != '\0';
}

static bool is_told(const struct wish *x, const struct view_pod *pod)
{
    yyjson_val *o = kube_watch_get(x->parts->caches->pods, x->view->space, pod->name);
    if (x->kind == WISH_RESTORE) return strcmp(object_annotation(o, "crsc.io/restore"), x->checkpoint) == 0;
    const char *to = yyjson_get_str(yyjson_obj_get(object_get(o, "spec.nodeSelector"), HOSTNAME));
    return to != NULL && strcmp(to, label_of_node(x->parts->caches, x->node)) == 0;
}

/* The pod that it is about, and one that took its place. */
static void see_pods(struct wish *x, yyjson_val *o, struct wish_world *w)
{
    const struct view *v = x->view;
    const char *uid = object_text(o, "status.podUID"), *name = object_text(o, "status.pod");
    for (uint32_t i = 0; i < v->world.n_pods; i++) {
        const struct protect_pod *p = &v->world.pods[i];
        const struct view_pod *names = &v->pods[i];
        bool old = uid[0] != '\0' ? strcmp(names->uid, uid) == 0 : x->pod == NULL && p->injected && !p->terminating;
        if (old) {
            x->pod = names;
            w->pod = true;
            w->terminating = p->terminating;
            w->there_already = strcmp(names->node, x->node) == 0;
        } else if (uid[0] != '\0' && p->injected && !p->terminating && (v->world.kind != PROTECT_STATEFULSET || strcmp(names->name, name) == 0)) {
            x->next = names;
            w->next = true;
            w->next_told = is_told(x, names);
            w->next_active = p->active;
            w->next_as_wished = x->kind == WISH_RESTORE ? strcmp(names->seen.began, "restored") == 0 && strcmp(names->seen.snapshot, x->checkpoint) == 0
                                                        : strcmp(names->node, x->node) == 0;
        }
    }
}

static void see_checkpoint(const struct wish *x, struct wish_world *w)
{
    const struct view *v = x->view;
    for (uint32_t i = 0; i < v->world.n_checkpoints; i++) {
        const struct protect_checkpoint *c = &v->world.checkpoints[i];
        if (strcmp(v->checkpoints[i].name, x->checkpoint) != 0) continue;
        w->fits = c->fits;
        w->checkpoint = c->deleting || c->phase == PROTECT_FAILED ? WISH_SPOILT : c->phase == PROTECT_VALID ? WISH_VALID : WISH_UNDER_WAY;
    }
}

static void see(struct wish *x, yyjson_val *o, struct wish_world *w)
{
    const struct protect_world *all = &x->view->world;
    uint64_t started = object_time_ms(object_text(o, "status.startedAt"));
    *w = (struct wish_world){.kind = x->kind, .phase = phase_of(o), .now_ms = all->now_ms, .protects = all->record && !all->record_deleting && all->exists,
                             .remade = all->kind != PROTECT_POD, .replicated = all->shared};
    w->begun_ms = started != 0 ? started : object_time_ms(object_text(o, "metadata.creationTimestamp"));
    w->node = x->kind == WISH_MIGRATION && node_takes_pods(x, x->node);
    see_pods(x, o, w);
    see_checkpoint(x, w);
}

/* ---- what is done --------------------------------------------------------------------------------------------- */

static void end(struct wish *x, int status, const struct error *e)
{
    act_cb *cb = x->cb;
    void *user = x->user;
    if (status != 0 && status != -ERROR_CANCELED)
        log_warn("a wish does not go on for now", "name=%s/%s step=%s reason=%s", x->view->space, x->name, wish_do_name(x->what), e->text);
    free(x);
    cb(user, 0, NULL);
}

static struct kube_watch *cache_of(const struct wish *x)
{
    return x->kind == WISH_RESTORE ? x->parts->caches->restores : x->parts->caches->migrations;
}

static void on_noted(void *user, struct kube_reply *r)
{
    struct wish *x = user;
    if (r->status == 0) kube_watch_put(cache_of(x), r->root);
    end(x, r->status, &r->error);
}

static void call(struct wish *x, const struct kube_request *q, kube_cb *cb)
{
    struct error e;
    int rv = x->parts->leads(x->parts->user) ? kube_call(x->parts->client, q, cb, x, NULL, &e) : error_set(&e, ERROR_CANCELED, "this operator does not lead any more");
    if (rv != 0) end(x, rv, &e);
}

static void put_figures(struct body *j, yyjson_mut_val *status, const struct wish *x)
{
    const struct agent_container *c = &x->next->seen;
    body_text(j, status, "pod", x->next->name);
    if (x->kind == WISH_MIGRATION) return;
    body_text(j, status, "node", x->next->node);
    body_text(j, status, "began", c->began);
    body_text(j, status, "checkpoint", c->snapshot);
    body_number(j, status, "offset", c->offset);
    body_number(j, status, "replayed", c->replayed);
    if (c->active_us > c->attached_us) body_number(j, status, "replayMilliseconds", (c->active_us - c->attached_us) / 1000);
}

static void note(struct wish *x, const char *phase)
{
    struct body j = body_new();
    char path[700];
    bool ended = x->what == WISH_SAY_DONE || x->what == WISH_SAY_FAILED;
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    body_text(&j, status, "phase", phase);
    body_time(&j, status, ended ? "finishedAt" : "startedAt", x->view->world.now_ms);
    if (x->why[0] != '\0') body_text(&j, status, "message", x->why);
    if (!ended && x->pod != NULL) {
        body_text(&j, status, "pod", x->pod->name);
        body_text(&j, status, "podUID", x->pod->uid);
        body_text(&j, status, "checkpoint", x->checkpoint);
        if (x->kind == WISH_MIGRATION) body_text(&j, status, "from", x->pod->node);
    }
    if (x->what == WISH_SAY_DONE && x->next != NULL) put_figures(&j, status, x);
    char *body = body_end(&j);
    snprintf(path, sizeof path, "/apis/crsc.io/v1alpha1/namespaces/%s/%s/%s/status", x->view->space, x->kind == WISH_RESTORE ? "restores" : "migrations", x->name);
    if (ended)
        act_event(x->parts, x->view, x->what == WISH_SAY_DONE ? "Normal" : "Warning", x->kind == WISH_RESTORE ? "Restore" : "Migration", "%s: %s%s%s", x->name, phase,
                  x->why[0] != '\0' ? ": " : "", x->why);
    call(x, &(struct kube_request){.method = "PATCH", .path = path, .body = body, .content_type = KUBE_MERGE}, on_noted);
    free(body);
}

static void on_checkpoint_made(void *user, struct kube_reply *r)
{
    struct wish *x = user;
    if (r->status == 0) kube_watch_put(x->parts->caches->checkpoints, r->root);
    if (r->status == 0 || r->status == -ERROR_EXISTS) note(x, "Checkpointing");
    else end(x, r->status, &r->error);
}

/* Its name is the migration's, so that whoever goes on makes the same one; it goes with the migration. */
static void take(struct wish *x)
{
    struct body j = body_new();
    char path[700];
    yyjson_mut_val *head = body_map(&j, j.root, "metadata"), *spec = body_map(&j, j.root, "spec");
    body_text(&j, j.root, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, j.root, "kind", "Checkpoint");
    body_text(&j, head, "name", x->checkpoint);
    body_text(&j, head, "namespace", x->view->space);
    yyjson_mut_val *owner = yyjson_mut_arr_add_obj(j.doc, body_array(&j, head, "ownerReferences"));
    body_text(&j, owner, "apiVersion", "crsc.io/v1alpha1");
    body_text(&j, owner, "kind", "Migration");
    body_text(&j, owner, "name", x->name);
    body_text(&j, owner, "uid", x->uid);
    body_text(&j, spec, "workload", x->view->record);
    body_text(&j, spec, "pod", x->pod->name);
    body_text(&j, spec, "podUID", x->pod->uid);
    char *body = body_end(&j);
    snprintf(path, sizeof path, "/apis/crsc.io/v1alpha1/namespaces/%s/checkpoints", x->view->space);
    call(x, &(struct kube_request){.method = "POST", .path = path, .body = body}, on_checkpoint_made);
    free(body);
}

static void on_pod_deleted(void *user, struct kube_reply *r)
{
    struct wish *x = user;
    if (r->status == 0 && strcmp(object_text(r->root, "kind"), "Pod") == 0) kube_watch_put(x->parts->caches->pods, r->root);
    end(x, r->status == -ERROR_NOT_FOUND ? 0 : r->status, &r->error);
}

static void delete(struct wish *x, const struct view_pod *pod)
{
    char path[700], body[256];
    snprintf(path, sizeof path, "/api/v1/namespaces/%s/pods/%s", x->view->space, pod->name);
    snprintf(body, sizeof body, "{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"gracePeriodSeconds\":1,\"preconditions\":{\"uid\":\"%s\"}}", pod->uid);
    call(x, &(struct kube_request){.method = "DELETE", .path = path, .body = body}, on_pod_deleted);
}

void wishes_go_on(const struct act_parts *parts, const struct view *v, act_cb *cb, void *user)
{
    yyjson_val *restore = oldest_of(parts->caches->restores, v->space, v->record, false), *migration = oldest_of(parts->caches->migrations, v->space, v->record, false);
    yyjson_val *o = restore == NULL || (migration != NULL && older(migration, restore)) ? migration : restore;
    struct wish *x = o != NULL ? calloc(1, sizeof *x) : NULL;
    struct wish_world w;
    if (x == NULL) {
        cb(user, 0, NULL);
        return;
    }
    *x = (struct wish){.parts = parts, .view = v, .kind = o == restore ? WISH_RESTORE : WISH_MIGRATION, .cb = cb, .user = user};
    snprintf(x->name, sizeof x->name, "%s", object_name(o));
    snprintf(x->uid, sizeof x->uid, "%s", object_text(o, "metadata.uid"));
    snprintf(x->node, sizeof x->node, "%s", object_text(o, "spec.node"));
    if (x->kind == WISH_RESTORE) snprintf(x->checkpoint, sizeof x->checkpoint, "%s", object_text(o, "spec.checkpoint"));
    else snprintf(x->checkpoint, sizeof x->checkpoint, "migration-%.50s", x->uid);
    see(x, o, &w);
    struct wish_plan p = wish_plan(&w);
    x->what = p.what;
    x->why = p.why;
    switch (p.what) {
    case WISH_WAIT: end(x, 0, NULL); break;
    case WISH_TAKE: take(x); break;
    case WISH_MOVE: note(x, x->kind == WISH_RESTORE ? "Running" : "Moving"); break;
    case WISH_DELETE_POD: delete(x, x->pod); break;
    case WISH_DELETE_NEXT: delete(x, x->next); break;
    case WISH_SAY_DONE: note(x, "Done"); break;
    case WISH_SAY_FAILED: note(x, "Failed"); break;
    }
}

/* ---- the webhook's part --------------------------------------------------------------------------------------- */

struct owner {
    const char *space, *kind, *name;
    yyjson_val *record;
};

static bool each_record(void *user, yyjson_val *o)
{
    struct owner *w = user;
    if (strcmp(object_space(o), w->space) == 0 && strcasecmp(object_text(o, "spec.workloadRef.kind"), w->kind) == 0 && strcmp(object_text(o, "spec.workloadRef.name"), w->name) == 0)
        w->record = o;
    return w->record == NULL;
}

/* A StatefulSet's pod is its own successor; a Deployment's is whichever is made next. */
static bool is_meant(yyjson_val *wish, yyjson_val *pod, const char *kind)
{
    return wish != NULL && (strcmp(kind, "statefulset") != 0 || strcmp(object_text(wish, "status.pod"), object_name(pod)) == 0);
}

void wishes_choose(const struct caches *c, yyjson_val *pod, const char *space, struct inject_settings *s)
{
    char kind[16];
    const char *workload = object_annotation(pod, "crsc.io/workload"), *slash = strchr(workload, '/');
    struct owner w = {.space = space, .kind = kind};
    if (slash == NULL || (size_t)(slash - workload) >= sizeof kind) return;
    snprintf(kind, sizeof kind, "%.*s", (int)(slash - workload), workload);
    w.name = slash + 1;
    kube_watch_each(c->records, each_record, &w);
    if (w.record == NULL) return;
    yyjson_val *restore = oldest_of(c->restores, space, object_name(w.record), true), *migration = oldest_of(c->migrations, space, object_name(w.record), true);
    if (object_number(w.record, "spec.standby") > 0) s->role = INJECT_SERVING; /* roles.h: until somebody says otherwise */
    if (is_meant(restore, pod, kind)) s->restore = object_text(restore, "spec.checkpoint");
    if (is_meant(migration, pod, kind)) s->node = label_of_node(c, object_text(migration, "spec.node"));
}
