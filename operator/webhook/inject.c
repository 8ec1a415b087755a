#include "operator/webhook/inject.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_TIMEOUT_S = 5, PROBE_OUTLAST_S = 30 /* the longest that a checkpoint may hold the app */ };

static const char *text_of(yyjson_val *of, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(of, name));
    return text != NULL ? text : "";
}

int inject_policy(yyjson_val *annotations, struct policy *ret_policy, struct error *e)
{
    size_t i, max;
    yyjson_val *key, *value;
    policy_defaults(ret_policy);
    if (!yyjson_is_obj(annotations)) return 0;
    yyjson_obj_foreach(annotations, i, max, key, value)
    {
        int rv = yyjson_is_str(value) ? policy_set(ret_policy, yyjson_get_str(key), yyjson_get_str(value), e) : 0;
        if (rv != 0) return rv;
    }
    return policy_check(ret_policy, e);
}

/* ---- what is protected ---------------------------------------------------------------------------------------- */

static uint32_t only_port(yyjson_val *container)
{
    size_t i, max;
    uint32_t found = 0;
    yyjson_val *port, *ports = yyjson_obj_get(container, "ports");
    yyjson_arr_foreach(ports, i, max, port)
    {
        const char *protocol = text_of(port, "protocol");
        if (protocol[0] != '\0' && strcmp(protocol, "TCP") != 0) continue;
        if (found != 0) return 0;
        found = (uint32_t)yyjson_get_uint(yyjson_obj_get(port, "containerPort"));
    }
    return found;
}

yyjson_val *inject_container(yyjson_val *spec, const struct policy *p, uint32_t *ret_port, struct error *reason)
{
    size_t i, max;
    yyjson_val *one, *found = NULL, *all = yyjson_obj_get(spec, "containers");
    yyjson_arr_foreach(all, i, max, one)
    {
        if (p->container[0] == '\0' ? i == 0 : strcmp(text_of(one, "name"), p->container) == 0) found = one;
    }
    if (found == NULL) {
        error_set(reason, ERROR_INVALID, "crsc.io/container: the pod has no container \"%s\"", p->container);
        return NULL;
    }
    *ret_port = p->port != 0 ? p->port : only_port(found);
    if (*ret_port != 0) return found;
    error_set(reason, ERROR_INVALID, "container \"%.60s\" declares no TCP port, or several: say which with crsc.io/port", text_of(found, "name"));
    return NULL;
}

/* ---- the stream ----------------------------------------------------------------------------------------------- */

/* Whose state it is: a Deployment's is the Deployment's, whatever its pods are called; a StatefulSet's pods have one each; so does a pod
 * that belongs to nobody. `crsc.io/workload` is "kind/name", written into the template by the operator. */
static int make_stream(yyjson_val *pod, const char *space, const char *cluster, char ret_stream[INJECT_STREAM_MAX + 1], struct error *reason)
{
    yyjson_val *head = yyjson_obj_get(pod, "metadata");
    const char *workload = text_of(yyjson_obj_get(head, "annotations"), "crsc.io/workload"), *name = text_of(head, "name");
    int n;
    if (strncmp(workload, "deployment/", 11) == 0)
        n = snprintf(ret_stream, INJECT_STREAM_MAX + 1, "%s/%s/%s", cluster, space, workload);
    else if (name[0] == '\0')
        return error_set(reason, ERROR_INVALID, "a pod without a name of its own has no state to come back to: give it metadata.name, or use a Deployment");
    else
        n = snprintf(ret_stream, INJECT_STREAM_MAX + 1, "%s/%s/%s/%s", cluster, space, workload[0] != '\0' ? "statefulset" : "pod", name);
    return n <= INJECT_STREAM_MAX ? 0 : error_set(reason, ERROR_TOO_LARGE, "the stream's name is longer than %d bytes", INJECT_STREAM_MAX);
}

/* ---- the patch ------------------------------------------------------------------------------------------------ */

struct patch {
    yyjson_mut_doc *doc;
    yyjson_mut_val *ops;
};

static void op(struct patch *p, const char *what, const char *path, yyjson_mut_val *value)
{
    yyjson_mut_val *o = yyjson_mut_obj(p->doc);
    yyjson_mut_obj_add_strcpy(p->doc, o, "op", what);
    yyjson_mut_obj_add_strcpy(p->doc, o, "path", path);
    yyjson_mut_obj_add_val(p->doc, o, "value", value);
    yyjson_mut_arr_append(p->ops, o);
}

/* A key as a part of a JSON pointer (RFC 6901): / is ~1, ~ is ~0. */
static void op_entry(struct patch *p, const char *map, const char *key, const char *value)
{
    char path[256];
    int at = snprintf(path, sizeof path, "%s/", map);
    for (; *key != '\0' && at + 3 < (int)sizeof path; key++)
        at += snprintf(path + at, sizeof path - (size_t)at, *key == '/' ? "~1" : *key == '~' ? "~0" : "%c", *key);
    op(p, "add", path, yyjson_mut_strcpy(p->doc, value));
}

/* Whoever asked us may be scheduled, protected or not. */
static void open_gate(struct patch *p, yyjson_val *spec)
{
    char path[64];
    size_t i, max;
    yyjson_val *one, *all = yyjson_obj_get(spec, "schedulingGates");
    yyjson_arr_foreach(all, i, max, one)
    {
        if (strcmp(text_of(one, "name"), INJECT_GATE) != 0) continue;
        yyjson_mut_val *o = yyjson_mut_arr_add_obj(p->doc, p->ops);
        snprintf(path, sizeof path, "/spec/schedulingGates/%zu", i);
        yyjson_mut_obj_add_str(p->doc, o, "op", "remove");
        yyjson_mut_obj_add_strcpy(p->doc, o, "path", path);
        return; /* names are unique */
    }
}

static void open_map(struct patch *p, yyjson_val *head, const char *name, const char *path)
{
    if (!yyjson_is_obj(yyjson_obj_get(head, name))) op(p, "add", path, yyjson_mut_obj(p->doc));
}

static bool is_system(const char *space)
{
    return strcmp(space, "kube-system") == 0 || strcmp(space, "kube-public") == 0 || strcmp(space, "kube-node-lease") == 0;
}

struct facts {
    char stream[INJECT_STREAM_MAX + 1], hash[INJECT_HASH_MAX];
    yyjson_val *container;
    size_t index; /* of the container */
    uint32_t port;
    struct policy policy;
    bool begins; /* with ... */
    struct inject_checkpoint checkpoint;
};

static bool redirects(const struct facts *f)
{
    return strcmp(f->policy.traffic, "redirect") == 0;
}

static void annotate(struct patch *p, yyjson_val *pod, const struct facts *f, const struct inject_settings *s)
{
    yyjson_val *head = yyjson_obj_get(pod, "metadata");
    char text[64];
    open_map(p, head, "annotations", "/metadata/annotations");
    op_entry(p, "/metadata/annotations", "crsc.io/stream", f->stream);
    op_entry(p, "/metadata/annotations", "crsc.io/container", text_of(f->container, "name"));
    snprintf(text, sizeof text, "127.0.0.1:%u", f->port);
    op_entry(p, "/metadata/annotations", "crsc.io/upstream", text);
    snprintf(text, sizeof text, "127.0.0.1:%d", INJECT_ADMIN_PORT);
    op_entry(p, "/metadata/annotations", "crsc.io/admin", text);
    op_entry(p, "/metadata/annotations", "crsc.io/template-hash", f->hash);
    op_entry(p, "/metadata/annotations", "crsc.io/backend", f->policy.backend);
    if (redirects(f)) {
        snprintf(text, sizeof text, "%u=%d,%d=%u", f->port, INJECT_DATA_PORT, INJECT_DIRECT_PORT, f->port);
        op_entry(p, "/metadata/annotations", "crsc.io/redirect", text);
    }
    if (f->begins) op_entry(p, "/metadata/annotations", INJECT_CHECKPOINT, f->checkpoint.name);
    if (s->restore != NULL) op_entry(p, "/metadata/annotations", "crsc.io/restore", s->restore);
    if (strcmp(f->policy.registry, "-") == 0) op_entry(p, "/metadata/annotations", "crsc.io/image-registry", "");
    op_entry(p, "/metadata/annotations", "crsc.io/injected", CRSC_VERSION);
    open_map(p, head, "labels", "/metadata/labels");
    op_entry(p, "/metadata/labels", INJECT_LABEL, "true");
    if (s->role != NULL && policy_replicated(&f->policy)) op_entry(p, "/metadata/labels", INJECT_ROLE, s->role);
}

static yyjson_mut_val *parse(struct patch *p, const char *text)
{
    yyjson_doc *doc = yyjson_read(text, strlen(text), YYJSON_READ_NOFLAG);
    yyjson_mut_val *v = yyjson_val_mut_copy(p->doc, yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return v;
}

static void add_arg(struct patch *p, yyjson_mut_val *args, const char *name, const char *value)
{
    yyjson_mut_arr_add_strcpy(p->doc, args, name);
    yyjson_mut_arr_add_strcpy(p->doc, args, value);
}

static void add_mount(struct patch *p, yyjson_mut_val *mounts, const char *volume, const char *path)
{
    yyjson_mut_val *m = yyjson_mut_arr_add_obj(p->doc, mounts);
    yyjson_mut_obj_add_str(p->doc, m, "name", volume);
    yyjson_mut_obj_add_str(p->doc, m, "mountPath", path);
    yyjson_mut_obj_add_bool(p->doc, m, "readOnly", true);
}

/* A Deployment's pod has no name yet: the kubelet puts it there. Nobody is judged before the operator knows how many there are of its template, which may well
 * answer otherwise than another one. */
static void add_replica_args(struct patch *p, yyjson_mut_val *args, const struct policy *policy, const char *version)
{
    add_arg(p, args, "--replication", policy->replication);
    add_arg(p, args, "--producer", "$(" INJECT_POD_NAME ")");
    add_arg(p, args, "--replicas", "0");
    add_arg(p, args, "--app-version", version);
    if (strcmp(policy->reads, "linearizable") != 0) add_arg(p, args, "--reads", policy->reads);
}

/* What the policy says of the interceptor, where it is not the interceptor's default. */
static void add_policy_args(struct patch *p, yyjson_mut_val *args, const struct facts *f)
{
    const struct policy *policy = &f->policy;
    struct policy_source ca;
    char text[16];
    if (strcmp(policy->ordering, "serial") != 0) add_arg(p, args, "--ordering", policy->ordering);
    if (strcmp(policy->logging, "pessimistic") != 0) add_arg(p, args, "--logging", policy->logging);
    if (policy->log_safe_methods) add_arg(p, args, "--log-safe-methods", "true");
    snprintf(text, sizeof text, "%u", policy->app_pipeline);
    if (policy->app_pipeline > 1) add_arg(p, args, "--app-pipeline", text);
    if (strcmp(policy->upgrade, "refuse") != 0) add_arg(p, args, "--upgrade", policy->upgrade);
    if (policy_replicated(policy)) add_replica_args(p, args, policy, f->hash);
    if (policy->tls_secret[0] == '\0') return;
    add_arg(p, args, "--tls-cert", INJECT_DATA_PATH "/tls.crt");
    add_arg(p, args, "--tls-key", INJECT_DATA_PATH "/tls.key");
    if (policy_client_ca(policy, &ca)) add_arg(p, args, "--tls-client-ca", INJECT_DATA_PATH "/client-ca.crt");
}

static yyjson_mut_val *sidecar(struct patch *p, const struct facts *f, const struct inject_settings *s)
{
    char text[64];
    yyjson_mut_val *c = yyjson_mut_obj(p->doc), *args = yyjson_mut_arr(p->doc), *mounts = yyjson_mut_arr(p->doc);
    yyjson_mut_obj_add_str(p->doc, c, "name", INJECT_SIDECAR);
    yyjson_mut_obj_add_strcpy(p->doc, c, "image", s->image);
    yyjson_mut_obj_add_strcpy(p->doc, c, "imagePullPolicy", s->pull_policy);
    yyjson_mut_obj_add_str(p->doc, c, "restartPolicy", "Always");
    snprintf(text, sizeof text, "0.0.0.0:%d", INJECT_DATA_PORT);
    add_arg(p, args, "--listen", text);
    snprintf(text, sizeof text, "127.0.0.1:%d", INJECT_ADMIN_PORT);
    add_arg(p, args, "--admin-listen", text);
    snprintf(text, sizeof text, "0.0.0.0:%d", INJECT_PROBE_PORT);
    add_arg(p, args, "--probe-listen", text);
    add_arg(p, args, "--servers", s->servers);
    add_arg(p, args, "--stream", f->stream);
    if (s->log_secret[0] != '\0') {
        add_arg(p, args, "--log-tls-ca", INJECT_TLS_PATH "/ca.crt");
        add_arg(p, args, "--log-tls-cert", INJECT_TLS_PATH "/tls.crt");
        add_arg(p, args, "--log-tls-key", INJECT_TLS_PATH "/tls.key");
        add_mount(p, mounts, INJECT_VOLUME, INJECT_TLS_PATH);
    }
    if (f->policy.tls_secret[0] != '\0') add_mount(p, mounts, INJECT_DATA_VOLUME, INJECT_DATA_PATH);
    if (yyjson_mut_arr_size(mounts) > 0) yyjson_mut_obj_add_val(p->doc, c, "volumeMounts", mounts);
    add_policy_args(p, args, f);
    yyjson_mut_obj_add_val(p->doc, c, "args", args);
    if (policy_replicated(&f->policy))
        yyjson_mut_obj_add_val(p->doc, c, "env", parse(p, "[{\"name\":\"" INJECT_POD_NAME "\",\"valueFrom\":{\"fieldRef\":{\"fieldPath\":\"metadata.name\"}}}]"));
    yyjson_mut_obj_add_val(p->doc, c, "ports", parse(p, "[{\"name\":\"" INJECT_PORT_NAME "\",\"containerPort\":15020,\"protocol\":\"TCP\"}]"));
    yyjson_mut_obj_add_val(p->doc, c, "startupProbe", parse(p, "{\"tcpSocket\":{\"port\":15020},\"periodSeconds\":1,\"failureThreshold\":120}"));
    /* the pod is ready when the app has caught up: a rollout, and who waits for the pod, wait for that */
    yyjson_mut_obj_add_val(p->doc, c, "readinessProbe",
                           parse(p, "{\"httpGet\":{\"path\":\"/readyz\",\"port\":15022},\"periodSeconds\":1,\"timeoutSeconds\":1,\"failureThreshold\":2}"));
    yyjson_mut_obj_add_val(p->doc, c, "securityContext",
                           parse(p, "{\"runAsNonRoot\":true,\"runAsUser\":65532,\"runAsGroup\":65532,\"allowPrivilegeEscalation\":false,"
                                    "\"readOnlyRootFilesystem\":true,\"capabilities\":{\"drop\":[\"ALL\"]},\"seccompProfile\":{\"type\":\"RuntimeDefault\"}}"));
    yyjson_mut_obj_add_val(p->doc, c, "resources",
                           parse(p, "{\"requests\":{\"cpu\":\"20m\",\"memory\":\"32Mi\"},\"limits\":{\"memory\":\"256Mi\"}}"));
    return c;
}

static void add_sidecar(struct patch *p, yyjson_val *spec, const struct facts *f, const struct inject_settings *s)
{
    yyjson_mut_val *c = sidecar(p, f, s);
    if (yyjson_is_arr(yyjson_obj_get(spec, "initContainers"))) {
        op(p, "add", "/spec/initContainers/0", c); /* before the app's own: they may call the app's Service */
        return;
    }
    yyjson_mut_val *list = yyjson_mut_arr(p->doc);
    yyjson_mut_arr_append(list, c);
    op(p, "add", "/spec/initContainers", list);
}

/* One of the sources of a projected volume: an object that gives files. Returns their list. */
static yyjson_mut_val *add_source(struct patch *p, yyjson_mut_val *sources, const char *kind, const char *name)
{
    yyjson_mut_val *object = yyjson_mut_obj(p->doc), *source = yyjson_mut_arr_add_obj(p->doc, sources);
    yyjson_mut_obj_add_val(p->doc, source, kind, object);
    yyjson_mut_obj_add_strcpy(p->doc, object, "name", name);
    return yyjson_mut_obj_add_arr(p->doc, object, "items");
}

static void add_file(struct patch *p, yyjson_mut_val *items, const char *key, const char *file)
{
    yyjson_mut_val *item = yyjson_mut_arr_add_obj(p->doc, items);
    yyjson_mut_obj_add_strcpy(p->doc, item, "key", key);
    yyjson_mut_obj_add_str(p->doc, item, "path", file);
}

/* Certificate, key and client CAs of the data port: one volume, so that files which were changed together arrive together. An object or key that
 * is not there keeps the pod from starting, and the kubelet's event names it. */
static void add_data_volume(struct patch *p, yyjson_mut_val *list, const struct policy *policy)
{
    struct policy_source ca;
    yyjson_mut_val *v = yyjson_mut_arr_add_obj(p->doc, list);
    yyjson_mut_obj_add_str(p->doc, v, "name", INJECT_DATA_VOLUME);
    yyjson_mut_val *sources = yyjson_mut_obj_add_arr(p->doc, yyjson_mut_obj_add_obj(p->doc, v, "projected"), "sources");
    yyjson_mut_val *items = add_source(p, sources, "secret", policy->tls_secret);
    add_file(p, items, "tls.crt", "tls.crt");
    add_file(p, items, "tls.key", "tls.key");
    if (policy_client_ca(policy, &ca)) add_file(p, add_source(p, sources, ca.secret ? "secret" : "configMap", ca.name), ca.key, "client-ca.crt");
}

static void add_log_volume(struct patch *p, yyjson_mut_val *list, const char *secret)
{
    yyjson_mut_val *v = yyjson_mut_arr_add_obj(p->doc, list);
    yyjson_mut_obj_add_str(p->doc, v, "name", INJECT_VOLUME);
    yyjson_mut_obj_add_strcpy(p->doc, yyjson_mut_obj_add_obj(p->doc, v, "secret"), "secretName", secret);
}

static void add_volumes(struct patch *p, yyjson_val *spec, const struct policy *policy, const char *log_secret)
{
    yyjson_mut_val *list = yyjson_mut_arr(p->doc), *one;
    if (log_secret[0] != '\0') add_log_volume(p, list, log_secret);
    if (policy->tls_secret[0] != '\0') add_data_volume(p, list, policy);
    if (!yyjson_is_arr(yyjson_obj_get(spec, "volumes"))) {
        if (yyjson_mut_arr_size(list) > 0) op(p, "add", "/spec/volumes", list);
        return;
    }
    while ((one = yyjson_mut_arr_remove_first(list)) != NULL) op(p, "add", "/spec/volumes/-", one);
}

static uint64_t number(yyjson_val *of, const char *name, uint64_t initial)
{
    yyjson_val *v = yyjson_obj_get(of, name);
    return yyjson_is_uint(v) && yyjson_get_uint(v) > 0 ? yyjson_get_uint(v) : initial;
}

/* A frozen app answers no probe: a probe may not be over before the freeze is, and a restart for it would throw the state away. */
static void relax_probe(struct patch *p, const struct facts *f, const char *name, bool kills)
{
    yyjson_val *probe = yyjson_obj_get(f->container, name);
    char path[96];
    if (!yyjson_is_obj(probe)) return;
    uint64_t period = number(probe, "periodSeconds", 10), failures = number(probe, "failureThreshold", 3);
    if (number(probe, "timeoutSeconds", 1) < PROBE_TIMEOUT_S) {
        snprintf(path, sizeof path, "/spec/containers/%zu/%s/timeoutSeconds", f->index, name);
        op(p, "add", path, yyjson_mut_uint(p->doc, PROBE_TIMEOUT_S));
    }
    if (kills && period * failures < PROBE_OUTLAST_S) {
        snprintf(path, sizeof path, "/spec/containers/%zu/%s/failureThreshold", f->index, name);
        op(p, "add", path, yyjson_mut_uint(p->doc, (PROBE_OUTLAST_S + period - 1) / period));
    }
}

static bool is_app_port(const struct facts *f, yyjson_val *container, yyjson_val *port)
{
    yyjson_val *named = NULL, *one, *ports = yyjson_obj_get(container, "ports");
    size_t i, max;
    if (yyjson_is_uint(port)) return yyjson_get_uint(port) == f->port;
    yyjson_arr_foreach(ports, i, max, one)
    {
        if (yyjson_is_str(port) && strcmp(text_of(one, "name"), yyjson_get_str(port)) == 0) named = one;
    }
    return named != NULL && yyjson_get_uint(yyjson_obj_get(named, "containerPort")) == f->port;
}

/* What the kubelet asks the app over the network, by `handler` at `path`: past the interceptor. */
static void ask_directly(struct patch *p, const struct facts *f, yyjson_val *container, yyjson_val *handler, const char *path)
{
    static const char *const ways[] = {"httpGet", "tcpSocket", "grpc"};
    char at[128];
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (!is_app_port(f, container, yyjson_obj_get(yyjson_obj_get(handler, ways[i]), "port"))) continue;
        snprintf(at, sizeof at, "%s/%s/port", path, ways[i]);
        op(p, "add", at, yyjson_mut_uint(p->doc, INJECT_DIRECT_PORT));
    }
}

/* Of all containers in spec[`list`], of which we have put `added` before the pod's own: another one's probe of the app would wait for a replay too, and the data port
 * may want TLS and a certificate. */
static void ask_all_directly(struct patch *p, const struct facts *f, yyjson_val *spec, const char *list, size_t added)
{
    static const char *const probes[] = {"livenessProbe", "readinessProbe", "startupProbe"}, *const hooks[] = {"postStart", "preStop"};
    char path[96];
    size_t at, max;
    yyjson_val *one, *containers = yyjson_obj_get(spec, list);
    yyjson_arr_foreach(containers, at, max, one)
    {
        for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) {
            snprintf(path, sizeof path, "/spec/%s/%zu/%s", list, at + added, probes[i]);
            ask_directly(p, f, one, yyjson_obj_get(one, probes[i]), path);
        }
        for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
            snprintf(path, sizeof path, "/spec/%s/%zu/lifecycle/%s", list, at + added, hooks[i]);
            ask_directly(p, f, one, yyjson_obj_get(yyjson_obj_get(one, "lifecycle"), hooks[i]), path);
        }
    }
}

/* The container runtime restores what that image is a checkpoint of; there is no program in it that could run otherwise. It is named by its digest: a node that has it
 * need not ask the registry again, at each restart, and one that has not must, whatever the app's own image wants. */
static void set_image(struct patch *p, const struct facts *f)
{
    char path[64];
    snprintf(path, sizeof path, "/spec/containers/%zu/image", f->index);
    op(p, "add", path, yyjson_mut_strcpy(p->doc, f->checkpoint.image));
    snprintf(path, sizeof path, "/spec/containers/%zu/imagePullPolicy", f->index);
    op(p, "add", path, yyjson_mut_str(p->doc, "IfNotPresent"));
}

static void pin(struct patch *p, yyjson_val *spec, const char *node)
{
    if (!yyjson_is_obj(yyjson_obj_get(spec, "nodeSelector"))) op(p, "add", "/spec/nodeSelector", yyjson_mut_obj(p->doc));
    op_entry(p, "/spec/nodeSelector", "kubernetes.io/hostname", node);
}

/* A refused pod says so: nobody need make it again in the hope that it will be injected. Those that we may not touch say nothing. */
static char *write_refusal(yyjson_val *spec, const char *space, const struct error *reason)
{
    struct patch p = {.doc = yyjson_mut_doc_new(NULL)};
    if (p.doc == NULL || is_system(space)) {
        yyjson_mut_doc_free(p.doc);
        return NULL;
    }
    p.ops = yyjson_mut_arr(p.doc);
    yyjson_mut_doc_set_root(p.doc, p.ops);
    op_entry(&p, "/metadata/annotations", INJECT_REFUSAL, reason->text);
    open_gate(&p, spec);
    char *text = yyjson_mut_write(p.doc, YYJSON_WRITE_NOFLAG, NULL);
    yyjson_mut_doc_free(p.doc);
    return text;
}

static char *write_patch(yyjson_val *pod, const struct facts *f, const struct inject_settings *s)
{
    struct patch p = {.doc = yyjson_mut_doc_new(NULL)};
    yyjson_val *spec = yyjson_obj_get(pod, "spec");
    if (p.doc == NULL) return NULL;
    p.ops = yyjson_mut_arr(p.doc);
    yyjson_mut_doc_set_root(p.doc, p.ops);
    annotate(&p, pod, f, s);
    add_sidecar(&p, spec, f, s);
    add_volumes(&p, spec, &f->policy, s->log_secret);
    if (!policy_by_kubelet(&f->policy)) op(&p, "add", "/spec/runtimeClassName", yyjson_mut_strcpy(p.doc, s->runtime_class));
    if (f->begins) set_image(&p, f);
    relax_probe(&p, f, "livenessProbe", true);
    relax_probe(&p, f, "readinessProbe", false);
    relax_probe(&p, f, "startupProbe", false);
    if (redirects(f)) {
        ask_all_directly(&p, f, spec, "containers", 0);
        ask_all_directly(&p, f, spec, "initContainers", 1); /* native sidecars have probes, too */
    }
    open_gate(&p, spec);
    if (s->node != NULL) pin(&p, spec, s->node);
    char *text = yyjson_mut_write(p.doc, YYJSON_WRITE_NOFLAG, NULL);
    yyjson_mut_doc_free(p.doc);
    return text;
}

/* ---- whether -------------------------------------------------------------------------------------------------- */

static bool has_sidecar(yyjson_val *spec)
{
    size_t i, max;
    yyjson_val *one, *all = yyjson_obj_get(spec, "initContainers");
    yyjson_arr_foreach(all, i, max, one)
    {
        if (strcmp(text_of(one, "name"), INJECT_SIDECAR) == 0) return true;
    }
    return false;
}

static int check_pod(yyjson_val *spec, const char *space, const struct policy *policy, const struct inject_settings *s, struct error *reason)
{
    const char *class = text_of(spec, "runtimeClassName");
    static const char *const shared[] = {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"};
    if (is_system(space))
        return error_set(reason, ERROR_INVALID, "pods of %s are never changed", space);
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (yyjson_is_true(yyjson_obj_get(spec, shared[i])))
            return error_set(reason, ERROR_INVALID, "a pod with %s cannot be checkpointed and restored by itself", shared[i]);
    if (class[0] != '\0' && policy_by_kubelet(policy))
        return error_set(reason, ERROR_INVALID, "the pod asks for runtimeClassName \"%.60s\": crsc.io/backend: kubelet is for the nodes' own handler", class);
    if (class[0] != '\0' && strcmp(class, s->runtime_class) != 0)
        return error_set(reason, ERROR_INVALID, "the pod asks for runtimeClassName \"%.60s\": only %s restores checkpoints", class, s->runtime_class);
    return 0;
}

static bool is_ours(const struct facts *f, uint64_t port)
{
    return port == INJECT_DATA_PORT || port == INJECT_ADMIN_PORT || port == INJECT_PROBE_PORT || (redirects(f) && port == INJECT_DIRECT_PORT);
}

/* Another sidecar (a mesh's, for example) may have taken one of our ports: one of the two would not come up. */
static int check_ports(yyjson_val *spec, const struct facts *f, const char *list, struct error *reason)
{
    size_t i, k, max, max_ports;
    yyjson_val *one, *port, *containers = yyjson_obj_get(spec, list);
    yyjson_arr_foreach(containers, i, max, one)
    {
        yyjson_val *ports = yyjson_obj_get(one, "ports");
        yyjson_arr_foreach(ports, k, max_ports, port)
        {
            uint64_t number = yyjson_get_uint(yyjson_obj_get(port, "containerPort"));
            if (is_ours(f, number))
                return error_set(reason, ERROR_INVALID, "container \"%.60s\" listens on port %u, which the interceptor needs", text_of(one, "name"), (unsigned)number);
        }
    }
    return 0;
}

/* The API server would refuse the whole pod if two of its volumes or containers had one name. */
static int check_names(yyjson_val *spec, struct error *reason)
{
    size_t i, max;
    yyjson_val *one, *volumes = yyjson_obj_get(spec, "volumes"), *containers = yyjson_obj_get(spec, "containers");
    yyjson_arr_foreach(volumes, i, max, one)
    {
        const char *name = text_of(one, "name");
        if (strcmp(name, INJECT_VOLUME) == 0 || strcmp(name, INJECT_DATA_VOLUME) == 0)
            return error_set(reason, ERROR_INVALID, "the pod has a volume \"%s\" of its own: the interceptor's is called so", name);
    }
    yyjson_arr_foreach(containers, i, max, one)
    {
        if (strcmp(text_of(one, "name"), INJECT_SIDECAR) == 0)
            return error_set(reason, ERROR_INVALID, "the pod has a container \"%s\" of its own: the interceptor is called so", INJECT_SIDECAR);
    }
    return 0;
}

static size_t index_of(yyjson_val *spec, yyjson_val *container)
{
    size_t i, max;
    yyjson_val *one, *all = yyjson_obj_get(spec, "containers");
    yyjson_arr_foreach(all, i, max, one)
    {
        if (one == container) return i;
    }
    return 0;
}

static int check(yyjson_val *pod, const char *space, const struct inject_settings *s, struct facts *f, struct error *reason)
{
    yyjson_val *spec = yyjson_obj_get(pod, "spec");
    int rv = inject_policy(yyjson_obj_get(yyjson_obj_get(pod, "metadata"), "annotations"), &f->policy, reason);
    if (rv == 0) rv = check_pod(spec, space, &f->policy, s, reason);
    if (rv == 0) rv = make_stream(pod, space, s->cluster, f->stream, reason);
    if (rv != 0) return rv;
    if ((f->container = inject_container(spec, &f->policy, &f->port, reason)) == NULL) return -ERROR_INVALID;
    const char *workload = text_of(yyjson_obj_get(yyjson_obj_get(pod, "metadata"), "annotations"), "crsc.io/workload");
    bool owned = workload[0] != '\0';
    if ((rv = policy_check_replicas(&f->policy, strncmp(workload, "deployment/", 11) == 0, 1, reason)) != 0) return rv;
    if (redirects(f) && !owned)
        return error_set(reason, ERROR_INVALID, "crsc.io/traffic: redirect could not be undone in a pod that belongs to nobody: use service or none, or a Deployment");
    if (policy_by_kubelet(&f->policy) && !owned)
        return error_set(reason, ERROR_INVALID, "crsc.io/backend: kubelet restores pods that are made anew, and one that belongs to nobody is not: use runtime, or a Deployment");
    if (policy_by_kubelet(&f->policy) && text_of(yyjson_obj_get(yyjson_obj_get(pod, "metadata"), "annotations"), INJECT_CHECKPOINT)[0] != '\0')
        return error_set(reason, ERROR_INVALID, INJECT_CHECKPOINT " is written by the webhook, and the pod's template has one");
    if ((rv = check_names(spec, reason)) != 0 || (rv = check_ports(spec, f, "containers", reason)) != 0 || (rv = check_ports(spec, f, "initContainers", reason)) != 0)
        return rv;
    if (is_ours(f, f->port))
        return error_set(reason, ERROR_INVALID, "the app listens on port %u, which the interceptor needs", f->port);
    f->index = index_of(spec, f->container);
    return 0;
}

static void choose_checkpoint(yyjson_val *annotations, const char *space, struct facts *f, const struct inject_settings *s)
{
    const char *wanted = s->restore != NULL ? s->restore : text_of(annotations, "crsc.io/restore");
    if (!policy_by_kubelet(&f->policy) || s->newest == NULL) return;
    f->begins = s->newest(s->newest_user, space, f->stream, f->hash, wanted[0] != '\0' ? wanted : "auto", &f->checkpoint);
}

enum inject_outcome inject_pod(yyjson_val *pod, const char *space, const struct inject_settings *s, char **ret_patch, struct error *reason)
{
    struct facts f = {0};
    yyjson_val *spec = yyjson_obj_get(pod, "spec"), *annotations = yyjson_obj_get(yyjson_obj_get(pod, "metadata"), "annotations");
    if (strcmp(text_of(annotations, "crsc.io/checkpoint-restore"), "true") != 0 || has_sidecar(spec)) return INJECT_SKIPPED;
    if (check(pod, space, s, &f, reason) != 0) {
        *ret_patch = write_refusal(spec, space, reason);
        return INJECT_REFUSED;
    }
    int rv = inject_template_hash(spec, f.policy.backend, f.hash);
    if (rv == 0) choose_checkpoint(annotations, space, &f, s);
    char *patch = rv == 0 ? write_patch(pod, &f, s) : NULL;
    if (patch == NULL) {
        error_set(reason, ERROR_NOMEM, "no memory");
        return INJECT_REFUSED;
    }
    *ret_patch = patch;
    return INJECT_PATCHED;
}
