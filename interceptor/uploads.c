/* The engine's part for request bodies that are too large to be held: they go into the log in parts while they come (parts/manifest.h), and
 * out of it again when the app gets the request, the first time as in a replay.
 *
 *   receiving ──whole──► settling ──all parts durable──► committed: a request like any other
 *       │                   │
 *       └── client gone, ───┘
 *           refused: the parts stay behind in the log, and mean nothing
 *
 * Bounded: UPLOAD_FLIGHT bytes per upload and UPLOADS_FLIGHT in all are on their way to the log, beside one part of each that is being filled;
 * a client that sends faster is made to wait. When the log is lost, parts without an answer are appended again under the next epoch: the
 * manifest names only those of which the offset is known.
 *
 * A checkpoint may be taken, and what is before it trimmed, while an upload goes on. So that no request behind a checkpoint needs parts before
 * it, an upload that comes to its end moves such parts: it reads them, and appends them again. While one is doing that no drain begins; a drain
 * executes what is committed first (order_entry.anchored), and nothing is committed while it goes on. */
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"
#include "interceptor/engine_internal.h"

enum { UPLOAD_FLIGHT = 4 << 20, UPLOADS_FLIGHT = 16 << 20 };

/* A part on its way to the log. It outlives its upload, until the log has answered. */
struct part {
    TAILQ_ENTRY(part) entry;
    struct engine *engine;
    struct upload *upload; /* NULL: gone */
    struct blob *bytes;
    bool handed; /* to the log, and not answered */
};

struct upload {
    TAILQ_ENTRY(upload) entry;
    struct engine *engine;
    struct session *session;
    struct buf filling;
    TAILQ_HEAD(, part) parts; /* not durable yet, in order */
    size_t flight;            /* bytes of them */
    struct manifest manifest;
    void *sha; /* EVP_MD_CTX */
    uint64_t begun_us;
    bool held;
    struct blob *head; /* settling: the head of what will be committed */
    /* while its early parts are moved: */
    struct manifest old;
    struct body *mover;
};

/* ---- life ----------------------------------------------------------------------------------------------------- */

static struct upload *find(const struct engine *engine, const struct session *s)
{
    struct upload *u;
    TAILQ_FOREACH(u, &engine->uploads, entry) if (u->session == s) return u;
    return NULL;
}

static void part_free(struct part *p)
{
    blob_unref(p->bytes);
    free(p);
}

static void upload_free(struct upload *u)
{
    struct engine *engine = u->engine;
    struct part *p;
    TAILQ_REMOVE(&engine->uploads, u, entry);
    engine->n_uploads--;
    engine->upload_flight -= u->flight;
    while ((p = TAILQ_FIRST(&u->parts)) != NULL) {
        TAILQ_REMOVE(&u->parts, p, entry);
        p->upload = NULL;
        if (!p->handed) part_free(p);
    }
    body_close(u->mover);
    manifest_fini(&u->manifest);
    manifest_fini(&u->old);
    buf_fini(&u->filling);
    blob_unref(u->head);
    EVP_MD_CTX_free(u->sha);
    free(u);
}

static void refuse(struct upload *u, int status, const char *why)
{
    struct session *s = u->session;
    char retry[40];
    snprintf(retry, sizeof retry, "Retry-After: %" PRIu64 "\r\n", u->engine->settings->retry_after);
    upload_free(u);
    session_refuse(s, status, status == 503 ? retry : "", "not logged and not executed: %s", why);
}

bool uploads_gone(struct engine *engine, struct session *s)
{
    struct upload *u = find(engine, s);
    if (u == NULL) return false;
    upload_free(u);
    return true;
}

void uploads_free(struct engine *engine)
{
    while (!TAILQ_EMPTY(&engine->uploads)) upload_free(TAILQ_FIRST(&engine->uploads));
}

/* ---- parts go to the log -------------------------------------------------------------------------------------- */

static void hand_over(struct upload *u)
{
    struct engine *engine = u->engine;
    struct part *p;
    TAILQ_FOREACH(p, &u->parts, entry)
    {
        if (p->handed || !engine->order.log_open) continue;
        p->handed = true;
        if (log_append_part(engine->log, p->bytes, u->manifest.upload, p) != 0) p->handed = false; /* again at the next answer */
    }
}

static bool is_full(const struct upload *u)
{
    const struct engine *engine = u->engine;
    return u->flight >= UPLOAD_FLIGHT || (u->flight > 0 && engine->upload_flight >= UPLOADS_FLIGHT) || !engine->order.log_open;
}

static int add_part(struct upload *u, const void *data, size_t len)
{
    struct part *p = calloc(1, sizeof *p);
    struct blob *bytes = blob_new(len);
    if (p == NULL || bytes == NULL) {
        free(p);
        blob_unref(bytes);
        return -ERROR_NOMEM;
    }
    memcpy(bytes->data, data, len);
    p->engine = u->engine;
    p->upload = u;
    p->bytes = bytes;
    TAILQ_INSERT_TAIL(&u->parts, p, entry);
    u->flight += len;
    u->engine->upload_flight += len;
    hand_over(u);
    return 0;
}

/* What is gathered, cut into parts; with `all` the rest too. */
static int cut(struct upload *u, bool all)
{
    size_t at = 0;
    int rv = 0;
    while (rv == 0 && (u->filling.len - at >= MANIFEST_PART_BYTES || (all && u->filling.len > at))) {
        size_t n = u->filling.len - at < MANIFEST_PART_BYTES ? u->filling.len - at : MANIFEST_PART_BYTES;
        rv = add_part(u, u->filling.data + at, n);
        at += n;
    }
    buf_consume(&u->filling, at);
    return rv;
}

/* ---- what comes from the client ------------------------------------------------------------------------------- */

static struct upload *begin(struct engine *engine, struct session *s, const struct http_message *head)
{
    struct upload *u = calloc(1, sizeof *u);
    if (u == NULL) return NULL;
    u->engine = engine;
    u->session = s;
    u->begun_us = loop_monotonic_us();
    u->manifest.upload = ++engine->upload_ids;
    TAILQ_INIT(&u->parts);
    TAILQ_INSERT_TAIL(&engine->uploads, u, entry);
    engine->n_uploads++;
    u->sha = EVP_MD_CTX_new();
    if (u->sha == NULL || EVP_DigestInit_ex(u->sha, EVP_sha256(), NULL) != 1) {
        upload_free(u);
        return NULL;
    }
    /* As repeats.c prints what comes in one piece: the request line, then the body. */
    EVP_DigestUpdate(u->sha, head->method, strlen(head->method));
    EVP_DigestUpdate(u->sha, " ", 1);
    EVP_DigestUpdate(u->sha, head->target, strlen(head->target));
    EVP_DigestUpdate(u->sha, " HTTP/1.1\r\n", 11);
    return u;
}

void uploads_on_body(void *user, struct session *s, const struct http_message *head, const void *data, size_t len)
{
    struct engine *engine = user;
    struct upload *u = find(engine, s);
    if (u == NULL) {
        if (engine->order.fenced || engine->n_uploads >= engine->settings->max_uploads || (u = begin(engine, s, head)) == NULL) {
            char retry[40];
            snprintf(retry, sizeof retry, "Retry-After: %" PRIu64 "\r\n", engine->settings->retry_after);
            session_refuse(s, 503, retry, "not logged and not executed: %s",
                           engine->order.fenced ? order_reason(&engine->order) : "too many large requests are on their way");
            return;
        }
        if (http_is_safe(head->method) && !engine->settings->log_safe_methods) {
            refuse(u, 413, "what is not logged has a body of at most body-buffer");
            return;
        }
    }
    EVP_DigestUpdate(u->sha, data, len);
    u->manifest.bytes += len;
    if (buf_add(&u->filling, data, len) != 0 || cut(u, false) != 0) {
        refuse(u, 503, "no memory");
        return;
    }
    u->held = is_full(u);
    if (u->held) session_hold(s, true);
}

/* ---- the end of an upload ------------------------------------------------------------------------------------- */

static struct blob *join(const struct blob *head, const struct buf *tail)
{
    struct blob *b = blob_new(head->len + tail->len);
    if (b == NULL) return NULL;
    memcpy(b->data, head->data, head->len);
    memcpy(b->data + head->len, tail->data, tail->len);
    return b;
}

/* All its parts are durable: it is a request now. */
static void commit(struct upload *u)
{
    struct engine *engine = u->engine;
    struct buf text = BUF_INIT;
    struct blob *stored = manifest_write(&u->manifest, &text) == 0 ? join(u->head, &text) : NULL;
    struct request *r = stored != NULL ? request_new(engine, stored->data, stored->len) : NULL;
    buf_fini(&text);
    blob_unref(stored);
    if (r == NULL || request_in_parts(r) != 0) {
        if (r != NULL) request_free(r);
        refuse(u, 503, "no memory");
        return;
    }
    r->session = u->session;
    r->begun_us = u->begun_us;
    u->session = NULL;
    upload_free(u);
    session_set_context(r->session, r);
    engine_admit(engine, r);
}

static void move(struct upload *u);

/* Whole, and nothing of it is on its way. */
static void settle(struct upload *u)
{
    struct engine *engine = u->engine;
    if (u->head == NULL || u->mover != NULL || !TAILQ_EMPTY(&u->parts)) return;
    if (engine->order.drain != ORDER_DRAIN_NONE)
        engine->uploads_wait = true;
    else if (u->manifest.runs[0].first <= engine->drained)
        move(u);
    else
        commit(u);
}

/* True: it was one, and is seen to. */
bool uploads_on_request(struct engine *engine, struct session *s, const struct http_message *m)
{
    struct upload *u = find(engine, s);
    struct http_message head = *m;
    struct buf text = BUF_INIT;
    if (u == NULL) return false;
    head.body = NULL;
    head.body_len = (size_t)u->manifest.bytes;
    EVP_DigestFinal_ex(u->sha, u->manifest.print, NULL);
    int rv = engine_write_head(engine, s, &head, &text);
    if (rv == 0 && (u->head = blob_new(text.len)) != NULL) memcpy(u->head->data, text.data, text.len);
    buf_fini(&text);
    if (u->head == NULL || cut(u, true) != 0 || http_write_trailers(&u->manifest.trailers, m) != 0) {
        refuse(u, 503, "no memory");
        return true;
    }
    if (u->held) session_hold(s, false); /* so that it is seen when the client goes */
    u->held = false;
    settle(u);
    return true;
}

/* ---- parts that are before a checkpoint ----------------------------------------------------------------------- */

static void on_piece(void *user, struct blob *piece)
{
    struct upload *u = user;
    if (piece == NULL) {
        body_close(u->mover);
        u->mover = NULL;
        manifest_fini(&u->old);
        settle(u);
    } else if (add_part(u, piece->data, piece->len) != 0) {
        refuse(u, 503, "no memory");
    } else if (!is_full(u)) {
        body_next(u->mover);
    }
}

static void on_move_failed(void *user, const struct error *why)
{
    struct upload *u = user;
    log_warn("a large request was given up: the log has not all of it any more", "reason=%s", why->text);
    refuse(u, 503, "a checkpoint was taken meanwhile, and the log was trimmed: send it again");
}

/* All of it is appended anew, which keeps its parts in order. */
static void move(struct upload *u)
{
    static const struct body_handlers handlers = {.on_piece = on_piece, .on_failed = on_move_failed};
    struct engine *engine = u->engine;
    struct buf trailers = u->manifest.trailers;
    u->old = u->manifest;
    u->old.trailers = (struct buf)BUF_INIT;
    u->manifest = (struct manifest){.upload = ++engine->upload_ids, .bytes = u->old.bytes, .trailers = trailers};
    memcpy(u->manifest.print, u->old.print, sizeof u->old.print);
    u->mover = body_new(engine->loop, engine->client, engine->settings->stream, &u->old, &handlers, u);
    if (u->mover == NULL)
        refuse(u, 503, "no memory");
    else
        body_next(u->mover);
}

/* ---- what the log says ---------------------------------------------------------------------------------------- */

/* There is room again, for this one and perhaps for others. */
static void take_more(struct engine *engine)
{
    struct upload *u;
again:
    TAILQ_FOREACH(u, &engine->uploads, entry)
    {
        if (u->mover != NULL && !is_full(u)) body_next(u->mover);
        if (!u->held || is_full(u)) continue;
        u->held = false;
        session_hold(u->session, false); /* it may come to its end in here */
        goto again;
    }
}

void uploads_on_part(void *user, void *context, uint64_t offset)
{
    struct part *p = context;
    struct engine *engine = user;
    engine_step(engine, &(struct order_event){.kind = ORDER_EV_LOGGED, .offset = offset}, NULL);
    struct upload *u = p->upload;
    if (u == NULL) {
        part_free(p);
        return;
    }
    TAILQ_REMOVE(&u->parts, p, entry);
    u->flight -= p->bytes->len;
    engine->upload_flight -= p->bytes->len;
    part_free(p);
    if (manifest_add(&u->manifest, offset) != 0)
        refuse(u, 503, "no memory");
    else
        settle(u);
    take_more(engine);
}

void uploads_on_part_lost(void *user, void *context)
{
    struct part *p = context;
    (void)user;
    p->handed = false;
    if (p->upload == NULL) part_free(p);
}

void uploads_fenced(struct engine *engine)
{
    while (!TAILQ_EMPTY(&engine->uploads)) refuse(TAILQ_FIRST(&engine->uploads), 503, order_reason(&engine->order));
}

void uploads_opened(struct engine *engine)
{
    struct upload *u;
    TAILQ_FOREACH(u, &engine->uploads, entry) hand_over(u);
    take_more(engine);
}

/* ---- drains --------------------------------------------------------------------------------------------------- */

bool uploads_moving(const struct engine *engine)
{
    const struct upload *u;
    TAILQ_FOREACH(u, &engine->uploads, entry) if (u->mover != NULL) return true;
    return false;
}

void uploads_look(struct engine *engine)
{
    struct upload *u;
    if (!engine->uploads_wait || engine->order.drain != ORDER_DRAIN_NONE) return;
    engine->uploads_wait = false;
again:
    TAILQ_FOREACH(u, &engine->uploads, entry)
    {
        if (u->head == NULL || u->mover != NULL || !TAILQ_EMPTY(&u->parts)) continue;
        settle(u); /* committed, moved or refused: not here any more */
        goto again;
    }
}
