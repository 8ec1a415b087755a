#include "common/conn.h"

#include <assert.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"

enum { READ_CHUNK = 64 << 10, SEALED_CHUNK = 256 << 10, OUT_KEEP = 1 << 20, ALERT_LINGER_MS = 200 };

/* What a socket gives before it is decrypted. One is enough: libuv fills and delivers it before it asks for another. */
static _Thread_local uint8_t sealed[SEALED_CHUNK];

/* One connection owns four handles or requests of libuv: the socket, a linger timer, one write, and (connecting) a
 * resolver or connect request. It is freed when the two handles have told that they are closed and no request is
 * under way; libuv ends requests of a closed handle before its close callback, the resolver's may come later. */
struct conn {
    uv_tcp_t tcp;
    uv_timer_t timer; /* connect timeout, then linger */
    uv_write_t write;
    uv_connect_t connect;
    uv_getaddrinfo_t resolve;
    struct conn_handlers handlers;
    void *user;
    struct buf in;      /* bytes of a frame that is not whole yet */
    struct buf out;     /* queued, not yet given to libuv */
    struct buf writing; /* given to libuv, under way; with TLS: encrypted */
    struct tls *tls;    /* NULL: plain */
    struct error why;
    unsigned open_handles;
    bool writes, resolves; /* a request is under way */
    size_t frame_max;      /* 0: what frame.h allows */
    bool opens;            /* our side connects: on_open is owed */
    bool connected, paused, delivering, closing, closed;
    bool prompt; /* conn_prompt() */
    char peer[80];
};

static void flush(struct conn *c, bool now);
static void deliver(struct conn *c);

static void maybe_free(struct conn *c)
{
    if (c->open_handles > 0 || c->resolves) return;
    c->handlers.on_close(c, c->user, &c->why);
    buf_fini(&c->in);
    buf_fini(&c->out);
    buf_fini(&c->writing);
    tls_free(c->tls);
    free(c);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    c->open_handles--;
    maybe_free(c);
}

/* Frames may pass. */
static bool usable(const struct conn *c)
{
    return c->connected && (c->tls == NULL || tls_ready(c->tls));
}

/* There is something that can be written now. */
static bool pending(const struct conn *c)
{
    return (usable(c) && c->out.len > 0) || (c->tls != NULL && tls_outgoing(c->tls)->len > 0);
}

/* TLS: what is queued, encrypted, and queued there. */
static int seal(struct conn *c, struct error *e)
{
    int rv = c->out.len > 0 ? tls_send(c->tls, c->out.data, c->out.len, e) : 0;
    c->out.len = 0;
    if (c->out.cap > OUT_KEEP) buf_fini(&c->out);
    return rv;
}

static void close_handles(struct conn *c)
{
    if (c->closed) return;
    c->closed = true;
    if (c->resolves) uv_cancel((uv_req_t *)&c->resolve);
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_linger_over(uv_timer_t *timer)
{
    close_handles(timer->data);
}

void conn_close(struct conn *c, uint32_t linger_ms, const struct error *why)
{
    if (!c->closing) {
        c->closing = true;
        if (why != NULL) c->why = *why;
    }
    if (c->closed) return;
    if (linger_ms > 0 && c->tls != NULL && usable(c) && seal(c, NULL) == 0) {
        tls_finish(c->tls);
        flush(c, false);
        if (c->closed) return; /* the write failed */
    }
    if (linger_ms == 0 || !(c->writes || pending(c) || (c->tls == NULL && c->out.len > 0))) {
        close_handles(c);
        return;
    }
    uv_read_stop((uv_stream_t *)&c->tcp);
    uv_timer_start(&c->timer, on_linger_over, linger_ms, 0);
}

static void fail(struct conn *c, enum error_code code, int status, const char *what)
{
    struct error e;
    error_uv(&e, code, status, "%s %s", what, c->peer);
    conn_close(c, 0, &e);
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

static void on_written(uv_write_t *request, int status)
{
    struct conn *c = request->data;
    c->writes = false;
    c->writing.len = 0;
    if (c->writing.cap > OUT_KEEP) buf_fini(&c->writing);
    if (c->closed) return;
    if (status != 0) {
        /* A server that refuses our certificate says so and closes: its word may be there to be read, and says more than this. */
        if (c->tls != NULL && !c->closing && !c->paused) return;
        fail(c, ERROR_IO, status, "write to");
        return;
    }
    if (pending(c)) {
        flush(c, false);
    } else if (c->closing) {
        close_handles(c);
    } else if (c->handlers.on_drained != NULL && usable(c)) {
        c->handlers.on_drained(c, c->user);
    }
}

/* `now`: within this call, as far as the kernel takes it. Then no on_drained follows: only where nothing was queued before. */
static void flush(struct conn *c, bool now)
{
    struct buf *from = &c->out;
    struct error e;
    if (!c->connected || c->writes || c->closed || !pending(c)) return;
    if (c->tls != NULL) {
        if (tls_ready(c->tls) && seal(c, &e) != 0) {
            error_prefix(&e, "%s", c->peer);
            conn_close(c, 0, &e);
            return;
        }
        from = tls_outgoing(c->tls);
    }
    if (now && loop_write_now((uv_stream_t *)&c->tcp, from)) return;
    struct buf swap = c->writing;
    c->writing = *from;
    *from = swap;
    uv_buf_t bytes = uv_buf_init((char *)c->writing.data, (unsigned)c->writing.len);
    c->write.data = c;
    c->writes = true;
    int rv = uv_write(&c->write, (uv_stream_t *)&c->tcp, &bytes, 1, on_written);
    if (rv != 0) {
        c->writes = false;
        fail(c, ERROR_IO, rv, "write to");
    }
}

int conn_send_pieces(struct conn *c, const struct frame *f, const struct frame_piece *body, size_t n)
{
    if (c->closing) return 0;
    if (c->out.len > (size_t)INT32_MAX) return -ERROR_TOO_LARGE; /* the owner ignored conn_queued() */
    int rv = frame_encode_pieces(&c->out, f, body, n);
    if (rv != 0) return rv;
    /* While frames are being delivered their answers gather; they leave together when the last was delivered. */
    if (!c->delivering) flush(c, c->prompt);
    return 0;
}

int conn_send(struct conn *c, const struct frame *f)
{
    struct frame_piece body = {f->body, f->body_len};
    return conn_send_pieces(c, f, &body, 1);
}

size_t conn_queued(const struct conn *c)
{
    return c->out.len + c->writing.len + (c->tls != NULL ? tls_outgoing(c->tls)->len : 0);
}

/* ---- receiving ------------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    struct conn *c = handle->data;
    size_t want = READ_CHUNK;
    (void)suggested;
    if (c->tls != NULL) {
        *ret_buf = uv_buf_init((char *)sealed, sizeof sealed);
        return;
    }
    if (c->in.len >= FRAME_HEADER) {
        int64_t size = frame_size(c->in.data, NULL); /* bounded: a bad one closed the connection before */
        if (size > (int64_t)(c->in.len + READ_CHUNK)) want = (size_t)size - c->in.len;
    }
    /* Half a chunk is room enough: to double the buffer for the rest of a small frame would copy all of it. */
    if ((want > READ_CHUNK || c->in.cap - c->in.len < READ_CHUNK / 2) && buf_reserve(&c->in, want) != 0) {
        *ret_buf = uv_buf_init(NULL, 0);
        return;
    }
    *ret_buf = uv_buf_init((char *)c->in.data + c->in.len, (unsigned)(c->in.cap - c->in.len));
}

static void on_end(struct conn *c)
{
    struct error e;
    if (c->tls != NULL && !tls_ready(c->tls))
        error_set(&e, ERROR_PROTOCOL, "%s closed the connection during the TLS handshake: perhaps it does not speak TLS", c->peer);
    else if (c->in.len > 0) error_set(&e, ERROR_PROTOCOL, "%s ended inside a frame", c->peer);
    else error_set(&e, ERROR_NONE, "%s closed the connection", c->peer);
    conn_close(c, 0, &e);
}

/* Decrypts what came. */
static void unseal(struct conn *c, const void *bytes, size_t n)
{
    struct error e;
    bool was_ready = tls_ready(c->tls);
    int rv = tls_receive(c->tls, bytes, n, &c->in, &e);
    if (rv != 0) {
        error_prefix(&e, "%s", c->peer);
        flush(c, false); /* the alert that tells the other side */
        conn_close(c, ALERT_LINGER_MS, &e);
        return;
    }
    if (!was_ready && tls_ready(c->tls) && !c->closing) {
        uv_timer_stop(&c->timer);
        if (c->opens && c->handlers.on_open != NULL) c->handlers.on_open(c, c->user);
    }
    if (c->closed) return;
    flush(c, false);
    deliver(c);
    if (!c->closing && !c->paused && tls_ended(c->tls)) on_end(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct conn *c = stream->data;
    if (c->closing || n == 0) return;
    if (n == UV_EOF) {
        on_end(c);
        return;
    }
    if (n < 0) {
        fail(c, n == UV_ENOBUFS ? ERROR_NOMEM : ERROR_IO, (int)n, "read from");
        return;
    }
    if (c->tls != NULL) {
        unseal(c, bytes->base, (size_t)n);
        return;
    }
    c->in.len += (size_t)n;
    deliver(c);
}

/* `size`, whole or 0 (not yet), unless the frame that begins here is over the limit. */
static int64_t limited(const struct conn *c, const uint8_t *header, int64_t size, struct error *e)
{
    int64_t whole = frame_size(header, e);
    if (whole <= (int64_t)c->frame_max) return whole < 0 ? whole : size;
    return error_set(e, ERROR_TOO_LARGE, "a frame of %lld bytes is over the limit of %zu", (long long)whole, c->frame_max);
}

/* Hands over every whole frame; `delivering` keeps a handler's conn_resume() from coming in here again. */
static void deliver(struct conn *c)
{
    if (c->delivering) return;
    size_t at = 0;
    c->delivering = true;
    while (!c->closing && !c->paused) {
        struct frame f;
        struct error e;
        int64_t size = frame_decode(c->in.data + at, c->in.len - at, &f, &e);
        if (size >= 0 && c->frame_max > 0 && c->in.len - at >= FRAME_HEADER) size = limited(c, c->in.data + at, size, &e);
        if (size == 0) break;
        if (size < 0) {
            error_prefix(&e, "from %s", c->peer);
            /* The owner may want to tell the peer why: it has FRAME_ERROR for that; we only end it. */
            struct error told = e;
            conn_close(c, 0, &told);
            break;
        }
        at += (size_t)size;
        c->handlers.on_frame(c, c->user, &f);
    }
    c->delivering = false;
    if (c->closed) return;
    buf_consume(&c->in, at);
    if (c->in.len == 0 && c->in.cap > OUT_KEEP) buf_fini(&c->in);
    flush(c, false);
}

static void start_reading(struct conn *c)
{
    int rv = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    if (rv != 0 && rv != UV_EALREADY) fail(c, ERROR_IO, rv, "read from");
}

void conn_pause(struct conn *c)
{
    if (c->paused || c->closing) return;
    c->paused = true;
    if (c->connected) uv_read_stop((uv_stream_t *)&c->tcp);
}

void conn_resume(struct conn *c)
{
    if (!c->paused || c->closing) return;
    c->paused = false;
    if (!c->connected) return;
    start_reading(c);
    deliver(c);
    if (!c->closing && !c->paused && c->tls != NULL && tls_ended(c->tls)) on_end(c);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static struct conn *new_conn(uv_loop_t *loop, const struct conn_handlers *handlers, void *user)
{
    struct conn *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    c->handlers = *handlers;
    c->user = user;
    uv_tcp_init(loop, &c->tcp);
    uv_timer_init(loop, &c->timer);
    c->tcp.data = c->timer.data = c;
    c->open_handles = 2;
    snprintf(c->peer, sizeof c->peer, "?");
    return c;
}

static void name_peer(struct conn *c)
{
    struct sockaddr_storage a;
    int len = sizeof a;
    char host[64] = "?";
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&a, &len) != 0) return;
    if (a.ss_family == AF_INET6) {
        uv_ip6_name((struct sockaddr_in6 *)&a, host, sizeof host);
        snprintf(c->peer, sizeof c->peer, "[%s]:%u", host, ntohs(((struct sockaddr_in6 *)&a)->sin6_port));
    } else {
        uv_ip4_name((struct sockaddr_in *)&a, host, sizeof host);
        snprintf(c->peer, sizeof c->peer, "%s:%u", host, ntohs(((struct sockaddr_in *)&a)->sin_port));
    }
}

static void ready(struct conn *c)
{
    c->connected = true;
    uv_tcp_nodelay(&c->tcp, 1);
    if (!c->paused && !c->closing) start_reading(c);
}

/* An accepted connection that cannot be had must still leave the listener's queue: it is taken and closed. */
static void ignore_close(struct conn *c, void *user, const struct error *why)
{
    (void)c, (void)user, (void)why;
}

int conn_accept(uv_stream_t *listener, const struct conn_handlers *handlers, void *user, struct conn **ret_conn,
                struct error *e)
{
    struct conn *c = new_conn(listener->loop, handlers, user);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory for a connection");
    int rv = uv_accept(listener, (uv_stream_t *)&c->tcp);
    if (rv != 0) {
        c->handlers = (struct conn_handlers){.on_close = ignore_close};
        conn_close(c, 0, NULL);
        return error_uv(e, ERROR_IO, rv, "accept");
    }
    name_peer(c);
    ready(c);
    *ret_conn = c;
    return 0;
}

static void on_connected(uv_connect_t *request, int status)
{
    struct conn *c = request->data;
    if (c->closed) return;
    if (!c->closing && c->tls == NULL) uv_timer_stop(&c->timer); /* else it is the linger's by now, or goes on for the handshake */
    if (status != 0) {
        fail(c, ERROR_UNAVAILABLE, status, "connect to");
        return;
    }
    ready(c);
    if (!c->closing && c->tls == NULL && c->handlers.on_open != NULL) c->handlers.on_open(c, c->user);
    flush(c, false);
}

static void connect_to(struct conn *c, const struct sockaddr *address)
{
    c->connect.data = c;
    int rv = uv_tcp_connect(&c->connect, &c->tcp, address, on_connected);
    if (rv != 0) fail(c, ERROR_UNAVAILABLE, rv, "connect to");
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct conn *c = request->data;
    c->resolves = false;
    if (c->closed) {
        uv_freeaddrinfo(found);
        maybe_free(c);
        return;
    }
    if (status != 0) fail(c, ERROR_UNAVAILABLE, status, "look up");
    else connect_to(c, found->ai_addr);
    uv_freeaddrinfo(found);
}

static void on_connect_timeout(uv_timer_t *timer)
{
    struct conn *c = timer->data;
    fail(c, ERROR_TIMEOUT, UV_ETIMEDOUT, c->connected ? "TLS handshake with" : "connect to");
}

int conn_connect(uv_loop_t *loop, const char *address, uint32_t timeout_ms, const struct conn_handlers *handlers,
                 void *user, struct conn **ret_conn, struct error *e)
{
    char host[256], port[8];
    struct sockaddr_storage numeric;
    int rv = address_split(address, host, sizeof host, port, sizeof port, e);
    if (rv != 0) return rv;
    struct conn *c = new_conn(loop, handlers, user);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory for a connection");
    snprintf(c->peer, sizeof c->peer, "%s", address);
    c->opens = true;
    uv_timer_start(&c->timer, on_connect_timeout, timeout_ms, 0);
    *ret_conn = c;
    if (address_numeric(address, &numeric, NULL) == 0) {
        connect_to(c, (struct sockaddr *)&numeric);
        return 0;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    c->resolve.data = c;
    c->resolves = true;
    rv = uv_getaddrinfo(loop, &c->resolve, on_resolved, host, port, &hints);
    if (rv != 0) {
        c->resolves = false;
        fail(c, ERROR_UNAVAILABLE, rv, "look up");
    }
    return 0;
}

int conn_secure(struct conn *c, struct tls_context *tls, const char *name, struct error *e)
{
    assert(c->tls == NULL && c->in.len == 0 && c->out.len == 0);
    if ((c->tls = tls_new(tls, name, e)) == NULL) return e != NULL ? -(int)e->code : -ERROR_NOMEM;
    if (!c->opens) uv_timer_start(&c->timer, on_connect_timeout, CONN_HANDSHAKE_MS, 0);
    return 0;
}

/* ---- small things --------------------------------------------------------------------------------------------- */

void *conn_user(const struct conn *c)
{
    return c->user;
}

void conn_set_user(struct conn *c, const struct conn_handlers *handlers, void *user)
{
    c->handlers = *handlers;
    c->user = user;
}

const char *conn_peer(const struct conn *c)
{
    return c->peer;
}

void conn_prompt(struct conn *c)
{
    c->prompt = true;
}

void conn_limit(struct conn *c, size_t frame_max)
{
    c->frame_max = frame_max;
}

const struct tls_peer *conn_tls_peer(const struct conn *c)
{
    return c->tls != NULL ? tls_peer(c->tls) : NULL;
}

int address_split(const char *address, char *ret_host, size_t host_size, char *ret_port, size_t port_size, struct error *e)
{
    const char *colon = strrchr(address, ':'), *host = address;
    if (colon == NULL) return error_set(e, ERROR_INVALID, "\"%s\" is not an address: use host:port", address);
    size_t host_len = (size_t)(colon - address), port_len = strlen(colon + 1);
    if (host_len >= 2 && host[0] == '[' && host[host_len - 1] == ']') {
        host++;
        host_len -= 2;
    } else if (memchr(host, ':', host_len) != NULL) {
        return error_set(e, ERROR_INVALID, "\"%s\" is not an address: write IPv6 as [address]:port", address);
    }
    char *end = NULL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (host_len == 0 || host_len >= host_size || port_len == 0 || port_len >= port_size || *end != '\0' || port > 65535
        || strspn(colon + 1, "0123456789") != port_len)
        return error_set(e, ERROR_INVALID, "\"%s\" is not an address: use host:port with a port of 0 to 65535", address);
    memcpy(ret_host, host, host_len);
    ret_host[host_len] = '\0';
    memcpy(ret_port, colon + 1, port_len + 1);
    return 0;
}

int address_numeric(const char *address, struct sockaddr_storage *ret_addr, struct error *e)
{
    char host[256], port[8];
    int rv = address_split(address, host, sizeof host, port, sizeof port, e);
    if (rv != 0) return rv;
    int number = (int)strtoul(port, NULL, 10);
    if (uv_ip4_addr(host, number, (struct sockaddr_in *)ret_addr) == 0) return 0;
    if (uv_ip6_addr(host, number, (struct sockaddr_in6 *)ret_addr) == 0) return 0;
    return error_set(e, ERROR_INVALID, "\"%s\" is not a numeric address such as 127.0.0.1:7400 or [::1]:7400", address);
}
