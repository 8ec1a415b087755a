/* One request with the app, on one connection: its bytes go out, its answer comes in. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "interceptor/upstream/internal.h"

enum { PIECES = 3 };

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* The next one behind has its turn. */
static void go_on(struct upstream_link *l)
{
    struct exchange *x = TAILQ_FIRST(&l->behind);
    TAILQ_REMOVE(&l->behind, x, entry);
    l->exchange = x;
    l->answering = false;
    l->since_ms = uv_now(l->upstream->loop);
    http_parser_expect_head(l->parser, x->head);
    if (!x->written && !l->writes) upstream_link_begin(l, x); /* else when that is written */
}

/* `more`: bytes came behind it. */
static void on_message(struct upstream_link *l, bool more)
{
    struct upstream *u = l->upstream;
    const struct http_message *m = http_parser_message(l->parser);
    struct exchange *x = l->exchange;
    bool followed = !TAILQ_EMPTY(&l->behind);
    bool whole = !l->writes && l->sent; /* not when it answered before it had read all */
    bool keep = m->keep_alive && !m->upgrade && (followed ? l->sent : whole && !more);
    u->short_lived = 0;
    x->link = NULL;
    l->exchange = NULL;
    if (keep && followed) {
        go_on(l);
    } else if (keep) {
        upstream_link_idle(l);
    } else {
        upstream_link_unfollow(l);
        l->state = LINK_ENDING;
    }
    u->handlers.on_answer(u->user, x, m); /* may send on this link, or drop it */
    if (!keep && l->state == LINK_ENDING) {
        upstream_link_close(l);
        upstream_flush_waiting(u);
        upstream_keep_one(u);
    }
}

static void on_nonsense(struct upstream_link *l)
{
    struct upstream *u = l->upstream;
    struct exchange *x = l->exchange;
    bool followed = !TAILQ_EMPTY(&l->behind);
    x->link = NULL;
    upstream_link_close(l);
    u->handlers.on_answer(u->user, x, NULL);
    if (followed && u->there)
        upstream_suspect(u, "what it answered is not HTTP, and there were requests behind that one");
    else
        upstream_keep_one(u);
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
        if (status == 101) { /* nobody asked for that here: what follows is not ours to read */
            on_nonsense(l);
            return;
        }
        if (status / 100 == 1) continue; /* an interim answer: the real one follows */
        on_message(l, at < len);
    }
}

void upstream_on_part(void *user, const struct http_message *head, const void *data, size_t len)
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
    *b = uv_buf_init(l->upstream->chunk, UPSTREAM_READ);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct upstream_link *l = stream->data;
    if (n == 0 || l->state == LINK_CLOSING || l->ended) return;
    if (n < 0) {
        upstream_link_ended(l, n == UV_EOF);
    } else if (l->state == LINK_BUSY) {
        l->answering = true;
        l->since_ms = uv_now(l->upstream->loop);
        feed(l, b->base, (size_t)n);
    } else if (l->state == LINK_IDLE) { /* an answer that nobody asked for, such as 408 at an idle time's end */
        struct upstream *u = l->upstream;
        upstream_link_close(l);
        upstream_keep_one(u);
    }
}

void upstream_link_read(struct upstream_link *l)
{
    uv_read_start(&l->io.stream, on_alloc, on_read);
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

static void write_behind(struct upstream_link *l);

static void on_written(uv_write_t *req, int status)
{
    struct upstream_link *l = req->data;
    struct upstream *u = l->upstream;
    l->writes = false;
    l->writing = blob_unref(l->writing);
    if (l->state != LINK_BUSY || status != 0) return; /* an error shows when reading, where an early answer is not missed */
    l->since_ms = uv_now(u->loop);
    if (!l->exchange->written)
        upstream_link_begin(l, l->exchange);
    else if (!l->sent)
        u->handlers.on_wants(u->user, l->exchange);
    else
        write_behind(l);
}

/* What the kernel takes at once needs no callback, nor another turn of the loop. Leaves what it did not take. */
static unsigned write_now(struct upstream_link *l, uv_buf_t *pieces, unsigned n)
{
    int taken = uv_try_write(&l->io.stream, pieces, n);
    size_t left = taken > 0 ? (size_t)taken : 0;
    unsigned first = 0;
    while (first < n && left >= pieces[first].len) left -= pieces[first++].len;
    if (first < n) pieces[first] = uv_buf_init(pieces[first].base + left, (unsigned)(pieces[first].len - left));
    memmove(pieces, pieces + first, (n - first) * sizeof *pieces);
    return n - first;
}

static void write_pieces(struct upstream_link *l, uv_buf_t *pieces, unsigned n, struct blob *owner)
{
    assert(!l->writes);
    if (l->sent && (n = write_now(l, pieces, n)) == 0) { /* else the next part of the body is asked for in the callback */
        blob_unref(owner);
        return;
    }
    l->writing = owner;
    l->writes = true;
    l->write.data = l;
    if (uv_write(&l->write, &l->io.stream, pieces, n, on_written) == 0) return;
    l->writes = false; /* the socket is broken; its end, which comes from the loop, says so too */
    l->writing = blob_unref(l->writing);
}

/* How many: at most PIECES. */
static unsigned add_pieces(uv_buf_t *pieces, const struct exchange *x)
{
    bool whole = x->extra[0] == '\0';
    pieces[0] = uv_buf_init((char *)x->message->data, (unsigned)(whole ? x->message->len : x->split));
    if (whole) return 1;
    pieces[1] = uv_buf_init((char *)x->extra, (unsigned)strlen(x->extra));
    pieces[2] = uv_buf_init((char *)x->message->data + x->split, (unsigned)(x->message->len - x->split));
    return PIECES;
}

/* ---- several on one connection -------------------------------------------------------------------------------- */

/* What the kernel did not take, in memory of its own: the messages belong to several exchanges. */
static void write_rest(struct upstream_link *l, const uv_buf_t *pieces, unsigned n)
{
    size_t len = 0, at = 0;
    for (unsigned i = 0; i < n; i++) len += pieces[i].len;
    struct blob *rest = blob_new(len);
    if (rest == NULL) {
        upstream_link_close(l);
        upstream_suspect(l->upstream, "no memory for the end of a request that it has the beginning of");
        return;
    }
    for (unsigned i = 0; i < n; at += pieces[i++].len) memcpy(rest->data + at, pieces[i].base, pieces[i].len);
    uv_buf_t piece = uv_buf_init((char *)rest->data, (unsigned)rest->len);
    write_pieces(l, &piece, 1, rest);
}

static void write_behind(struct upstream_link *l)
{
    uv_buf_t pieces[PIECES * UPSTREAM_FOLLOW_MAX];
    unsigned n = 0;
    struct exchange *x;
    if (l->state != LINK_BUSY || l->writes || !l->sent || !l->exchange->written) return;
    TAILQ_FOREACH(x, &l->behind, entry)
    {
        if (x->written) continue;
        if (x->streams || n + PIECES > PIECES * UPSTREAM_FOLLOW_MAX) break; /* its body comes when it is the first */
        n += add_pieces(pieces + n, x);
        x->written = true;
    }
    if (n == 0) return;
    unsigned left = write_now(l, pieces, n);
    if (left > 0) write_rest(l, pieces, left);
}

void upstream_on_turn(uv_prepare_t *turn)
{
    struct upstream *u = turn->data;
    uv_prepare_stop(turn);
    if (u->pipe != NULL) write_behind(u->pipe);
}

static void soon(struct upstream_link *l)
{
    if (!TAILQ_EMPTY(&l->behind)) uv_prepare_start(&l->upstream->turn, upstream_on_turn);
}

void upstream_link_follow(struct upstream_link *l, struct exchange *x)
{
    x->link = l;
    TAILQ_INSERT_TAIL(&l->behind, x, entry);
    soon(l);
}

void upstream_link_unfollow(struct upstream_link *l)
{
    struct exchange *x;
    while ((x = TAILQ_LAST(&l->behind, exchange_list)) != NULL) {
        TAILQ_REMOVE(&l->behind, x, entry);
        x->link = NULL;
        x->written = false;
        TAILQ_INSERT_HEAD(&l->upstream->waiting, x, entry);
    }
    if (l->upstream->pipe == l) l->upstream->pipe = NULL;
}

/* ---- one ------------------------------------------------------------------------------------------------------ */

void upstream_link_begin(struct upstream_link *l, struct exchange *x)
{
    uv_buf_t pieces[PIECES];
    l->state = LINK_BUSY;
    l->exchange = x;
    x->link = l;
    x->parts = x->slow = x->paused = false;
    l->answering = false;
    l->sent = !x->streams;
    l->since_ms = uv_now(l->upstream->loop);
    x->written = true;
    unsigned n = add_pieces(pieces, x);
    http_parser_expect_head(l->parser, x->head);
    write_pieces(l, pieces, n, blob_ref(x->message));
    soon(l);
}

void upstream_body(struct exchange *x, struct blob *piece)
{
    struct upstream_link *l = x->link;
    uv_buf_t pieces[PIECES];
    unsigned n = 0;
    if (l == NULL || l->state != LINK_BUSY) return;
    if (x->chunked) {
        snprintf(l->line, sizeof l->line, "%zx\r\n", piece->len);
        pieces[n++] = uv_buf_init(l->line, (unsigned)strlen(l->line));
    }
    pieces[n++] = uv_buf_init((char *)piece->data, (unsigned)piece->len);
    if (x->chunked) pieces[n++] = uv_buf_init((char *)"\r\n", 2);
    write_pieces(l, pieces, n, blob_ref(piece));
}

void upstream_body_end(struct exchange *x, const struct buf *trailers)
{
    struct upstream_link *l = x->link;
    if (l == NULL || l->state != LINK_BUSY) return;
    l->sent = true;
    soon(l);
    if (!x->chunked) return;
    struct blob *end = blob_new(trailers->len + 5);
    if (end == NULL) {
        upstream_link_close(l);
        upstream_suspect(l->upstream, "no memory for the end of a request that it has the beginning of");
        return;
    }
    memcpy(end->data, "0\r\n", 3);
    memcpy(end->data + 3, trailers->data, trailers->len);
    memcpy(end->data + 3 + trailers->len, "\r\n", 2);
    uv_buf_t piece = uv_buf_init((char *)end->data, (unsigned)end->len);
    write_pieces(l, &piece, 1, end);
}

void upstream_pause(struct exchange *x)
{
    x->paused = true;
    if (x->link != NULL && x->link->state == LINK_BUSY) uv_read_stop(&x->link->io.stream);
}

void upstream_resume(struct exchange *x)
{
    x->paused = false;
    if (x->link == NULL || x->link->state != LINK_BUSY) return;
    x->link->since_ms = uv_now(x->link->upstream->loop);
    upstream_link_read(x->link);
}

void upstream_give_up(struct exchange *x)
{
    struct upstream_link *l = x->link;
    assert(!x->logged);
    if (l == NULL) return;
    x->link = NULL;
    upstream_link_close(l);
    upstream_keep_one(l->upstream);
}
