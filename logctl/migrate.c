/* Moves an app to another of its replicas: the standby takes clients first, then the source refuses them. Both execute the same log, so that
 * both may serve in between: nothing is frozen, and every step can be taken back. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>
#include <yyjson.h>

#include "common/http_client.h"
#include "logctl/verbs.h"

enum { TAIL_MAX = 64, /* offsets that the target may lack when it begins to serve */ POLL_MS = 5 };

struct side {
    const char *what, *admin;
    char stream[256], instance[32];
    bool standby, well; /* well: executes, or serves */
    uint64_t last, executed, held;
};

struct migration {
    uv_loop_t loop;
    struct http_client *http;
    uint32_t timeout_ms;
    struct side from, to;
    struct error e;
};

struct wait {
    struct side *side;
    int rv;
    struct error *e;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t number(yyjson_val *root, const char *group, const char *name)
{
    return yyjson_get_uint(yyjson_obj_get(yyjson_obj_get(root, group), name));
}

static int read_status(struct side *side, const char *body, size_t len, struct error *e)
{
    yyjson_doc *doc = yyjson_read(body, len, 0);
    yyjson_val *root = doc != NULL ? yyjson_doc_get_root(doc) : NULL;
    const char *stream = yyjson_get_str(yyjson_obj_get(root, "stream")), *state = yyjson_get_str(yyjson_obj_get(root, "state"));
    const char *instance = yyjson_get_str(yyjson_obj_get(root, "instance")), *role = yyjson_get_str(yyjson_obj_get(root, "role"));
    int rv = 0;
    if (stream == NULL || state == NULL || instance == NULL || role == NULL) {
        rv = error_set(e, ERROR_PROTOCOL, "%s at %s answers, and not as an interceptor", side->what, side->admin);
    } else {
        snprintf(side->stream, sizeof side->stream, "%s", stream);
        snprintf(side->instance, sizeof side->instance, "%s", instance);
        side->standby = strcmp(role, "standby") == 0;
        side->well = strcmp(state, "active") == 0;
        side->last = number(root, "offsets", "last");
        side->executed = number(root, "offsets", "executed");
        side->held = number(root, "requests", "held");
    }
    yyjson_doc_free(doc);
    return rv;
}

static void on_reply(void *user, const struct http_reply *reply)
{
    struct wait *w = user;
    if (reply->status != 0)
        w->rv = error_set(w->e, (enum error_code)-reply->status, "%s at %s: %.200s", w->side->what, w->side->admin, reply->error.text);
    else if (reply->code != 200)
        w->rv = error_set(w->e, ERROR_CONFLICT, "%s at %s says %d: %.200s", w->side->what, w->side->admin, reply->code, reply->body);
    else
        w->rv = read_status(w->side, reply->body, reply->len, w->e);
}

static int ask(struct migration *m, struct side *side, const char *method, const char *path)
{
    char url[400];
    struct http_call *call;
    struct wait w = {.side = side, .rv = 1, .e = &m->e};
    snprintf(url, sizeof url, "http://%s%s", side->admin, path);
    const struct http_call_options options = {.method = method, .url = url, .timeout_ms = m->timeout_ms};
    int rv = http_client_call(m->http, &options, on_reply, &w, &call, &m->e);
    while (rv == 0 && w.rv == 1) uv_run(&m->loop, UV_RUN_ONCE);
    return rv != 0 ? rv : w.rv;
}

static void pause_a_little(void)
{
    nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000}, NULL);
}

/* ---- the steps: each leaves the source serving when it fails --------------------------------------------------- */

static int look(struct migration *m)
{
    int rv = ask(m, &m->from, "GET", "/status");
    if (rv == 0) rv = ask(m, &m->to, "GET", "/status");
    if (rv != 0) return rv;
    if (strcmp(m->from.stream, m->to.stream) != 0)
        return error_set(&m->e, ERROR_INVALID, "the two are of different streams: %.100s and %.100s", m->from.stream, m->to.stream);
    if (strcmp(m->from.instance, m->to.instance) == 0) return error_set(&m->e, ERROR_INVALID, "source and target are the same interceptor");
    if (m->from.standby) return error_set(&m->e, ERROR_CONFLICT, "the source is a standby: it serves nobody");
    if (!m->to.standby) return error_set(&m->e, ERROR_CONFLICT, "the target serves already: a standby is wanted (--role standby)");
    return 0;
}

static int wait_for_tail(struct migration *m)
{
    uint64_t until = now_us() + (uint64_t)m->timeout_ms * 1000;
    for (;;) {
        int rv = look(m);
        if (rv != 0) return rv;
        if (m->to.well && m->to.executed + TAIL_MAX >= m->from.executed) return 0;
        if (now_us() > until)
            return error_set(&m->e, ERROR_TIMEOUT, "the target has not caught up: it has executed %" PRIu64 " of %" PRIu64 "%s", m->to.executed,
                             m->from.executed, m->to.well ? "" : ", and is not ready");
        pause_a_little();
    }
}

static int switch_over(struct migration *m)
{
    int rv = ask(m, &m->to, "POST", "/role?role=active");
    if (rv == 0) rv = ask(m, &m->from, "POST", "/role?role=standby");
    if (rv == 0) return 0;
    struct error why = m->e;
    ask(m, &m->from, "POST", "/role?role=active"); /* whatever of it was done */
    ask(m, &m->to, "POST", "/role?role=standby");
    m->e = why;
    return rv;
}

/* Who waits at the source is answered there. */
static bool drained(struct migration *m)
{
    uint64_t until = now_us() + (uint64_t)m->timeout_ms * 1000;
    while (ask(m, &m->from, "GET", "/status") == 0 && m->from.held > 0 && now_us() < until) pause_a_little();
    return m->from.held == 0;
}

static void report(const struct options *o, const struct migration *m, uint64_t caught_us, uint64_t switched_us, uint64_t drained_us, bool all)
{
    const char *format = o->json ? "{\"stream\":\"%s\",\"from\":\"%s\",\"to\":\"%s\",\"executed\":%" PRIu64
                                   ",\"catch_up_ms\":%.1f,\"switch_ms\":%.1f,\"drain_ms\":%.1f,\"waiting\":%" PRIu64 "}\n"
                                 : "%s: from %s to %s at offset %" PRIu64 "; caught up in %.1f ms, switched in %.1f ms, the source drained in %.1f ms, %" PRIu64
                                   " still wait there\n";
    printf(format, m->from.stream, m->from.admin, m->to.admin, m->to.executed, (double)caught_us / 1000, (double)switched_us / 1000,
           (double)drained_us / 1000, all ? 0 : m->from.held);
}

static int migrate(const struct options *o, struct migration *m)
{
    uint64_t begun = now_us();
    int rv = wait_for_tail(m);
    uint64_t caught = now_us();
    if (rv == 0) rv = switch_over(m);
    uint64_t switched = now_us();
    if (rv != 0) {
        fail(o, &m->e);
        fputs("The source goes on serving.\n", stderr);
        return EXIT_FAILED;
    }
    bool all = drained(m);
    report(o, m, caught - begun, switched - caught, now_us() - switched, all);
    return EXIT_OK;
}

static int run(const struct options *o)
{
    struct migration m = {.timeout_ms = o->timeout_ms, .from = {.what = "the source", .admin = o->argument}, .to = {.what = "the target", .admin = o->argument2}};
    if (o->argument == NULL || o->argument2 == NULL) {
        fputs("crsc-logctl: migrate needs two admin addresses, the source's and the target's; see crsc-logctl help migrate\n", stderr);
        return EXIT_USAGE;
    }
    uv_loop_init(&m.loop);
    int rv = http_client_new(&m.loop, &m.http, &m.e) == 0 ? migrate(o, &m) : fail(o, &m.e);
    if (m.http != NULL) http_client_close(m.http, NULL, NULL);
    uv_run(&m.loop, UV_RUN_DEFAULT);
    uv_loop_close(&m.loop);
    return rv;
}

const struct verb verb_migrate = {
    .name = "migrate",
    .summary = "moves the clients of an app to a standby of it, and makes the source one",
    .help =
        "Usage: crsc-logctl migrate FROM TO\n"
        "FROM and TO are admin addresses, host:port, of two interceptors with --replication log on one stream: FROM serves, TO is a\n"
        "standby (--role standby) on the machine that the app is to move to. Waits until the target has executed all but the\n"
        "newest events, lets it take clients, then has the source refuse new ones (503, /readyz 503) and waits until those that are\n"
        "there are answered. Nothing is frozen or copied: the target's app was restored from a checkpoint and follows the log. In\n"
        "between both serve, which the log orders. When a step fails the source goes on serving. Afterwards the source is the\n"
        "standby: end it, or move back. --timeout bounds each wait.\n\n"
        "Examples:\n"
        "  crsc-logctl migrate 10.0.0.1:8081 10.0.0.2:8081\n"
        "  crsc-logctl migrate 10.0.0.1:8081 10.0.0.2:8081 --timeout 1m --output json\n",
    .argument = 2,
    .words = "",
    .argument2 = true,
    .run = run,
};
