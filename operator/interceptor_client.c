#include "operator/interceptor_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "common/buf.h"
#include "common/http_client.h"
#include "common/log.h"

enum {
    RETRY_MIN_MS = 20,
    RETRY_MAX_MS = 1000,
    ADDRESS_MAX = 100,
    INSTANCE_MAX = 40,
};

/* What one line of the watch, or one answer, says. Versions count within one instance, which is one life of its process. */
struct stamp {
    char instance[INSTANCE_MAX];
    uint64_t version;
};

/* A call under way, and who waits for it. */
struct pending {
    struct interceptor_client *client;
    struct http_call *call; /* NULL: none */
    void (*take)(struct interceptor_client *c, yyjson_val *root, struct interceptor_answer *answer);
    interceptor_cb *cb;
    void *user;
};

struct interceptor_client {
    char address[ADDRESS_MAX];
    struct http_client *http;
    uv_timer_t retry;
    uint32_t delay_ms; /* before the next try */
    struct http_call *watch;
    struct buf line; /* the watch's, as far as it came */
    bool complained; /* about not reaching it; once for each time that it is gone */

    struct stamp seen; /* the newest that is in `world` */
    struct world_interceptor world;
    struct interceptor_extra extra;
    void (*on_change)(void *user);
    void *user;

    struct pending call, role;

    unsigned open;
    void (*done)(void *user);
    void *done_user;
};

static void watch_begin(struct interceptor_client *c);

/* ---- reading what it says ------------------------------------------------------------------------------------- */

static bool copy(char *to, size_t cap, yyjson_val *v)
{
    if (!yyjson_is_str(v) || yyjson_get_len(v) >= cap) return false;
    snprintf(to, cap, "%s", yyjson_get_str(v));
    return true;
}

static bool read_state(yyjson_val *v, enum world_traffic *ret_state)
{
    static const struct {
        const char *name;
        enum world_traffic state;
    } states[] = {{"waiting", WORLD_WAITING}, {"replaying", WORLD_REPLAYING}, {"active", WORLD_ACTIVE}, {"draining", WORLD_DRAINING}};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        if (!yyjson_equals_str(v, states[i].name)) continue;
        *ret_state = states[i].state;
        return true;
    }
    return false;
}

static bool read_stamp(yyjson_val *root, struct stamp *ret_stamp)
{
    yyjson_val *version = yyjson_obj_get(root, "version");
    ret_stamp->version = yyjson_get_uint(version);
    return yyjson_is_uint(version) && copy(ret_stamp->instance, sizeof ret_stamp->instance, yyjson_obj_get(root, "instance"));
}

static bool read_app(yyjson_val *app, struct world_interceptor *w)
{
    yyjson_val *lost = yyjson_obj_get(app, "lost"), *suspect = yyjson_obj_get(app, "suspect"), *identity = yyjson_obj_get(app, "identity");
    if (!yyjson_is_bool(lost) || !yyjson_is_bool(suspect) || !(yyjson_is_null(identity) || yyjson_is_str(identity))) return false;
    w->lost = yyjson_get_bool(lost);
    w->suspect = yyjson_get_bool(suspect);
    w->diverged = yyjson_get_uint(yyjson_obj_get(app, "diverged"));
    w->agreed = yyjson_get_uint(yyjson_obj_get(app, "agreed"));
    w->disagreement = yyjson_get_uint(yyjson_obj_get(app, "disagreement"));
    /* What is cut here is longer than an identity of ours: not ours, whatever it is. */
    snprintf(w->identity, sizeof w->identity, "%s", yyjson_is_str(identity) ? yyjson_get_str(identity) : "");
    return true;
}

static bool read_number(yyjson_val *of, const char *name, uint64_t *ret)
{
    yyjson_val *v = yyjson_obj_get(of, name);
    *ret = yyjson_get_uint(v);
    return yyjson_is_uint(v);
}

/* Of an interceptor without such a thing: nothing is proven. */
static void read_proof(yyjson_val *proof, struct world_interceptor *w)
{
    yyjson_val *verdict = yyjson_obj_get(proof, "verdict");
    bool known = yyjson_equals_str(verdict, "known") && read_number(proof, "offset", &w->proven_offset) &&
                 copy(w->proven, sizeof w->proven, yyjson_obj_get(proof, "identity"));
    w->proof = known ? WORLD_PROOF_KNOWN : yyjson_equals_str(verdict, "pending") ? WORLD_PROOF_PENDING : WORLD_PROOF_NONE;
}

/* A whole status. False: it is none of ours. */
static bool read_status(yyjson_val *root, struct world_interceptor *ret_world, struct interceptor_extra *ret_extra)
{
    struct world_interceptor w = {0};
    struct interceptor_extra x = {0};
    yyjson_val *offsets = yyjson_obj_get(root, "offsets"), *times = yyjson_obj_get(root, "times");
    bool ok = read_state(yyjson_obj_get(root, "state"), &w.state) && read_app(yyjson_obj_get(root, "app"), &w) &&
              read_number(offsets, "last", &w.last) && read_number(offsets, "executed", &w.executed) &&
              read_number(yyjson_obj_get(root, "replay"), "done", &x.replay_done) && read_number(times, "lost_us", &x.lost_us) &&
              read_number(times, "attached_us", &x.attached_us) && read_number(times, "active_us", &x.active_us) &&
              copy(x.stream, sizeof x.stream, yyjson_obj_get(root, "stream"));
    if (ok && w.state == WORLD_DRAINING)
        ok = copy(w.token, sizeof w.token, yyjson_obj_get(yyjson_obj_get(root, "drain"), "token"));
    if (!ok) return false;
    w.leaving = yyjson_is_true(yyjson_obj_get(root, "leaving")); /* older ones say nothing of it */
    w.standby = yyjson_equals_str(yyjson_obj_get(root, "role"), "standby");
    x.shared = yyjson_equals_str(yyjson_obj_get(root, "replication"), "log");
    read_proof(yyjson_obj_get(root, "proof"), &w);
    read_number(yyjson_obj_get(root, "requests"), "held", &x.held);
    *ret_world = w;
    *ret_extra = x;
    return true;
}

static bool is_same(const struct world_interceptor *a, const struct world_interceptor *b)
{
    return a->state == b->state && a->lost == b->lost && a->suspect == b->suspect && a->last == b->last && a->executed == b->executed &&
           a->leaving == b->leaving && a->standby == b->standby && a->diverged == b->diverged && a->agreed == b->agreed && a->disagreement == b->disagreement &&
           strcmp(a->identity, b->identity) == 0 && strcmp(a->token, b->token) == 0 && a->proof == b->proof &&
           strcmp(a->proven, b->proven) == 0 && a->proven_offset == b->proven_offset;
}

static bool is_older(const struct stamp *a, const struct stamp *b)
{
    return strcmp(a->instance, b->instance) == 0 && a->version < b->version;
}

/* ---- the watch ------------------------------------------------------------------------------------------------ */

static void set_unreachable(struct interceptor_client *c)
{
    bool changed = c->world.state != WORLD_UNREACHABLE;
    c->world.state = WORLD_UNREACHABLE;
    c->world.token[0] = '\0';
    if (changed) c->on_change(c->user);
}

/* False: whoever it is, it is no interceptor. */
static bool take_line(struct interceptor_client *c, const char *text, size_t len)
{
    struct world_interceptor world;
    struct interceptor_extra extra;
    struct stamp stamp;
    yyjson_doc *doc = yyjson_read(text, len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc);
    bool ok = read_stamp(root, &stamp) && read_status(root, &world, &extra);
    yyjson_doc_free(doc);
    if (!ok) return false;
    c->delay_ms = RETRY_MIN_MS;
    c->complained = false;
    if (is_older(&stamp, &c->seen)) return true; /* a newer line is on its way */
    c->seen = stamp;
    c->extra = extra;
    if (is_same(&world, &c->world)) return true;
    c->world = world;
    c->on_change(c->user);
    return true;
}

static bool on_watch_part(void *user, int code, const char *data, size_t len)
{
    struct interceptor_client *c = user;
    uint8_t *end;
    if (code != 200 || c->line.len + len > INTERCEPTOR_CLIENT_ANSWER_MAX || buf_add(&c->line, data, len) != 0) return false;
    while (c->line.len > 0 && (end = memchr(c->line.data, '\n', c->line.len)) != NULL) {
        size_t line = (size_t)(end - c->line.data);
        if (!take_line(c, (const char *)c->line.data, line)) return false;
        buf_consume(&c->line, line + 1);
    }
    return true;
}

static void on_retry(uv_timer_t *timer)
{
    watch_begin(timer->data);
}

static void retry_later(struct interceptor_client *c, const char *why)
{
    if (!c->complained) log_warn("the interceptor is out of reach", "interceptor=%s reason=%s", c->address, why);
    c->complained = true;
    c->line.len = 0;
    uv_timer_start(&c->retry, on_retry, c->delay_ms, 0);
    c->delay_ms = c->delay_ms * 2 < RETRY_MAX_MS ? c->delay_ms * 2 : RETRY_MAX_MS;
    set_unreachable(c);
}

static void on_watch_end(void *user, const struct http_reply *reply)
{
    struct interceptor_client *c = user;
    c->watch = NULL;
    retry_later(c, reply->status == -ERROR_CANCELED ? "what answers there is no interceptor"
                   : reply->status != 0             ? reply->error.text
                   : reply->code != 200             ? "it refuses to be watched"
                                                    : "it ended the watch");
}

static void watch_begin(struct interceptor_client *c)
{
    char url[ADDRESS_MAX + 32];
    struct error e;
    const struct http_call_options options = {
        .method = "GET", .url = url, .silence_s = INTERCEPTOR_CLIENT_SILENCE_MS / 1000, .on_part = on_watch_part};
    snprintf(url, sizeof url, "http://%s/watch", c->address);
    if (http_client_call(c->http, &options, on_watch_end, c, &c->watch, &e) != 0) retry_later(c, e.text);
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static int of_code(int code)
{
    switch (code) {
    case 400: return ERROR_INVALID;
    case 404: return ERROR_NOT_FOUND;
    case 409: return ERROR_CONFLICT;
    case 413: return ERROR_TOO_LARGE;
    case 504: return ERROR_TIMEOUT;
    default: return code >= 500 ? ERROR_UNAVAILABLE : ERROR_PROTOCOL;
    }
}

static void read_refusal(yyjson_val *root, int code, struct interceptor_answer *answer)
{
    const char *text = yyjson_get_str(yyjson_obj_get(root, "error"));
    enum error_code error = text != NULL ? (enum error_code)of_code(code) : ERROR_PROTOCOL;
    answer->status = error_set(&answer->error, error, "%s", text != NULL ? text : "what answered is no interceptor");
}

static void set_strange(struct interceptor_answer *answer)
{
    answer->status = error_set(&answer->error, ERROR_PROTOCOL, "what answered is no interceptor, or one of another version");
}

/* An answer counts for the world when it is from the process that is being watched. One of another process shows that the watch is
 * of one that is gone. */
static bool counts(struct interceptor_client *c, const struct stamp *stamp)
{
    if (c->world.state == WORLD_UNREACHABLE) return false; /* the watch's first line will tell */
    if (strcmp(stamp->instance, c->seen.instance) == 0) return stamp->version >= c->seen.version;
    if (c->watch != NULL) http_call_cancel(c->watch);
    c->watch = NULL;
    retry_later(c, "it was started anew");
    return false;
}

static void take_status(struct interceptor_client *c, yyjson_val *root, struct interceptor_answer *answer)
{
    struct world_interceptor world;
    struct interceptor_extra extra;
    struct stamp stamp;
    if (!read_stamp(root, &stamp) || !read_status(root, &world, &extra)) {
        set_strange(answer);
        return;
    }
    if (!counts(c, &stamp)) return;
    c->seen = stamp;
    c->world = world;
    c->extra = extra;
}

static void take_drain(struct interceptor_client *c, yyjson_val *root, struct interceptor_answer *answer)
{
    enum world_traffic state;
    struct stamp stamp;
    char token[WORLD_ID_MAX];
    bool ok = read_stamp(root, &stamp) && read_state(yyjson_obj_get(root, "state"), &state) &&
              read_number(root, "offset", &answer->offset) && copy(token, sizeof token, yyjson_obj_get(root, "token"));
    answer->unbroken = yyjson_get_bool(yyjson_obj_get(root, "unbroken"));
    if (!ok) {
        set_strange(answer);
        return;
    }
    if (!counts(c, &stamp)) return;
    c->seen = stamp;
    c->world.state = state;
    snprintf(c->world.token, sizeof c->world.token, "%s", state == WORLD_DRAINING ? token : "");
}

static void on_called(void *user, const struct http_reply *reply)
{
    struct pending *p = user;
    struct interceptor_answer answer = {0};
    yyjson_doc *doc = yyjson_read(reply->body, reply->len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc);
    p->call = NULL;
    if (reply->status != 0)
        answer.status = error_set(&answer.error, ERROR_UNAVAILABLE, "%s", reply->error.text);
    else if (reply->code != 200)
        read_refusal(root, reply->code, &answer);
    else
        p->take(p->client, root, &answer);
    yyjson_doc_free(doc);
    p->cb(p->user, &answer);
}

struct argument {
    const char *name, *text; /* NULL: the number */
    uint64_t number;
    bool yes; /* neither: true */
};

static char *make_body(const struct argument *arguments, size_t n)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    bool ok = doc != NULL;
    for (size_t i = 0; ok && i < n; i++)
        ok = arguments[i].yes            ? yyjson_mut_obj_add_bool(doc, root, arguments[i].name, true)
             : arguments[i].text != NULL ? yyjson_mut_obj_add_str(doc, root, arguments[i].name, arguments[i].text)
                                         : yyjson_mut_obj_add_uint(doc, root, arguments[i].name, arguments[i].number);
    char *text = ok ? yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, NULL) : NULL;
    yyjson_mut_doc_free(doc);
    return text;
}

static int post(struct pending *p, const char *path, const char *body, uint32_t timeout_ms, interceptor_cb *cb, void *user, struct error *e)
{
    char url[ADDRESS_MAX + 32];
    if (p->call != NULL) return error_set(e, ERROR_BUSY, "a call to the interceptor is under way");
    snprintf(url, sizeof url, "http://%s%s", p->client->address, path);
    const struct http_call_options options = {
        .method = "POST", .url = url, .body = body, .timeout_ms = timeout_ms, .answer_max = INTERCEPTOR_CLIENT_ANSWER_MAX};
    int rv = http_client_call(p->client->http, &options, on_called, p, &p->call, e);
    p->cb = cb;
    p->user = user;
    return rv;
}

static int call(struct interceptor_client *c, const char *path, const struct argument *arguments, size_t n, uint32_t timeout_ms,
                interceptor_cb *cb, void *user, struct error *e)
{
    char *body = make_body(arguments, n);
    if (body == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    int rv = post(&c->call, path, body, timeout_ms, cb, user, e);
    free(body);
    return rv;
}

int interceptor_attach(struct interceptor_client *c, const char *identity, uint64_t offset, const char *upstream, bool proven,
                       interceptor_cb *cb, void *user, struct error *e)
{
    const struct argument arguments[] = {
        {"identity", identity, 0, false}, {"offset", NULL, offset, false}, {"upstream", upstream, 0, false}, {"proven", NULL, 0, true}};
    int rv = call(c, "/attach", arguments, proven ? 4 : 3, INTERCEPTOR_CLIENT_CALL_MS, cb, user, e);
    if (rv == 0) c->call.take = take_status;
    return rv;
}

int interceptor_drain(struct interceptor_client *c, const char *token, uint32_t lease_ms, uint32_t drain_ms, interceptor_cb *cb,
                      void *user, struct error *e)
{
    const struct argument arguments[] = {{"token", token, 0, false}, {"lease_ms", NULL, lease_ms, false}, {"drain_ms", NULL, drain_ms, false}};
    int rv = call(c, "/checkpoint", arguments, 3, INTERCEPTOR_CLIENT_CALL_MS + drain_ms, cb, user, e);
    if (rv == 0) c->call.take = take_drain;
    return rv;
}

int interceptor_resume(struct interceptor_client *c, const char *token, interceptor_cb *cb, void *user, struct error *e)
{
    const struct argument arguments[] = {{"token", token, 0, false}};
    int rv = call(c, "/resume", arguments, 1, INTERCEPTOR_CLIENT_CALL_MS, cb, user, e);
    if (rv == 0) c->call.take = take_drain;
    return rv;
}

int interceptor_role(struct interceptor_client *c, bool standby, interceptor_cb *cb, void *user, struct error *e)
{
    int rv = post(&c->role, standby ? "/role?role=standby" : "/role?role=active", "", INTERCEPTOR_CLIENT_CALL_MS, cb, user, e);
    if (rv == 0) c->role.take = take_status;
    return rv;
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int interceptor_client_new(uv_loop_t *loop, const char *address, void (*on_change)(void *user), void *user,
                           struct interceptor_client **ret_client, struct error *e)
{
    struct interceptor_client *c = calloc(1, sizeof *c);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    *c = (struct interceptor_client){.on_change = on_change, .user = user, .delay_ms = RETRY_MIN_MS};
    c->call.client = c->role.client = c;
    int rv = http_client_new(loop, &c->http, e);
    if (rv == 0 && snprintf(c->address, sizeof c->address, "%s", address) >= (int)sizeof c->address)
        rv = error_set(e, ERROR_INVALID, "the interceptor's address is too long");
    if (rv != 0) {
        if (c->http != NULL) http_client_close(c->http, NULL, NULL);
        free(c);
        return rv;
    }
    uv_timer_init(loop, &c->retry);
    c->retry.data = c;
    watch_begin(c);
    *ret_client = c;
    return 0;
}

static void part_closed(struct interceptor_client *c)
{
    if (--c->open > 0) return;
    void (*done)(void *user) = c->done;
    void *user = c->done_user;
    buf_fini(&c->line);
    free(c);
    if (done != NULL) done(user);
}

static void on_http_closed(void *user)
{
    part_closed(user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void interceptor_client_close(struct interceptor_client *c, void (*done)(void *user), void *user)
{
    c->done = done;
    c->done_user = user;
    c->open = 2;
    struct pending *all[] = {&c->call, &c->role};
    bool calls[] = {c->call.call != NULL, c->role.call != NULL};
    uv_close((uv_handle_t *)&c->retry, on_timer_closed);
    http_client_close(c->http, on_http_closed, c); /* watch and call end without a word */
    struct interceptor_answer answer = {0};
    answer.status = error_set(&answer.error, ERROR_CANCELED, "the operator lets go");
    for (size_t i = 0; i < 2; i++)
        if (calls[i]) all[i]->cb(all[i]->user, &answer);
}

const struct world_interceptor *interceptor_client_world(const struct interceptor_client *c)
{
    return &c->world;
}

const struct interceptor_extra *interceptor_client_extra(const struct interceptor_client *c)
{
    return &c->extra;
}
