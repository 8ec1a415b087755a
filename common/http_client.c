#include "common/http_client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/buf.h"

enum { CONNECT_MS = 2000, ANSWER_MAX = 1 << 20 };

struct http_call {
    LIST_ENTRY(http_call) entry;
    struct http_client *client;
    CURL *easy;
    struct curl_slist *headers, *connect_to;
    struct buf answer;
    size_t answer_max;
    bool overflow, no_memory;
    http_call_part_cb *on_part;
    http_call_cb *cb;
    void *user;
    char why[CURL_ERROR_SIZE];
};

/* One socket of curl's that the loop watches. */
struct watch {
    uv_poll_t poll;
    struct http_client *client;
    curl_socket_t socket;
};

struct http_client {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    LIST_HEAD(, http_call) calls;
    unsigned open; /* handles that are not closed yet */
    unsigned busy; /* drive() runs: curl must not be freed under it */
    bool closing;
    char *ca, *cert, *key; /* NULL: not told */
    void (*done)(void *user);
    void *done_user;
};

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static size_t on_data(char *data, size_t one, size_t len, void *user)
{
    struct http_call *call = user;
    long code = 0;
    (void)one; /* is 1 */
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &code);
    if (call->on_part != NULL) return call->on_part(call->user, (int)code, data, len) ? len : CURL_WRITEFUNC_ERROR;
    call->overflow = call->answer.len + len > call->answer_max;
    call->no_memory = !call->overflow && buf_add(&call->answer, data, len) != 0;
    return call->overflow || call->no_memory ? CURL_WRITEFUNC_ERROR : len;
}

static void call_free(struct http_call *call)
{
    LIST_REMOVE(call, entry);
    curl_multi_remove_handle(call->client->multi, call->easy);
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    curl_slist_free_all(call->connect_to);
    buf_fini(&call->answer);
    free(call);
}

static bool set_client_tls(CURL *h, const struct http_client *c)
{
    if (c->ca == NULL) return true;
    curl_easy_setopt(h, CURLOPT_CA_CACHE_TIMEOUT, 0L);
    curl_easy_setopt(h, CURLOPT_CAPATH, NULL); /* else the system's CAs are believed, too */
    bool ok = curl_easy_setopt(h, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_CAINFO, c->ca) == CURLE_OK;
    if (!ok || c->cert[0] == '\0') return ok;
    return curl_easy_setopt(h, CURLOPT_SSLCERT, c->cert) == CURLE_OK && curl_easy_setopt(h, CURLOPT_SSLKEY, c->key) == CURLE_OK;
}

static bool set_blob(CURL *h, CURLoption option, const char *pem)
{
    struct curl_blob blob = {.data = (void *)(uintptr_t)pem, .len = pem != NULL ? strlen(pem) : 0, .flags = CURL_BLOB_COPY};
    return pem == NULL || curl_easy_setopt(h, option, &blob) == CURLE_OK;
}

/* curl takes the name to verify from the URL only: so the URL gets the name, and connect-to the address. */
static bool set_tls_name(struct http_call *call, const char *url, const char *name)
{
    char text[1024];
    bool ok = false;
    CURLU *parts = curl_url();
    char *host = NULL, *port = NULL, *whole = NULL;
    if (parts != NULL && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK && curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
        curl_url_set(parts, CURLUPART_HOST, name, 0) == CURLUE_OK && curl_url_get(parts, CURLUPART_URL, &whole, 0) == CURLUE_OK &&
        snprintf(text, sizeof text, "%s:%s:%s:%s", name, port, host, port) < (int)sizeof text) {
        call->connect_to = curl_slist_append(NULL, text);
        ok = call->connect_to != NULL && curl_easy_setopt(call->easy, CURLOPT_CONNECT_TO, call->connect_to) == CURLE_OK &&
             curl_easy_setopt(call->easy, CURLOPT_URL, whole) == CURLE_OK;
    }
    curl_free(host);
    curl_free(port);
    curl_free(whole);
    curl_url_cleanup(parts);
    return ok;
}

static bool set_call_tls(struct http_call *call, const struct http_call_options *o)
{
    CURL *h = call->easy;
    if (o->tls == NULL) return true;
    curl_easy_setopt(h, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (o->tls->ca != NULL) curl_easy_setopt(h, CURLOPT_CAPATH, NULL); /* else the system's CAs are believed, too */
    return set_blob(h, CURLOPT_CAINFO_BLOB, o->tls->ca) && set_blob(h, CURLOPT_SSLCERT_BLOB, o->tls->cert) &&
           set_blob(h, CURLOPT_SSLKEY_BLOB, o->tls->key) && (o->tls->name == NULL || set_tls_name(call, o->url, o->tls->name));
}

static bool add_header(struct http_call *call, const char *text)
{
    struct curl_slist *longer = curl_slist_append(call->headers, text);
    if (longer != NULL) call->headers = longer;
    return longer != NULL;
}

static bool set_headers(struct http_call *call, const struct http_call_options *o)
{
    char type[128];
    bool ok = true;
    if (o->bearer != NULL)
        ok = curl_easy_setopt(call->easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER) == CURLE_OK &&
             curl_easy_setopt(call->easy, CURLOPT_XOAUTH2_BEARER, o->bearer) == CURLE_OK;
    if (o->body == NULL || !ok) return ok;
    snprintf(type, sizeof type, "Content-Type: %s", o->content_type != NULL ? o->content_type : "application/json");
    return add_header(call, type) && add_header(call, "Expect:") &&
           curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK;
}

static bool set_options(struct http_call *call, const struct http_call_options *o)
{
    CURL *h = call->easy;
    bool ok = curl_easy_setopt(h, CURLOPT_URL, o->url) == CURLE_OK && curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, o->method) == CURLE_OK;
    curl_easy_setopt(h, CURLOPT_PRIVATE, call);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, call->why);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)o->timeout_ms);
    /* a peer that is gone without a word is noticed within a minute, also where silence is in order: a watch */
    curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPIDLE, 10L);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPINTVL, 5L);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, o->silence_s > 0 ? 1L : 0L);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)o->silence_s);
    ok = ok && curl_easy_setopt(h, CURLOPT_PROXY, "") == CURLE_OK && set_client_tls(h, call->client) && set_call_tls(call, o) && set_headers(call, o);
    if (!ok || o->body == NULL) return ok;
    /* On a connection that was used before, curl sends a request again when the server closes it just then: done twice. */
    curl_easy_setopt(h, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(h, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)strlen(o->body));
    return curl_easy_setopt(h, CURLOPT_COPYPOSTFIELDS, o->body) == CURLE_OK;
}

int http_client_call(struct http_client *c, const struct http_call_options *options, http_call_cb *cb, void *user,
                     struct http_call **ret_call, struct error *e)
{
    struct http_call *call = calloc(1, sizeof *call);
    if (call == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    *call = (struct http_call){.client = c, .cb = cb, .user = user, .on_part = options->on_part,
                               .answer_max = options->answer_max > 0 ? options->answer_max : ANSWER_MAX};
    LIST_INSERT_HEAD(&c->calls, call, entry);
    call->easy = curl_easy_init();
    if (call->easy == NULL || !set_options(call, options) || curl_multi_add_handle(c->multi, call->easy) != CURLM_OK) {
        call_free(call);
        return error_set(e, ERROR_NOMEM, "no memory");
    }
    *ret_call = call;
    return 0;
}

void http_call_cancel(struct http_call *call)
{
    call_free(call);
}

static void set_failure(struct http_reply *reply, const struct http_call *call, CURLcode code)
{
    const char *why = call->why[0] != '\0' ? call->why : curl_easy_strerror(code);
    if (call->overflow)
        reply->status = error_set(&reply->error, ERROR_TOO_LARGE, "the answer is larger than %zu bytes", call->answer_max);
    else if (call->no_memory)
        reply->status = error_set(&reply->error, ERROR_NOMEM, "no memory for the answer");
    else if (code == CURLE_WRITE_ERROR)
        reply->status = error_set(&reply->error, ERROR_CANCELED, "the answer was not wanted any more");
    else if (code == CURLE_OPERATION_TIMEDOUT)
        reply->status = error_set(&reply->error, ERROR_TIMEOUT, "%s", why);
    else
        reply->status = error_set(&reply->error, ERROR_UNAVAILABLE, "%s", why);
}

/* The call is gone before its callback runs: that may begin another one, or close the client. */
static void finish(struct http_call *call, CURLcode code)
{
    struct http_reply reply = {.body = ""};
    struct buf answer = call->answer;
    http_call_cb *cb = call->cb;
    void *user = call->user;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_OK && buf_add(&answer, "", 1) != 0) call->no_memory = true;
    if (code != CURLE_OK || call->no_memory) {
        set_failure(&reply, call, code);
    } else {
        reply.code = (int)status;
        reply.body = (const char *)answer.data;
        reply.len = answer.len - 1;
    }
    call->answer = (struct buf)BUF_INIT;
    call_free(call);
    cb(user, &reply);
    buf_fini(&answer);
}

/* ---- curl on the loop ----------------------------------------------------------------------------------------- */

static void let_go(struct http_client *c)
{
    if (c->open > 0 || c->busy > 0 || !c->closing) return;
    void (*done)(void *user) = c->done;
    void *user = c->done_user;
    free(c->ca);
    free(c->cert);
    free(c->key);
    free(c);
    if (done != NULL) done(user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct http_client *c = handle->data;
    c->open--;
    let_go(c);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *w = handle->data;
    struct http_client *c = w->client;
    free(w);
    c->open--;
    let_go(c);
}

static void drive(struct http_client *c, curl_socket_t socket, int events)
{
    int running, left;
    CURLMsg *message;
    c->busy++;
    curl_multi_socket_action(c->multi, socket, events, &running);
    while (!c->closing && (message = curl_multi_info_read(c->multi, &left)) != NULL) {
        struct http_call *call;
        if (message->msg != CURLMSG_DONE) continue;
        CURLcode code = message->data.result; /* the message is gone with the call */
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        finish(call, code);
    }
    c->busy--;
    if (c->closing && c->multi != NULL) {
        curl_multi_cleanup(c->multi);
        c->multi = NULL;
    }
}

static void on_timer(uv_timer_t *timer)
{
    drive(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if ((events & UV_READABLE) != 0) flags |= CURL_CSELECT_IN;
    if ((events & UV_WRITABLE) != 0) flags |= CURL_CSELECT_OUT;
    drive(w->client, w->socket, flags);
}

static int want_timer(CURLM *multi, long timeout_ms, void *user)
{
    struct http_client *c = user;
    (void)multi;
    if (c->closing || timeout_ms < 0) return uv_timer_stop(&c->timer);
    return uv_timer_start(&c->timer, on_timer, (uint64_t)timeout_ms, 0);
}

static struct watch *watch_new(struct http_client *c, curl_socket_t socket)
{
    struct watch *w = calloc(1, sizeof *w);
    if (w == NULL) return NULL;
    w->client = c;
    w->socket = socket;
    w->poll.data = w;
    if (uv_poll_init_socket(c->loop, &w->poll, socket) != 0) {
        free(w);
        return NULL;
    }
    c->open++;
    curl_multi_assign(c->multi, socket, w);
    return w;
}

/* curl tells of each socket before it closes it: the poll is stopped by then. */
static int want_socket(CURL *easy, curl_socket_t socket, int what, void *user, void *socket_user)
{
    struct http_client *c = user;
    struct watch *w = socket_user;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w == NULL) return 0;
        curl_multi_assign(c->multi, socket, NULL);
        uv_close((uv_handle_t *)&w->poll, on_watch_closed);
        return 0;
    }
    if (w == NULL && (w = watch_new(c, socket)) == NULL) return -1;
    int events = ((what & CURL_POLL_IN) != 0 ? UV_READABLE : 0) | ((what & CURL_POLL_OUT) != 0 ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) == 0 ? 0 : -1;
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int http_client_new(uv_loop_t *loop, struct http_client **ret_client, struct error *e)
{
    struct http_client *c = calloc(1, sizeof *c);
    if (c == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || (c->multi = curl_multi_init()) == NULL) {
        free(c);
        return error_set(e, ERROR_NOMEM, "no memory for HTTP calls");
    }
    c->loop = loop;
    LIST_INIT(&c->calls);
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    c->open = 1;
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    *ret_client = c;
    return 0;
}

int http_client_secure(struct http_client *c, const char *ca, const char *cert, const char *key, struct error *e)
{
    char *new_ca = strdup(ca), *new_cert = strdup(cert), *new_key = strdup(key);
    if (new_ca == NULL || new_cert == NULL || new_key == NULL) {
        free(new_ca);
        free(new_cert);
        free(new_key);
        return error_set(e, ERROR_NOMEM, "no memory for HTTP calls");
    }
    free(c->ca);
    free(c->cert);
    free(c->key);
    c->ca = new_ca;
    c->cert = new_cert;
    c->key = new_key;
    return 0;
}

void http_client_close(struct http_client *c, void (*done)(void *user), void *user)
{
    struct http_call *call;
    c->done = done;
    c->done_user = user;
    while ((call = LIST_FIRST(&c->calls)) != NULL) call_free(call);
    c->closing = true;
    if (c->busy == 0) { /* else drive() does it */
        curl_multi_cleanup(c->multi);
        c->multi = NULL;
    }
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}
