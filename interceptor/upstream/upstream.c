#include "interceptor/upstream/upstream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/conn.h"
#include "interceptor/upstream/listener.h"

enum {
    IDLE_MAX_MS = 2000, /* well below the shortest keep-alive time that servers use (5 s) */
    RETRY_MIN_MS = 2,
    RETRY_MAX_MS = 50, /* while the app is starting */
    CLOSE_MS = 50,     /* for the app to close its side, for a drain; then a reset */
    READ_SIZE = 64 << 10,
    PIECES = 3,
    SHORT_MS = 100,
    SHORT_MAX = 20, /* an app that ends idle connections as soon as it has them is left in peace */
};

enum link_state {
    LINK_CONNECTING,
    LINK_IDLE,
    LINK_BUSY,
    LINK_DOUBT,  /* ended with an exchange, whose fate depends on whether the app lives */
    LINK_ENDING, /* half closed for a drain */
    LINK_CLOSING,
};

struct upstream_link {
    struct upstream *upstream;
    TAILQ_ENTRY(upstream_link) entry;
    enum link_state state;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct http_parser *parser;
    struct exchange *exchange; /* BUSY, DOUBT, and CONNECTING for one */
    struct blob *writing;
    uint64_t since_ms; /* CONNECTING, IDLE */
    uint64_t listener; /* while starting: who listened before it was begun */
    uint64_t doubt;    /* probes that began up to this one say nothing about it */
    bool writes;       /* a write is under way */
    bool probe;        /* CONNECTING to see whether the app lives */
    bool complete;     /* DOUBT: the answer is whole if the app lives */
    bool ended;
};

struct upstream {
    uv_loop_t *loop;
    struct http_limits limits;
    struct upstream_handlers handlers;
    void *user;
    struct sockaddr_storage address;
    TAILQ_HEAD(, upstream_link) links; /* idle ones: the last used first */
    TAILQ_HEAD(, exchange) waiting;    /* for a verdict */
    uv_timer_t retry, deadline;
    uint64_t listener, connect_by_ms, retry_ms;
    uint64_t probes; /* begun so far */
    unsigned handles;
    unsigned short_lived; /* connections that ended unused and young, in a row */
    bool watching;        /* it is suspect: it will be lost some time, and that is to be seen */
    bool starting, there, closing_gently, freeing;
    bool probing;
    void (*done)(void *user);
    void *done_user;
    char chunk[READ_SIZE];
};

static void probe(struct upstream *u);
static void link_begin(struct upstream_link *l, struct exchange *x);

/* ---- links ---------------------------------------------------------------------------------------------------- */

static void handle_gone(struct upstream *u)
{
    if (--u->handles > 0 || !u->freeing) return;
    if (u->done != NULL) u->done(u->done_user);
    free(u);
}

static void on_link_closed(uv_handle_t *handle)
{
    struct upstream_link *l = handle->data;
    struct upstream *u = l->upstream;
    http_parser_free(l->parser);
    blob_unref(l->writing);
    free(l);
    handle_gone(u);
}

static void link_close(struct upstream_link *l)
{
    if (l->state == LINK_CLOSING) return;
    if (l->probe && l->state == LINK_CONNECTING) l->upstream->probing = false;
    l->state = LINK_CLOSING;
    l->exchange = NULL;
    TAILQ_REMOVE(&l->upstream->links, l, entry);
    uv_close((uv_handle_t *)&l->tcp, on_link_closed);
}

static void lost(struct upstream *u, const char *why)
{
    if (!u->there && !u->starting && !u->watching) return;
    u->there = u->starting = u->watching = false;
    uv_timer_stop(&u->retry);
    u->handlers.on_lost(u->user, why);
}

static void on_retry(uv_timer_t *timer);

static void suspect(struct upstream *u, const char *why)
{
    u->there = false;
    u->handlers.on_suspect(u->user, why);
    u->watching = true;
    uv_timer_start(&u->retry, on_retry, RETRY_MIN_MS, 0);
}

static bool other_idle(const struct upstream *u, const struct upstream_link *but)
{
    const struct upstream_link *l;
    TAILQ_FOREACH(l, &u->links, entry) if (l != but && l->state == LINK_IDLE) return true;
    return false;
}

/* An exchange came to its end on this link. */
static void link_idle(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    l->state = LINK_IDLE;
    l->exchange = NULL;
    l->since_ms = uv_now(u->loop);
    TAILQ_REMOVE(&u->links, l, entry);
    TAILQ_INSERT_HEAD(&u->links, l, entry);
}

/* Where nothing is connected any more a death would go unseen. */
static void keep_one(struct upstream *u)
{
    const struct upstream_link *l;
    if (!u->there || u->closing_gently) return;
    TAILQ_FOREACH(l, &u->links, entry)
    if (l->state == LINK_IDLE || l->state == LINK_BUSY || l->state == LINK_CONNECTING) return;
    probe(u);
}

/* ---- the end of a connection ---------------------------------------------------------------------------------- */

/* The app lives. What was in doubt before the probe began has its verdict. */
static void judge(struct upstream *u, uint64_t began)
{
    struct upstream_link *l;
again:
    TAILQ_FOREACH(l, &u->links, entry)
    {
        if (l->state != LINK_DOUBT || l->doubt >= began) continue;
        struct exchange *x = l->exchange;
        if (x->logged && !l->complete) {
            suspect(u, "it closed a connection with a logged request on it, unanswered, and still takes connections");
            return;
        }
        bool complete = l->complete;
        l->exchange = NULL;
        x->link = NULL;
        if (complete)
            u->handlers.on_answer(u->user, x, http_parser_message(l->parser));
        else
            u->handlers.on_dropped(u->user, x);
        if (l->state == LINK_DOUBT) link_close(l);
        if (!u->there) return;
        goto again;
    }
    TAILQ_FOREACH(l, &u->links, entry) if (l->state == LINK_DOUBT) break;
    if (l != NULL) probe(u);
}

static void on_ended(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    enum link_state state = l->state;
    l->ended = true;
    uv_read_stop((uv_stream_t *)&l->tcp);
    if (state == LINK_BUSY) {
        struct error e;
        l->state = LINK_DOUBT;
        l->complete = http_parser_finish(l->parser, &e) == 1;
        l->doubt = u->probes;
        probe(u);
        return;
    }
    if (state == LINK_IDLE) u->short_lived = uv_now(u->loop) - l->since_ms < SHORT_MS ? u->short_lived + 1 : 0;
    link_close(l);
    if (state == LINK_IDLE && u->there && !u->closing_gently && u->short_lived < SHORT_MAX) probe(u);
    if (state == LINK_ENDING && u->closing_gently && TAILQ_EMPTY(&u->links)) {
        u->closing_gently = false;
        uv_timer_stop(&u->deadline);
        u->handlers.on_closed(u->user);
    }
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* `more`: bytes came behind it that nobody asked for. */
static void on_message(struct upstream_link *l, bool more)
{
    struct upstream *u = l->upstream;
    const struct http_message *m = http_parser_message(l->parser);
    struct exchange *x = l->exchange;
    bool keep = m->keep_alive && !m->upgrade && !more && !l->writes; /* nor when it answered before it had read all */
    u->short_lived = 0;
    x->link = NULL;
    l->exchange = NULL;
    if (keep)
        link_idle(l);
    else
        l->state = LINK_ENDING;
    u->handlers.on_answer(u->user, x, m); /* may send on this link, or drop it */
    if (!keep && l->state == LINK_ENDING) {
        link_close(l);
        keep_one(u);
    }
}

static void on_nonsense(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    struct exchange *x = l->exchange;
    x->link = NULL;
    link_close(l);
    u->handlers.on_answer(u->user, x, NULL);
    keep_one(u);
}

static void feed(struct upstream_link *l, const char *data, size_t len)
{
    size_t at = 0, used;
    struct error e;
    while (at < len && l->state == LINK_BUSY) {
        int rv = http_parser_feed(l->parser, data + at, len - at, &used, &e);
        if (rv < 0) {
            on_nonsense(l);
            return;
        }
        at += used;
        if (rv == 0) continue;
        int status = http_parser_message(l->parser)->status;
        if (status / 100 == 1 && status != 101) continue; /* an interim answer: the real one follows */
        on_message(l, at < len);
    }
}

static void on_part(void *user, const struct http_message *head, const void *data, size_t len)
{
    struct upstream_link *l = user;
    struct upstream *u = l->upstream;
    if (l->exchange == NULL) return;
    l->exchange->parts = true;
    u->handlers.on_part(u->user, l->exchange, head, data, len);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *b)
{
    (void)size;
    struct upstream_link *l = handle->data;
    *b = uv_buf_init(l->upstream->chunk, READ_SIZE);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct upstream_link *l = stream->data;
    if (n == 0 || l->state == LINK_CLOSING || l->ended) return;
    if (n < 0) {
        on_ended(l);
    } else if (l->state == LINK_BUSY) {
        feed(l, b->base, (size_t)n);
    } else if (l->state == LINK_IDLE) { /* an answer that nobody asked for, such as 408 at an idle time's end */
        struct upstream *u = l->upstream;
        link_close(l);
        keep_one(u);
    }
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

static void on_written(uv_write_t *req, int status)
{
    struct upstream_link *l = req->data;
    (void)status; /* an error shows when reading, where an early answer is not missed */
    l->writes = false;
    l->writing = blob_unref(l->writing);
}

static void link_begin(struct upstream_link *l, struct exchange *x)
{
    uv_buf_t pieces[PIECES];
    l->state = LINK_BUSY;
    l->exchange = x;
    x->link = l;
    x->parts = false;
    l->writing = blob_ref(x->message);
    l->writes = true;
    l->write.data = l;
    pieces[0] = uv_buf_init((char *)l->writing->data, (unsigned)x->split);
    pieces[1] = uv_buf_init((char *)x->extra, (unsigned)strlen(x->extra));
    pieces[2] = uv_buf_init((char *)l->writing->data + x->split, (unsigned)(l->writing->len - x->split));
    http_parser_expect_head(l->parser, x->head);
    if (uv_write(&l->write, (uv_stream_t *)&l->tcp, pieces, PIECES, on_written) == 0) return;
    l->writes = false;
    l->writing = blob_unref(l->writing);
    /* The socket is broken; the end of it, which comes from the loop, says so too. */
}

static void on_connect(uv_connect_t *req, int status);

static struct upstream_link *link_new(struct upstream *u)
{
    struct upstream_link *l = calloc(1, sizeof *l);
    struct http_parser *parser = http_parser_new(false, &u->limits);
    if (l == NULL || parser == NULL) {
        http_parser_free(parser);
        free(l);
        return NULL;
    }
    l->upstream = u;
    l->parser = parser;
    http_parser_stream(parser, on_part, l);
    uv_tcp_init(u->loop, &l->tcp);
    l->tcp.data = l->connect.data = l;
    u->handles++;
    l->state = LINK_CONNECTING;
    l->since_ms = uv_now(u->loop);
    TAILQ_INSERT_TAIL(&u->links, l, entry);
    if (u->starting) l->listener = listener_id((struct sockaddr *)&u->address);
    if (uv_tcp_connect(&l->connect, &l->tcp, (struct sockaddr *)&u->address, on_connect) == 0) return l;
    link_close(l);
    return NULL;
}

static void arm_retry(struct upstream *u)
{
    uint64_t now = uv_now(u->loop);
    if (now >= u->connect_by_ms) {
        lost(u, "it took no connection within app-start-timeout");
        return;
    }
    uv_timer_start(&u->retry, on_retry, u->retry_ms, 0);
    u->retry_ms = u->retry_ms * 2 < RETRY_MAX_MS ? u->retry_ms * 2 : RETRY_MAX_MS;
}

static void connect_failed(struct upstream_link *l, const char *why)
{
    struct upstream *u = l->upstream;
    link_close(l);
    if (!u->starting) lost(u, why); /* else the timer tries again */
}

static void flush_waiting(struct upstream *u)
{
    struct exchange *x;
    while (u->there && !u->probing && (x = TAILQ_FIRST(&u->waiting)) != NULL) {
        TAILQ_REMOVE(&u->waiting, x, entry);
        upstream_send(u, x);
    }
}

static void probed(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    uint64_t began = l->doubt;
    l->probe = u->probing = false;
    link_idle(l);
    if (other_idle(u, l)) link_close(l); /* servers of one thread would wait for it to speak */
    judge(u, began);
    flush_waiting(u);
}

static void on_connect(uv_connect_t *req, int status)
{
    struct upstream_link *l = req->data;
    struct upstream *u = l->upstream;
    if (l->state == LINK_CLOSING) return;
    if (status != 0) {
        connect_failed(l, uv_strerror(status));
        return;
    }
    uint64_t id = listener_id((struct sockaddr *)&u->address);
    if (u->starting && id != l->listener) { /* one came or went meanwhile: which of them is it connected to? */
        link_close(l);
        return;
    }
    if (u->starting) {
        u->listener = id;
    } else if (u->listener != 0 && id != u->listener) {
        connect_failed(l, "another process listens at its address");
        return;
    }
    if (u->watching) {
        link_close(l);
        return;
    }
    uv_tcp_nodelay(&l->tcp, 1);
    uv_read_start((uv_stream_t *)&l->tcp, on_alloc, on_read);
    if (l->exchange != NULL) {
        link_begin(l, l->exchange);
    } else if (u->starting) {
        u->starting = false;
        u->there = true;
        u->short_lived = 0;
        uv_timer_stop(&u->retry);
        link_idle(l);
        u->handlers.on_connected(u->user);
    } else if (l->probe) {
        probed(l);
    } else {
        link_idle(l);
    }
}

static void probe(struct upstream *u)
{
    if (u->probing || !u->there) return;
    u->probing = true;
    uint64_t began = ++u->probes;
    struct upstream_link *l = link_new(u);
    if (l == NULL) {
        u->probing = false;
        lost(u, "no memory or no descriptor to see whether it lives");
        return;
    }
    l->probe = true;
    l->doubt = began;
}

void upstream_send(struct upstream *u, struct exchange *x)
{
    struct upstream_link *l, *next;
    x->link = NULL;
    x->parts = false;
    if (u->probing) {
        TAILQ_INSERT_TAIL(&u->waiting, x, entry);
        return;
    }
    uint64_t now = uv_now(u->loop);
    for (l = TAILQ_FIRST(&u->links); l != NULL; l = next) {
        next = TAILQ_NEXT(l, entry);
        if (l->state != LINK_IDLE) continue;
        if (now - l->since_ms < IDLE_MAX_MS) {
            link_begin(l, x);
            return;
        }
        link_close(l);
    }
    l = link_new(u);
    if (l ==
        NULL) { /* out of descriptors or memory: tried again behind the next verdict, which the timer brings about */
        TAILQ_INSERT_TAIL(&u->waiting, x, entry);
        uv_timer_start(&u->retry, on_retry, RETRY_MAX_MS, 0);
        return;
    }
    l->exchange = x;
    x->link = l;
}

/* ---- the app as a whole --------------------------------------------------------------------------------------- */

static void on_retry(uv_timer_t *timer)
{
    struct upstream *u = timer->data;
    if (u->watching) {
        if (TAILQ_EMPTY(&u->links)) link_new(u);
        uv_timer_start(&u->retry, on_retry, RETRY_MAX_MS, 0);
        return;
    }
    if (!u->starting) {
        flush_waiting(u);
        return;
    }
    if (TAILQ_EMPTY(&u->links) && uv_now(u->loop) < u->connect_by_ms) link_new(u);
    arm_retry(u); /* also while it connects: the system would wait for minutes */
}

int upstream_connect(struct upstream *u, const char *address, uint64_t timeout_ms, struct error *e)
{
    struct sockaddr_storage where;
    int rv = address_numeric(address, &where, e);
    if (rv != 0) return rv;
    upstream_drop(u);
    u->address = where;
    u->watching = false;
    u->starting = true;
    u->listener = 0;
    u->retry_ms = RETRY_MIN_MS;
    u->connect_by_ms = uv_now(u->loop) + timeout_ms;
    uv_timer_start(&u->retry, on_retry, 0, 0);
    return 0;
}

void upstream_drop(struct upstream *u)
{
    struct upstream_link *l;
    struct exchange *x;
    u->there = u->starting = u->closing_gently = false;
    if (!u->watching) uv_timer_stop(&u->retry);
    uv_timer_stop(&u->deadline);
    while ((x = TAILQ_FIRST(&u->waiting)) != NULL) TAILQ_REMOVE(&u->waiting, x, entry);
    while ((l = TAILQ_FIRST(&u->links)) != NULL) {
        x = l->exchange;
        link_close(l);
        if (x == NULL) continue;
        x->link = NULL;
        if (x->parts) u->handlers.on_cut(u->user, x);
    }
}

/* What has not ended by now is reset: that takes the app's side away as well. */
static void close_rest(struct upstream *u)
{
    struct upstream_link *l;
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    u->closing_gently = false;
    uv_timer_stop(&u->deadline);
    while ((l = TAILQ_FIRST(&u->links)) != NULL) {
        uv_os_fd_t fd;
        if (uv_fileno((uv_handle_t *)&l->tcp, &fd) == 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        link_close(l);
    }
}

static void on_deadline(uv_timer_t *timer)
{
    struct upstream *u = timer->data;
    if (!u->closing_gently) return;
    close_rest(u);
    u->handlers.on_closed(u->user);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)req;
    (void)status;
}

void upstream_close(struct upstream *u)
{
    struct upstream_link *l, *next;
    u->closing_gently = true;
    for (l = TAILQ_FIRST(&u->links); l != NULL; l = next) {
        next = TAILQ_NEXT(l, entry);
        if (l->state == LINK_IDLE && uv_shutdown(&l->shutdown, (uv_stream_t *)&l->tcp, on_shutdown) == 0) {
            l->state = LINK_ENDING;
        } else if (l->state != LINK_CLOSING) {
            link_close(l);
        }
    }
    uv_timer_start(&u->deadline, on_deadline, TAILQ_EMPTY(&u->links) ? 0 : CLOSE_MS, 0);
}

void upstream_reopen(struct upstream *u)
{
    if (!u->there) return;
    if (u->closing_gently) close_rest(u);
    keep_one(u);
}

bool upstream_is_same(const struct upstream *u, const char *address)
{
    struct sockaddr_storage where;
    return u->listener != 0 && address_numeric(address, &where, NULL) == 0 &&
           listener_id((struct sockaddr *)&where) == u->listener;
}

void upstream_pause(struct exchange *x)
{
    if (x->link != NULL && x->link->state == LINK_BUSY) uv_read_stop((uv_stream_t *)&x->link->tcp);
}

void upstream_resume(struct exchange *x)
{
    if (x->link != NULL && x->link->state == LINK_BUSY) uv_read_start((uv_stream_t *)&x->link->tcp, on_alloc, on_read);
}

struct upstream *upstream_new(uv_loop_t *loop, const struct http_limits *limits,
                              const struct upstream_handlers *handlers, void *user)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (u == NULL) return NULL;
    u->loop = loop;
    u->limits = *limits;
    u->handlers = *handlers;
    u->user = user;
    TAILQ_INIT(&u->links);
    TAILQ_INIT(&u->waiting);
    uv_timer_init(loop, &u->retry);
    uv_timer_init(loop, &u->deadline);
    u->retry.data = u->deadline.data = u;
    u->handles = 2;
    return u;
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

void upstream_free(struct upstream *u, void (*done)(void *user), void *user)
{
    u->watching = false;
    upstream_drop(u);
    u->freeing = true;
    u->done = done;
    u->done_user = user;
    uv_close((uv_handle_t *)&u->retry, on_timer_closed);
    uv_close((uv_handle_t *)&u->deadline, on_timer_closed);
}
