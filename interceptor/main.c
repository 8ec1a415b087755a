/* crsc-interceptor: reads its settings, opens its two ports, serves until it is told to stop. Exit statuses are in
 * --help. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "client/crsc.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/tls_watch.h"
#include "interceptor/admin/admin.h"
#include "interceptor/admin/probe.h"
#include "interceptor/engine.h"
#include "interceptor/proxy/server.h"
#include "interceptor/settings.h"

enum { STOP_LOOK_MS = 20, DESCRIPTORS = 768 /* beside max-connections: the log, files, clients being refused */ };

struct program {
    uv_loop_t *loop;
    struct settings settings;
    struct loop_signals signals;
    struct crsc_client *client;
    struct engine *engine;
    struct server *server;
    struct tls_context *tls; /* of the data port; NULL: plain */
    struct tls_watch *tls_watch;
    struct admin *admin;
    struct http_listener *probe; /* NULL: none */
    uv_timer_t stop_timer;
    uint64_t stop_by_ms;
    bool stopping;
};

static void on_change(void *user)
{
    struct program *p = user;
    if (p->admin != NULL) admin_changed(p->admin);
}

/* A client, a few files, and each connection takes a descriptor. */
static void raise_descriptors(uint64_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted)
        log_warn("fewer descriptors than max-connections wants", "wanted=%llu have=%llu", (unsigned long long)wanted,
                 (unsigned long long)limit.rlim_cur);
}

/* ---- the end: answers on their way, then ports, then the engine, then the client, then the loop has nothing left ----
 */

static void on_client_closed(void *user)
{
    struct program *p = user;
    tls_watch_stop(p->tls_watch);
    loop_signals_stop(&p->signals);
}

static void on_engine_closed(void *user)
{
    struct program *p = user;
    crsc_client_close(p->client, on_client_closed, p);
}

static void on_admin_closed(void *user)
{
    struct program *p = user;
    engine_free(p->engine, on_engine_closed, p);
}

static void on_released(void *user)
{
    struct program *p = user;
    struct admin *admin = p->admin;
    p->admin = NULL;
    admin_close(admin, on_admin_closed, p);
}

static void on_probe_closed(void *user)
{
    struct program *p = user;
    engine_release(p->engine, on_released, p);
}

static void on_server_closed(void *user)
{
    struct program *p = user;
    if (p->probe != NULL)
        http_listener_close(p->probe, on_probe_closed, p);
    else
        on_probe_closed(p);
}

static void on_stop_time(uv_timer_t *timer)
{
    struct program *p = timer->data;
    unsigned left = server_sessions(p->server);
    if (left > 0 && uv_now(p->loop) < p->stop_by_ms) return;
    if (left > 0)
        log_warn("stopping without having answered everybody; what was logged is replayed later", "connections=%u",
                 left);
    uv_close((uv_handle_t *)timer, NULL);
    server_abandon(p->server); /* the engine waits for what the app has, and would answer them */
    server_close(p->server, on_server_closed, p);
}

static void on_stop(void *user)
{
    struct program *p = user;
    if (p->stopping) return;
    p->stopping = true;
    log_info("stopping", NULL);
    engine_leave(p->engine);
    server_stop(p->server);
    p->stop_by_ms = uv_now(p->loop) + p->settings.stop_timeout;
    uv_timer_init(p->loop, &p->stop_timer);
    p->stop_timer.data = p;
    uv_timer_start(&p->stop_timer, on_stop_time, 0, STOP_LOOK_MS);
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

static int secure(struct program *p, struct error *e)
{
    const struct settings *s = &p->settings;
    struct tls_options options = {.side = TLS_SERVER, .ca = s->tls_client_ca, .cert = s->tls_cert, .key = s->tls_key, .anyone = s->tls_client_ca[0] == '\0'};
    if (s->tls_cert[0] == '\0') return 0;
    int rv = tls_context_new(&options, &p->tls, e);
    return rv == 0 ? tls_watch_start(p->loop, &p->tls, 1, &p->tls_watch, e) : rv;
}

static int start(struct program *p, struct error *e)
{
    const struct settings *s = &p->settings;
    size_t buffer = s->max_body < s->body_buffer ? s->max_body : s->body_buffer;
    struct crsc_client_options client = {
        .servers = s->servers, .software = "crsc-interceptor/" CRSC_VERSION, .timeout_ms = (uint32_t)s->log_timeout,
        .tls_ca = s->log_tls_ca, .tls_cert = s->log_tls_cert, .tls_key = s->log_tls_key};
    struct server_options data = {.address = s->listen,
                                  .limits = {.head_bytes = s->max_header_bytes, .headers = (unsigned)s->max_headers, .body_bytes = buffer, .stream_bytes = s->max_body},
                                  .sessions_max = (unsigned)s->max_connections,
                                  .retry_after = (unsigned)s->retry_after,
                                  .idle_ms = s->idle_timeout,
                                  .header_ms = s->header_timeout,
                                  .body_ms = s->body_timeout,
                                  .send_ms = s->send_timeout};
    int rv = secure(p, e);
    data.tls = p->tls;
    if (rv == 0) rv = crsc_client_new(p->loop, &client, &p->client, e);
    if (rv == 0) rv = engine_new(p->loop, s, p->client, on_change, p, &p->engine, e);
    if (rv == 0) rv = admin_start(p->loop, s->admin_listen, p->engine, &p->admin, e);
    if (rv == 0 && s->probe_listen[0] != '\0') rv = probe_start(p->loop, s->probe_listen, p->engine, &p->probe, e);
    if (rv == 0) rv = server_start(p->loop, &data, &engine_server_handlers, p->engine, &p->server, e);
    if (rv != 0) return rv;
    rv = loop_signals_start(p->loop, &p->signals, on_stop, p);
    return rv == 0 ? 0 : error_uv(e, ERROR_INTERNAL, rv, "signals cannot be handled");
}

int main(int argc, char **argv)
{
    static struct program p;
    enum config_action action;
    struct error e = {0};
    uv_loop_t loop;
    log_init("interceptor", LOG_INFO);
    if (settings_load(argc, argv, &p.settings, &action, &e) != 0) {
        fprintf(stderr, "crsc-interceptor: %s\n", e.text);
        return 2;
    }
    if (action == CONFIG_EXIT) {
        settings_free(&p.settings);
        return 0;
    }
    log_init("interceptor", p.settings.level);
    raise_descriptors(p.settings.max_connections + DESCRIPTORS);
    uv_loop_init(&loop);
    p.loop = &loop;
    if (start(&p, &e) != 0) {
        log_error("cannot start", "code=%s reason=%s", error_name((int)e.code), e.text);
        _Exit(e.code == ERROR_INVALID ? 2 : 1); /* nothing was accepted yet */
    }
    log_info("started", "listen=%s admin=%s stream=%s", p.settings.listen, p.settings.admin_listen, p.settings.stream);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) log_warn("something was left open at the end", NULL);
    tls_context_free(p.tls);
    settings_free(&p.settings);
    log_info("stopped", NULL);
    return 0;
}
