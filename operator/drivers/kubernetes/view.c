#include "operator/drivers/kubernetes/view.h"

#include <stdio.h>
#include <string.h>

#include "operator/kube/object.h"
#include "operator/webhook/inject.h"

#define COPY(to, ...) snprintf(to, sizeof to, __VA_ARGS__)

/* ---- policy --------------------------------------------------------------------------------------------------- */

static int policy_of_spec(yyjson_val *spec, struct policy *p, struct error *e)
{
    const struct policy_annotation *t = policy_table();
    char field[POLICY_NAME_MAX], key[96], text[32];
    policy_defaults(p);
    p->enabled = true;
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) {
        policy_field(&t[i], field);
        yyjson_val *v = yyjson_obj_get(spec, field);
        if (v == NULL) continue;
        COPY(key, POLICY_PREFIX "%s", t[i].name);
        const char *value = yyjson_get_str(v);
        if (yyjson_is_bool(v)) value = yyjson_get_bool(v) ? "true" : "false";
        if (yyjson_is_uint(v)) {
            COPY(text, "%llu", (unsigned long long)yyjson_get_uint(v));
            value = text;
        }
        int rv = policy_set(p, key, value != NULL ? value : "", e);
        if (rv != 0) return rv;
    }
    return policy_check(p, e);
}

static bool is_same(const struct policy *a, const struct policy *b)
{
    const struct policy_annotation *t = policy_table();
    char x[POLICY_TEXT_MAX], y[POLICY_TEXT_MAX];
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) {
        policy_text(a, &t[i], x, sizeof x);
        policy_text(b, &t[i], y, sizeof y);
        if (strcmp(x, y) != 0) return false;
    }
    return true;
}

void view_template_annotations(const struct view *v, void (*each)(void *user, const char *key, const char *value), void *user)
{
    const struct policy_annotation *t = policy_table();
    char key[96], value[VIEW_KEY_MAX], initial[POLICY_TEXT_MAX];
    struct policy defaults;
    policy_defaults(&defaults);
    each(user, "crsc.io/checkpoint-restore", "true");
    COPY(value, "%s/%s", v->kind, v->name);
    each(user, "crsc.io/workload", value);
    for (size_t i = 0; i < POLICY_ANNOTATIONS; i++) {
        policy_text(&v->policy, &t[i], value, sizeof value);
        policy_text(&defaults, &t[i], initial, sizeof initial);
        if (!t[i].in_pod || strcmp(value, initial) == 0) continue;
        COPY(key, POLICY_PREFIX "%s", t[i].name);
        each(user, key, value);
    }
}

/* ---- the template --------------------------------------------------------------------------------------------- */

struct compare {
    yyjson_val *has;
    size_t n;
    bool same;
};

static void compare_one(void *user, const char *key, const char *value)
{
    struct compare *c = user;
    yyjson_val *has = yyjson_obj_get(c->has, key);
    c->same = c->same && yyjson_is_str(has) && strcmp(yyjson_get_str(has), value) == 0;
    c->n++;
}

static void read_template(struct view *v, yyjson_val *annotations, yyjson_val *spec)
{
    size_t i, max, ours = 0;
    yyjson_val *key, *value;
    struct compare c = {.has = annotations, .same = true};
    view_template_annotations(v, compare_one, &c);
    if (annotations != NULL) yyjson_obj_foreach(annotations, i, max, key, value)
    {
        if (strncmp(yyjson_get_str(key), POLICY_PREFIX, strlen(POLICY_PREFIX)) == 0 && strcmp(yyjson_get_str(key), "crsc.io/restore") != 0) ours++;
    }
    v->world.template_ours = yyjson_obj_get(annotations, "crsc.io/workload") != NULL;
    bool gated = object_named(yyjson_obj_get(spec, "schedulingGates"), INJECT_GATE) != NULL;
    v->world.template_current = c.same && ours == c.n && gated == v->world.redirects;
}

/* ---- streams -------------------------------------------------------------------------------------------------- */

static bool stream_index(struct view *v, const char *stream, uint32_t *ret)
{
    for (uint32_t i = 0; i < v->n_streams; i++)
        if (strcmp(v->streams[i], stream) == 0) {
            *ret = i;
            return true;
        }
    if (v->n_streams == PROTECT_STREAMS_MAX) return false;
    COPY(v->streams[v->n_streams], "%s", stream);
    *ret = v->n_streams++;
    return true;
}

/* ---- pods ----------------------------------------------------------------------------------------------------- */

bool view_node_lost(const struct caches *c, const char *node, uint64_t now_ms)
{
    yyjson_val *o = kube_watch_get(c->nodes, "", node), *ready = object_condition(o, "Ready");
    if (node[0] == '\0' || !kube_watch_synced(c->nodes)) return false;
    if (o == NULL) return true;
    if (ready == NULL || strcmp(object_text(ready, "status"), "True") == 0) return false;
    uint64_t since = object_time_ms(object_text(ready, "lastTransitionTime"));
    return since != 0 && now_ms >= since + c->node_grace_ms;
}

/* A node may be as new as its pod, and its watch a moment behind that of the pods: who was scheduled just now is not lost for that. */
static bool pod_lost(const struct caches *c, yyjson_val *o, const char *node, uint64_t now_ms)
{
    uint64_t since = object_time_ms(object_text(object_condition(o, "PodScheduled"), "lastTransitionTime"));
    bool unknown = kube_watch_get(c->nodes, "", node) == NULL;
    return view_node_lost(c, node, now_ms) && !(unknown && since != 0 && now_ms < since + c->node_grace_ms);
}

/* The kubelet's pause before a restart: 10 s, doubled with each, at most 5 minutes, from the end of the last run. */
static void read_backoff(yyjson_val *status, uint64_t now_ms, struct protect_pod *p)
{
    uint64_t restarts = object_number(status, "restartCount"), pause = 10000;
    uint64_t ended = object_time_ms(object_text(status, "lastState.terminated.finishedAt"));
    p->running = object_get(status, "state.running") != NULL;
    p->backing_off = strcmp(object_text(status, "state.waiting.reason"), "CrashLoopBackOff") == 0;
    if (!p->backing_off) return;
    for (uint64_t i = 1; i < restarts && pause < 300000; i++) pause *= 2;
    if (pause > 300000) pause = 300000;
    p->backoff_ms = ended + pause > now_ms ? ended + pause - now_ms : 0;
}

static bool is_listed(const char *const *list, const char *word)
{
    while (*list != NULL && strcmp(*list, word) != 0) list++;
    return *list != NULL;
}

/* Since when the kubelet tries, at most: its pod's containers could begin, or this one ended, or the last try did: pauses between tries grow. */
static uint64_t tries_since(yyjson_val *pod, yyjson_val *status, const struct protect_pod *p)
{
    uint64_t since = p->created_ms, ready = object_time_ms(object_text(object_condition(pod, "Initialized"), "lastTransitionTime")),
             ended = object_time_ms(object_text(status, "lastState.terminated.finishedAt"));
    if (ready > since) since = ready;
    return ended > since ? ended : since;
}

/* backend: kubelet. What the kubelet says of a container that does not come to run. Of what is said while nothing is wrong yet, or of what no other image would mend,
 * nothing follows; of the rest, that another image may be better: at once or later is a matter of the reason. */
static void read_beginning(yyjson_val *pod, yyjson_val *status, struct protect_pod *p, struct view_pod *names)
{
    static const char *const nothing[] = {"", "ContainerCreating", "PodInitializing", "CrashLoopBackOff", "CreateContainerConfigError", "ErrImagePull", NULL},
                      *const by_image[] = {"CreateContainerError", "RunContainerError", NULL};
    const char *waits = object_text(status, "state.waiting.reason"), *says = object_text(status, "state.waiting.message");
    const char *ended = object_get(status, "state.terminated") != NULL ? "state.terminated" : "lastState.terminated";
    char reason[48], message[48];
    COPY(reason, "%s.reason", ended);
    COPY(message, "%s.message", ended);
    bool in_vain = !p->running && strcmp(object_text(status, reason), "StartError") == 0 && object_number(status, "restartCount") > 1; /* CRIU's, for example; more than once */
    bool waiting = !is_listed(nothing, waits);
    if (waiting) COPY(names->unable, "%s: %.200s", waits, says);
    else if (in_vain) COPY(names->unable, "StartError: %.200s", object_text(status, message));
    p->unable = waiting || in_vain;
    p->by_image = in_vain || (is_listed(by_image, waits) && strstr(says, "failed to reserve") == NULL);
    p->unable_ms = tries_since(pod, status, p);
}

/* Since when it has been ready, with the app that runs now. */
static void read_ready(yyjson_val *o, yyjson_val *status, struct protect_pod *p)
{
    yyjson_val *ready = object_condition(o, "Ready");
    uint64_t started_ms = object_time_ms(object_text(status, "state.running.startedAt"));
    p->ready = strcmp(object_text(ready, "status"), "True") == 0;
    p->steady_ms = object_time_ms(object_text(ready, "lastTransitionTime"));
    if (started_ms > p->steady_ms) p->steady_ms = started_ms;
    p->restarted = object_number(status, "restartCount") > 0;
}

static void read_pod(struct view *v, const struct caches *c, yyjson_val *o, uint32_t stream)
{
    struct protect_pod *p = &v->world.pods[v->world.n_pods];
    struct view_pod *names = &v->pods[v->world.n_pods++];
    memset(p, 0, sizeof *p);
    memset(names, 0, sizeof *names);
    COPY(names->name, "%s", object_name(o));
    COPY(names->uid, "%s", object_text(o, "metadata.uid"));
    COPY(names->node, "%s", object_text(o, "spec.nodeName"));
    COPY(names->container, "%s", object_annotation(o, "crsc.io/container"));
    COPY(names->hash, "%s", object_annotation(o, "crsc.io/template-hash"));
    COPY(names->stream, "%s", object_annotation(o, "crsc.io/stream"));
    p->stream = stream;
    p->injected = names->stream[0] != '\0';
    p->created_ms = object_time_ms(object_text(o, "metadata.creationTimestamp"));
    COPY(names->refusal, "%s", object_annotation(o, INJECT_REFUSAL));
    p->refused = names->refusal[0] != '\0';
    p->redirected = object_annotation(o, "crsc.io/redirect")[0] != '\0';
    p->shared = p->injected && strcmp(object_annotation(o, POLICY_PREFIX "replication"), "log") == 0;
    const char *role = object_label(o, INJECT_ROLE);
    p->role = strcmp(role, INJECT_SERVING) == 0 ? PROTECT_SERVING : role[0] != '\0' ? PROTECT_STANDBY : PROTECT_NO_ROLE;
    while (p->template < v->world.n_pods - 1 && strcmp(v->pods[p->template].hash, names->hash) != 0) p->template++;
    const char *revision = object_label(o, "pod-template-hash"); /* its ReplicaSet's */
    COPY(names->cost, "%s", object_annotation(o, VIEW_COST));
    COPY(names->revision, "%s", revision);
    while (p->revision < v->world.n_pods - 1 && strcmp(v->pods[p->revision].revision, revision) != 0) p->revision++;
    p->terminating = object_deleting(o);
    p->node_lost = pod_lost(c, o, names->node, v->world.now_ms);
    p->agent = names->node[0] != '\0' && agents_answers(c->agents, names->node);
    p->silent = names->node[0] != '\0' && agents_lost(c->agents, names->node);
    yyjson_val *status = object_named(object_get(o, "status.containerStatuses"), names->container);
    read_backoff(status, v->world.now_ms, p);
    read_ready(o, status, p);
    COPY(names->begins, "%s", object_annotation(o, INJECT_CHECKPOINT));
    p->begins = names->begins[0] != '\0';
    p->checkpoint = -1;
    names->by_kubelet = p->injected && strcmp(object_annotation(o, POLICY_PREFIX "backend"), "kubelet") == 0;
    names->running_ms = object_time_ms(object_text(status, "state.running.startedAt"));
    p->rewinds = names->by_kubelet && object_number(status, "restartCount") > 0;
    if (p->begins) read_beginning(o, status, p, names);
    const struct agent_container *seen = agents_container(c->agents, names->uid);
    if (seen == NULL) return;
    names->seen = *seen;
    p->active = seen->active && seen->attached;
    p->unknown = names->by_kubelet && strcmp(seen->began, "unknown") == 0;
    if (p->unknown) COPY(names->unable, "%s", seen->reason);
    p->told = names->by_kubelet && !p->unknown && seen->attached;
    p->began = seen->offset;
    p->gap = p->told && seen->gap;
    p->fenced = seen->fenced;
    p->executed = seen->executed;
    p->heard = p->shared && seen->shared;
    p->sound = !seen->silent && !seen->lost && !seen->suspect && !seen->leaving && seen->diverged == 0;
    p->counts = seen->replicas;
    p->diverged = p->heard ? seen->diverged : 0;
    p->agreed = seen->agreed;
}

struct walk {
    struct view *view;
    const struct caches *caches;
    yyjson_val *labels;     /* of the pods */
    yyjson_val *containers; /* of the template */
};

static bool is_over(yyjson_val *pod)
{
    const char *phase = object_text(pod, "status.phase");
    return strcmp(phase, "Succeeded") == 0 || strcmp(phase, "Failed") == 0;
}

static bool each_pod(void *user, yyjson_val *o)
{
    struct walk *w = user;
    struct view *v = w->view;
    char mine[VIEW_KEY_MAX];
    uint32_t stream = 0;
    const char *workload = object_annotation(o, "crsc.io/workload");
    COPY(mine, "%s/%s", v->kind, v->name);
    bool ours = v->world.kind == PROTECT_POD ? workload[0] == '\0' && strcmp(object_name(o), v->name) == 0 : strcmp(workload, mine) == 0;
    if (!ours || strcmp(object_space(o), v->space) != 0 || is_over(o)) return true;
    const char *name = object_annotation(o, "crsc.io/stream"); /* none: it has no interceptor, and no stream */
    if (v->world.n_pods == PROTECT_PODS_MAX || (name[0] != '\0' && !stream_index(v, name, &stream))) return true;
    read_pod(v, w->caches, o, stream);
    return true;
}

/* ---- Services ------------------------------------------------------------------------------------------------- */

bool view_port_matches(const struct view *v, yyjson_val *port, yyjson_val *containers)
{
    yyjson_val *target = yyjson_obj_get(port, "targetPort");
    const char *protocol = object_text(port, "protocol");
    if (protocol[0] != '\0' && strcmp(protocol, "TCP") != 0) return false;
    if (target == NULL) return object_number(port, "port") == v->app_port;
    if (yyjson_is_uint(target)) return yyjson_get_uint(target) == v->app_port;
    yyjson_val *named = object_named(object_get(object_named(containers, v->app_container), "ports"), yyjson_get_str(target));
    return named != NULL && object_number(named, "containerPort") == v->app_port;
}

/* Whether a Service's selector is that of these pods. The role in it is no label of a template: who has it changes. */
static bool selects(yyjson_val *service, yyjson_val *labels, bool but_role)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *rest = yyjson_val_mut_copy(doc, object_get(service, "spec.selector"));
    if (but_role) yyjson_mut_obj_remove_key(rest, INJECT_ROLE);
    yyjson_doc *copy = yyjson_mut_val_imut_copy(rest, NULL);
    bool is = object_selects(yyjson_doc_get_root(copy), labels);
    yyjson_doc_free(copy);
    yyjson_mut_doc_free(doc);
    return is;
}

static bool leads_to_us(yyjson_val *service)
{
    size_t i, max;
    yyjson_val *port, *ports = object_get(service, "spec.ports");
    yyjson_arr_foreach(ports, i, max, port)
    {
        if (strcmp(object_text(port, "targetPort"), INJECT_PORT_NAME) == 0) return true;
    }
    return false;
}

/* Whether a switched Service published addresses that are not ready before it was. */
static bool published_unready(const char *record)
{
    yyjson_doc *doc = yyjson_read(record, strlen(record), YYJSON_READ_NOFLAG);
    bool is = object_true(yyjson_doc_get_root(doc), "notReady");
    yyjson_doc_free(doc);
    return is;
}

/* A replica that is not ready holds nothing, it refuses: another one can answer. */
static bool publishes_unready(const struct view *v)
{
    bool shared = v->world.shared;
    for (uint32_t i = 0; i < v->world.n_pods; i++) shared = shared || (v->world.pods[i].shared && !v->world.pods[i].terminating);
    return !shared;
}

static bool each_service(void *user, yyjson_val *o)
{
    struct walk *w = user;
    struct view *v = w->view;
    char mine[VIEW_KEY_MAX], start[VIEW_KEY_MAX + 16];
    size_t i, max;
    yyjson_val *port, *ports = object_get(o, "spec.ports");
    if (strcmp(object_space(o), v->space) != 0 || object_deleting(o) || v->world.n_services == PROTECT_SERVICES_MAX) return true;
    COPY(mine, "%s/%s", v->kind, v->name);
    COPY(start, "{\"workload\":\"%s\"", mine);
    const char *record = object_annotation(o, VIEW_PORTS);
    bool ours = strncmp(record, start, strlen(start)) == 0, foreign = record[0] != '\0' && !ours;
    bool selected = selects(o, w->labels, ours), leads = false;
    yyjson_arr_foreach(ports, i, max, port) leads = leads || view_port_matches(v, port, w->containers);
    bool switched = ours && leads_to_us(o);
    if (foreign || (!ours && !(selected && leads))) return true;
    COPY(v->services[v->world.n_services], "%s", object_name(o));
    v->world.services[v->world.n_services].matches = selected && (leads || switched);
    v->world.services[v->world.n_services].switched = ours && (switched || !leads);
    v->world.services[v->world.n_services].chooses = ours && yyjson_obj_get(object_get(o, "spec.selector"), INJECT_ROLE) != NULL;
    bool unready = v->publishes_unready || published_unready(record);
    v->world.services[v->world.n_services].stale = ours && object_true(o, "spec.publishNotReadyAddresses") != unready;
    v->world.n_services++;
    return true;
}

/* ---- checkpoints ---------------------------------------------------------------------------------------------- */

static enum protect_phase phase_of(const char *text)
{
    return strcmp(text, "Running") == 0 ? PROTECT_RUNNING : strcmp(text, "Valid") == 0 ? PROTECT_VALID : strcmp(text, "Failed") == 0 ? PROTECT_FAILED : PROTECT_NEW;
}

static int pod_of(const struct view *v, yyjson_val *o)
{
    const char *uid = object_text(o, "spec.podUID"), *name = object_text(o, "spec.pod");
    int any = -1;
    if (name[0] == '\0') name = object_text(o, "status.pod"); /* that it was begun of */
    for (uint32_t i = 0; i < v->world.n_pods; i++) {
        const struct protect_pod *p = &v->world.pods[i];
        if (uid[0] != '\0' ? strcmp(v->pods[i].uid, uid) == 0 : name[0] != '\0' && strcmp(v->pods[i].name, name) == 0) return (int)i;
        if (uid[0] != '\0' || name[0] != '\0' || !p->injected || p->terminating) continue;
        if (any < 0 || (p->active && p->sound && !(v->world.pods[any].active && v->world.pods[any].sound))) any = (int)i; /* of replicas, one that is well */
    }
    return any;
}

static bool each_checkpoint(void *user, yyjson_val *o)
{
    struct walk *w = user;
    struct view *v = w->view;
    if (strcmp(object_space(o), v->space) != 0 || strcmp(object_text(o, "spec.workload"), v->record) != 0) return true;
    if (v->world.n_checkpoints == PROTECT_CHECKPOINTS_MAX) return true;
    struct protect_checkpoint c = {.pod = pod_of(v, o), .phase = phase_of(object_text(o, "status.phase")), .deleting = object_deleting(o),
                                   .finalizer = object_has_finalizer(o, VIEW_FINALIZER), .offset = object_number(o, "status.offset"),
                                   .manual = strcmp(object_label(o, VIEW_SCHEDULED), "true") != 0,
                                   .created_ms = object_time_ms(object_text(o, "metadata.creationTimestamp")),
                                   .deleting_ms = object_time_ms(object_text(o, "metadata.deletionTimestamp"))};
    struct view_checkpoint names = {.offset = c.offset, .finished_ms = object_time_ms(object_text(o, "status.finishedAt")),
                                    .unusable_ms = object_time_ms(object_text(o, "status.unusableAt"))};
    c.unusable_ms = names.unusable_ms;
    const char *stream = object_text(o, "status.stream");
    if (stream[0] == '\0') stream = c.pod >= 0 ? v->pods[c.pod].stream : "";
    COPY(names.name, "%s", object_name(o));
    COPY(names.stream, "%s", stream);
    COPY(names.image, "%s", object_text(o, "status.image"));
    COPY(names.digest, "%s", object_text(o, "status.digest"));
    COPY(names.hash, "%s", object_text(o, "status.templateHash"));
    COPY(names.message, "%.250s", object_text(o, "status.message"));
    const char *node = object_text(o, "status.node");
    COPY(names.node, "%s", node[0] != '\0' ? node : c.pod >= 0 ? v->pods[c.pod].node : "");
    if (!stream_index(v, stream, &c.stream)) return true;
    for (uint32_t i = 0; i < v->world.n_pods; i++) {
        if (!v->world.pods[i].injected || v->world.pods[i].stream != c.stream) continue;
        c.in_use = c.in_use || strcmp(v->pods[i].seen.snapshot, names.name) == 0 || strcmp(v->pods[i].begins, names.name) == 0; /* its next start, too */
        if (strcmp(v->pods[i].begins, names.name) == 0) v->world.pods[i].checkpoint = (int)v->world.n_checkpoints;
        c.fits = c.fits || strcmp(v->pods[i].hash, object_text(o, "status.templateHash")) == 0;
    }
    const struct agent_checkpoint *seen = agents_checkpoint(w->caches->agents, names.node, names.stream, names.name);
    if (seen != NULL) c.seen = strcmp(seen->phase, "valid") == 0 ? PROTECT_VALID : strcmp(seen->phase, "failed") == 0 ? PROTECT_FAILED : PROTECT_RUNNING;
    c.lost = view_node_lost(w->caches, names.node, v->world.now_ms);
    c.denied = seen == NULL && agents_lists(w->caches->agents, names.node);
    c.started_ms = object_time_ms(object_text(o, "status.startedAt"));
    v->checkpoints[v->world.n_checkpoints] = names;
    v->world.checkpoints[v->world.n_checkpoints++] = c;
    return true;
}

/* ---- the record ----------------------------------------------------------------------------------------------- */

struct find_record {
    const struct view *view;
    yyjson_val *found;
};

static bool refers_to(yyjson_val *record, const char *kind, const char *name)
{
    return strcasecmp(object_text(record, "spec.workloadRef.kind"), kind) == 0 && strcmp(object_text(record, "spec.workloadRef.name"), name) == 0;
}

static bool each_record(void *user, yyjson_val *o)
{
    struct find_record *f = user;
    if (strcmp(object_space(o), f->view->space) == 0 && refers_to(o, f->view->kind, f->view->name)) f->found = o;
    return f->found == NULL;
}

static void read_record(struct view *v, yyjson_val *o)
{
    struct protect_world *w = &v->world;
    size_t i, max, n = 0;
    yyjson_val *one, *replaced = object_get(o, "status.replacedAt");
    w->record = true;
    w->record_deleting = object_deleting(o);
    w->record_finalizer = object_has_finalizer(o, VIEW_FINALIZER);
    w->by_annotation = strcmp(object_label(o, "crsc.io/made-by"), "annotation") == 0;
    COPY(v->record, "%s", object_name(o));
    COPY(v->record_uid, "%s", object_text(o, "metadata.uid"));
    v->generation = object_number(o, "metadata.generation");
    yyjson_arr_foreach(replaced, i, max, one)
    {
        if (n < PROTECT_REPLACEMENTS && yyjson_is_str(one)) w->replaced_ms[n++] = object_time_ms(yyjson_get_str(one));
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static bool split(const char *key, struct view *v)
{
    static const char *const kinds[] = {[PROTECT_DEPLOYMENT] = "deployment", [PROTECT_STATEFULSET] = "statefulset", [PROTECT_POD] = "pod"};
    const char *a = strchr(key, '/'), *b = a != NULL ? strchr(a + 1, '/') : NULL;
    if (b == NULL || a - key >= (int)sizeof v->space || b - a > (int)sizeof v->kind || strlen(b + 1) >= sizeof v->name) return false;
    COPY(v->space, "%.*s", (int)(a - key), key);
    COPY(v->kind, "%.*s", (int)(b - a - 1), a + 1);
    COPY(v->name, "%s", b + 1);
    for (int i = 0; i <= PROTECT_POD; i++) {
        if (strcmp(kinds[i], v->kind) != 0) continue;
        v->world.kind = (enum protect_kind)i;
        /* a Deployment's has its name: people look for that; the others say what they are */
        COPY(v->record, i == PROTECT_DEPLOYMENT ? "%.230s" : "%.230s-%s", v->name, v->kind);
        return true;
    }
    return false;
}

static void read_policy(struct view *v, yyjson_val *target, yyjson_val *record)
{
    struct error e = {0};
    bool deployment = v->world.kind == PROTECT_DEPLOYMENT;
    yyjson_val *wanted = object_get(target, "spec.replicas");
    uint64_t replicas = yyjson_is_uint(wanted) ? yyjson_get_uint(wanted) : 1;
    int rv = inject_policy(object_get(target, "metadata.annotations"), &v->annotated, &v->invalid);
    if (rv == 0 && v->annotated.enabled) rv = policy_check_replicas(&v->annotated, deployment, replicas, &v->invalid);
    v->world.policy_valid = rv == 0;
    v->world.policy_current = true;
    if (record != NULL) {
        int spec = policy_of_spec(yyjson_obj_get(record, "spec"), &v->policy, &e);
        if (spec == 0 && !v->world.by_annotation && target != NULL) spec = policy_check_replicas(&v->policy, deployment, replicas, &e);
        if (spec != 0) v->invalid = e;
        v->world.policy_valid = spec == 0 && (rv == 0 || !v->world.by_annotation);
        if (v->world.by_annotation && v->annotated.enabled && rv == 0) v->world.policy_current = is_same(&v->policy, &v->annotated);
    } else {
        v->policy = v->annotated;
        if (rv != 0) policy_defaults(&v->policy);
    }
    v->world.shared = policy_replicated(&v->policy);
    v->world.standby = v->world.shared ? v->policy.standby : 0;
    v->world.replicas = replicas < PROTECT_PODS_MAX ? (uint32_t)replicas : PROTECT_PODS_MAX;
    uint64_t settle_ms = 1000 * object_number(target, "spec.minReadySeconds");
    v->world.settle_ms = settle_ms > PROTECT_SETTLE_MS ? settle_ms : PROTECT_SETTLE_MS;
    v->world.interval_ms = v->policy.interval_ms;
    v->world.objective_ms = v->policy.objective_ms;
    v->world.retain = v->policy.retain;
    v->world.switch_services = strcmp(v->policy.traffic, "service") == 0;
    v->world.redirects = strcmp(v->policy.traffic, "redirect") == 0;
}

bool view_make(const struct caches *c, const char *key, uint64_t now_ms, struct view *v)
{
    memset(v, 0, sizeof *v);
    if (!split(key, v)) return false;
    struct protect_world *w = &v->world;
    w->now_ms = now_ms;
    w->leads_ms = c->leads_ms;
    struct kube_watch *kind = w->kind == PROTECT_DEPLOYMENT ? c->deployments : w->kind == PROTECT_STATEFULSET ? c->statefulsets : c->pods;
    yyjson_val *target = kube_watch_get(kind, v->space, v->name);
    struct find_record record = {.view = v};
    kube_watch_each(c->records, each_record, &record);
    if (record.found != NULL) read_record(v, record.found);
    w->exists = target != NULL && !object_deleting(target);
    COPY(v->uid, "%s", object_text(target, "metadata.uid"));
    w->annotated = strcmp(object_annotation(target, "crsc.io/checkpoint-restore"), "true") == 0;
    read_policy(v, target, record.found);
    yyjson_val *spec = object_get(target, w->kind == PROTECT_POD ? "spec" : "spec.template.spec");
    yyjson_val *head = object_get(target, w->kind == PROTECT_POD ? "metadata" : "spec.template.metadata");
    yyjson_val *container = w->exists ? inject_container(spec, &v->policy, &v->app_port, w->policy_valid ? &v->invalid : NULL) : NULL;
    if (w->exists && container == NULL) w->policy_valid = false;
    COPY(v->app_container, "%s", object_text(container, "name"));
    if (w->kind == PROTECT_POD)
        w->template_ours = w->template_current = yyjson_obj_get(object_get(head, "annotations"), "crsc.io/stream") != NULL;
    else
        read_template(v, object_get(head, "annotations"), spec);
    struct walk walk = {.view = v, .caches = c, .labels = object_get(head, "labels"), .containers = object_get(spec, "containers")};
    kube_watch_each(c->pods, each_pod, &walk);
    v->publishes_unready = publishes_unready(v);
    kube_watch_each(c->services, each_service, &walk);
    kube_watch_each(c->checkpoints, each_checkpoint, &walk);
    return true;
}

bool view_key_of(const struct caches *c, const struct kube_watch *kind, yyjson_val *o, char ret_key[VIEW_KEY_MAX])
{
    const char *space = object_space(o), *name = object_name(o), *workload = object_annotation(o, "crsc.io/workload");
    char lower[16];
    size_t n = 0;
    if (kind == c->deployments || kind == c->statefulsets)
        return snprintf(ret_key, VIEW_KEY_MAX, "%s/%s/%s", space, kind == c->deployments ? "deployment" : "statefulset", name) > 0;
    if (kind == c->pods)
        return workload[0] != '\0' ? snprintf(ret_key, VIEW_KEY_MAX, "%s/%s", space, workload) > 0 : snprintf(ret_key, VIEW_KEY_MAX, "%s/pod/%s", space, name) > 0;
    if (kind != c->records) return false;
    for (const char *k = object_text(o, "spec.workloadRef.kind"); *k != '\0' && n + 1 < sizeof lower; k++)
        lower[n++] = *k >= 'A' && *k <= 'Z' ? (char)(*k - 'A' + 'a') : *k;
    lower[n] = '\0';
    return snprintf(ret_key, VIEW_KEY_MAX, "%s/%s/%s", space, lower, object_text(o, "spec.workloadRef.name")) > 0;
}

/* ---- whose agents are heard ------------------------------------------------------------------------------------- */

struct hearing {
    const struct caches *caches;
    const char *only; /* node; NULL: all */
    void (*each)(void *user, const char *node, const char *key);
    void *user;
};

static bool is_meant(const struct hearing *h, const char *node)
{
    return node[0] != '\0' && (h->only == NULL || strcmp(node, h->only) == 0);
}

static bool each_pod_heard(void *user, yyjson_val *o)
{
    const struct hearing *h = user;
    char key[VIEW_KEY_MAX];
    const char *node = object_text(o, "spec.nodeName");
    if (is_meant(h, node) && !is_over(o) && view_key_of(h->caches, h->caches->pods, o, key)) h->each(h->user, node, key);
    return true;
}

/* Its pod may be gone, or on another node by now. What has ended its agent says nothing new of. */
static bool each_checkpoint_heard(void *user, yyjson_val *o)
{
    const struct hearing *h = user;
    char key[VIEW_KEY_MAX];
    const char *node = object_text(o, "status.node");
    if (!is_meant(h, node) || phase_of(object_text(o, "status.phase")) != PROTECT_RUNNING) return true;
    yyjson_val *record = kube_watch_get(h->caches->records, object_space(o), object_text(o, "spec.workload"));
    if (record != NULL && view_key_of(h->caches, h->caches->records, record, key)) h->each(h->user, node, key);
    return true;
}

void view_each_heard(const struct caches *c, const char *only, void (*each)(void *user, const char *node, const char *key), void *user)
{
    struct hearing h = {.caches = c, .only = only, .each = each, .user = user};
    kube_watch_each(c->pods, each_pod_heard, &h);
    kube_watch_each(c->checkpoints, each_checkpoint_heard, &h);
}
