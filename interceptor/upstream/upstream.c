#include "interceptor/upstream/upstream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/conn.h"
#include "interceptor/upstream/internal.h"
#include "interceptor/upstream/listener.h"

enum {
    IDLE_MAX_MS = 2000, /* well below the shortest keep-alive time that servers use (5 s) */
    RETRY_MIN_MS = 2,
    RETRY_MAX_MS = 50, /* while the app is starting */
    CLOSE_MS = 50,     /* for the app to close its side, for a drain; then a reset */
    SHORT_MS = 100,
    SWEEP_MS = 100,
    SHORT_MAX = 20, /* an app that ends idle connections as soon as it has them is left in peace */
};

static void probe(struct upstream *u);

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

void upstream_link_close(struct upstream_link *l)
{
    if (l->state == LINK_CLOSING) return;
    if (l->probe && l->state == LINK_CONNECTING) l->upstream->probing = false;
    l->state = LINK_CLOSING;
    l->exchange = NULL;
    struct exchange *x;
    while ((x = TAILQ_FIRST(&l->behind)) != NULL) {
        TAILQ_REMOVE(&l->behind, x, entry);
        x->link = NULL;
    }
    if (l->upstream->pipe == l) l->upstream->pipe = NULL;
    TAILQ_REMOVE(&l->upstream->links, l, entry);
    uv_close(&l->io.handle, on_link_closed);
}

static void lost(struct upstream *u, const char *why)
{
    if (!u->there && !u->starting && !u->watching) return;
    u->there = u->starting = u->watching = false;
    uv_timer_stop(&u->retry);
    u->handlers.on_lost(u->user, why);
}

static void on_retry(uv_timer_t *timer);

void upstream_suspect(struct upstream *u, const char *why)
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
void upstream_link_idle(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    l->state = LINK_IDLE;
    l->exchange = NULL;
    if (u->pipe == l) u->pipe = NULL;
    l->since_ms = uv_now(u->loop);
    TAILQ_REMOVE(&u->links, l, entry);
    TAILQ_INSERT_HEAD(&u->links, l, entry);
}

/* Where nothing is connected any more a death would go unseen. */
void upstream_keep_one(struct upstream *u)
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
            upstream_suspect(u, "it closed a connection with a logged request on it, unanswered, and still takes connections");
            return;
        }
        bool complete = l->complete;
        upstream_link_unfollow(l);
        l->exchange = NULL;
        x->link = NULL;
        if (complete)
            u->handlers.on_answer(u->user, x, http_parser_message(l->parser));
        else
            u->handlers.on_dropped(u->user, x);
        if (l->state == LINK_DOUBT) upstream_link_close(l);
        if (!u->there) return;
        goto again;
    }
    TAILQ_FOREACH(l, &u->links, entry) if (l->state == LINK_DOUBT) break;
    if (l != NULL) probe(u);
}

void upstream_link_ended(struct upstream_link *l, bool in_order)
{
    struct upstream *u = l->upstream;
    enum link_state state = l->state;
    l->ended = true;
    uv_read_stop(&l->io.stream);
    if (state == LINK_BUSY) {
        struct error e;
        l->state = LINK_DOUBT;
        l->complete = http_parser_finish(l->parser, &e) == 1 && (in_order || TAILQ_EMPTY(&l->behind));
        l->doubt = u->probes;
        probe(u);
        return;
    }
    if (state == LINK_IDLE) u->short_lived = uv_now(u->loop) - l->since_ms < SHORT_MS ? u->short_lived + 1 : 0;
    upstream_link_close(l);
    if (state == LINK_IDLE && u->there && !u->closing_gently && u->short_lived < SHORT_MAX) probe(u);
    if (state == LINK_ENDING && u->closing_gently && TAILQ_EMPTY(&u->links)) {
        u->closing_gently = false;
        uv_timer_stop(&u->deadline);
        u->handlers.on_closed(u->user);
    }
}

static void on_connect(uv_connect_t *req, int status);

static struct upstream_link *link_new(struct upstream *u)
{
    struct upstream_link *l = calloc(1, sizeof *l);
    struct http_parser *parser = http_parser_new(false, &u->options.limits);
    if (l == NULL || parser == NULL) {
        http_parser_free(parser);
        free(l);
        return NULL;
    }
    l->upstream = u;
    l->parser = parser;
    http_parser_stream(parser, upstream_on_part, l);
    bool local = u->address.ss_family == AF_UNIX;
    if (local)
        uv_pipe_init(u->loop, &l->io.pipe, 0);
    else
        uv_tcp_init(u->loop, &l->io.tcp);
    l->io.handle.data = l->connect.data = l;
    TAILQ_INIT(&l->behind);
    u->handles++;
    l->state = LINK_CONNECTING;
    l->since_ms = uv_now(u->loop);
    TAILQ_INSERT_TAIL(&u->links, l, entry);
    if (u->starting) l->listener = listener_id((struct sockaddr *)&u->address);
    if (local) { /* what goes wrong is told to on_connect */
        uv_pipe_connect(&l->connect, &l->io.pipe, ((const struct sockaddr_un *)&u->address)->sun_path, on_connect);
        return l;
    }
    if (uv_tcp_connect(&l->connect, &l->io.tcp, (struct sockaddr *)&u->address, on_connect) == 0) return l;
    upstream_link_close(l);
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
    upstream_link_close(l);
    if (!u->starting) lost(u, why); /* else the timer tries again */
}

static bool send_now(struct upstream *u, struct exchange *x);

void upstream_flush_waiting(struct upstream *u)
{
    struct exchange *x;
    while (u->there && !u->probing && (x = TAILQ_FIRST(&u->waiting)) != NULL) {
        TAILQ_REMOVE(&u->waiting, x, entry);
        if (send_now(u, x)) continue;
        TAILQ_INSERT_HEAD(&u->waiting, x, entry);
        return;
    }
}

static void probed(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    uint64_t began = l->doubt;
    l->probe = u->probing = false;
    upstream_link_idle(l);
    if (other_idle(u, l)) upstream_link_close(l); /* servers of one thread would wait for it to speak */
    judge(u, began);
    upstream_flush_waiting(u);
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
        upstream_link_close(l);
        return;
    }
    if (u->starting) {
        u->listener = id;
    } else if (u->listener != 0 && id != u->listener) {
        connect_failed(l, "another process listens at its address");
        return;
    }
    if (u->watching) {
        upstream_link_close(l);
        return;
    }
    if (u->address.ss_family != AF_UNIX) uv_tcp_nodelay(&l->io.tcp, 1);
    upstream_link_read(l);
    if (l->exchange != NULL) {
        upstream_link_begin(l, l->exchange);
    } else if (u->starting) {
        u->starting = false;
        u->there = true;
        u->short_lived = 0;
        uv_timer_stop(&u->retry);
        upstream_link_idle(l);
        u->handlers.on_connected(u->user);
    } else if (l->probe) {
        probed(l);
    } else {
        upstream_link_idle(l);
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

/* False: out of descriptors or memory. It is tried again with the next verdict, or when the timer rings. */
static bool send_now(struct upstream *u, struct exchange *x)
{
    struct upstream_link *l, *next;
    uint64_t now = uv_now(u->loop);
    if (x->follows && u->pipe != NULL) {
        upstream_link_follow(u->pipe, x);
        return true;
    }
    for (l = TAILQ_FIRST(&u->links); l != NULL; l = next) {
        next = TAILQ_NEXT(l, entry);
        if (l->state != LINK_IDLE) continue;
        if (now - l->since_ms < IDLE_MAX_MS) {
            if (x->follows) u->pipe = l;
            upstream_link_begin(l, x);
            return true;
        }
        upstream_link_close(l);
    }
    l = link_new(u);
    if (l == NULL) {
        uv_timer_start(&u->retry, on_retry, RETRY_MAX_MS, 0);
        return false;
    }
    l->exchange = x;
    x->link = l;
    if (x->follows) u->pipe = l;
    return true;
}

void upstream_send(struct upstream *u, struct exchange *x)
{
    x->link = NULL;
    x->parts = x->written = false;
    bool waits = u->probing || (x->follows && !TAILQ_EMPTY(&u->waiting)); /* nothing passes by */
    if (waits || !send_now(u, x)) TAILQ_INSERT_TAIL(&u->waiting, x, entry);
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
        upstream_flush_waiting(u);
        return;
    }
    if (TAILQ_EMPTY(&u->links) && uv_now(u->loop) < u->connect_by_ms) link_new(u);
    arm_retry(u); /* also while it connects: the system would wait for minutes */
}

int upstream_connect(struct upstream *u, const char *address, uint64_t timeout_ms, struct error *e)
{
    struct sockaddr_storage where;
    int rv = upstream_address(address, &where, e);
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
        upstream_link_close(l);
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
        if (uv_fileno(&l->io.handle, &fd) == 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        upstream_link_close(l);
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
        if (l->state == LINK_IDLE && uv_shutdown(&l->shutdown, &l->io.stream, on_shutdown) == 0) {
            l->state = LINK_ENDING;
        } else if (l->state != LINK_CLOSING) {
            upstream_link_close(l);
        }
    }
    uv_timer_start(&u->deadline, on_deadline, TAILQ_EMPTY(&u->links) ? 0 : CLOSE_MS, 0);
}

void upstream_reopen(struct upstream *u)
{
    if (!u->there) return;
    if (u->closing_gently) close_rest(u);
    upstream_keep_one(u);
}

bool upstream_is_same(const struct upstream *u, const char *address)
{
    struct sockaddr_storage where;
    return u->listener != 0 && upstream_address(address, &where, NULL) == 0 &&
           listener_id((struct sockaddr *)&where) == u->listener;
}

/* ---- time ----------------------------------------------------------------------------------------------------- */

static bool too_slow(const struct upstream_link *l, uint64_t now)
{
    const struct upstream_options *o = &l->upstream->options;
    uint64_t bound = l->answering ? o->body_ms : o->first_byte_ms;
    bool waits_for_log = !l->answering && !l->sent && !l->writes;
    return l->state == LINK_BUSY && !waits_for_log && !l->exchange->slow && !l->exchange->paused && bound > 0 && now - l->since_ms > bound;
}

static void on_sweep(uv_timer_t *timer)
{
    struct upstream *u = timer->data;
    struct upstream_link *l;
    uint64_t now = uv_now(u->loop);
again:
    TAILQ_FOREACH(l, &u->links, entry)
    {
        if (too_slow(l, now)) {
            l->exchange->slow = true;
            u->handlers.on_slow(u->user, l->exchange, l->answering);
            goto again; /* the list may be another one now */
        }
        if (l->state != LINK_CONNECTING || u->starting || u->watching || now - l->since_ms <= u->options.connect_ms) continue;
        connect_failed(l, "it took no connection within app-connect-timeout");
        return;
    }
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int upstream_address(const char *text, struct sockaddr_storage *ret_address, struct error *e)
{
    struct sockaddr_un *local = (struct sockaddr_un *)ret_address;
    if (strncmp(text, "unix:", 5) != 0) return address_numeric(text, ret_address, e);
    if (text[5] != '/' || strlen(text + 5) >= sizeof local->sun_path)
        return error_set(e, ERROR_INVALID, "unix:/path is wanted, an absolute path of at most %zu bytes", sizeof local->sun_path - 1);
    memset(local, 0, sizeof *local);
    local->sun_family = AF_UNIX;
    strcpy(local->sun_path, text + 5);
    return 0;
}

struct upstream *upstream_new(uv_loop_t *loop, const struct upstream_options *options,
                              const struct upstream_handlers *handlers, void *user)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (u == NULL) return NULL;
    u->loop = loop;
    u->options = *options;
    u->handlers = *handlers;
    u->user = user;
    TAILQ_INIT(&u->links);
    TAILQ_INIT(&u->waiting);
    uv_timer_init(loop, &u->retry);
    uv_timer_init(loop, &u->deadline);
    uv_timer_init(loop, &u->sweep);
    uv_prepare_init(loop, &u->turn);
    u->retry.data = u->deadline.data = u->sweep.data = u->turn.data = u;
    u->handles = 4;
    uv_timer_start(&u->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
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
    uv_close((uv_handle_t *)&u->sweep, on_timer_closed);
    uv_close((uv_handle_t *)&u->turn, on_timer_closed);
}
