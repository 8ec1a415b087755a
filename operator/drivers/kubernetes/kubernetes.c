#include "operator/drivers/kubernetes/kubernetes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "client/crsc.h"
#include "common/file.h"
#include "common/loop.h"
#include "operator/drivers/kubernetes/controller.h"
#include "operator/drivers/kubernetes/newest.h"
#include "operator/drivers/kubernetes/pki.h"
#include "operator/drivers/kubernetes/settings.h"
#include "operator/drivers/kubernetes/wishes.h"
#include "operator/kube/elector.h"
#include "operator/kube/object.h"
#include "operator/webhook/review.h"
#include "operator/webhook/tls_server.h"

enum { WATCHES = 9 };

struct program {
    uv_loop_t *loop;
    struct kube_settings settings;
    struct kube_config config;
    struct kube_client *client;
    struct agents *agents;
    struct crsc_client *log;
    struct caches caches;
    struct controller *controller;
    struct elector *elector;
    struct pki *pki;
    struct tls_server *server;
    struct loop_signals signals;
    struct http_tls agent_tls; /* from files; `ca` NULL: from the pki */
    bool leads;
    uint64_t injected, refused, skipped;
    unsigned left; /* of what is being closed */
};

static struct kube_watch **watch_of(struct caches *c, int i)
{
    struct kube_watch **all[WATCHES] = {&c->deployments, &c->statefulsets, &c->pods, &c->services, &c->nodes, &c->records, &c->checkpoints, &c->restores, &c->migrations};
    return all[i];
}

/* ---- what changes --------------------------------------------------------------------------------------------- */

static void take_node(struct program *p, yyjson_val *o)
{
    size_t i, max;
    yyjson_val *one, *all = object_get(o, "status.addresses");
    const char *address = "";
    bool there = kube_watch_get(p->caches.nodes, "", object_name(o)) != NULL;
    yyjson_arr_foreach(all, i, max, one)
    {
        if (strcmp(object_text(one, "type"), "InternalIP") == 0) address = object_text(one, "address");
    }
    agents_node(p->agents, object_name(o), there ? address : "");
    if (p->pki != NULL) pki_nodes_changed(p->pki);
}

static void on_change(void *user, const struct kube_watch *w, yyjson_val *o)
{
    struct program *p = user;
    if (w == p->caches.nodes) take_node(p, o);
    if (p->controller != NULL) controller_changed(p->controller, w, o);
}

static void on_agents_change(void *user, const char *node, bool matters)
{
    struct program *p = user;
    if (p->controller != NULL && p->caches.records != NULL) controller_heard(p->controller, node, matters);
}

static bool leads_now(void *user)
{
    struct program *p = user;
    return p->settings.leader_elect ? p->elector != NULL && elector_leads(p->elector) : p->leads;
}

static void on_lead(void *user, bool leads)
{
    struct program *p = user;
    p->leads = leads;
    p->caches.leads_ms = loop_wall_us() / 1000;
    if (p->controller != NULL) controller_lead(p->controller, leads);
    if (p->pki != NULL) pki_lead(p->pki, leads);
}

/* ---- the webhook ---------------------------------------------------------------------------------------------- */

static void reply(struct buf *out, const struct http_message *m, int status, const char *type, const char *body)
{
    http_write_plain(out, status, type, body, strlen(body), "", m->keep_alive);
}

static bool is_ready(const struct program *p)
{
    for (int i = 0; i < WATCHES; i++)
        if (!kube_watch_synced(*watch_of((struct caches *)(uintptr_t)&p->caches, i))) return false;
    return true;
}

static void metrics(const struct program *p, const struct http_message *m, struct buf *out)
{
    char text[4096];
    struct controller_counts c;
    controller_counts(p->controller, &c);
    snprintf(text, sizeof text,
             "# TYPE crsc_operator_leading gauge\ncrsc_operator_leading %d\n"
             "# TYPE crsc_operator_ready gauge\ncrsc_operator_ready %d\n"
             "# TYPE crsc_operator_workloads gauge\ncrsc_operator_workloads %zu\n"
             "# TYPE crsc_operator_protected_pods gauge\ncrsc_operator_protected_pods %zu\n"
             "# TYPE crsc_operator_checkpoints gauge\ncrsc_operator_checkpoints %zu\n"
             "# TYPE crsc_operator_restores gauge\ncrsc_operator_restores %zu\n"
             "# TYPE crsc_operator_queue_waiting gauge\ncrsc_operator_queue_waiting %zu\n"
             "# TYPE crsc_operator_reconciles_total counter\ncrsc_operator_reconciles_total %llu\n"
             "# TYPE crsc_operator_role_reconciles_total counter\ncrsc_operator_role_reconciles_total %llu\n"
             "# TYPE crsc_operator_actions_total counter\ncrsc_operator_actions_total %llu\n"
             "# TYPE crsc_operator_failures_total counter\ncrsc_operator_failures_total %llu\n"
             "# TYPE crsc_operator_injections_total counter\n"
             "crsc_operator_injections_total{outcome=\"injected\"} %llu\ncrsc_operator_injections_total{outcome=\"refused\"} %llu\n"
             "crsc_operator_injections_total{outcome=\"skipped\"} %llu\n",
             p->leads, is_ready(p), kube_watch_count(p->caches.records), kube_watch_count(p->caches.pods), kube_watch_count(p->caches.checkpoints),
             kube_watch_count(p->caches.restores), c.waiting, (unsigned long long)c.looks, (unsigned long long)c.role_looks, (unsigned long long)c.actions,
             (unsigned long long)c.failures, (unsigned long long)p->injected, (unsigned long long)p->refused, (unsigned long long)p->skipped);
    reply(out, m, 200, "text/plain; version=0.0.4", text);
}

static void choose(void *user, yyjson_val *pod, const char *space, struct inject_settings *s)
{
    wishes_choose(user, pod, space, s);
}

static void mutate(struct program *p, const struct http_message *m, struct buf *out)
{
    const struct inject_settings s = {.log_secret = p->settings.log_tls ? p->settings.log_secret : "", .image = p->settings.interceptor_image, .pull_policy = p->settings.pull_policy,
                                      .servers = p->settings.interceptor_servers, .cluster = p->settings.cluster,
                                      .runtime_class = p->settings.runtime_class, .newest = newest_choose, .newest_user = &p->caches};
    enum inject_outcome outcome = INJECT_SKIPPED;
    struct error why = {0};
    char *answer = review_answer(m->body, m->body_len, &s, choose, &p->caches, &outcome, &why);
    if (answer == NULL) {
        reply(out, m, 400, "text/plain", why.text);
        return;
    }
    p->injected += outcome == INJECT_PATCHED;
    p->refused += outcome == INJECT_REFUSED;
    p->skipped += outcome == INJECT_SKIPPED;
    if (outcome == INJECT_REFUSED) log_warn("a pod cannot be protected, and starts without", "reason=%s", why.text);
    /* never kept alive: the API server would send the next pod of this connection to us when our node is gone already, wait in vain, and start it
     * without an interceptor; a new connection leads to an operator that is there */
    http_write_plain(out, 200, "application/json", answer, strlen(answer), "", false);
    free(answer);
}

static void on_request(void *user, const struct http_message *m, struct buf *out)
{
    struct program *p = user;
    size_t len = strcspn(m->target, "?");
    bool get = strcmp(m->method, "GET") == 0, post = strcmp(m->method, "POST") == 0;
    if (post && len == 7 && strncmp(m->target, "/mutate", len) == 0)
        mutate(p, m, out);
    else if (get && len == 8 && strncmp(m->target, "/healthz", len) == 0)
        reply(out, m, 200, "text/plain", "ok\n");
    else if (get && len == 7 && strncmp(m->target, "/readyz", len) == 0)
        reply(out, m, is_ready(p) ? 200 : 503, "text/plain", is_ready(p) ? "ok\n" : "the API server's objects are not all here yet\n");
    else if (get && len == 8 && strncmp(m->target, "/metrics", len) == 0)
        metrics(p, m, out);
    else
        reply(out, m, 404, "text/plain", "there is POST /mutate, GET /healthz, /readyz, /metrics\n");
}

static int start_log(struct program *p, const char *ca, const char *cert, const char *key, struct error *e);

static bool write_file(const char *path, const char *text, struct error *e)
{
    char aside[4200];
    snprintf(aside, sizeof aside, "%s.new", path);
    int rv = file_replace(path, aside, text, strlen(text));
    if (rv != 0) error_errno(e, ERROR_IO, -rv, "%s", path);
    return rv == 0;
}

/* libcrsc takes files, and reads them again when they have changed. */
static void keep_log_tls(struct program *p, const char *bundle, const struct certs_pair *client)
{
    char ca[4100], cert[4100], key[4100];
    struct error e;
    mkdir(p->settings.tls_dir, 0700);
    snprintf(ca, sizeof ca, "%.4000s/ca.crt", p->settings.tls_dir);
    snprintf(cert, sizeof cert, "%.4000s/tls.crt", p->settings.tls_dir);
    snprintf(key, sizeof key, "%.4000s/tls.key", p->settings.tls_dir);
    bool ok = write_file(key, client->key, &e) && write_file(cert, client->cert, &e) && write_file(ca, bundle, &e);
    if (ok && (p->log != NULL || start_log(p, ca, cert, key, &e) == 0)) return;
    log_error("the log cannot be reached", "reason=%s", e.text);
}

static void on_certificates(void *user, const char *bundle, const struct certs_pair *serving, const struct certs_pair *client)
{
    struct program *p = user;
    struct error e;
    int rv = p->server != NULL ? tls_server_set_certificate(p->server, serving->cert, serving->key, &e)
                               : tls_server_start(p->loop, p->settings.webhook_listen, serving->cert, serving->key, on_request, p, &p->server, &e);
    if (rv != 0) {
        log_error("the webhook cannot be served", "reason=%s", e.text);
        _Exit(1); /* nothing was begun that a next start does not find */
    }
    if (p->settings.log_tls && p->settings.log_tls_ca[0] == '\0') keep_log_tls(p, bundle, client);
    log_info("certificates are here", "webhook=%s", p->settings.webhook_listen);
    const struct http_tls tls = {.ca = bundle, .cert = client->cert, .key = client->key};
    if (p->agent_tls.ca == NULL && agents_set_tls(p->agents, &tls) != 0) log_error("no memory for the agents' certificates", NULL);
}

/* ---- the end: the lease, then who asks, then whom they ask ---------------------------------------------------- */

static void on_part_closed(void *user)
{
    struct program *p = user;
    if (--p->left > 0) return;
    controller_close(p->controller, NULL, NULL);
    loop_signals_stop(&p->signals);
}

/* Whom we ask, all at once. Each ends its calls before it returns, with ERROR_CANCELED, upon which a job begins nothing more: so no answer comes
 * back that would look at a cache, or ask somebody, that is gone. */
static void on_released(void *user)
{
    struct program *p = user;
    p->elector = NULL;
    pki_close(p->pki, NULL, NULL);
    if (p->server != NULL) tls_server_close(p->server, NULL, NULL);
    p->left = WATCHES + 2 + (p->log != NULL);
    agents_close(p->agents, on_part_closed, p);
    if (p->log != NULL) crsc_client_close(p->log, on_part_closed, p);
    for (int i = 0; i < WATCHES; i++) kube_watch_close(*watch_of(&p->caches, i), on_part_closed, p);
    kube_client_close(p->client, on_part_closed, p);
}

static void on_stop(void *user)
{
    struct program *p = user;
    log_info("stopping", NULL);
    controller_stop(p->controller);
    if (p->elector != NULL)
        elector_close(p->elector, on_released, p);
    else
        on_released(p);
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

static int read_agent_tls(struct program *p, struct error *e)
{
    char *ca = NULL, *cert = NULL, *key = NULL;
    if (p->settings.agent_ca[0] == '\0') return 0;
    int rv = kube_read_file(p->settings.agent_ca, &ca, e);
    if (rv == 0) rv = kube_read_file(p->settings.agent_cert, &cert, e);
    if (rv == 0) rv = kube_read_file(p->settings.agent_key, &key, e);
    p->agent_tls = (struct http_tls){.ca = ca, .cert = cert, .key = key};
    return rv == 0 ? 0 : error_set(e, ERROR_INVALID, "%s", e->text);
}

static int start_log(struct program *p, const char *ca, const char *cert, const char *key, struct error *e)
{
    const struct crsc_client_options o = {.servers = p->settings.servers, .software = "crsc-operator/" CRSC_VERSION, .timeout_ms = 5000,
                                          .tls_ca = ca, .tls_cert = cert, .tls_key = key};
    return crsc_client_new(p->loop, &o, &p->log, e);
}

static int start_watches(struct program *p, struct error *e)
{
    static const char *const paths[WATCHES][2] = {
        {"/apis/apps/v1/deployments", ""}, {"/apis/apps/v1/statefulsets", ""}, {"/api/v1/pods", "labelSelector=crsc.io%2Fprotected"},
        {"/api/v1/services", ""}, {"/api/v1/nodes", ""}, {"/apis/crsc.io/v1alpha1/protectedworkloads", ""},
        {"/apis/crsc.io/v1alpha1/checkpoints", ""}, {"/apis/crsc.io/v1alpha1/restores", ""}, {"/apis/crsc.io/v1alpha1/migrations", ""}};
    int rv = 0;
    for (int i = 0; rv == 0 && i < WATCHES; i++) {
        const struct kube_watch_options o = {.path = paths[i][0], .selector = paths[i][1], .on_change = on_change, .user = p};
        rv = kube_watch_new(p->loop, p->client, &o, watch_of(&p->caches, i), e);
    }
    return rv;
}

static int start(struct program *p, struct error *e)
{
    const char *space = p->settings.space;
    bool own_log = p->settings.log_tls && p->settings.log_tls_ca[0] == '\0';
    int rv = loop_signals_start(p->loop, &p->signals, on_stop, p);
    if (rv != 0) return error_uv(e, ERROR_INTERNAL, rv, "signals cannot be handled");
    if ((rv = kube_config_load(p->settings.kubeconfig, &p->config, e)) != 0) return error_set(e, ERROR_INVALID, "%s", e->text);
    if (space[0] == '\0') space = p->config.space;
    if ((rv = read_agent_tls(p, e)) != 0) return rv;
    const struct agents_options agents = {.tls = p->agent_tls, .port = (uint16_t)p->settings.agent_port, .poll_ms = (uint32_t)p->settings.agent_poll,
                                          .on_change = on_agents_change, .user = p};
    rv = kube_client_new(p->loop, &p->config, &p->client, e);
    if (rv == 0) rv = agents_new(p->loop, &agents, &p->agents, e);
    if (rv == 0 && !own_log) rv = start_log(p, p->settings.log_tls_ca, p->settings.log_tls_cert, p->settings.log_tls_key, e);
    p->caches.agents = p->agents;
    p->caches.node_grace_ms = p->settings.node_grace;
    const struct act_parts parts = {.client = p->client, .log = &p->log, .pki = &p->pki, .caches = &p->caches, .identity = p->settings.identity,
                                    .leads = leads_now, .user = p};
    if (rv == 0) rv = controller_new(p->loop, &parts, &p->controller, e);
    if (rv == 0) rv = start_watches(p, e);
    const struct pki_options pki = {.client = p->client, .space = space, .ca_secret = p->settings.ca_secret, .agent_secret = p->agent_tls.ca == NULL ? p->settings.agent_secret : "",
                                    .webhook_configuration = p->settings.webhook_configuration, .webhook_names = p->settings.webhook_names,
                                    .logd_secret = own_log ? p->settings.logd_secret : "", .logd_names = p->settings.logd_names,
                                    .log_secret = own_log ? p->settings.log_secret : "", .cluster = p->settings.cluster, .records = p->caches.records,
                                    .nodes = p->caches.nodes, .on_ready = on_certificates, .user = p};
    if (rv == 0) rv = pki_new(p->loop, &pki, &p->pki, e);
    if (rv != 0) return rv;
    if (p->settings.leader_elect)
        rv = elector_new(p->loop, p->client, space, "crsc-operator", p->settings.identity, on_lead, p, &p->elector, e);
    else
        on_lead(p, true);
    return rv;
}

int kubernetes_main(int argc, char **argv)
{
    static struct program p;
    enum config_action action = CONFIG_RUN;
    struct error e = {0};
    uv_loop_t loop;
    log_init("operator", LOG_INFO);
    if (kube_settings_load(argc, argv, &p.settings, &action, &e) != 0) {
        fprintf(stderr, "crsc-operator kubernetes: %s\n", e.text);
        return 2;
    }
    if (action == CONFIG_EXIT) {
        kube_settings_free(&p.settings);
        return 0;
    }
    log_init("operator", p.settings.level);
    uv_loop_init(&loop);
    p.loop = &loop;
    if (start(&p, &e) != 0) {
        log_error("cannot start", "code=%s reason=%s", error_name((int)e.code), e.text);
        _Exit(e.code == ERROR_INVALID ? 2 : 1); /* nothing was begun that a next start does not find */
    }
    log_info("ready", "server=%s cluster=%s identity=%s", p.config.server, p.settings.cluster, p.settings.identity);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) log_warn("something was left open at the end", NULL);
    free((void *)(uintptr_t)p.agent_tls.ca);
    free((void *)(uintptr_t)p.agent_tls.cert);
    free((void *)(uintptr_t)p.agent_tls.key);
    kube_config_free(&p.config);
    kube_settings_free(&p.settings);
    log_info("stopped", NULL);
    return 0;
}
