#include "common/http_listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/conn.h"

enum { HEAD_MAX = 8 << 10, FIELDS_MAX = 64, READ_BYTES = 16 << 10 };

/* One connection. It is freed when its two handles are closed, no write is under way, and no answer is owed. */
struct http_exchange {
    LIST_ENTRY(http_exchange) entry;
    struct http_listener *listener;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_write_t write;
    struct tls *tls;
    struct http_parser *parser;
    struct buf in; /* decrypted, not parsed yet */
    struct buf out, writing;
    unsigned open_handles;
    bool owed, head, keep_alive, last, writes, closed;
    bool parsing; /* parse() runs: it goes on by itself after an answer that comes at once */
};

struct http_listener {
    uv_loop_t *loop;
    uv_tcp_t tcp;
    char address[96];
    struct tls_context *tls;
    http_listener_cb *on_request;
    void *user;
    LIST_HEAD(, http_exchange) list;
    unsigned n;
    bool closing, listening;
    void (*done)(void *user);
    void *done_user;
};

static void parse(struct http_exchange *x);

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void maybe_gone(struct http_listener *l)
{
    if (!l->closing || l->listening || l->n > 0) return;
    void (*done)(void *user) = l->done;
    void *user = l->done_user;
    free(l);
    if (done != NULL) done(user);
}

static void maybe_free(struct http_exchange *x)
{
    struct http_listener *l = x->listener;
    if (x->open_handles > 0 || x->owed) return;
    LIST_REMOVE(x, entry);
    l->n--;
    tls_free(x->tls);
    http_parser_free(x->parser);
    buf_fini(&x->in);
    buf_fini(&x->out);
    buf_fini(&x->writing);
    free(x);
    maybe_gone(l);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct http_exchange *x = handle->data;
    x->open_handles--;
    maybe_free(x);
}

static void end(struct http_exchange *x)
{
    if (x->closed) return;
    x->closed = true;
    uv_close((uv_handle_t *)&x->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&x->timer, on_handle_closed);
}

static void on_late(uv_timer_t *timer)
{
    end(timer->data);
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static void flush(struct http_exchange *x);

static void on_written(uv_write_t *request, int status)
{
    struct http_exchange *x = request->data;
    x->writes = false;
    x->writing.len = 0;
    if (x->closed) return;
    if (status != 0) end(x);
    else flush(x);
}

static void flush(struct http_exchange *x)
{
    struct buf *from = &x->out;
    if (x->closed || x->writes) return;
    if (x->tls != NULL) {
        if (tls_ready(x->tls) && x->out.len > 0 && tls_send(x->tls, x->out.data, x->out.len, NULL) != 0) x->last = true;
        if (tls_ready(x->tls)) x->out.len = 0;
        if (x->last) tls_finish(x->tls);
        from = tls_outgoing(x->tls);
    }
    if (from->len == 0) {
        if (x->last) end(x);
        return;
    }
    struct buf swap = x->writing;
    x->writing = *from;
    *from = swap;
    uv_buf_t bytes = uv_buf_init((char *)x->writing.data, (unsigned)x->writing.len);
    x->write.data = x;
    x->writes = true;
    if (uv_write(&x->write, (uv_stream_t *)&x->tcp, &bytes, 1, on_written) != 0) {
        x->writes = false;
        end(x);
    }
}

static void put(struct http_exchange *x, int status, const char *type, const void *body, size_t len)
{
    x->last = x->last || !x->keep_alive || x->listener->closing;
    if (http_write_plain(&x->out, status, type, body, len, "", !x->last) != 0) end(x);
    /* to HEAD the same head without its body */
    else if (x->head && x->out.len >= len) x->out.len -= len;
    uv_timer_start(&x->timer, on_late, HTTP_LISTENER_IDLE_MS, 0);
    flush(x);
}

void http_exchange_reply(struct http_exchange *x, int status, const char *type, const void *body, size_t len)
{
    x->owed = false;
    if (x->closed) {
        maybe_free(x);
        return;
    }
    put(x, status, type, body, len);
    if (!x->closed && !x->parsing) parse(x); /* the next one may be there already */
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static void refuse(struct http_exchange *x, int status, const char *text)
{
    x->last = true;
    x->head = false;
    put(x, status, "text/plain", text, strlen(text));
}

static void request(struct http_exchange *x)
{
    const struct http_message *m = http_parser_message(x->parser);
    x->keep_alive = m->keep_alive;
    x->head = strcmp(m->method, "HEAD") == 0;
    uv_timer_stop(&x->timer); /* now it is our time */
    if (!x->head && strcmp(m->method, "GET") != 0) {
        refuse(x, 405, "GET and HEAD only\n");
        return;
    }
    x->owed = true;
    x->listener->on_request(x->listener->user, x, m->target);
}

static void parse(struct http_exchange *x)
{
    struct error e;
    x->parsing = true;
    while (!x->owed && !x->closed && !x->last && x->in.len > 0) {
        size_t used = 0;
        int rv = http_parser_feed(x->parser, x->in.data, x->in.len, &used, &e);
        if (rv >= 0) buf_consume(&x->in, used);
        if (rv < 0) {
            refuse(x, http_parser_refusal(x->parser), e.text);
        } else if (rv == 0) {
            uv_timer_start(&x->timer, on_late, HTTP_LISTENER_REQUEST_MS, 0);
        } else {
            request(x);
        }
    }
    x->parsing = false;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    static _Thread_local uint8_t bytes[READ_BYTES]; /* libuv fills and delivers it before it asks for another */
    (void)handle, (void)suggested;
    *ret_buf = uv_buf_init((char *)bytes, sizeof bytes);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct http_exchange *x = stream->data;
    int rv = 0;
    if (x->closed || n == 0) return;
    if (n < 0) {
        end(x);
        return;
    }
    if (x->tls == NULL) rv = buf_add(&x->in, bytes->base, (size_t)n);
    else rv = tls_receive(x->tls, bytes->base, (size_t)n, &x->in, NULL);
    if (rv != 0) x->last = true; /* the alert, if there is one, then the end */
    flush(x);
    if (x->in.len > HEAD_MAX + READ_BYTES) end(x); /* it sends on while its request is being answered */
    if (!x->closed && rv == 0) parse(x);
}

/* ---- beginning ------------------------------------------------------------------------------------------------ */

static void on_connection(uv_stream_t *stream, int status)
{
    static const struct http_limits limits = {.head_bytes = HEAD_MAX, .headers = FIELDS_MAX, .body_bytes = 0};
    struct http_listener *l = stream->data;
    if (status != 0) return;
    struct http_exchange *x = calloc(1, sizeof *x);
    if (x == NULL) return; /* the kernel keeps it in its queue */
    x->listener = l;
    LIST_INSERT_HEAD(&l->list, x, entry);
    l->n++;
    uv_tcp_init(l->loop, &x->tcp);
    uv_timer_init(l->loop, &x->timer);
    x->tcp.data = x->timer.data = x;
    x->open_handles = 2;
    x->parser = http_parser_new(true, &limits);
    if (uv_accept(stream, (uv_stream_t *)&x->tcp) != 0 || x->parser == NULL || l->n > HTTP_LISTENER_CONNECTIONS ||
        (l->tls != NULL && (x->tls = tls_new(l->tls, NULL, NULL)) == NULL) || uv_read_start((uv_stream_t *)&x->tcp, on_alloc, on_read) != 0) {
        end(x);
        return;
    }
    uv_tcp_nodelay(&x->tcp, 1);
    uv_timer_start(&x->timer, on_late, HTTP_LISTENER_REQUEST_MS, 0);
}

static void name_address(struct http_listener *l)
{
    struct sockaddr_storage a;
    int len = sizeof a;
    char host[64] = "?";
    if (uv_tcp_getsockname(&l->tcp, (struct sockaddr *)&a, &len) != 0) return;
    if (a.ss_family == AF_INET6) {
        uv_ip6_name((struct sockaddr_in6 *)&a, host, sizeof host);
        snprintf(l->address, sizeof l->address, "[%s]:%u", host, ntohs(((struct sockaddr_in6 *)&a)->sin6_port));
    } else {
        uv_ip4_name((struct sockaddr_in *)&a, host, sizeof host);
        snprintf(l->address, sizeof l->address, "%s:%u", host, ntohs(((struct sockaddr_in *)&a)->sin_port));
    }
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct http_listener *l = handle->data;
    l->listening = false;
    maybe_gone(l);
}

int http_listener_start(uv_loop_t *loop, const char *address, struct tls_context *tls, http_listener_cb *on_request, void *user,
                        struct http_listener **ret_listener, struct error *e)
{
    struct sockaddr_storage a;
    int rv = address_numeric(address, &a, e);
    if (rv != 0) return rv;
    struct http_listener *l = calloc(1, sizeof *l);
    if (l == NULL) return error_set(e, ERROR_NOMEM, "no memory for a listener");
    l->loop = loop;
    l->tls = tls;
    l->on_request = on_request;
    l->user = user;
    LIST_INIT(&l->list);
    uv_tcp_init(loop, &l->tcp);
    l->tcp.data = l;
    l->listening = true;
    rv = uv_tcp_bind(&l->tcp, (struct sockaddr *)&a, 0);
    if (rv == 0) rv = uv_listen((uv_stream_t *)&l->tcp, 64, on_connection);
    if (rv != 0) {
        http_listener_close(l, NULL, NULL);
        return error_uv(e, ERROR_IO, rv, "cannot listen on %s", address);
    }
    name_address(l);
    *ret_listener = l;
    return 0;
}

const char *http_listener_address(const struct http_listener *l)
{
    return l->address;
}

void http_listener_close(struct http_listener *l, void (*done)(void *user), void *user)
{
    struct http_exchange *x;
    l->closing = true;
    l->done = done;
    l->done_user = user;
    uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
    LIST_FOREACH(x, &l->list, entry) end(x);
}
