#include "interceptor/proxy/server.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/buf.h"
#include "common/conn.h"

enum {
    READ_SIZE = 64 << 10,
    AHEAD_MAX = 64 << 10, /* bytes of later requests kept while one is being answered */
    SWEEP_MS = 500,
    DISCARD_MS = 2000, /* for a refused client to stop sending and read why */
    BACKLOG = 1024,
};

struct session {
    struct server *server;
    TAILQ_ENTRY(session) entry;
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct http_parser *parser;
    struct buf ahead;        /* read, not parsed yet */
    struct buf out, writing; /* to be written; being written */
    void *context;
    uint64_t since_ms; /* the last progress of whatever it is about */
    int minor;
    bool head, keep_alive; /* of the request being answered */
    bool busy;             /* a request is being answered */
    bool chunked;          /* its answer goes out in chunks */
    bool feeding, reading, ended, closing;
    bool last;       /* nothing is parsed any more: close when all is written */
    bool discarding; /* all is written: only waits for the client to end */
};

struct server {
    uv_loop_t *loop;
    struct server_options options;
    struct server_handlers handlers;
    void *user;
    uv_tcp_t listener;
    uv_timer_t sweep;
    TAILQ_HEAD(, session) sessions;
    unsigned n_sessions, handles;
    bool stopped, closing;
    void (*done)(void *user);
    void *done_user;
    char chunk[READ_SIZE];
};

static void flush(struct session *s);
static void feed_ahead(struct session *s);

/* ---- ends ----------------------------------------------------------------------------------------------------- */

static void handle_gone(struct server *server)
{
    if (--server->handles > 0 || !server->closing) return;
    if (server->done != NULL) server->done(server->done_user);
    free(server);
}

static void on_session_closed(uv_handle_t *handle)
{
    struct session *s = handle->data;
    struct server *server = s->server;
    http_parser_free(s->parser);
    buf_fini(&s->ahead);
    buf_fini(&s->out);
    buf_fini(&s->writing);
    free(s);
    handle_gone(server);
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
static void session_lost(struct session *s)
{
    struct server *server = s->server;
    bool owed = s->busy && !s->closing;
    s->busy = false;
    session_close(s);
    if (owed) server->handlers.on_gone(server->user, s);
}

void session_abort(struct session *s)
{
    s->busy = false;
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
static void end_session(struct session *s)
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

/* ---- writing -------------------------------------------------------------------------------------------------- */

static void on_written(uv_write_t *req, int status)
{
    struct session *s = req->data;
    struct server *server = s->server;
    if (s->closing) return;
    if (status != 0) {
        session_lost(s);
        return;
    }
    s->writing.len = 0;
    if (s->writing.cap > READ_SIZE) buf_fini(&s->writing);
    s->since_ms = uv_now(server->loop);
    flush(s);
    if (s->closing || s->writing.len > 0) return;
    if (s->busy && server->handlers.on_drained != NULL) server->handlers.on_drained(server->user, s);
}

static void flush(struct session *s)
{
    if (s->closing || s->writing.len > 0) return;
    if (s->out.len == 0) {
        if (s->last && !s->busy) end_session(s);
        return;
    }
    struct buf swap = s->writing;
    s->writing = s->out;
    s->out = swap;
    uv_buf_t b = uv_buf_init((char *)s->writing.data, (unsigned)s->writing.len);
    s->write.data = s;
    if (uv_write(&s->write, (uv_stream_t *)&s->tcp, &b, 1, on_written) != 0) session_lost(s);
}

/* The answer is complete. */
static void answered(struct session *s)
{
    s->busy = s->chunked = false;
    s->context = NULL;
    s->since_ms = uv_now(s->server->loop);
    if (!s->keep_alive || s->server->stopped || (s->ended && s->ahead.len == 0)) s->last = true;
    flush(s);
    if (!s->closing && !s->feeding) feed_ahead(s);
}

/* Without memory for an answer there is none. */
static bool written(struct session *s, int rv)
{
    if (rv == 0) return true;
    session_lost(s);
    return false;
}

void session_answer(struct session *s, const struct http_message *m)
{
    assert(s->busy);
    if (written(s, http_write_answer(&s->out, m, s->head, s->keep_alive && !s->server->stopped))) answered(s);
}

void session_reply(struct session *s, int status, const char *type, const void *body, size_t len, const char *extra)
{
    assert(s->busy);
    if (written(s, http_write_plain(&s->out, status, type, body, s->head ? 0 : len, extra,
                                    s->keep_alive && !s->server->stopped)))
        answered(s);
}

static int error_body(char *body, size_t size, const char *format, va_list args)
{
    char text[512];
    size_t n = 0;
    vsnprintf(text, sizeof text, format, args);
    n += (size_t)snprintf(body, size, "{\"error\":\"");
    for (const char *p = text; *p != '\0' && n + 8 < size; p++) {
        if (*p == '"' || *p == '\\') body[n++] = '\\';
        body[n++] = (unsigned char)*p < ' ' || (unsigned char)*p > 0x7e ? '?' : *p;
    }
    n += (size_t)snprintf(body + n, size - n, "\"}\n");
    return (int)n;
}

void session_refuse(struct session *s, int status, const char *extra, const char *format, ...)
{
    char body[600];
    va_list args;
    va_start(args, format);
    int n = error_body(body, sizeof body, format, args);
    va_end(args);
    session_reply(s, status, "application/json", body, (size_t)n, extra);
}

void session_begin(struct session *s, const struct http_message *m)
{
    assert(s->busy);
    if (m->length < 0 && s->minor == 0) s->keep_alive = false; /* its end is the connection's */
    if (written(s, http_write_answer_head(&s->out, m, s->minor, s->keep_alive && !s->server->stopped, &s->chunked)))
        flush(s);
}

void session_part(struct session *s, const void *data, size_t len)
{
    if (s->closing || len == 0) return;
    if (written(s, s->chunked ? http_write_chunk(&s->out, data, len) : buf_add(&s->out, data, len))) flush(s);
}

void session_end(struct session *s)
{
    if (s->closing) return;
    if (!s->chunked || written(s, http_write_chunk(&s->out, NULL, 0))) answered(s);
}

size_t session_queued(const struct session *s)
{
    return s->out.len + s->writing.len;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static void refuse_bytes(struct session *s, const struct error *e)
{
    s->busy = true;
    s->keep_alive = s->head = false;
    session_refuse(s, http_parser_refusal(s->parser), "", "%s", e->text);
}

static void take_request(struct session *s)
{
    const struct http_message *m = http_parser_message(s->parser);
    s->busy = true;
    s->minor = m->minor;
    s->head = strcmp(m->method, "HEAD") == 0;
    s->keep_alive = m->keep_alive && !m->upgrade;
    s->since_ms = uv_now(s->server->loop);
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
        if (rv >= 0 && http_parser_wants_continue(s->parser)) {
            static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
            if (rv == 0 && written(s, buf_add(&s->out, text, sizeof text - 1))) flush(s);
        }
        if (rv < 0) refuse_bytes(s, &e);
        if (rv == 1) take_request(s);
    }
    s->feeding = false;
    return at;
}

static void read_start(struct session *s);

static void feed_ahead(struct session *s)
{
    while (s->ahead.len > 0 && !s->busy && !s->last && !s->closing) {
        size_t used = feed(s, (const char *)s->ahead.data, s->ahead.len);
        buf_consume(&s->ahead, used);
    }
    if (s->closing) return;
    if (s->ended && !s->busy && !s->last) {
        s->last = true;
        flush(s);
    }
    if (!s->closing) read_start(s);
}

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
    if (s->busy) return; /* it may have closed its sending side only: it gets its answer */
    if (s->discarding || (s->out.len == 0 && s->writing.len == 0)) {
        session_close(s);
        return;
    }
    s->last = true;
    flush(s);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct session *s = stream->data;
    if (n == 0 || s->closing) return;
    if (n == UV_EOF) {
        on_end(s);
        return;
    }
    if (n < 0) {
        session_lost(s);
        return;
    }
    if (s->last || s->discarding) return; /* read and dropped, until the client ends or its time is over */
    size_t len = (size_t)n, used = 0;
    if (!s->busy && s->ahead.len == 0) {
        if (!http_parser_started(s->parser)) s->since_ms = uv_now(s->server->loop);
        used = feed(s, b->base, len);
    }
    if (s->closing || used == len || s->last) return;
    if (buf_add(&s->ahead, b->base + used, len - used) != 0) {
        session_lost(s);
        return;
    }
    if (!s->busy) {
        feed_ahead(s);
    } else if (s->ahead.len > AHEAD_MAX) {
        uv_read_stop(stream);
        s->reading = false;
    }
}

static void read_start(struct session *s)
{
    if (s->reading || s->ended || s->closing || s->ahead.len > AHEAD_MAX) return;
    if (uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read) != 0)
        session_lost(s);
    else
        s->reading = true;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    if (status != 0) return;
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
    if (uv_accept(listener, (uv_stream_t *)&s->tcp) != 0 || s->parser == NULL ||
        server->n_sessions > server->options.sessions_max) {
        session_close(s);
        return;
    }
    uv_tcp_nodelay(&s->tcp, 1);
    read_start(s);
}

/* ---- time ----------------------------------------------------------------------------------------------------- */

static void check_time(struct session *s, uint64_t now)
{
    const struct server_options *o = &s->server->options;
    uint64_t spent = now - s->since_ms;
    if (s->discarding) {
        if (spent > DISCARD_MS) session_close(s);
    } else if (session_queued(s) > 0) {
        if (spent > o->request_ms) session_lost(s); /* it takes nothing */
    } else if (!s->busy && http_parser_started(s->parser)) {
        if (spent <= o->request_ms) return;
        s->busy = true;
        s->keep_alive = s->head = false;
        session_refuse(s, 408, "", "the request was not complete within %llu ms", (unsigned long long)o->request_ms);
    } else if (!s->busy && spent > o->idle_ms) {
        session_close(s);
    }
}

static void on_sweep(uv_timer_t *timer)
{
    struct server *server = timer->data;
    struct session *s, *next;
    uint64_t now = uv_now(server->loop);
    for (s = TAILQ_FIRST(&server->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, entry);
        check_time(s, now);
    }
}

/* ---- the server ----------------------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

static int server_listen(struct server *server, const char *address, struct error *e)
{
    struct sockaddr_storage where;
    int rv = address_numeric(address, &where, e);
    if (rv != 0) return rv;
    rv = uv_tcp_bind(&server->listener, (struct sockaddr *)&where, 0);
    if (rv == 0) rv = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    return rv == 0 ? 0 : error_uv(e, ERROR_IO, rv, "cannot listen on %s", address);
}

int server_start(uv_loop_t *loop, const struct server_options *options, const struct server_handlers *handlers,
                 void *user, struct server **ret_server, struct error *e)
{
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL) return error_set(e, ERROR_NOMEM, "no memory for a listener");
    server->loop = loop;
    server->options = *options;
    server->options.address = NULL;
    server->handlers = *handlers;
    server->user = user;
    TAILQ_INIT(&server->sessions);
    uv_tcp_init(loop, &server->listener);
    uv_timer_init(loop, &server->sweep);
    server->listener.data = server->sweep.data = server;
    server->handles = 2;
    int rv = server_listen(server, options->address, e);
    if (rv != 0) {
        server_close(server, NULL, NULL);
        return rv;
    }
    uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    *ret_server = server;
    return 0;
}

unsigned server_sessions(const struct server *server)
{
    return server->n_sessions;
}

void server_stop(struct server *server)
{
    struct session *s, *next;
    if (server->stopped) return;
    server->stopped = true;
    uv_close((uv_handle_t *)&server->listener, on_handle_closed);
    for (s = TAILQ_FIRST(&server->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, entry);
        if (s->busy) continue;
        s->last = true;
        flush(s);
    }
}

void server_close(struct server *server, void (*done)(void *user), void *user)
{
    struct session *s;
    server->closing = true;
    server->done = done;
    server->done_user = user;
    if (!server->stopped) uv_close((uv_handle_t *)&server->listener, on_handle_closed);
    server->stopped = true;
    uv_close((uv_handle_t *)&server->sweep, on_handle_closed);
    while ((s = TAILQ_FIRST(&server->sessions)) != NULL) session_abort(s);
}

void session_set_context(struct session *s, void *context)
{
    s->context = context;
}

void *session_context(const struct session *s)
{
    return s->context;
}
