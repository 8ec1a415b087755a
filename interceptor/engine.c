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
    REQUEST_COST = 512,          /* what a held request takes beside its bytes */
    HEAD_MAX = 64 << 10,
    FIELDS_MAX = 200, /* of the app's answers */
    CANNOT_GO_ON = 1,
};

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

void request_free(struct request *r)
{
    bodies_stop(r);
    manifest_fini(&r->manifest);
    blob_unref(r->stored);
    blob_unref(r->exchange.message);
    answers_forget(r);
    free(r);
}

struct request *request_new(const struct engine *engine, const void *bytes, size_t len)
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
    r->engine = (struct engine *)engine;
    r->exchange.message = b;
    r->exchange.split = (size_t)(line + 1 - (const char *)bytes);
    r->exchange.head = len > 5 && memcmp(bytes, "HEAD ", 5) == 0;
    r->entry.bytes = (uint32_t)(len + REQUEST_COST);
    r->entry.key = ordering_key(&engine->settings->order, bytes, len);
    return r;
}

void engine_admit(struct engine *engine, struct request *r)
{
    if (!engine->order.fenced && repeats_take(engine, r)) return;
    r->keep_answer = r->record != NULL;
    STEP(engine, .kind = ORDER_EV_ARRIVED, .entry = &r->entry);
}

static void on_request(void *user, struct session *s, const struct http_message *m)
{
    struct engine *engine = user;
    struct buf *text = &engine->text;
    if (engine->standby) {
        session_refuse(s, 503, "Retry-After: 0\r\nConnection: close\r\n", "this replica is a standby: ask another one");
        return;
    }
    if (engine->diverged != 0) {
        session_refuse(s, 503, "Retry-After: 0\r\nConnection: close\r\n", "this replica's app differs from the others' and is rebuilt: ask another one");
        return;
    }
    if (m->upgrade) {
        uploads_gone(engine, s);
        tunnels_on_request(engine, s, m);
        return;
    }
    if (m->streamed) {
        uploads_on_request(engine, s, m);
        return;
    }
    struct request *r = NULL;
    text->len = 0;
    if (engine_write_message(engine, s, m, text) == 0) r = request_new(engine, text->data, text->len);
    if (text->cap > ENGINE_SCRATCH) buf_fini(text);
    if (r == NULL) {
        session_refuse(s, 503, "Retry-After: 1\r\n", "no memory");
        return;
    }
    r->session = s;
    r->begun_us = loop_monotonic_us();
    r->entry.read = http_is_safe(m->method) && !engine->settings->log_safe_methods;
    session_set_context(s, r);
    engine_admit(engine, r);
}

static void on_refused(void *user, int status)
{
    struct engine *engine = user;
    if (status >= 400 && status < 400 + ENGINE_STATUSES) engine->refused[status - 400]++;
}

static void on_gone(void *user, struct session *s)
{
    struct engine *engine = user;
    struct request *r = session_context(s);
    if (r == NULL) {
        if (!tunnels_gone(engine, s)) uploads_gone(engine, s);
        return;
    }
    r->session = NULL;
    if (repeats_gone(engine, r)) return;
    answers_uncork(engine, r);
    if (r->paused) upstream_resume(&r->exchange);
    r->paused = false;
    STEP(engine, .kind = ORDER_EV_GONE, .entry = &r->entry);
}

static void on_drained(void *user, struct session *s)
{
    struct request *r = session_context(s);
    if (r == NULL) tunnels_drained(user, s);
    if (r == NULL || !r->paused) return;
    r->paused = false;
    upstream_resume(&r->exchange);
}

struct session *request_let_go(struct request *r)
{
    struct session *s = r->session;
    r->session = NULL;
    if (s != NULL) session_set_context(s, NULL);
    return s;
}

const struct server_handlers engine_server_handlers = {
    .on_request = on_request, .on_body = uploads_on_body, .on_gone = on_gone, .on_drained = on_drained, .on_bytes = tunnels_on_bytes, .on_refused = on_refused};

/* ---- the app -------------------------------------------------------------------------------------------------- */

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
    log_hurry(engine->log); /* the replay compares with what is recorded */
    STEP(engine, .kind = ORDER_EV_LOST);
}

static void on_suspect(void *user, const char *why)
{
    struct engine *engine = user;
    log_error("the app is suspect: restore it", "identity=%s reason=%s executed=%" PRIu64, engine->identity, why,
              engine->order.executed);
    note(engine, why);
    log_hurry(engine->log);
    if (engine->order.limits.following > 1) { /* or the next one would come to the same end, at the same request */
        log_warn("requests are sent to the app one by one from now on, whatever app-pipeline says", "reason=%s", why);
        engine->order.limits.following = 1;
    }
    STEP(engine, .kind = ORDER_EV_SUSPECT);
}

static void on_connected(void *user)
{
    struct engine *engine = user;
    note(engine, "");
    if (engine->progress.done == 0) engine->progress.begun_us = loop_monotonic_us();
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
    tenure_opened(engine, epoch);
    STEP(engine, .kind = ORDER_EV_LOG_OPENED, .epoch = epoch, .offset = last);
    uploads_opened(engine);
    repeats_begin(engine, last);
    marks_begin(engine, last);
}

static void on_appended(void *user, void *context, uint64_t offset, uint64_t sent_us)
{
    struct engine *engine = user;
    struct request *r = context;
    if (r != NULL) histogram_add(&engine->append, loop_monotonic_us() - r->begun_us);
    tenure_appended(engine, sent_us);
    STEP(engine, .kind = ORDER_EV_LOGGED, .entry = r != NULL ? &r->entry : NULL, .offset = offset);
    answers_durable(engine);
    tenure_note(engine);
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
    engine->mark_due = true; /* completions may have been lost with it */
    STEP(engine, .kind = ORDER_EV_LOG_LOST);
}

static void on_fenced(void *user, const struct error *why)
{
    struct engine *engine = user;
    log_error("fenced: another interceptor owns the stream; this one answers nothing any more", "reason=%s", why->text);
    note(engine, why->text);
    STEP(engine, .kind = ORDER_EV_FENCED);
    uploads_fenced(engine);
    tenure_end(engine);
}

/* ---- the replay ----------------------------------------------------------------------------------------------- */

static void on_event(void *user, const struct crsc_event *event)
{
    struct engine *engine = user;
    struct order_event ev = {
        .kind = ORDER_EV_READ, .offset = event->offset, .epoch = event->epoch, .sequence = event->sequence,
        .after = event->after, .ordered = (event->ref & LOG_ORDERED) != 0};
    struct request *r = NULL;
    struct answer_digest recorded;
    struct error e;
    progress_read(&engine->progress, event->offset, event->kind == CRSC_REQUEST);
    if (engine->settings->shared) log_seen(engine->log, event->epoch, event->sequence, event->offset);
    disputes_event(engine, event);
    if (event->kind == CRSC_REQUEST) {
        r = request_new(engine, event->payload, event->size);
        if (r == NULL && event->size > 0 && memchr(event->payload, '\n', event->size) != NULL)
            die("no memory for the replay");
        int rv = r != NULL && (event->ref & LOG_PARTS) != 0 ? request_in_parts(r) : 0;
        if (rv == -ERROR_NOMEM) die("no memory for the replay");
        if (rv != 0) {
            request_free(r);
            r = NULL;
        }
        if (r ==
            NULL) { /* what no interceptor wrote: it cannot be given to the app, and leaving it out would be a guess */
            error_set(&e, ERROR_CORRUPT, "offset %" PRIu64 " of the log holds a request that is not an HTTP message",
                      event->offset);
            log_error("the log cannot be replayed", "reason=%s", e.text);
            note(engine, e.text);
            STEP(engine, .kind = ORDER_EV_READ_FAILED);
            return;
        }
        r->keep_answer = repeats_concerns(engine, r);
        r->entry.bytes = event->size; /* what reader_taken() gets back */
        ev.entry = &r->entry;
    } else if (event->kind == CRSC_COMPLETION && digest_parse(event->payload, event->size, &recorded) == 0 &&
               event->ref > engine->order.attached) {
        answers_compared(engine, event->ref, digests_recorded(engine->digests, event->ref, &recorded));
    }
    if (engine_step(engine, &ev, &e) == 0) return;
    log_error("the log was read out of turn", "reason=%s", e.text);
    if (r != NULL) {
        reader_taken(engine->reader, r->entry.bytes);
        request_free(r);
    }
}

static void on_active_lost(void *user, const char *why)
{
    struct engine *engine = user;
    log_warn("the replica that serves is lost", "address=%s reason=%s", engine->settings->standby_of, why);
    engine_role(engine, false, NULL);
}

static void on_end(void *user, uint64_t offset)
{
    STEP((struct engine *)user, .kind = ORDER_EV_END, .offset = offset);
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
    uint64_t flags = (r->entry.ordered ? LOG_ORDERED : 0) | (r->stored != NULL ? LOG_PARTS : 0);
    if (log_append_request(engine->log, r->stored != NULL ? r->stored : r->exchange.message, r->entry.after, flags, r) != 0)
        die("no memory to append a request");
}

static void forward(struct engine *engine, struct request *r)
{
    struct exchange *x = &r->exchange;
    x->logged = !r->entry.read;
    x->follows = x->logged && engine->order.limits.mode == ORDER_SERIAL && engine->order.limits.following > 1;
    x->extra = x->logged && (order_is_replay(&engine->order, &r->entry) || r->entry.attempts > 1) ? "Crsc-Replay: 1\r\n" : "";
    answers_forget(r); /* of an app that is gone */
    bodies_stop(r);
    upstream_send(engine->upstream, x);
}

static void hand_back(struct engine *engine, const struct order_action *a)
{
    struct request *r = of_entry(a->entry);
    char retry[40];
    bool refused = order_refuses(&engine->order);
    if (a->kind == ORDER_DO_FINISH) {
        answers_finish(engine, r);
        return;
    }
    if (r->entry.from_log) reader_taken(engine->reader, r->entry.bytes);
    struct session *s = request_let_go(r);
    snprintf(retry, sizeof retry, "Retry-After: %" PRIu64 "\r\n", engine->settings->retry_after);
    if (s != NULL) {
        if (a->kind == ORDER_DO_REJECT && refused)
            session_refuse(s, 503, "Retry-After: 0\r\nConnection: close\r\n", "not logged and not executed: %s: ask another replica", order_reason(&engine->order));
        else if (a->kind == ORDER_DO_REJECT)
            session_refuse(s, 503, retry, "not logged and not executed: %s",
                           engine->order.fenced ? order_reason(&engine->order) : "too many requests are waiting");
        else if (a->kind == ORDER_DO_FAIL)
            session_refuse(s, 502, "", "the app closed the connection instead of answering");
        else
            session_abort(s); /* its outcome is not for us to tell */
    }
    repeats_undone(engine, r, a->kind == ORDER_DO_ABANDON);
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
    case ORDER_DO_DROP:
        upstream_drop(engine->upstream);
        bodies_stop_all(engine);
        tunnels_end_all(engine, true);
        break;
    case ORDER_DO_CONNECT: connect_app(engine); break;
    case ORDER_DO_REOPEN: upstream_reopen(engine->upstream); break;
    case ORDER_DO_STOP: reader_stop(engine->reader); break;
    case ORDER_DO_ASK: end_ask(engine->end); break;
    case ORDER_DO_READ:
        log_info("reading the log", "from=%" PRIu64 " to=%" PRIu64, a->offset, engine->order.read_to);
        reader_start(engine->reader, a->offset, a->to);
        break;
    case ORDER_DO_APPEND: append(engine, of_entry(a->entry)); break;
    case ORDER_DO_SEND: forward(engine, of_entry(a->entry)); break;
    case ORDER_DO_CLOSE:
        tunnels_end_all(engine, true);
        upstream_close(engine->upstream);
        break;
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
    uploads_look(engine);
    marks_leave(engine);
    control_look(engine);
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static const struct log_handlers log_handlers = {.on_opened = on_opened,
                                                 .on_appended = on_appended,
                                                 .on_unknown = on_unknown,
                                                 .on_part = uploads_on_part,
                                                 .on_part_lost = uploads_on_part_lost,
                                                 .on_lost = on_log_lost,
                                                 .on_fenced = on_fenced};
static const struct reader_handlers reader_handlers = {.on_event = on_event, .on_failed = on_read_failed};
static const struct upstream_handlers upstream_handlers = {.on_connected = on_connected,
                                                           .on_lost = on_lost,
                                                           .on_suspect = on_suspect,
                                                           .on_closed = on_upstream_closed,
                                                           .on_part = answers_on_part,
                                                           .on_answer = answers_on_answer,
                                                           .on_dropped = answers_on_dropped,
                                                           .on_cut = answers_on_cut,
                                                           .on_slow = answers_on_slow,
                                                           .on_wants = bodies_on_wants};

int engine_new(uv_loop_t *loop, const struct settings *settings, struct crsc_client *client,
               void (*on_change)(void *user), void *user, struct engine **ret_engine, struct error *e)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    struct order_limits limits = {.mode = settings->order.mode,
                                  .optimistic = settings->optimistic,
                                  .shared = settings->shared,
                                  .linearizable = settings->linearizable,
                                  .refuses = settings->refuses,
                                  .executing = (uint32_t)settings->app_concurrency,
                                  .following = (uint32_t)settings->app_pipeline,
                                  .hold_requests = (uint32_t)settings->hold_requests,
                                  .hold_bytes = settings->hold_bytes,
                                  .reads = READS_MAX};
    engine->answer_limits = (struct http_limits){.head_bytes = HEAD_MAX, .headers = FIELDS_MAX, .body_bytes = settings->answer_buffer, .stream_bytes = UINT64_MAX};
    TAILQ_INIT(&engine->corked);
    TAILQ_INIT(&engine->uploads);
    TAILQ_INIT(&engine->sending);
    TAILQ_INIT(&engine->tunnels);
    engine->upload_ids = loop_wall_us(); /* no two processes give the same */
    engine->loop = loop;
    engine->settings = settings;
    engine->client = client;
    engine->on_change = on_change;
    engine->user = user;
    snprintf(engine->instance, sizeof engine->instance, "%" PRIx64, loop_wall_us());
    order_init(&engine->order, &limits);
    tenure_new(engine);
    uv_timer_init(loop, &engine->drain_timer);
    engine->drain_timer.data = engine;
    engine->sha = EVP_MD_CTX_new();
    engine->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL); /* once: EVP_sha256() is looked up at each digest */
    engine->digests = digests_new();
    struct upstream_options upstream = {.limits = engine->answer_limits,
                                        .connect_ms = settings->app_connect_timeout,
                                        .first_byte_ms = settings->app_first_byte_timeout,
                                        .body_ms = settings->app_body_timeout};
    engine->upstream = upstream_new(loop, &upstream, &upstream_handlers, engine);
    engine->reader = reader_new(loop, client, settings->stream, &reader_handlers, engine);
    engine->end = end_new(loop, client, settings->stream, on_end, engine);
    engine->log = log_new(loop, client, settings->stream, settings->producer, settings->shared, &log_handlers, engine);
    if (repeats_new(engine) != 0 || marks_new(engine) != 0 || disputes_new(engine) != 0 || engine->sha == NULL || engine->sha256 == NULL || engine->digests == NULL || engine->upstream == NULL || engine->reader == NULL || engine->end == NULL ||
        engine->log == NULL)
        return error_set(e, ERROR_NOMEM, "no memory"); /* the process ends */
    engine->standby = settings->standby;
    *ret_engine = engine;
    return settings->standby_of[0] != '\0' ? vigil_new(loop, settings->standby_of, on_active_lost, engine, &engine->vigil, e) : 0;
}

void engine_part_closed(void *user)
{
    struct engine *engine = user;
    struct order_entry *entry;
    if (--engine->closing > 0) return;
    while ((entry = order_take_any(&engine->order)) != NULL) request_free(of_entry(entry));
    repeats_free(engine);
    EVP_MD_CTX_free(engine->sha);
    EVP_MD_free(engine->sha256);
    buf_fini(&engine->text);
    buf_fini(&engine->extra);
    digests_free(engine->digests);
    verdicts_free(engine->verdicts);
    void (*done)(void *user) = engine->done;
    void *done_user = engine->done_user;
    free(engine);
    done(done_user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    engine_part_closed(handle->data);
}

void engine_free(struct engine *engine, void (*done)(void *user), void *user)
{
    engine->pumping = true; /* nothing is done any more */
    uploads_free(engine);
    bodies_stop_all(engine);
    tunnels_end_all(engine, false); /* their sessions were closed before */
    engine->closing = 11;
    engine->done = done;
    engine->done_user = user;
    upstream_free(engine->upstream, engine_part_closed, engine);
    reader_free(engine->reader, engine_part_closed, engine);
    vigil_free(engine->vigil, engine_part_closed, engine);
    end_free(engine->end, engine_part_closed, engine);
    log_free(engine->log, engine_part_closed, engine);
    lookback_free(engine->past, engine_part_closed, engine);
    lookback_free(engine->marks, engine_part_closed, engine);
    uv_close((uv_handle_t *)&engine->drain_timer, on_timer_closed);
    tenure_free(engine, on_timer_closed);
}
