/* A session's other half: answers, and writing them. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/loop.h"
#include "interceptor/proxy/internal.h"

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
    session_flush(s);
    if (s->closing || s->writing.len > 0) return;
    if (s->busy && server->handlers.on_drained != NULL) server->handlers.on_drained(server->user, s);
}

/* TLS: what is queued, encrypted, and queued there. */
static bool seal(struct session *s)
{
    if (!tls_ready(s->tls) || s->out.len == 0) return true;
    int rv = tls_send(s->tls, s->out.data, s->out.len, NULL);
    s->out.len = 0;
    if (s->out.cap > READ_SIZE) buf_fini(&s->out);
    if (rv != 0) session_lost(s);
    return rv == 0;
}

void session_flush(struct session *s)
{
    if (s->closing || s->writing.len > 0) return;
    if (s->tls != NULL && !s->corked && !seal(s)) return;
    struct buf *from = s->tls != NULL ? tls_outgoing(s->tls) : &s->out;
    if (s->tls == NULL && s->corked) return;
    if (from->len == 0) {
        if (s->last && !s->busy && !s->corked) session_end_gently(s);
        return;
    }
    s->since_ms = uv_now(s->server->loop);
    if (loop_write_now((uv_stream_t *)&s->tcp, from)) {
        if (s->last && !s->busy) session_end_gently(s);
        return;
    }
    struct buf swap = s->writing;
    s->writing = *from;
    *from = swap;
    uv_buf_t b = uv_buf_init((char *)s->writing.data, (unsigned)s->writing.len);
    s->write.data = s;
    if (uv_write(&s->write, (uv_stream_t *)&s->tcp, &b, 1, on_written) != 0) session_lost(s);
}

/* The answer is complete. */
static void answered(struct session *s)
{
    if (!s->keep_alive || s->begun || s->tunnel || s->server->stopped || (s->ended && s->ahead.len == 0)) s->last = true;
    s->busy = s->chunked = s->begun = s->held = false;
    s->trailers.len = 0;
    s->context = NULL;
    s->since_ms = uv_now(s->server->loop);
    if (s->last && s->tls != NULL && !s->corked && seal(s)) tls_finish(s->tls);
    if (s->closing) return;
    session_flush(s);
    if (!s->closing && !s->feeding) session_feed_ahead(s);
}

bool session_written(struct session *s, int rv)
{
    if (rv == 0) return true;
    session_lost(s);
    return false;
}

static struct http_reader reader_of(const struct session *s, const char *extra)
{
    return (struct http_reader){.minor = s->minor,
                                .head = s->head,
                                .keep_alive = s->keep_alive && !s->begun && !s->server->stopped,
                                .extra = extra};
}

void session_answer(struct session *s, const struct http_message *m, const char *extra)
{
    assert(s->busy || s->begun);
    struct http_reader reader = reader_of(s, extra);
    if (session_written(s, http_write_answer(&s->out, m, &reader))) answered(s);
}

void session_reply(struct session *s, int status, const char *type, const void *body, size_t len, const char *extra)
{
    assert(s->busy || s->begun);
    bool keep = s->keep_alive && !s->begun && !s->server->stopped;
    if (session_written(s, http_write_plain(&s->out, status, type, body, s->head ? 0 : len, extra, keep))) answered(s);
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
    const struct server *server = s->server;
    char body[600];
    va_list args;
    va_start(args, format);
    int n = error_body(body, sizeof body, format, args);
    va_end(args);
    if (server->handlers.on_refused != NULL) server->handlers.on_refused(server->user, status);
    session_reply(s, status, "application/json", body, (size_t)n, extra);
}

void session_begin(struct session *s, const struct http_message *m, const char *extra)
{
    assert(s->busy);
    if (m->length < 0 && s->minor == 0) s->keep_alive = false; /* its end is the connection's */
    struct http_reader reader = reader_of(s, extra);
    if (session_written(s, http_write_answer_head(&s->out, m, &reader, &s->chunked))) session_flush(s);
}

void session_part(struct session *s, const void *data, size_t len)
{
    if (s->closing || len == 0) return;
    if (session_written(s, s->chunked ? http_write_chunk(&s->out, data, len) : buf_add(&s->out, data, len))) session_flush(s);
}

void session_trailers(struct session *s, const struct http_message *m)
{
    if (!s->closing && s->chunked) session_written(s, http_write_trailers(&s->trailers, m));
}

void session_end(struct session *s)
{
    if (s->closing) return;
    if (!s->chunked || session_written(s, http_write_end(&s->out, s->trailers.data, s->trailers.len))) answered(s);
}

void session_cork(struct session *s, bool on)
{
    s->corked = on;
    if (!on) session_flush(s);
}

size_t session_queued(const struct session *s)
{
    return s->out.len + s->writing.len + (s->tls != NULL ? tls_outgoing(s->tls)->len : 0);
}
