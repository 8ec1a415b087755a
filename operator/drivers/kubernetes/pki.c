#include "operator/drivers/kubernetes/pki.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/kube/object.h"

enum { LOOK_MS = 60000, RETRY_MS = 2000, TEXT_MAX = 64 << 10, SPACE_MAX = 64 };

enum issuing { FOR_NOBODY, FOR_AGENTS, FOR_LOGD, FOR_NAMESPACE };

/* A namespace whose interceptors have their Secret. */
struct served {
    UT_hash_handle hh;
    char space[SPACE_MAX];
};

struct pki {
    struct kube_client *client;
    const struct kube_watch *nodes, *records;
    char *space, *ca_secret, *agent_secret, *configuration, *webhook_names, *logd_secret, *logd_names, *log_secret, *cluster;
    enum issuing issuing;      /* whose certificate is looked at */
    char space_of[SPACE_MAX];  /* the namespace, for FOR_NAMESPACE */
    struct served *served;
    void (*on_ready)(void *user, const char *bundle, const struct certs_pair *serving, const struct certs_pair *client);
    void *user;
    uv_timer_t timer;
    struct kube_call *call;
    bool leads;
    struct certs_pair ca, serving, ours;
    char *bundle;
    void (*done)(void *user);
    void *done_user;
};

static void look(struct pki *p);

static int64_t now_s(void)
{
    return (int64_t)(loop_wall_us() / 1000000);
}

static void on_timer(uv_timer_t *timer)
{
    struct pki *p = timer->data;
    if (p->call == NULL) look(p);
}

static void again(struct pki *p, uint64_t ms)
{
    uv_timer_start(&p->timer, on_timer, ms, 0);
}

static void trouble(struct pki *p, const char *what, const char *why)
{
    log_warn(what, "reason=%s", why);
    again(p, RETRY_MS);
}

/* ---- base64, as Secrets have it ------------------------------------------------------------------------------- */

static char *encode(const char *text)
{
    size_t len = strlen(text);
    unsigned char *out = malloc((len + 2) / 3 * 4 + 1);
    if (out != NULL) EVP_EncodeBlock(out, (const unsigned char *)text, (int)len);
    return (char *)out;
}

static char *decode(yyjson_val *secret, const char *key)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object_get(secret, "data"), key));
    size_t len = text != NULL ? strlen(text) : 0;
    unsigned char *out = len > 0 && len < TEXT_MAX ? malloc(len + 4) : NULL;
    int n = out != NULL ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)len) : -1;
    if (n < 0) {
        free(out);
        return NULL;
    }
    out[n] = '\0';
    return (char *)out;
}

static char *secret_body(const char *space, const char *name, const char *const (*pairs)[2], size_t n, const char *version)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *head = yyjson_mut_obj(doc), *data = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "v1");
    yyjson_mut_obj_add_str(doc, root, "kind", "Secret");
    yyjson_mut_obj_add_str(doc, root, "type", "Opaque");
    yyjson_mut_obj_add_val(doc, root, "metadata", head);
    yyjson_mut_obj_add_strcpy(doc, head, "name", name);
    yyjson_mut_obj_add_strcpy(doc, head, "namespace", space);
    if (version != NULL) yyjson_mut_obj_add_strcpy(doc, head, "resourceVersion", version);
    yyjson_mut_obj_add_val(doc, root, "data", data);
    for (size_t i = 0; i < n; i++) {
        char *value = encode(pairs[i][1]);
        if (value != NULL) yyjson_mut_obj_add_strcpy(doc, data, pairs[i][0], value);
        free(value);
    }
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

static void call(struct pki *p, const char *method, const char *path, const char *type, const char *body, kube_cb *cb)
{
    struct error e;
    const struct kube_request q = {.method = method, .path = path, .body = body, .content_type = type};
    if (kube_call(p->client, &q, cb, p, &p->call, &e) == 0) return;
    p->call = NULL;
    trouble(p, "a certificate's object cannot be reached", e.text);
}

static void secret_path(const char *space, const char *name, char *to, size_t cap)
{
    snprintf(to, cap, "/api/v1/namespaces/%s/secrets%s%s", space, name[0] != '\0' ? "/" : "", name);
}

/* ---- the webhook's configuration ------------------------------------------------------------------------------ */

static void on_configured(void *user, struct kube_reply *r)
{
    struct pki *p = user;
    p->call = NULL;
    if (r->status != 0)
        trouble(p, "the webhook configuration cannot be given our CA", r->error.text);
    else
        again(p, LOOK_MS);
}

static void on_configuration(void *user, struct kube_reply *r)
{
    struct pki *p = user;
    size_t i, max;
    yyjson_val *one, *all = yyjson_obj_get(r->root, "webhooks");
    char path[300], at[64], *bundle = encode(p->bundle), *body = NULL;
    bool stale = false;
    p->call = NULL;
    if (r->status != 0 || bundle == NULL) {
        free(bundle);
        trouble(p, "the webhook configuration cannot be read: pods are not injected", r->error.text);
        return;
    }
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *ops = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, ops);
    yyjson_arr_foreach(all, i, max, one)
    {
        if (strcmp(object_text(one, "clientConfig.caBundle"), bundle) == 0) continue;
        stale = true;
        yyjson_mut_val *test = yyjson_mut_arr_add_obj(doc, ops), *op = yyjson_mut_arr_add_obj(doc, ops);
        snprintf(at, sizeof at, "/webhooks/%zu/name", i);
        yyjson_mut_obj_add_str(doc, test, "op", "test");
        yyjson_mut_obj_add_strcpy(doc, test, "path", at);
        yyjson_mut_obj_add_strcpy(doc, test, "value", object_text(one, "name"));
        snprintf(at, sizeof at, "/webhooks/%zu/clientConfig/caBundle", i);
        yyjson_mut_obj_add_str(doc, op, "op", "add");
        yyjson_mut_obj_add_strcpy(doc, op, "path", at);
        yyjson_mut_obj_add_strcpy(doc, op, "value", bundle);
    }
    if (stale) body = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, NULL);
    yyjson_mut_doc_free(doc);
    free(bundle);
    snprintf(path, sizeof path, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/%s", p->configuration);
    if (body != NULL)
        call(p, "PATCH", path, KUBE_JSON_PATCH, body, on_configured);
    else
        again(p, LOOK_MS);
    free(body);
}

static void configure(struct pki *p)
{
    char path[300];
    snprintf(path, sizeof path, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/%s", p->configuration);
    if (p->leads && p->configuration[0] != '\0')
        call(p, "GET", path, NULL, NULL, on_configuration);
    else
        again(p, LOOK_MS);
}

/* ---- the certificates of others: agents, servers of the log, interceptors of each namespace -------------------- */

struct names {
    const char *all[CERTS_NAMES_MAX];
    size_t n;
};

static void add_name(struct names *n, const char *name)
{
    if (name[0] != '\0' && n->n < CERTS_NAMES_MAX) n->all[n->n++] = name;
}

static bool each_node(void *user, yyjson_val *o)
{
    struct names *n = user;
    size_t i, max;
    yyjson_val *one, *all = object_get(o, "status.addresses");
    add_name(n, object_name(o));
    yyjson_arr_foreach(all, i, max, one)
    {
        if (strcmp(object_text(one, "type"), "InternalIP") == 0) add_name(n, object_text(one, "address"));
    }
    return true;
}

static bool split_names(const char *list, char *copy, size_t cap, struct names *names)
{
    char *save = NULL;
    if (snprintf(copy, cap, "%s", list) >= (int)cap) return false;
    for (char *one = strtok_r(copy, ",", &save); one != NULL; one = strtok_r(NULL, ",", &save)) add_name(names, one);
    return true;
}

static void issue_next(struct pki *p);

/* What the certificate under way has to say. `copy` keeps the texts. */
static bool describe(struct pki *p, struct names *names, struct certs_request *r, char *copy, size_t cap)
{
    if (p->issuing == FOR_AGENTS) {
        *r = (struct certs_request){.common_name = "crsc-agent", .server = true, .client = true};
        add_name(names, "crsc-agent");
        add_name(names, "crsc://role/operator");
        kube_watch_each(p->nodes, each_node, names);
        return kube_watch_synced(p->nodes);
    }
    if (p->issuing == FOR_LOGD) {
        *r = (struct certs_request){.common_name = "crsc-logd", .server = true, .client = true};
        add_name(names, "crsc://role/peer/*");
        return split_names(p->logd_names, copy, cap, names);
    }
    *r = (struct certs_request){.common_name = "crsc-interceptor", .client = true};
    bool fits = snprintf(copy, cap, "crsc://role/producer/%s/%s/*", p->cluster, p->space_of) < (int)cap;
    add_name(names, copy);
    return fits;
}

static const char *secret_of(const struct pki *p)
{
    return p->issuing == FOR_AGENTS ? p->agent_secret : p->issuing == FOR_LOGD ? p->logd_secret : p->log_secret;
}

static const char *where_of(const struct pki *p)
{
    return p->issuing == FOR_NAMESPACE ? p->space_of : p->space;
}

static void note_served(struct pki *p)
{
    struct served *s;
    if (p->issuing != FOR_NAMESPACE || pki_serves(p, p->space_of) || (s = calloc(1, sizeof *s)) == NULL) return;
    snprintf(s->space, sizeof s->space, "%s", p->space_of);
    HASH_ADD_STR(p->served, space, s);
}

static void on_secret_written(void *user, struct kube_reply *r)
{
    struct pki *p = user;
    p->call = NULL;
    if (r->status != 0) {
        trouble(p, "a certificate cannot be written", r->error.text);
        return;
    }
    log_info("a certificate is issued", "secret=%s/%s", where_of(p), secret_of(p));
    note_served(p);
    issue_next(p);
}

static void on_secret(void *user, struct kube_reply *r)
{
    struct pki *p = user;
    struct names names = {.n = 0};
    struct certs_request q;
    struct certs_pair leaf;
    struct error e;
    char path[400], copy[4096], *cert = decode(r->root, "tls.crt"), *bundle = decode(r->root, "ca.crt");
    p->call = NULL;
    bool known = describe(p, &names, &q, copy, sizeof copy);
    bool good = cert != NULL && bundle != NULL && strcmp(bundle, p->bundle) == 0 && certs_fresh(cert, names.all, names.n, now_s()) &&
                certs_signed_by(cert, p->ca.cert);
    free(cert);
    free(bundle);
    if (r->status != 0 && r->status != -ERROR_NOT_FOUND) {
        trouble(p, "a certificate cannot be read", r->error.text);
        return;
    }
    if (good) note_served(p);
    if (good || !known) {
        issue_next(p);
        return;
    }
    q.names = names.all;
    q.n_names = names.n;
    if (certs_issue(&p->ca, &q, now_s(), &leaf, &e) != 0) {
        trouble(p, "a certificate cannot be issued", e.text);
        return;
    }
    const char *const pairs[][2] = {{"tls.crt", leaf.cert}, {"tls.key", leaf.key}, {"ca.crt", p->bundle}};
    bool exists = r->status == 0;
    char *body = secret_body(where_of(p), secret_of(p), pairs, 3, exists ? object_text(r->root, "metadata.resourceVersion") : NULL);
    secret_path(where_of(p), exists ? secret_of(p) : "", path, sizeof path);
    if (body != NULL) call(p, exists ? "PUT" : "POST", path, NULL, body, on_secret_written);
    free(body);
    certs_free(&leaf);
}

/* The namespace behind `after` in the alphabet that has a record or waits for one: so that all are looked at in turn. */
struct find_space {
    const char *after;
    char found[SPACE_MAX];
};

static void consider(struct find_space *f, const char *space)
{
    if (strcmp(space, f->after) > 0 && (f->found[0] == '\0' || strcmp(space, f->found) < 0)) snprintf(f->found, sizeof f->found, "%s", space);
}

static bool each_record(void *user, yyjson_val *o)
{
    consider(user, object_space(o));
    return true;
}

/* Agents, then the log's servers, then each namespace, then the webhook. */
static void issue_next(struct pki *p)
{
    char path[400];
    if (p->issuing == FOR_NAMESPACE) {
        struct find_space f = {.after = p->space_of};
        kube_watch_each(p->records, each_record, &f);
        if (f.found[0] == '\0' || p->log_secret[0] == '\0') {
            p->issuing = FOR_NOBODY;
            configure(p);
            return;
        }
        snprintf(p->space_of, sizeof p->space_of, "%s", f.found);
    } else {
        p->issuing++;
        p->space_of[0] = '\0';
        if (p->issuing == FOR_NAMESPACE || secret_of(p)[0] == '\0') {
            issue_next(p);
            return;
        }
    }
    secret_path(where_of(p), secret_of(p), path, sizeof path);
    call(p, "GET", path, NULL, NULL, on_secret);
}

bool pki_serves(struct pki *p, const char *space)
{
    struct served *s;
    if (p->log_secret[0] == '\0') return true;
    HASH_FIND_STR(p->served, space, s);
    if (s == NULL && p->call == NULL) again(p, 0);
    return s != NULL;
}

/* ---- the CA, and what each operator has for itself ------------------------------------------------------------ */

static bool issue_ours(struct pki *p, struct error *e)
{
    char copy[2048];
    struct names names = {.n = 0};
    struct certs_pair serving, ours;
    if (!split_names(p->webhook_names, copy, sizeof copy, &names)) return error_set(e, ERROR_TOO_LARGE, "webhook-names is too long") == 0;
    if (p->serving.cert != NULL && certs_fresh(p->serving.cert, names.all, names.n, now_s()) && certs_signed_by(p->serving.cert, p->ca.cert)) return true;
    const struct certs_request s = {.common_name = "crsc-webhook", .names = names.all, .n_names = names.n, .server = true};
    static const char *const roles[] = {"crsc://role/operator"};
    const struct certs_request c = {.common_name = "crsc-operator", .names = roles, .n_names = 1, .client = true};
    if (certs_issue(&p->ca, &s, now_s(), &serving, e) != 0) return false;
    if (certs_issue(&p->ca, &c, now_s(), &ours, e) != 0) {
        certs_free(&serving);
        return false;
    }
    certs_free(&p->serving);
    certs_free(&p->ours);
    p->serving = serving;
    p->ours = ours;
    p->on_ready(p->user, p->bundle, &p->serving, &p->ours);
    return true;
}

static void on_ca_made(void *user, struct kube_reply *r)
{
    struct pki *p = user;
    p->call = NULL;
    if (r->status != 0 && r->status != -ERROR_EXISTS && r->status != -ERROR_CONFLICT)
        trouble(p, "the CA cannot be stored", r->error.text);
    else
        look(p); /* it is read back: another operator may have been first */
}

/* A first CA, or the successor of one that nears its end: certificates of the old one are trusted until they have run out. */
static void make_ca(struct pki *p, yyjson_val *old)
{
    struct certs_pair ca;
    struct error e;
    char path[300], *before = decode(old, "tls.crt"), *bundle = NULL;
    if (certs_make_ca("crsc-ca", now_s(), &ca, &e) != 0) {
        free(before);
        trouble(p, "no CA can be made", e.text);
        return;
    }
    if (asprintf(&bundle, "%s%s", ca.cert, before != NULL ? before : "") < 0) bundle = NULL;
    const char *const pairs[][2] = {{"tls.crt", ca.cert}, {"tls.key", ca.key}, {"ca.crt", bundle != NULL ? bundle : ca.cert}};
    char *body = secret_body(p->space, p->ca_secret, pairs, 3, old != NULL ? object_text(old, "metadata.resourceVersion") : NULL);
    secret_path(p->space, old != NULL ? p->ca_secret : "", path, sizeof path);
    log_info("a CA is made", "secret=%s", p->ca_secret);
    if (body != NULL) call(p, old != NULL ? "PUT" : "POST", path, NULL, body, on_ca_made);
    if (body != NULL) explicit_bzero(body, strlen(body));
    free(body);
    free(bundle);
    free(before);
    certs_free(&ca);
}

static void on_ca(void *user, struct kube_reply *r)
{
    struct pki *p = user;
    struct error e;
    p->call = NULL;
    if (r->status == -ERROR_NOT_FOUND) {
        make_ca(p, NULL);
        return;
    }
    if (r->status != 0) {
        trouble(p, "the CA cannot be read", r->error.text);
        return;
    }
    struct certs_pair ca = {.cert = decode(r->root, "tls.crt"), .key = decode(r->root, "tls.key")};
    char *bundle = decode(r->root, "ca.crt");
    if (ca.cert == NULL || ca.key == NULL || !certs_fresh(ca.cert, NULL, 0, now_s())) {
        certs_free(&ca);
        free(bundle);
        make_ca(p, r->root);
        return;
    }
    certs_free(&p->ca);
    free(p->bundle);
    p->ca = ca;
    p->bundle = bundle != NULL ? bundle : strdup(ca.cert);
    if (p->bundle == NULL || !issue_ours(p, &e)) {
        trouble(p, "no certificate can be issued", e.text);
        return;
    }
    p->issuing = FOR_NOBODY;
    if (p->leads)
        issue_next(p);
    else
        configure(p);
}

static void look(struct pki *p)
{
    char path[300];
    secret_path(p->space, p->ca_secret, path, sizeof path);
    call(p, "GET", path, NULL, NULL, on_ca);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

void pki_lead(struct pki *p, bool leads)
{
    p->leads = leads;
    if (leads) again(p, 0);
}

void pki_nodes_changed(struct pki *p)
{
    if (p->leads && (!uv_is_active((uv_handle_t *)&p->timer) || uv_timer_get_due_in(&p->timer) > RETRY_MS)) again(p, RETRY_MS);
}

int pki_new(uv_loop_t *loop, const struct pki_options *o, struct pki **ret_pki, struct error *e)
{
    struct pki *p = calloc(1, sizeof *p);
    if (p == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    p->client = o->client;
    p->nodes = o->nodes;
    p->on_ready = o->on_ready;
    p->user = o->user;
    p->space = strdup(o->space);
    p->ca_secret = strdup(o->ca_secret);
    p->agent_secret = strdup(o->agent_secret);
    p->configuration = strdup(o->webhook_configuration);
    p->webhook_names = strdup(o->webhook_names);
    p->logd_secret = strdup(o->logd_secret);
    p->logd_names = strdup(o->logd_names);
    p->log_secret = strdup(o->log_secret);
    p->cluster = strdup(o->cluster);
    p->records = o->records;
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    *ret_pki = p;
    if (p->space == NULL || p->ca_secret == NULL || p->agent_secret == NULL || p->configuration == NULL || p->webhook_names == NULL ||
        p->logd_secret == NULL || p->logd_names == NULL || p->log_secret == NULL || p->cluster == NULL)
        return error_set(e, ERROR_NOMEM, "no memory");
    again(p, 0);
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct pki *p = handle->data;
    struct served *one, *next;
    void (*done)(void *user) = p->done;
    void *user = p->done_user;
    certs_free(&p->ca);
    certs_free(&p->serving);
    certs_free(&p->ours);
    free(p->bundle);
    free(p->space);
    free(p->ca_secret);
    free(p->agent_secret);
    free(p->configuration);
    free(p->webhook_names);
    free(p->logd_secret);
    free(p->logd_names);
    free(p->log_secret);
    free(p->cluster);
    HASH_ITER(hh, p->served, one, next) {
        HASH_DEL(p->served, one);
        free(one);
    }
    free(p);
    if (done != NULL) done(user);
}

void pki_close(struct pki *p, void (*done)(void *user), void *user)
{
    if (p->call != NULL) kube_call_cancel(p->call);
    p->done = done;
    p->done_user = user;
    uv_close((uv_handle_t *)&p->timer, on_closed);
}
