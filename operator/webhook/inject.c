#include "operator/webhook/inject.h"

#include <openssl/evp.h>
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
    return 0;
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

/* ---- the hash ------------------------------------------------------------------------------------------------- */

static bool is_account_volume(const char *name)
{
    return strncmp(name, "kube-api-access-", 16) == 0;
}

static void add_text(EVP_MD_CTX *md, const char *text)
{
    EVP_DigestUpdate(md, text, strlen(text) + 1);
}

static bool add_value(EVP_MD_CTX *md, const char *name, yyjson_val *v)
{
    if (v == NULL) return true;
    size_t len;
    char *text = yyjson_val_write(v, YYJSON_WRITE_NOFLAG, &len);
    if (text == NULL) return false;
    add_text(md, name);
    EVP_DigestUpdate(md, text, len + 1);
    free(text);
    return true;
}

/* Mounts and volumes without the service account's, whose name is made up anew for each pod. */
static bool add_named(EVP_MD_CTX *md, const char *name, yyjson_val *list)
{
    size_t i, max;
    yyjson_val *one;
    yyjson_arr_foreach(list, i, max, one)
    {
        if (!is_account_volume(text_of(one, "name")) && strcmp(text_of(one, "name"), INJECT_VOLUME) != 0 && !add_value(md, name, one)) return false;
    }
    return true;
}

static bool add_containers(EVP_MD_CTX *md, const char *kind, yyjson_val *list)
{
    static const char *const fields[] = {"name", "image", "command", "args", "workingDir", "env", "envFrom", "ports", "securityContext", "stdin", "tty"};
    size_t i, max;
    yyjson_val *one;
    yyjson_arr_foreach(list, i, max, one)
    {
        if (strcmp(text_of(one, "name"), INJECT_SIDECAR) == 0) continue;
        add_text(md, kind);
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++)
            if (!add_value(md, fields[k], yyjson_obj_get(one, fields[k]))) return false;
        if (!add_named(md, "mount", yyjson_obj_get(one, "volumeMounts"))) return false;
    }
    return true;
}

int inject_template_hash(yyjson_val *spec, char ret_hash[INJECT_HASH_MAX])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 && add_containers(md, "init", yyjson_obj_get(spec, "initContainers")) &&
              add_containers(md, "container", yyjson_obj_get(spec, "containers")) && add_named(md, "volume", yyjson_obj_get(spec, "volumes")) &&
              add_value(md, "securityContext", yyjson_obj_get(spec, "securityContext")) && EVP_DigestFinal_ex(md, sum, &n) == 1;
    EVP_MD_CTX_free(md);
    if (!ok) return -ERROR_NOMEM;
    int at = snprintf(ret_hash, INJECT_HASH_MAX, "sha256:");
    for (unsigned int i = 0; i < n; i++) at += snprintf(ret_hash + at, INJECT_HASH_MAX - (size_t)at, "%02x", sum[i]);
    return 0;
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
    op_entry(p, "/metadata/annotations", "crsc.io/backend", INJECT_BACKEND);
    if (redirects(f)) {
        snprintf(text, sizeof text, "%u=%d,%d=%u", f->port, INJECT_DATA_PORT, INJECT_DIRECT_PORT, f->port);
        op_entry(p, "/metadata/annotations", "crsc.io/redirect", text);
    }
    if (s->restore != NULL) op_entry(p, "/metadata/annotations", "crsc.io/restore", s->restore);
    if (strcmp(f->policy.registry, "-") == 0) op_entry(p, "/metadata/annotations", "crsc.io/image-registry", "");
    op_entry(p, "/metadata/annotations", "crsc.io/injected", CRSC_VERSION);
    open_map(p, head, "labels", "/metadata/labels");
    op_entry(p, "/metadata/labels", INJECT_LABEL, "true");
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

static yyjson_mut_val *sidecar(struct patch *p, const struct facts *f, const struct inject_settings *s)
{
    char text[64];
    yyjson_mut_val *c = yyjson_mut_obj(p->doc), *args = yyjson_mut_arr(p->doc);
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
        yyjson_mut_obj_add_val(p->doc, c, "volumeMounts", parse(p, "[{\"name\":\"" INJECT_VOLUME "\",\"mountPath\":\"" INJECT_TLS_PATH "\",\"readOnly\":true}]"));
    }
    if (strcmp(f->policy.ordering, "serial") != 0) add_arg(p, args, "--ordering", f->policy.ordering);
    if (strcmp(f->policy.logging, "pessimistic") != 0) add_arg(p, args, "--logging", f->policy.logging);
    if (f->policy.log_safe_methods) add_arg(p, args, "--log-safe-methods", "true");
    yyjson_mut_obj_add_val(p->doc, c, "args", args);
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

static void add_volume(struct patch *p, yyjson_val *spec, const char *secret)
{
    yyjson_mut_val *v = yyjson_mut_obj(p->doc), *source = yyjson_mut_obj(p->doc);
    yyjson_mut_obj_add_str(p->doc, v, "name", INJECT_VOLUME);
    yyjson_mut_obj_add_strcpy(p->doc, source, "secretName", secret);
    yyjson_mut_obj_add_val(p->doc, v, "secret", source);
    if (yyjson_is_arr(yyjson_obj_get(spec, "volumes"))) {
        op(p, "add", "/spec/volumes/-", v);
        return;
    }
    yyjson_mut_val *list = yyjson_mut_arr(p->doc);
    yyjson_mut_arr_append(list, v);
    op(p, "add", "/spec/volumes", list);
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

static bool is_app_port(const struct facts *f, yyjson_val *port)
{
    yyjson_val *named = NULL, *one, *ports = yyjson_obj_get(f->container, "ports");
    size_t i, max;
    if (yyjson_is_uint(port)) return yyjson_get_uint(port) == f->port;
    yyjson_arr_foreach(ports, i, max, one)
    {
        if (yyjson_is_str(port) && strcmp(text_of(one, "name"), yyjson_get_str(port)) == 0) named = one;
    }
    return named != NULL && yyjson_get_uint(yyjson_obj_get(named, "containerPort")) == f->port;
}

/* What the kubelet asks the app over the network, by `handler` at `path`: past the interceptor. */
static void ask_directly(struct patch *p, const struct facts *f, yyjson_val *handler, const char *path)
{
    static const char *const ways[] = {"httpGet", "tcpSocket", "grpc"};
    char at[128];
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (!is_app_port(f, yyjson_obj_get(yyjson_obj_get(handler, ways[i]), "port"))) continue;
        snprintf(at, sizeof at, "/spec/containers/%zu/%s/%s/port", f->index, path, ways[i]);
        op(p, "add", at, yyjson_mut_uint(p->doc, INJECT_DIRECT_PORT));
    }
}

static void ask_all_directly(struct patch *p, const struct facts *f)
{
    static const char *const probes[] = {"livenessProbe", "readinessProbe", "startupProbe"}, *const hooks[] = {"postStart", "preStop"};
    char path[64];
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) ask_directly(p, f, yyjson_obj_get(f->container, probes[i]), probes[i]);
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
        snprintf(path, sizeof path, "lifecycle/%s", hooks[i]);
        ask_directly(p, f, yyjson_obj_get(yyjson_obj_get(f->container, "lifecycle"), hooks[i]), path);
    }
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
    if (s->log_secret[0] != '\0') add_volume(&p, spec, s->log_secret);
    op(&p, "add", "/spec/runtimeClassName", yyjson_mut_strcpy(p.doc, s->runtime_class));
    relax_probe(&p, f, "livenessProbe", true);
    relax_probe(&p, f, "readinessProbe", false);
    relax_probe(&p, f, "startupProbe", false);
    if (redirects(f)) ask_all_directly(&p, f);
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

static int check_pod(yyjson_val *spec, const char *space, const struct inject_settings *s, struct error *reason)
{
    const char *class = text_of(spec, "runtimeClassName");
    static const char *const shared[] = {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"};
    if (is_system(space))
        return error_set(reason, ERROR_INVALID, "pods of %s are never changed", space);
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (yyjson_is_true(yyjson_obj_get(spec, shared[i])))
            return error_set(reason, ERROR_INVALID, "a pod with %s cannot be checkpointed and restored by itself", shared[i]);
    if (class[0] != '\0' && strcmp(class, s->runtime_class) != 0)
        return error_set(reason, ERROR_INVALID, "the pod asks for runtimeClassName \"%.60s\": only %s restores checkpoints", class, s->runtime_class);
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
    if (rv == 0) rv = check_pod(spec, space, s, reason);
    if (rv == 0) rv = make_stream(pod, space, s->cluster, f->stream, reason);
    if (rv != 0) return rv;
    if ((f->container = inject_container(spec, &f->policy, &f->port, reason)) == NULL) return -ERROR_INVALID;
    bool owned = strcmp(text_of(yyjson_obj_get(yyjson_obj_get(pod, "metadata"), "annotations"), "crsc.io/workload"), "") != 0;
    if (redirects(f) && !owned)
        return error_set(reason, ERROR_INVALID, "crsc.io/traffic: redirect could not be undone in a pod that belongs to nobody: use service or none, or a Deployment");
    if (f->port == INJECT_DATA_PORT || f->port == INJECT_ADMIN_PORT || f->port == INJECT_PROBE_PORT || (redirects(f) && f->port == INJECT_DIRECT_PORT))
        return error_set(reason, ERROR_INVALID, "the app listens on port %u, which the interceptor needs", f->port);
    f->index = index_of(spec, f->container);
    return 0;
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
    char *patch = inject_template_hash(spec, f.hash) == 0 ? write_patch(pod, &f, s) : NULL;
    if (patch == NULL) {
        error_set(reason, ERROR_NOMEM, "no memory");
        return INJECT_REFUSED;
    }
    *ret_patch = patch;
    return INJECT_PATCHED;
}
