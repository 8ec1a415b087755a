#include "operator/kube/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/buf.h"
#include "common/http_client.h"
#include "common/loop.h"

struct kube_call {
    LIST_ENTRY(kube_call) entry;
    struct kube_client *client;
    struct http_call *http;
    char *method, *path, *body, *content_type;
    uint32_t timeout_ms, silence_s;
    bool (*on_line)(void *user, int code, const char *line, size_t len);
    bool again; /* tried with a fresh token already */
    struct buf line;
    kube_cb *cb;
    void *user;
};

struct kube_client {
    struct kube_config *config;
    struct http_client *http;
    LIST_HEAD(, kube_call) calls;
    bool closing;
};

static void on_reply(void *user, const struct http_reply *reply);

static void call_free(struct kube_call *call)
{
    LIST_REMOVE(call, entry);
    free(call->method);
    free(call->path);
    free(call->body);
    free(call->content_type);
    buf_fini(&call->line);
    free(call);
}

/* ---- lines of a watch ----------------------------------------------------------------------------------------- */

static bool on_part(void *user, int code, const char *data, size_t len)
{
    struct kube_call *call = user;
    uint8_t *end;
    size_t used = 0;
    if (call->line.len + len > KUBE_LINE_MAX || buf_add(&call->line, data, len) != 0) return false;
    if (code != 200) return true; /* an error's text: kept for the end */
    while ((end = memchr(call->line.data + used, '\n', call->line.len - used)) != NULL) {
        char *line = (char *)call->line.data + used;
        *end = '\0';
        used = (size_t)(end - call->line.data) + 1;
        if (!call->on_line(call->user, code, line, (size_t)((char *)end - line))) return false;
    }
    buf_consume(&call->line, used);
    return true;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static int of_code(int code, const char *reason)
{
    switch (code) {
    case 404: return ERROR_NOT_FOUND;
    case 409: return strcmp(reason, "AlreadyExists") == 0 ? ERROR_EXISTS : ERROR_CONFLICT;
    case 410: return ERROR_SEQUENCE;
    case 429: return ERROR_BUSY;
    default: return code >= 500 ? ERROR_UNAVAILABLE : ERROR_INVALID;
    }
}

static const char *text_of(yyjson_val *of, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(of, name));
    return text != NULL ? text : "";
}

static void read_refusal(struct kube_reply *r, const struct kube_call *call)
{
    const char *message = text_of(r->root, "message");
    r->retry_ms = yyjson_get_uint(yyjson_obj_get(yyjson_obj_get(r->root, "details"), "retryAfterSeconds")) * 1000;
    if (r->retry_ms > 60000) r->retry_ms = 60000;
    r->status = error_set(&r->error, (enum error_code)of_code(r->code, text_of(r->root, "reason")), "%s %.80s: %d %.120s", call->method, call->path,
                          r->code, message[0] != '\0' ? message : "(without a reason)");
}

static void read_answer(struct kube_reply *r, const struct kube_call *call, const char *body, size_t len)
{
    r->doc = yyjson_read(body, len, YYJSON_READ_NOFLAG);
    r->root = yyjson_doc_get_root(r->doc);
    if (r->code < 200 || r->code > 299)
        read_refusal(r, call);
    else if (!yyjson_is_obj(r->root) && call->on_line == NULL)
        r->status = error_set(&r->error, ERROR_PROTOCOL, "%s %.80s: the answer is no JSON object", call->method, call->path);
}

static int begin(struct kube_call *call, bool fresh_token, struct error *e)
{
    struct kube_client *c = call->client;
    struct kube_config *config = c->config;
    char url[4096];
    struct http_tls tls = {.ca = config->ca, .cert = config->cert, .key = config->key};
    if (snprintf(url, sizeof url, "%s%s", config->server, call->path) >= (int)sizeof url)
        return error_set(e, ERROR_TOO_LARGE, "%s %.80s: the address is too long", call->method, call->path);
    struct http_call_options o = {.method = call->method, .url = url, .body = call->body, .content_type = call->content_type,
                                  .timeout_ms = call->timeout_ms, .silence_s = call->silence_s, .answer_max = KUBE_ANSWER_MAX,
                                  .bearer = kube_config_token(config, loop_monotonic_us() / 1000, fresh_token),
                                  .tls = &tls, .on_part = call->on_line != NULL ? on_part : NULL};
    return http_client_call(c->http, &o, on_reply, call, &call->http, e);
}

static void on_reply(void *user, const struct http_reply *reply)
{
    struct kube_call *call = user;
    struct kube_reply r = {.code = reply->code};
    struct error e;
    call->http = NULL;
    if (reply->status == 0 && reply->code == 401 && !call->again && call->client->config->token_file != NULL) {
        call->again = true;
        call->line.len = 0;
        if (begin(call, true, &e) == 0) return;
    }
    if (reply->status != 0)
        r.status = error_set(&r.error, reply->status == -ERROR_TIMEOUT ? ERROR_TIMEOUT : ERROR_UNAVAILABLE, "%s %.80s: %.150s", call->method,
                             call->path, reply->error.text);
    else if (call->on_line != NULL)
        read_answer(&r, call, call->line.len > 0 ? (const char *)call->line.data : "", call->line.len);
    else
        read_answer(&r, call, reply->body, reply->len);
    kube_cb *cb = call->cb;
    void *cb_user = call->user;
    call_free(call);
    cb(cb_user, &r);
    yyjson_doc_free(r.doc);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int kube_client_new(uv_loop_t *loop, struct kube_config *config, struct kube_client **ret_client, struct error *e)
{
    struct kube_client *c = calloc(1, sizeof *c);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    c->config = config;
    LIST_INIT(&c->calls);
    int rv = http_client_new(loop, &c->http, e);
    if (rv != 0) {
        free(c);
        return rv;
    }
    *ret_client = c;
    return 0;
}

static bool copy(const char *text, char **ret)
{
    return text == NULL || (*ret = strdup(text)) != NULL;
}

int kube_call(struct kube_client *c, const struct kube_request *q, kube_cb *cb, void *user, struct kube_call **ret_call, struct error *e)
{
    if (c->closing) return error_set(e, ERROR_CANCELED, "the end");
    struct kube_call *call = calloc(1, sizeof *call);
    if (call == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    *call = (struct kube_call){.client = c, .cb = cb, .user = user, .on_line = q->on_line, .silence_s = q->silence_s,
                               .timeout_ms = q->on_line != NULL ? 0 : q->timeout_ms > 0 ? q->timeout_ms : KUBE_CALL_MS};
    LIST_INSERT_HEAD(&c->calls, call, entry);
    int rv = copy(q->method, &call->method) && copy(q->path, &call->path) && copy(q->body, &call->body) && copy(q->content_type, &call->content_type)
                 ? begin(call, false, e)
                 : error_set(e, ERROR_NOMEM, "no memory");
    if (rv != 0) {
        call_free(call);
        return rv;
    }
    if (ret_call != NULL) *ret_call = call;
    return 0;
}

void kube_call_cancel(struct kube_call *call)
{
    if (call->http != NULL) http_call_cancel(call->http);
    call_free(call);
}

void kube_client_close(struct kube_client *c, void (*done)(void *user), void *user)
{
    struct kube_call *call;
    c->closing = true;
    while ((call = LIST_FIRST(&c->calls)) != NULL) {
        struct kube_reply r = {0};
        kube_cb *cb = call->cb;
        void *cb_user = call->user;
        kube_call_cancel(call);
        r.status = error_set(&r.error, ERROR_CANCELED, "the end");
        cb(cb_user, &r);
    }
    http_client_close(c->http, done, user);
    free(c);
}
