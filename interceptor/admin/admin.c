#include "interceptor/admin/admin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <yyjson.h>

#include "interceptor/admin/status.h"

enum {
    HEAD_MAX = 16 << 10,
    FIELDS_MAX = 100,
    BODY_MAX = 64 << 10,
    SESSIONS_MAX = 256,
    IDLE_MS = 75000,
    REQUEST_MS = 20000,
    WATCH_MS = 500,            /* a watcher hears something at least that often: how old its offsets can be */
    WATCH_QUEUE_MAX = 1 << 20, /* bytes a watcher has not taken before it is let go */
    DRAIN_MS = 5000,
    LEASE_MS = 30000,
    TIME_MAX_MS = 3600000, /* what /checkpoint takes when it is not told, and at most */
};

/* A session that waits: for a drain, or for changes. */
struct waiter {
    TAILQ_ENTRY(waiter) entry; /* watchers only */
    struct admin *admin;
    struct session *session;
    char token[ENGINE_TOKEN_MAX + 1];
    bool watches;
};

struct admin {
    struct engine *engine;
    struct server *server;
    uv_timer_t beat; /* the next line for watchers */
    TAILQ_HEAD(, waiter) watchers;
    unsigned closing;
    void (*done)(void *user);
    void *done_user;
};

static void refuse(struct session *s, const struct error *e)
{
    int status = e->code == ERROR_INVALID     ? 400
                 : e->code == ERROR_NOT_FOUND ? 404
                 : e->code == ERROR_CONFLICT  ? 409
                 : e->code == ERROR_TOO_LARGE ? 413
                 : e->code == ERROR_TIMEOUT   ? 504
                                              : 500;
    session_refuse(s, status, "", "%s", e->text);
}

static void reply_status(struct admin *admin, struct session *s)
{
    struct engine_status status;
    struct buf text = BUF_INIT;
    engine_status(admin->engine, &status);
    if (status_json(&text, &status) == 0)
        session_reply(s, 200, "application/json", text.data, text.len, "");
    else
        session_refuse(s, 500, "", "no memory");
    buf_fini(&text);
}

/* ---- watching ------------------------------------------------------------------------------------------------- */

static void watcher_free(struct waiter *w)
{
    TAILQ_REMOVE(&w->admin->watchers, w, entry);
    free(w);
}

static void on_beat(uv_timer_t *timer)
{
    struct admin *admin = timer->data;
    struct engine_status status;
    struct buf text = BUF_INIT;
    struct waiter *w, *next;
    engine_status(admin->engine, &status);
    if (status_json(&text, &status) != 0) return;
    for (w = TAILQ_FIRST(&admin->watchers); w != NULL; w = next) {
        next = TAILQ_NEXT(w, entry);
        if (session_queued(w->session) > WATCH_QUEUE_MAX) {
            session_abort(w->session);
            watcher_free(w);
            continue;
        }
        session_part(w->session, text.data, text.len); /* may end in on_gone, which frees w and no other */
    }
    buf_fini(&text);
}

void admin_changed(struct admin *admin)
{
    if (admin->closing > 0 || TAILQ_EMPTY(&admin->watchers)) return;
    uv_timer_start(&admin->beat, on_beat, 0, WATCH_MS); /* several changes of one turn of the loop make one line */
}

static void watch(struct admin *admin, struct session *s)
{
    static const struct http_field type = {"Content-Type", "application/x-ndjson"};
    static const struct http_message head = {.status = 200, .minor = 1, .length = -1, .fields = &type, .n_fields = 1};
    struct waiter *w = calloc(1, sizeof *w);
    if (w == NULL) {
        session_refuse(s, 500, "", "no memory");
        return;
    }
    w->admin = admin;
    w->session = s;
    w->watches = true;
    TAILQ_INSERT_TAIL(&admin->watchers, w, entry);
    session_set_context(s, w);
    session_begin(s, &head, "");
    uv_timer_start(&admin->beat, on_beat, 0, WATCH_MS);
}

/* ---- arguments ------------------------------------------------------------------------------------------------ */

static int parse(const struct http_message *m, yyjson_doc **ret_doc, struct error *e)
{
    yyjson_read_err why;
    yyjson_doc *doc = m->body_len > 0 ? yyjson_read_opts((char *)m->body, m->body_len, 0, NULL, &why) : NULL;
    if (doc == NULL)
        return error_set(e, ERROR_INVALID, "a JSON object is wanted in the body%s%s", m->body_len > 0 ? ": " : "",
                         m->body_len > 0 ? why.msg : "");
    if (!yyjson_is_obj(yyjson_doc_get_root(doc))) {
        yyjson_doc_free(doc);
        return error_set(e, ERROR_INVALID, "a JSON object is wanted in the body");
    }
    *ret_doc = doc;
    return 0;
}

static int get_text(yyjson_doc *doc, const char *name, const char **ret, struct error *e)
{
    yyjson_val *v = yyjson_obj_get(yyjson_doc_get_root(doc), name);
    if (!yyjson_is_str(v) || yyjson_get_len(v) == 0 || strlen(yyjson_get_str(v)) != yyjson_get_len(v))
        return error_set(e, ERROR_INVALID, "%s: a string is wanted", name);
    *ret = yyjson_get_str(v);
    return 0;
}

static int get_number(yyjson_doc *doc, const char *name, bool needed, uint64_t most, uint64_t *ret, struct error *e)
{
    yyjson_val *v = yyjson_obj_get(yyjson_doc_get_root(doc), name);
    if (v == NULL && !needed) return 0;
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) > most)
        return error_set(e, ERROR_INVALID, "%s: a whole number from 0 to %llu is wanted", name,
                         (unsigned long long)most);
    *ret = yyjson_get_uint(v);
    return 0;
}

static int get_flag(yyjson_doc *doc, const char *name, bool *ret, struct error *e)
{
    yyjson_val *v = yyjson_obj_get(yyjson_doc_get_root(doc), name);
    if (v == NULL) return 0;
    if (!yyjson_is_bool(v)) return error_set(e, ERROR_INVALID, "%s: true or false is wanted", name);
    *ret = yyjson_get_bool(v);
    return 0;
}

/* ---- what is asked -------------------------------------------------------------------------------------------- */

static int post_attach(struct admin *admin, struct session *s, yyjson_doc *doc, struct error *e)
{
    const char *identity, *upstream;
    uint64_t offset;
    bool proven = false;
    int rv = get_text(doc, "identity", &identity, e);
    if (rv == 0) rv = get_number(doc, "offset", true, INT64_MAX, &offset, e);
    if (rv == 0) rv = get_text(doc, "upstream", &upstream, e);
    if (rv == 0) rv = get_flag(doc, "proven", &proven, e);
    if (rv == 0) rv = engine_attach(admin->engine, identity, offset, upstream, proven, e);
    if (rv == 0) reply_status(admin, s);
    return rv;
}

static int post_detach(struct admin *admin, struct session *s, yyjson_doc *doc, struct error *e)
{
    const char *identity;
    int rv = get_text(doc, "identity", &identity, e);
    if (rv == 0) rv = engine_detach(admin->engine, identity, e);
    if (rv == 0) reply_status(admin, s);
    return rv;
}

static void reply_drain(struct admin *admin, struct session *s, const char *token, uint64_t offset, const bool *unbroken)
{
    struct engine_status now;
    engine_status(admin->engine, &now);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "instance", now.instance);
    yyjson_mut_obj_add_uint(doc, root, "version", now.version);
    yyjson_mut_obj_add_str(doc, root, "state", order_state_name(now.state));
    yyjson_mut_obj_add_str(doc, root, "token", token);
    yyjson_mut_obj_add_uint(doc, root, "offset", offset);
    if (unbroken != NULL) yyjson_mut_obj_add_bool(doc, root, "unbroken", *unbroken);
    size_t len = 0;
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len);
    if (text != NULL)
        session_reply(s, 200, "application/json", text, len, "");
    else
        session_refuse(s, 500, "", "no memory");
    free(text);
    yyjson_mut_doc_free(doc);
}

static void on_drain_answered(void *user, const struct error *e, uint64_t offset)
{
    struct waiter *w = user;
    session_set_context(w->session, NULL);
    if (e == NULL)
        reply_drain(w->admin, w->session, w->token, offset, NULL);
    else
        refuse(w->session, e);
    free(w);
}

static int post_checkpoint(struct admin *admin, struct session *s, yyjson_doc *doc, struct error *e)
{
    const char *token;
    uint64_t lease_ms = LEASE_MS, drain_ms = DRAIN_MS;
    int rv = get_text(doc, "token", &token, e);
    if (rv == 0) rv = get_number(doc, "lease_ms", false, TIME_MAX_MS, &lease_ms, e);
    if (rv == 0) rv = get_number(doc, "drain_ms", false, TIME_MAX_MS, &drain_ms, e);
    if (rv != 0) return rv;
    struct waiter *w = calloc(1, sizeof *w);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    w->admin = admin;
    w->session = s;
    strncpy(w->token, token, ENGINE_TOKEN_MAX);
    session_set_context(s, w);
    rv = engine_checkpoint(admin->engine, token, lease_ms, drain_ms, on_drain_answered, w, e);
    if (rv == 0) return 0;
    session_set_context(s, NULL);
    free(w);
    return rv;
}

static int post_resume(struct admin *admin, struct session *s, yyjson_doc *doc, struct error *e)
{
    const char *token;
    uint64_t offset;
    bool unbroken;
    int rv = get_text(doc, "token", &token, e);
    if (rv == 0) rv = engine_resume(admin->engine, token, &offset, &unbroken, e);
    if (rv == 0) reply_drain(admin, s, token, offset, &unbroken);
    return rv;
}

static int post_state(struct admin *admin, struct session *s, const char *query, struct error *e)
{
    bool waiting = strcmp(query, "state=waiting") == 0;
    if (!waiting && strcmp(query, "state=active") != 0)
        return error_set(e, ERROR_INVALID, "/state?state=waiting or /state?state=active is wanted");
    int rv = engine_hold(admin->engine, waiting, e);
    if (rv == 0) reply_status(admin, s);
    return rv;
}

static int post_role(struct admin *admin, struct session *s, const char *query, struct error *e)
{
    bool standby = strcmp(query, "role=standby") == 0;
    if (!standby && strcmp(query, "role=active") != 0)
        return error_set(e, ERROR_INVALID, "/role?role=active or /role?role=standby is wanted");
    int rv = engine_role(admin->engine, standby, e);
    if (rv == 0) reply_status(admin, s);
    return rv;
}

static int post_replicas(struct admin *admin, struct session *s, const char *query, struct error *e)
{
    unsigned n;
    char tail;
    if (sscanf(query, "count=%2u%c", &n, &tail) != 1 || query[6] == '-' || query[6] == '+') return error_set(e, ERROR_INVALID, "/replicas?count=N is wanted");
    int rv = engine_replicas(admin->engine, n, e);
    if (rv == 0) reply_status(admin, s);
    return rv;
}

static void get_metrics(struct admin *admin, struct session *s)
{
    struct engine_status status;
    struct buf text = BUF_INIT;
    engine_status(admin->engine, &status);
    if (status_metrics(&text, &status) == 0)
        session_reply(s, 200, "text/plain; version=0.0.4", text.data, text.len, "");
    else
        session_refuse(s, 500, "", "no memory");
    buf_fini(&text);
}

static void get_readyz(struct admin *admin, struct session *s)
{
    struct engine_status status;
    engine_status(admin->engine, &status);
    if (status.standby)
        session_refuse(s, 503, "", "a standby: %s", status.reason);
    else if (status.ready)
        session_reply(s, 200, "text/plain", "ready\n", 6, "");
    else
        session_refuse(s, 503, "", "%s%s%s", status.reason, status.detail[0] != '\0' ? ": " : "", status.detail);
}

/* ---- routing -------------------------------------------------------------------------------------------------- */

struct route {
    const char *path;
    void (*get)(struct admin *admin, struct session *s);
    int (*post)(struct admin *admin, struct session *s, yyjson_doc *doc, struct error *e);
    int (*post_query)(struct admin *admin, struct session *s, const char *query, struct error *e);
};

static void get_healthz(struct admin *admin, struct session *s)
{
    (void)admin;
    session_reply(s, 200, "text/plain", "ok\n", 3, "");
}

static int post_replay(struct admin *admin, struct session *s, const char *query, struct error *e)
{
    (void)admin;
    (void)s;
    (void)query;
    return error_set(e, ERROR_CONFLICT,
                     "an app is replayed to when it is attached: POST /attach with the offset that its state contains");
}

static const struct route routes[] = {
    {"/status", reply_status, NULL, NULL}, {"/watch", watch, NULL, NULL},
    {"/metrics", get_metrics, NULL, NULL}, {"/healthz", get_healthz, NULL, NULL},
    {"/readyz", get_readyz, NULL, NULL},   {"/attach", NULL, post_attach, NULL},
    {"/detach", NULL, post_detach, NULL},  {"/checkpoint", NULL, post_checkpoint, NULL},
    {"/resume", NULL, post_resume, NULL},  {"/state", NULL, NULL, post_state},
    {"/role", NULL, NULL, post_role},     {"/replay", NULL, NULL, post_replay},
    {"/replicas", NULL, NULL, post_replicas},
};

static const struct route *find_route(const char *target)
{
    size_t len = strcspn(target, "?");
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (strlen(routes[i].path) == len && memcmp(routes[i].path, target, len) == 0) return &routes[i];
    return NULL;
}

static void on_request(void *user, struct session *s, const struct http_message *m)
{
    struct admin *admin = user;
    struct error e = {0};
    int rv = 0;
    const struct route *route = find_route(m->target);
    bool get =
        strcmp(m->method, "GET") == 0 || (strcmp(m->method, "HEAD") == 0 && route != NULL && route->get != watch);
    bool post = strcmp(m->method, "POST") == 0;
    const char *query = strchr(m->target, '?');
    if (m->upgrade) {
        session_refuse(s, 501, "", "no upgrades here");
    } else if (route == NULL) {
        session_refuse(s, 404, "",
                       "no such path; there are /status /watch /metrics /healthz /readyz /attach /detach /checkpoint "
                       "/resume /state /role /replicas");
    } else if (route->get != NULL && get) {
        route->get(admin, s);
    } else if (route->post != NULL && post) {
        yyjson_doc *doc = NULL;
        rv = parse(m, &doc, &e);
        if (rv == 0) rv = route->post(admin, s, doc, &e);
        yyjson_doc_free(doc);
    } else if (route->post_query != NULL && post) {
        rv = route->post_query(admin, s, query != NULL ? query + 1 : "", &e);
    } else {
        session_refuse(s, 405, route->get != NULL ? "Allow: GET\r\n" : "Allow: POST\r\n", "%s wants %s", route->path,
                       route->get != NULL ? "GET" : "POST");
    }
    if (rv != 0) refuse(s, &e);
}

static void on_gone(void *user, struct session *s)
{
    struct admin *admin = user;
    struct waiter *w = session_context(s);
    if (w == NULL) return;
    if (w->watches) {
        watcher_free(w);
        return;
    }
    engine_forget(admin->engine, w);
    free(w);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int admin_start(uv_loop_t *loop, const char *address, struct engine *engine, struct admin **ret_admin, struct error *e)
{
    static const struct server_handlers handlers = {.on_request = on_request, .on_gone = on_gone};
    struct server_options options = {.address = address,
                                     .limits = {.head_bytes = HEAD_MAX, .headers = FIELDS_MAX, .body_bytes = BODY_MAX},
                                     .sessions_max = SESSIONS_MAX,
                                     .retry_after = 1,
                                     .idle_ms = IDLE_MS,
                                     .header_ms = REQUEST_MS,
                                     .body_ms = REQUEST_MS,
                                     .send_ms = REQUEST_MS};
    struct admin *admin = calloc(1, sizeof *admin);
    if (admin == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    admin->engine = engine;
    TAILQ_INIT(&admin->watchers);
    int rv = server_start(loop, &options, &handlers, admin, &admin->server, e);
    if (rv != 0) {
        free(admin);
        return rv;
    }
    uv_timer_init(loop, &admin->beat);
    admin->beat.data = admin;
    *ret_admin = admin;
    return 0;
}

static void part_closed(void *user)
{
    struct admin *admin = user;
    struct waiter *w;
    if (--admin->closing > 0) return;
    while ((w = TAILQ_FIRST(&admin->watchers)) != NULL) watcher_free(w);
    void (*done)(void *user) = admin->done;
    void *done_user = admin->done_user;
    free(admin);
    done(done_user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void admin_close(struct admin *admin, void (*done)(void *user), void *user)
{
    admin->closing = 2;
    admin->done = done;
    admin->done_user = user;
    uv_close((uv_handle_t *)&admin->beat, on_timer_closed);
    server_close(admin->server, part_closed, admin);
}
