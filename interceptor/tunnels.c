/* The engine's part for Upgrade (WebSocket and the like), where the setting lets it pass: a connection of its own to the app, whose bytes go
 * through in both directions. Nothing of it is logged, so nothing of it is replayed.
 *
 *   connecting ──connected──► asking ──101──► open          asking ──any other answer──► that is passed on, and the connection ends
 *
 * Only while the app is served. A drain, and the app's death, end all of them: a dump must hold no established connection, and
 * what went through them is in no state that is restored. */
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "interceptor/engine_internal.h"

enum { TUNNEL_QUEUE_MAX = 1 << 20, TUNNEL_READ = 64 << 10 };

struct tunnel {
    TAILQ_ENTRY(tunnel) entry;
    struct engine *engine;
    struct session *session; /* NULL: gone */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    uv_connect_t connect;
    struct http_parser *parser; /* NULL: open */
    struct buf request;
    size_t queued; /* bytes for the app that it has not taken */
    bool local, paused, held, closing;
    char chunk[TUNNEL_READ];
};

struct passing {
    uv_write_t write;
    struct tunnel *tunnel;
    size_t len;
    uint8_t bytes[];
};

/* ---- ends ----------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct tunnel *t = handle->data;
    http_parser_free(t->parser);
    buf_fini(&t->request);
    free(t);
}

/* `now`: the app's side of the connection is gone when this returns. */
static void tunnel_close(struct tunnel *t, bool now)
{
    if (t->closing) return;
    t->closing = true;
    TAILQ_REMOVE(&t->engine->tunnels, t, entry);
    t->engine->n_tunnels--;
    if (!now || t->local || uv_tcp_close_reset(&t->io.tcp, on_closed) != 0) uv_close(&t->io.handle, on_closed);
}

static struct session *let_go(struct tunnel *t)
{
    struct session *s = t->session;
    t->session = NULL;
    return s;
}

/* The app's side is over: what it said is still given to the client. */
static void end(struct tunnel *t)
{
    struct session *s = let_go(t);
    bool open = t->parser == NULL;
    tunnel_close(t, false);
    if (s == NULL) return;
    if (open)
        session_end(s);
    else
        session_refuse(s, 502, "", "the app did not answer the request to upgrade");
}

static struct tunnel *find(const struct engine *engine, const struct session *s)
{
    struct tunnel *t;
    TAILQ_FOREACH(t, &engine->tunnels, entry) if (t->session == s) return t;
    return NULL;
}

bool tunnels_gone(struct engine *engine, struct session *s)
{
    struct tunnel *t = find(engine, s);
    if (t == NULL) return false;
    t->session = NULL;
    tunnel_close(t, false);
    return true;
}

void tunnels_end_all(struct engine *engine, bool sessions)
{
    struct tunnel *t;
    while ((t = TAILQ_FIRST(&engine->tunnels)) != NULL) {
        struct session *s = let_go(t);
        tunnel_close(t, true);
        if (s != NULL && sessions) session_abort(s);
    }
}

/* ---- to the app ----------------------------------------------------------------------------------------------- */

static void on_written(uv_write_t *req, int status)
{
    struct passing *p = (struct passing *)req;
    struct tunnel *t = p->tunnel;
    t->queued -= p->len;
    free(p);
    if (t->closing || status != 0 || !t->held || t->queued > TUNNEL_QUEUE_MAX / 2 || t->session == NULL) return;
    t->held = false;
    session_hold(t->session, false);
}

static void pass(struct tunnel *t, const void *data, size_t len)
{
    struct passing *p = malloc(sizeof *p + len);
    if (p == NULL) {
        end(t);
        return;
    }
    p->tunnel = t;
    p->len = len;
    memcpy(p->bytes, data, len);
    t->queued += len;
    uv_buf_t b = uv_buf_init((char *)p->bytes, (unsigned)len);
    if (uv_write(&p->write, &t->io.stream, &b, 1, on_written) == 0) return;
    t->queued -= len; /* broken: its end shows when reading */
    free(p);
}

void tunnels_on_bytes(void *user, struct session *s, const void *data, size_t len)
{
    struct tunnel *t = find(user, s);
    if (t == NULL) return;
    pass(t, data, len);
    if (t->closing || t->held || t->queued <= TUNNEL_QUEUE_MAX) return;
    t->held = true;
    session_hold(s, true);
}

/* ---- from the app --------------------------------------------------------------------------------------------- */

static void to_client(struct tunnel *t, const void *data, size_t len)
{
    struct session *s = t->session;
    session_part(s, data, len);
    if (t->closing || t->paused || session_queued(s) <= TUNNEL_QUEUE_MAX) return;
    t->paused = true;
    uv_read_stop(&t->io.stream);
}

bool tunnels_drained(struct engine *engine, struct session *s);
static void start_reading(struct tunnel *t);

/* Its answer to the request. Returns the bytes that were taken. */
static void on_answer(struct tunnel *t, const char *data, size_t len)
{
    struct buf head = BUF_INIT;
    struct error e;
    size_t used = 0;
    int rv = http_parser_feed(t->parser, data, len, &used, &e);
    const struct http_message *m = http_parser_message(t->parser);
    if (rv == 0) return;
    if (rv < 0) {
        end(t);
    } else if (m->status / 100 == 1 && m->status != 101) {
        if (used < len) on_answer(t, data + used, len - used); /* an interim answer */
    } else if (m->status != 101) {
        session_answer(let_go(t), m, "");
        tunnel_close(t, false);
    } else if (http_write_upgraded(&head, m) != 0) {
        end(t);
    } else {
        t->parser = http_parser_free(t->parser);
        session_part(t->session, head.data, head.len); /* may end in tunnels_gone() */
        if (!t->closing && used < len) to_client(t, data + used, len - used);
        if (!t->closing) session_tunnel(t->session);
    }
    buf_fini(&head);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *b)
{
    struct tunnel *t = handle->data;
    (void)size;
    *b = uv_buf_init(t->chunk, sizeof t->chunk);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct tunnel *t = stream->data;
    if (n == 0 || t->closing) return;
    if (n < 0)
        end(t);
    else if (t->parser != NULL)
        on_answer(t, b->base, (size_t)n);
    else
        to_client(t, b->base, (size_t)n);
}

static void start_reading(struct tunnel *t)
{
    uv_read_start(&t->io.stream, on_alloc, on_read);
}

bool tunnels_drained(struct engine *engine, struct session *s)
{
    struct tunnel *t = find(engine, s);
    if (t == NULL) return false;
    if (t->paused) start_reading(t);
    t->paused = false;
    return true;
}

/* ---- the beginning -------------------------------------------------------------------------------------------- */

static void on_connected(uv_connect_t *req, int status)
{
    struct tunnel *t = req->data;
    if (t->closing) return;
    if (status != 0) {
        end(t);
        return;
    }
    start_reading(t);
    pass(t, t->request.data, t->request.len);
}

static struct tunnel *tunnel_new(struct engine *engine, struct session *s)
{
    struct sockaddr_storage address;
    struct tunnel *t = upstream_address(engine->address, &address, NULL) == 0 ? calloc(1, sizeof *t) : NULL;
    if (t == NULL) return NULL;
    t->engine = engine;
    t->session = s;
    t->parser = http_parser_new(false, &engine->answer_limits);
    t->local = address.ss_family == AF_UNIX;
    if (t->local)
        uv_pipe_init(engine->loop, &t->io.pipe, 0);
    else
        uv_tcp_init(engine->loop, &t->io.tcp);
    t->io.handle.data = t->connect.data = t;
    TAILQ_INSERT_TAIL(&engine->tunnels, t, entry);
    engine->n_tunnels++;
    int rv = t->parser == NULL ? UV_ENOMEM : 0;
    if (t->local && rv == 0)
        uv_pipe_connect(&t->connect, &t->io.pipe, ((const struct sockaddr_un *)&address)->sun_path, on_connected);
    else if (rv == 0)
        rv = uv_tcp_connect(&t->connect, &t->io.tcp, (struct sockaddr *)&address, on_connected);
    if (rv == 0) return t;
    tunnel_close(t, false);
    return NULL;
}

void tunnels_on_request(struct engine *engine, struct session *s, const struct http_message *m)
{
    char retry[40];
    snprintf(retry, sizeof retry, "Retry-After: %" PRIu64 "\r\n", engine->settings->retry_after);
    if (!engine->settings->pass_upgrades || strcmp(m->method, "CONNECT") == 0) {
        session_refuse(s, 501, "", "%s do not pass: what goes on behind them could not be logged",
                       strcmp(m->method, "CONNECT") == 0 ? "CONNECTs" : "upgrades");
        return;
    }
    if (m->streamed || order_state(&engine->order) != ORDER_ACTIVE) {
        session_refuse(s, m->streamed ? 413 : 503, m->streamed ? "" : retry, "%s",
                       m->streamed ? "too large a body for an upgrade" : "an upgrade passes only while the app is served");
        return;
    }
    struct tunnel *t = tunnel_new(engine, s);
    if (t != NULL && engine_write_message(engine, s, m, &t->request) == 0) return; /* connected in a later turn of the loop */
    if (t != NULL) {
        t->session = NULL;
        tunnel_close(t, false);
    }
    session_refuse(s, 503, retry, "no memory or no descriptor");
}
