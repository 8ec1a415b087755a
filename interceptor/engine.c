#include "interceptor/engine.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"
#include "interceptor/engine_internal.h"

enum {
    READS_MAX = 64,              /* reads with the app at a time */
    SESSION_QUEUE_MAX = 1 << 20, /* bytes a slow client has not taken before the app is made to wait */
    REQUEST_COST = 512,          /* what a held request takes beside its bytes */
    HEAD_MAX = 64 << 10,
    FIELDS_MAX = 200, /* of the app's answers */
    CANNOT_GO_ON = 1,
};

struct request {
    struct order_entry entry;
    struct exchange exchange;
    struct session *session; /* NULL: nobody waits */
    EVP_MD_CTX *sha;         /* of an answer in parts */
    uint64_t begun_us;
    bool streaming; /* the client has had the first part */
    bool paused;
};

static struct request *of_entry(struct order_entry *entry)
{
    return (struct request *)((char *)entry - offsetof(struct request, entry));
}

static struct request *of_exchange(struct exchange *x)
{
    return (struct request *)((char *)x - offsetof(struct request, exchange));
}

/* The core's promises end where memory does: a stop is clean, the log has everything. */
static void die(const char *what)
{
    log_error("cannot go on", "reason=%s", what);
    exit(CANNOT_GO_ON);
}

int engine_step(struct engine *engine, const struct order_event *ev, struct error *e)
{
    int rv = order_step(&engine->order, ev, e);
    engine_pump(engine);
    return rv;
}

#define STEP(engine, ...) engine_step((engine), &(struct order_event){__VA_ARGS__}, NULL)

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void request_free(struct request *r)
{
    blob_unref(r->exchange.message);
    EVP_MD_CTX_free(r->sha);
    free(r);
}

/* `bytes`: an HTTP/1.1 message as it is stored and forwarded. */
static struct request *request_new(const void *bytes, size_t len)
{
    struct request *r = calloc(1, sizeof *r);
    struct blob *b = blob_new(len);
    const char *line = memchr(bytes, '\n', len);
    if (r == NULL || b == NULL || line == NULL) {
        free(r);
        blob_unref(b);
        return NULL;
    }
    memcpy(b->data, bytes, len);
    r->exchange.message = b;
    r->exchange.split = (size_t)(line + 1 - (const char *)bytes);
    r->exchange.head = len > 5 && memcmp(bytes, "HEAD ", 5) == 0;
    r->entry.bytes = (uint32_t)(len + REQUEST_COST);
    return r;
}

static void on_request(void *user, struct session *s, const struct http_message *m)
{
    struct engine *engine = user;
    struct buf text = BUF_INIT;
    if (m->upgrade) {
        session_refuse(s, 501, "", "upgrades and CONNECT do not pass: what goes on behind them could not be logged");
        return;
    }
    struct request *r = NULL;
    if (http_write_request(&text, m, http_field(m, "Host") == NULL ? "Host: localhost\r\n" : "") == 0)
        r = request_new(text.data, text.len);
    buf_fini(&text);
    if (r == NULL) {
        session_refuse(s, 503, "Retry-After: 1\r\n", "no memory");
        return;
    }
    r->session = s;
    r->begun_us = loop_monotonic_us();
    r->entry.read = http_is_safe(m->method) && !engine->settings->log_safe_methods;
    session_set_context(s, r);
    STEP(engine, .kind = ORDER_EV_ARRIVED, .entry = &r->entry);
}

static void on_gone(void *user, struct session *s)
{
    struct engine *engine = user;
    struct request *r = session_context(s);
    if (r == NULL) return;
    r->session = NULL;
    if (r->paused) upstream_resume(&r->exchange);
    r->paused = false;
    STEP(engine, .kind = ORDER_EV_GONE, .entry = &r->entry);
}

static void on_drained(void *user, struct session *s)
{
    struct request *r = session_context(s);
    (void)user;
    if (r == NULL || !r->paused) return;
    r->paused = false;
    upstream_resume(&r->exchange);
}

const struct server_handlers engine_server_handlers = {
    .on_request = on_request, .on_gone = on_gone, .on_drained = on_drained};

/* The session is no longer this request's: an answer follows, in this call. */
static struct session *let_go(struct request *r)
{
    struct session *s = r->session;
    r->session = NULL;
    if (s != NULL) session_set_context(s, NULL);
    return s;
}

/* ---- the app's answers ---------------------------------------------------------------------------------------- */

static void digest_begin(struct request *r)
{
    if (r->sha != NULL || (r->sha = EVP_MD_CTX_new()) == NULL) return;
    EVP_DigestInit_ex(r->sha, EVP_sha256(), NULL);
}

static void digest_end(struct engine *engine, struct request *r, const struct http_message *m)
{
    EVP_MD_CTX *sha = r->sha != NULL ? r->sha : engine->sha;
    if (r->sha == NULL) EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
    if (m != NULL && m->body_len > 0) EVP_DigestUpdate(sha, m->body, m->body_len);
    EVP_DigestFinal_ex(sha, engine->digest.sha256, NULL);
    engine->digest.status = m != NULL ? m->status : 502;
    EVP_MD_CTX_free(r->sha);
    r->sha = NULL;
}

/* Half an answer went to the client and the rest will not come: he must not take it for a whole one. */
static void cut(struct engine *engine, struct request *r)
{
    struct session *s = let_go(r);
    EVP_MD_CTX_free(r->sha);
    r->sha = NULL;
    r->streaming = r->paused = false;
    if (s == NULL) return;
    session_abort(s);
    STEP(engine, .kind = ORDER_EV_GONE, .entry = &r->entry);
}

static void on_part(void *user, struct exchange *x, const struct http_message *head, const void *data, size_t len)
{
    struct request *r = of_exchange(x);
    (void)user;
    digest_begin(r);
    if (r->sha != NULL && len > 0) EVP_DigestUpdate(r->sha, data, len);
    if (r->session != NULL && !r->streaming) session_begin(r->session, head);
    r->streaming = true;
    if (r->session != NULL) session_part(r->session, data, len);
    if (r->session == NULL || r->paused || session_queued(r->session) < SESSION_QUEUE_MAX) return;
    r->paused = true;
    upstream_pause(x);
}

static void on_answer(void *user, struct exchange *x, const struct http_message *m)
{
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    if (m == NULL && r->streaming) cut(engine, r);
    if (m == NULL) log_warn("the app's answer is not HTTP/1.1: passed on as 502", "offset=%" PRIu64, r->entry.offset);
    engine->answer = m;
    digest_end(engine, r, m);
    STEP(engine, .kind = ORDER_EV_ANSWERED, .entry = &r->entry);
    engine->answer = NULL;
}

static void on_read_dropped(void *user, struct exchange *x)
{
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    if (r->streaming) cut(engine, r);
    STEP(engine, .kind = ORDER_EV_READ_DROPPED, .entry = &r->entry);
}

static void on_cut(void *user, struct exchange *x)
{
    cut(user, of_exchange(x));
}

static void note(struct engine *engine, const char *text)
{
    snprintf(engine->detail, sizeof engine->detail, "%s", text);
}

static void on_lost(void *user, const char *why)
{
    struct engine *engine = user;
    log_warn("the app is lost", "identity=%s reason=%s executed=%" PRIu64, engine->identity, why,
             engine->order.executed);
    note(engine, why);
    STEP(engine, .kind = ORDER_EV_LOST);
}

static void on_suspect(void *user, const char *why)
{
    struct engine *engine = user;
    log_error("the app is suspect: restore it", "identity=%s reason=%s executed=%" PRIu64, engine->identity, why,
              engine->order.executed);
    note(engine, why);
    STEP(engine, .kind = ORDER_EV_SUSPECT);
}

static void on_connected(void *user)
{
    struct engine *engine = user;
    note(engine, "");
    STEP(engine, .kind = ORDER_EV_CONNECTED);
}

static void on_upstream_closed(void *user)
{
    struct engine *engine = user;
    STEP(engine, .kind = ORDER_EV_CLOSED, .number = engine->order.drain_number);
}

/* ---- the log -------------------------------------------------------------------------------------------------- */

static void on_opened(void *user, uint64_t epoch, uint64_t last)
{
    struct engine *engine = user;
    log_info("the log is open", "stream=%s epoch=%" PRIu64 " last=%" PRIu64, engine->settings->stream, epoch, last);
    note(engine, "");
    STEP(engine, .kind = ORDER_EV_LOG_OPENED, .epoch = epoch, .offset = last);
}

static void on_appended(void *user, void *context, uint64_t offset)
{
    struct engine *engine = user;
    struct request *r = context;
    if (r != NULL) histogram_add(&engine->append, loop_monotonic_us() - r->begun_us);
    STEP(engine, .kind = ORDER_EV_LOGGED, .entry = r != NULL ? &r->entry : NULL, .offset = offset);
}

static void on_unknown(void *user, void *context, uint64_t epoch, uint64_t sequence)
{
    struct engine *engine = user;
    struct request *r = context;
    /* Not pumped: on_log_lost or on_fenced follows in this turn, and only then is the core's picture whole. */
    struct order_event ev = {.kind = ORDER_EV_UNKNOWN, .entry = &r->entry, .epoch = epoch, .sequence = sequence};
    order_step(&engine->order, &ev, NULL);
}

static void on_log_lost(void *user, const struct error *why)
{
    struct engine *engine = user;
    if (engine->order.log_open || strcmp(engine->detail, why->text) != 0)
        log_warn("the log is not open", "reason=%s", why->text);
    note(engine, why->text);
    STEP(engine, .kind = ORDER_EV_LOG_LOST);
}

static void on_fenced(void *user, const struct error *why)
{
    struct engine *engine = user;
    log_error("fenced: another interceptor owns the stream; this one answers nothing any more", "reason=%s", why->text);
    note(engine, why->text);
    STEP(engine, .kind = ORDER_EV_FENCED);
}

/* ---- the replay ----------------------------------------------------------------------------------------------- */

static void compared(struct engine *engine, uint64_t offset, enum digests_verdict verdict)
{
    if (verdict == DIGESTS_PENDING) return;
    engine->compared++;
    if (verdict == DIGESTS_SAME) return;
    engine->mismatches++;
    log_warn("the replay's answer differs from the first one: the app is not deterministic", "offset=%" PRIu64, offset);
}

static void on_event(void *user, const struct crsc_event *event)
{
    struct engine *engine = user;
    struct order_event ev = {
        .kind = ORDER_EV_READ, .offset = event->offset, .epoch = event->epoch, .sequence = event->sequence};
    struct request *r = NULL;
    struct answer_digest recorded;
    struct error e;
    if (event->kind == CRSC_REQUEST) {
        r = request_new(event->payload, event->size);
        if (r == NULL && event->size > 0 && memchr(event->payload, '\n', event->size) != NULL)
            die("no memory for the replay");
        if (r ==
            NULL) { /* what no interceptor wrote: it cannot be given to the app, and leaving it out would be a guess */
            error_set(&e, ERROR_CORRUPT, "offset %" PRIu64 " of the log holds a request that is not an HTTP message",
                      event->offset);
            log_error("the log cannot be replayed", "reason=%s", e.text);
            note(engine, e.text);
            STEP(engine, .kind = ORDER_EV_READ_FAILED);
            return;
        }
        r->entry.bytes = event->size; /* what reader_taken() gets back */
        ev.entry = &r->entry;
    } else if (event->kind == CRSC_COMPLETION && digest_parse(event->payload, event->size, &recorded) == 0 &&
               event->ref > engine->order.attached) {
        compared(engine, event->ref, digests_recorded(engine->digests, event->ref, &recorded));
    }
    if (engine_step(engine, &ev, &e) == 0) return;
    log_error("the log was read out of turn", "reason=%s", e.text);
    if (r != NULL) {
        reader_taken(engine->reader, r->entry.bytes);
        request_free(r);
    }
}

static void on_read_failed(void *user, const struct error *why)
{
    struct engine *engine = user;
    log_error("the log cannot be replayed", "reason=%s", why->text);
    note(engine, why->text);
    STEP(engine, .kind = ORDER_EV_READ_FAILED);
}

/* ---- what the core wants done --------------------------------------------------------------------------------- */

static void append(struct engine *engine, struct request *r)
{
    if (log_append_request(engine->log, r->exchange.message, engine->order.executed, r) != 0)
        die("no memory to append a request");
}

static void forward(struct engine *engine, struct request *r)
{
    struct exchange *x = &r->exchange;
    x->logged = !r->entry.read;
    x->extra = x->logged && (r->entry.from_log || r->entry.attempts > 1) ? "Crsc-Replay: 1\r\n" : "";
    r->streaming = false;
    upstream_send(engine->upstream, x);
}

static void give_answer(struct engine *engine, struct request *r)
{
    bool streaming = r->streaming;
    struct session *s = let_go(r);
    if (s == NULL) return;
    histogram_add(&engine->total, loop_monotonic_us() - r->begun_us);
    if (streaming)
        session_end(s);
    else if (engine->answer != NULL)
        session_answer(s, engine->answer);
    else
        session_refuse(s, 502, "", "the app's answer is not HTTP/1.1");
}

static void finish(struct engine *engine, struct request *r)
{
    char text[DIGEST_TEXT_MAX];
    if (r->entry.from_log) {
        engine->replay_done++;
        compared(engine, r->entry.offset, digests_seen(engine->digests, r->entry.offset, &engine->digest));
        reader_taken(engine->reader, r->entry.bytes);
    } else {
        give_answer(engine, r); /* first: the completion never delays it */
        if (!r->entry.read)
            log_append_completion(engine->log, r->entry.offset, text, digest_print(&engine->digest, text));
    }
    request_free(r);
}

static void hand_back(struct engine *engine, const struct order_action *a)
{
    struct request *r = of_entry(a->entry);
    char retry[40];
    if (a->kind == ORDER_DO_FINISH) {
        finish(engine, r);
        return;
    }
    if (r->entry.from_log) reader_taken(engine->reader, r->entry.bytes);
    struct session *s = let_go(r);
    snprintf(retry, sizeof retry, "Retry-After: %" PRIu64 "\r\n", engine->settings->retry_after);
    if (s != NULL) {
        if (a->kind == ORDER_DO_REJECT)
            session_refuse(s, 503, retry, "not logged and not executed: %s",
                           engine->order.fenced ? order_reason(&engine->order) : "too many requests are waiting");
        else if (a->kind == ORDER_DO_FAIL)
            session_refuse(s, 502, "", "the app closed the connection instead of answering");
        else
            session_abort(s); /* its outcome is not for us to tell */
    }
    request_free(r);
}

static void connect_app(struct engine *engine)
{
    struct error e;
    if (upstream_connect(engine->upstream, engine->address, engine->settings->app_start_timeout, &e) == 0) return;
    note(engine, e.text); /* the address was looked at before: not reached */
    struct order_event ev = {.kind = ORDER_EV_LOST};
    order_step(&engine->order, &ev, NULL);
}

static void perform(struct engine *engine, const struct order_action *a)
{
    switch (a->kind) {
    case ORDER_DO_DROP: upstream_drop(engine->upstream); break;
    case ORDER_DO_CONNECT: connect_app(engine); break;
    case ORDER_DO_REOPEN: upstream_reopen(engine->upstream); break;
    case ORDER_DO_STOP: reader_stop(engine->reader); break;
    case ORDER_DO_READ:
        log_info("reading the log", "from=%" PRIu64 " to=%" PRIu64, a->offset, a->to);
        reader_start(engine->reader, a->offset, a->to);
        break;
    case ORDER_DO_APPEND: append(engine, of_entry(a->entry)); break;
    case ORDER_DO_SEND: forward(engine, of_entry(a->entry)); break;
    case ORDER_DO_CLOSE: upstream_close(engine->upstream); break;
    case ORDER_DO_DRAINED: control_drained(engine, a->number, a->offset); break;
    case ORDER_DO_BROKEN: control_broken(engine, a->number); break;
    default: hand_back(engine, a);
    }
}

/* What is done may bring new events at once (a session's next request, say): they are pulled in the same loop. */
void engine_pump(struct engine *engine)
{
    struct order_action a;
    if (engine->pumping) return;
    engine->pumping = true;
    while (order_next(&engine->order, &a)) perform(engine, &a);
    engine->pumping = false;
    control_look(engine);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static const struct log_handlers log_handlers = {.on_opened = on_opened,
                                                 .on_appended = on_appended,
                                                 .on_unknown = on_unknown,
                                                 .on_lost = on_log_lost,
                                                 .on_fenced = on_fenced};
static const struct reader_handlers reader_handlers = {.on_event = on_event, .on_failed = on_read_failed};
static const struct upstream_handlers upstream_handlers = {.on_connected = on_connected,
                                                           .on_lost = on_lost,
                                                           .on_suspect = on_suspect,
                                                           .on_closed = on_upstream_closed,
                                                           .on_part = on_part,
                                                           .on_answer = on_answer,
                                                           .on_dropped = on_read_dropped,
                                                           .on_cut = on_cut};

int engine_new(uv_loop_t *loop, const struct settings *settings, struct crsc_client *client,
               void (*on_change)(void *user), void *user, struct engine **ret_engine, struct error *e)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    struct order_limits limits = {(uint32_t)settings->hold_requests, settings->hold_bytes, READS_MAX};
    struct http_limits answers = {HEAD_MAX, FIELDS_MAX, settings->answer_buffer};
    engine->loop = loop;
    engine->settings = settings;
    engine->on_change = on_change;
    engine->user = user;
    snprintf(engine->instance, sizeof engine->instance, "%" PRIx64, loop_wall_us());
    order_init(&engine->order, &limits);
    uv_timer_init(loop, &engine->drain_timer);
    engine->drain_timer.data = engine;
    engine->sha = EVP_MD_CTX_new();
    engine->digests = digests_new();
    engine->upstream = upstream_new(loop, &answers, &upstream_handlers, engine);
    engine->reader = reader_new(loop, client, settings->stream, &reader_handlers, engine);
    engine->log = log_new(loop, client, settings->stream, settings->producer, &log_handlers, engine);
    if (engine->sha == NULL || engine->digests == NULL || engine->upstream == NULL || engine->reader == NULL ||
        engine->log == NULL)
        return error_set(e, ERROR_NOMEM, "no memory"); /* the process ends */
    *ret_engine = engine;
    return 0;
}

static void part_closed(void *user)
{
    struct engine *engine = user;
    struct order_entry *entry;
    if (--engine->closing > 0) return;
    while ((entry = order_take_any(&engine->order)) != NULL) request_free(of_entry(entry));
    EVP_MD_CTX_free(engine->sha);
    digests_free(engine->digests);
    void (*done)(void *user) = engine->done;
    void *done_user = engine->done_user;
    free(engine);
    done(done_user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void engine_free(struct engine *engine, void (*done)(void *user), void *user)
{
    engine->pumping = true; /* nothing is done any more */
    engine->closing = 4;
    engine->done = done;
    engine->done_user = user;
    upstream_free(engine->upstream, part_closed, engine);
    reader_free(engine->reader, part_closed, engine);
    log_free(engine->log, part_closed, engine);
    uv_close((uv_handle_t *)&engine->drain_timer, on_timer_closed);
}
