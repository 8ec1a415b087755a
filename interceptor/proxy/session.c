/* One connection of a client: reading, parsing, time, ends. Answers are in answer.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "interceptor/proxy/internal.h"

enum {
    AHEAD_MAX = 64 << 10, /* bytes of later requests kept while one is being answered */
    DISCARD_MS = 2000,    /* for a refused client to stop sending and read why */
    REFUSED_MAX = 256,    /* sessions over the bound that are being told so */
};

static void read_start(struct session *s);

/* ---- ends ----------------------------------------------------------------------------------------------------- */

static void on_session_closed(uv_handle_t *handle)
{
    struct session *s = handle->data;
    struct server *server = s->server;
    http_parser_free(s->parser);
    tls_free(s->tls);
    buf_fini(&s->plain);
    buf_fini(&s->ahead);
    buf_fini(&s->out);
    buf_fini(&s->writing);
    buf_fini(&s->trailers);
    free(s);
    server_handle_gone(server);
}

static void session_close(struct session *s)
{
    if (s->closing) return;
    s->closing = true;
    TAILQ_REMOVE(&s->server->sessions, s, entry);
    s->server->n_sessions--;
    uv_close((uv_handle_t *)&s->tcp, on_session_closed);
}

/* The client is gone, or treated as if it were. */
void session_lost(struct session *s)
{
    struct server *server = s->server;
    bool owed = (s->busy || s->begun) && !s->closing;
    s->busy = s->begun = false;
    session_close(s);
    if (owed) server->handlers.on_gone(server->user, s);
}

void session_abort(struct session *s)
{
    s->busy = s->begun = false;
    session_close(s);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status;
    struct session *s = req->data;
    if (s->ended) session_close(s);
}

/* All is written. The client may still be sending, and would lose our answer to a reset if the socket closed under it.
 */
void session_end_gently(struct session *s)
{
    if (s->closing || s->discarding) return;
    if (s->ended) {
        session_close(s);
        return;
    }
    s->discarding = true;
    s->since_ms = uv_now(s->server->loop);
    s->shutdown.data = s;
    if (uv_shutdown(&s->shutdown, (uv_stream_t *)&s->tcp, on_shutdown) != 0) session_close(s);
}

/* ---- parsing -------------------------------------------------------------------------------------------------- */

static void refuse_bytes(struct session *s, const struct error *e)
{
    int status = http_parser_refusal(s->parser);
    if (s->begun && s->server->handlers.on_gone != NULL) s->server->handlers.on_gone(s->server->user, s);
    s->begun = false;
    s->busy = true;
    s->keep_alive = s->head = false;
    session_refuse(s, status, "", "%s", e->text);
}

static void note_head(struct session *s, const struct http_message *m)
{
    s->minor = m->minor;
    s->head = strcmp(m->method, "HEAD") == 0;
    s->since_ms = uv_now(s->server->loop);
}

/* Of a body that is too large to be held. */
static void on_part(void *user, const struct http_message *head, const void *data, size_t len)
{
    struct session *s = user;
    if (s->last || s->closing) return; /* answered already: the rest is read over */
    if (!s->begun) note_head(s, head);
    s->begun = true;
    s->keep_alive = false; /* until it is whole */
    s->since_ms = uv_now(s->server->loop);
    s->server->handlers.on_body(s->server->user, s, head, data, len);
}

static void take_request(struct session *s)
{
    const struct http_message *m = http_parser_message(s->parser);
    s->in_body = s->begun = false;
    if (s->last) return; /* it was answered before it was whole */
    s->busy = true;
    note_head(s, m);
    s->keep_alive = m->keep_alive && !m->upgrade;
    s->server->handlers.on_request(s->server->user, s, m);
}

/* Parses until a request is under way. Returns the bytes taken. */
static size_t feed(struct session *s, const char *data, size_t len)
{
    size_t at = 0, used;
    struct error e = {0};
    s->feeding = true;
    while (at < len && !s->busy && !s->last && !s->closing) {
        int rv = http_parser_feed(s->parser, data + at, len - at, &used, &e);
        if (rv >= 0) at += used;
        if (s->closing || s->last) break;
        bool in_body = rv == 0 && http_parser_in_body(s->parser);
        if (in_body && !s->in_body) s->since_ms = uv_now(s->server->loop);
        s->in_body = in_body;
        if (rv >= 0 && http_parser_wants_continue(s->parser)) {
            static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
            if (rv == 0 && session_written(s, buf_add(&s->out, text, sizeof text - 1))) session_flush(s);
        }
        if (rv < 0) refuse_bytes(s, &e);
        if (rv == 1) take_request(s);
    }
    s->feeding = false;
    return at;
}

/* Bytes of the client, in order, through a tunnel or into the parser. Returns the bytes taken. */
static size_t take(struct session *s, const char *data, size_t len)
{
    if (!s->tunnel) return feed(s, data, len);
    s->since_ms = uv_now(s->server->loop);
    s->server->handlers.on_bytes(s->server->user, s, data, len);
    return len;
}

static bool takes(const struct session *s)
{
    return (!s->busy || s->tunnel) && !s->held && !s->last && !s->closing;
}

void session_feed_ahead(struct session *s)
{
    while (s->ahead.len > 0 && takes(s)) buf_consume(&s->ahead, take(s, (const char *)s->ahead.data, s->ahead.len));
    if (s->closing) return;
    if (s->ended && s->ahead.len == 0 && (s->begun || s->tunnel)) {
        session_lost(s);
    } else if (s->ended && !s->busy && !s->begun && !s->last) {
        s->last = true;
        session_flush(s);
    }
    if (!s->closing) read_start(s);
}

void session_tunnel(struct session *s)
{
    s->tunnel = true;
    s->chunked = s->keep_alive = false;
    if (!s->feeding) session_feed_ahead(s);
}

void session_hold(struct session *s, bool on)
{
    if (s->closing || s->held == on) return;
    s->held = on;
    s->since_ms = uv_now(s->server->loop);
    if (on && s->reading) {
        uv_read_stop((uv_stream_t *)&s->tcp);
        s->reading = false;
    } else if (!on && !s->feeding) {
        session_feed_ahead(s);
    }
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *b)
{
    (void)size;
    struct session *s = handle->data;
    *b = uv_buf_init(s->server->chunk, READ_SIZE);
}

static void on_end(struct session *s)
{
    s->ended = true;
    s->reading = false;
    uv_read_stop((uv_stream_t *)&s->tcp);
    if (s->tunnel || (s->begun && s->ahead.len == 0)) {
        session_lost(s);
        return;
    }
    if (s->busy || s->begun) return; /* it may have closed its sending side only: it gets its answer */
    if (s->discarding || session_queued(s) == 0) {
        session_close(s);
        return;
    }
    s->last = true;
    session_flush(s);
}

/* Of what came, what is not taken is kept. */
static void received(struct session *s, const char *data, size_t len)
{
    size_t used = 0;
    if (s->last || s->discarding) return; /* read and dropped, until the client ends or its time is over */
    if (takes(s) && s->ahead.len == 0) {
        if (!http_parser_started(s->parser) || s->in_body) s->since_ms = uv_now(s->server->loop);
        used = take(s, data, len);
    }
    if (s->closing || used == len || s->last) return;
    if (buf_add(&s->ahead, data + used, len - used) != 0) {
        session_lost(s);
        return;
    }
    if (takes(s)) {
        session_feed_ahead(s);
    } else if (s->ahead.len > AHEAD_MAX && s->reading) {
        uv_read_stop((uv_stream_t *)&s->tcp);
        s->reading = false;
    }
}

static void unseal(struct session *s, const char *data, size_t len)
{
    struct error e;
    s->plain.len = 0;
    if (tls_receive(s->tls, data, len, &s->plain, &e) != 0) {
        log_debug("a client's TLS failed", "peer=%s reason=%s", s->peer, e.text);
        session_flush(s); /* the alert that tells it why */
        if (s->busy || s->begun) session_lost(s);
        s->last = true;
        if (!s->closing && s->writing.len == 0) session_end_gently(s);
        return;
    }
    session_flush(s);
    if (!s->closing && s->plain.len > 0) received(s, (const char *)s->plain.data, s->plain.len);
    if (s->plain.cap > 2 * READ_SIZE) buf_fini(&s->plain);
    if (!s->closing && tls_ended(s->tls)) on_end(s);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct session *s = stream->data;
    if (n == 0 || s->closing) return;
    if (n == UV_EOF)
        on_end(s);
    else if (n < 0)
        session_lost(s);
    else if (s->tls != NULL)
        unseal(s, b->base, (size_t)n);
    else
        received(s, b->base, (size_t)n);
}

static void read_start(struct session *s)
{
    if (s->reading || s->ended || s->closing || s->held || s->ahead.len > AHEAD_MAX) return;
    if (uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read) != 0)
        session_lost(s);
    else
        s->reading = true;
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

static void name_peer(struct session *s)
{
    struct sockaddr_storage a;
    int len = sizeof a;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&a;
    snprintf(s->peer, sizeof s->peer, "unknown");
    if (uv_tcp_getpeername(&s->tcp, (struct sockaddr *)&a, &len) != 0) return;
    if (a.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
        uv_inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, s->peer, sizeof s->peer);
    else
        uv_ip_name((struct sockaddr *)&a, s->peer, sizeof s->peer);
}

/* Over the bound: it is told, in plain text only, as a TLS handshake would cost what we want to save. */
static void refuse_session(struct session *s)
{
    char retry[48];
    snprintf(retry, sizeof retry, "Retry-After: %u\r\n", s->server->options.retry_after);
    s->busy = true;
    session_refuse(s, 503, retry, "too many connections");
    if (!s->closing) read_start(s);
}

void session_accept(struct server *server, uv_stream_t *listener)
{
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL) return; /* the kernel keeps it; tried again with the next one */
    s->server = server;
    uv_tcp_init(server->loop, &s->tcp);
    s->tcp.data = s;
    server->handles++;
    server->n_sessions++;
    TAILQ_INSERT_TAIL(&server->sessions, s, entry);
    s->since_ms = uv_now(server->loop);
    s->parser = http_parser_new(true, &server->options.limits);
    bool over = server->n_sessions > server->options.sessions_max;
    if (server->options.tls != NULL && !over) s->tls = tls_new(server->options.tls, NULL, NULL);
    if (uv_accept(listener, (uv_stream_t *)&s->tcp) != 0 || s->parser == NULL || (server->options.tls != NULL && !over && s->tls == NULL) ||
        server->n_sessions > server->options.sessions_max + REFUSED_MAX || (over && server->options.tls != NULL)) {
        if (over && server->handlers.on_refused != NULL) server->handlers.on_refused(server->user, 503);
        session_close(s);
        return;
    }
    uv_tcp_nodelay(&s->tcp, 1);
    name_peer(s);
    if (server->handlers.on_body != NULL) http_parser_stream(s->parser, on_part, s);
    if (over)
        refuse_session(s);
    else
        read_start(s);
}

/* ---- time ----------------------------------------------------------------------------------------------------- */

static void too_slow(struct session *s, const char *what, uint64_t ms)
{
    if (s->begun) s->server->handlers.on_gone(s->server->user, s);
    s->begun = false;
    s->busy = true;
    s->keep_alive = s->head = false;
    session_refuse(s, 408, "", "%s within %llu ms", what, (unsigned long long)ms);
}

void session_check_time(struct session *s, uint64_t now)
{
    const struct server_options *o = &s->server->options;
    uint64_t spent = now - s->since_ms;
    if (s->discarding) {
        if (spent > DISCARD_MS) session_close(s);
    } else if (s->tls != NULL && !tls_ready(s->tls)) {
        if (spent > o->header_ms) session_lost(s);
    } else if (session_queued(s) > 0 && !s->corked) {
        if (spent > o->send_ms) session_lost(s); /* it takes nothing */
    } else if (s->busy || s->held) {
        return;
    } else if (s->in_body || s->begun) {
        if (spent > o->body_ms) too_slow(s, "nothing of the request's body came", o->body_ms);
    } else if (http_parser_started(s->parser)) {
        if (spent > o->header_ms) too_slow(s, "the request's headers were not complete", o->header_ms);
    } else if (spent > o->idle_ms) {
        session_close(s);
    }
}

void session_stop(struct session *s)
{
    if (s->busy || s->begun) return;
    s->last = true;
    session_flush(s);
}

/* ---- small ones ----------------------------------------------------------------------------------------------- */

void session_set_context(struct session *s, void *context)
{
    s->context = context;
}

void *session_context(const struct session *s)
{
    return s->context;
}

const char *session_peer(const struct session *s)
{
    return s->peer;
}

bool session_secure(const struct session *s)
{
    return s->tls != NULL;
}
