/* crsc-interceptor: reads its settings, opens its two ports, serves until it is told to stop. Exit statuses are in
 * --help. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "client/crsc.h"
#include "common/log.h"
#include "common/loop.h"
#include "interceptor/admin/admin.h"
#include "interceptor/engine.h"
#include "interceptor/proxy/server.h"
#include "interceptor/settings.h"

enum { HEAD_MAX = 64 << 10, FIELDS_MAX = 100, STOP_LOOK_MS = 20 };

struct program {
    uv_loop_t *loop;
    struct settings settings;
    struct loop_signals signals;
    struct crsc_client *client;
    struct engine *engine;
    struct server *server;
    struct admin *admin;
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

static void on_server_closed(void *user)
{
    struct program *p = user;
    struct admin *admin = p->admin;
    p->admin = NULL;
    admin_close(admin, on_admin_closed, p);
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
    server_close(p->server, on_server_closed, p);
}

static void on_stop(void *user)
{
    struct program *p = user;
    if (p->stopping) return;
    p->stopping = true;
    log_info("stopping", NULL);
    server_stop(p->server);
    p->stop_by_ms = uv_now(p->loop) + p->settings.stop_timeout;
    uv_timer_init(p->loop, &p->stop_timer);
    p->stop_timer.data = p;
    uv_timer_start(&p->stop_timer, on_stop_time, 0, STOP_LOOK_MS);
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

static int start(struct program *p, struct error *e)
{
    const struct settings *s = &p->settings;
    struct crsc_client_options client = {
        .servers = s->servers, .software = "crsc-interceptor/" CRSC_VERSION, .timeout_ms = (uint32_t)s->log_timeout};
    struct server_options data = {.address = s->listen,
                                  .limits = {HEAD_MAX, FIELDS_MAX, s->max_body},
                                  .sessions_max = (unsigned)s->max_connections,
                                  .idle_ms = s->idle_timeout,
                                  .request_ms = s->request_timeout};
    int rv = crsc_client_new(p->loop, &client, &p->client, e);
    if (rv == 0) rv = engine_new(p->loop, s, p->client, on_change, p, &p->engine, e);
    if (rv == 0) rv = admin_start(p->loop, s->admin_listen, p->engine, &p->admin, e);
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
    raise_descriptors(p.settings.max_connections + 256);
    uv_loop_init(&loop);
    p.loop = &loop;
    if (start(&p, &e) != 0) {
        log_error("cannot start", "code=%s reason=%s", error_name((int)e.code), e.text);
        _Exit(e.code == ERROR_INVALID ? 2 : 1); /* nothing was accepted yet */
    }
    log_info("started", "listen=%s admin=%s stream=%s", p.settings.listen, p.settings.admin_listen, p.settings.stream);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) log_warn("something was left open at the end", NULL);
    settings_free(&p.settings);
    log_info("stopped", NULL);
    return 0;
}
