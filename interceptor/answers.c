/* The engine's part for what the app answers: digests, answers in parts, answers that may not be shown yet, comparison in a
 * replay. */
#include <assert.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "common/loop.h"
#include "interceptor/engine_internal.h"

enum { TARGET_MAX = 200, SESSION_QUEUE_MAX = 1 << 20 }; /* bytes a client has not taken, or may not see yet, before the app is made to wait */

#define STEP(engine, ...) engine_step((engine), &(struct order_event){__VA_ARGS__}, NULL)

/* ---- digests -------------------------------------------------------------------------------------------------- */

/* Only what is logged is ever compared. */
static void digest_begin(struct request *r)
{
    if (r->entry.read || r->sha != NULL || (r->sha = EVP_MD_CTX_new()) == NULL) return;
    EVP_DigestInit_ex2(r->sha, r->engine->sha256, NULL);
}

static void digest_forget(struct request *r)
{
    EVP_MD_CTX_free(r->sha);
    r->sha = NULL;
}

static void digest_end(struct engine *engine, struct request *r, const struct http_message *m)
{
    EVP_MD_CTX *sha = r->sha != NULL ? r->sha : engine->sha;
    r->digest.status = m != NULL ? m->status : 502;
    if (r->entry.read) return;
    if (r->sha == NULL) EVP_DigestInit_ex2(sha, engine->sha256, NULL);
    if (m != NULL && m->body_len > 0) EVP_DigestUpdate(sha, m->body, m->body_len);
    EVP_DigestFinal_ex(sha, r->digest.sha256, NULL);
    digest_forget(r);
}

void answers_compared(struct engine *engine, uint64_t offset, enum digests_verdict verdict)
{
    if (verdict == DIGESTS_PENDING) return;
    engine->compared++;
    if (verdict == DIGESTS_SAME) {
        disputes_agreed(engine, offset);
        return;
    }
    engine->mismatches++;
    log_warn("an answer differs from the recorded one: the app is not deterministic, or not like the other replicas'", "offset=%" PRIu64, offset);
    disputes_differs(engine, offset);
}

/* ---- what may not be shown yet -------------------------------------------------------------------------------- */

static void cork(struct engine *engine, struct request *r)
{
    r->need = order_shown(&engine->order);
    if (r->is_corked) return;
    r->is_corked = true;
    TAILQ_INSERT_TAIL(&engine->corked, r, corked);
    session_cork(r->session, true);
}

static void leave_corked(struct engine *engine, struct request *r)
{
    if (r->is_corked) TAILQ_REMOVE(&engine->corked, r, corked);
    r->is_corked = false;
}

void answers_uncork(struct engine *engine, struct request *r)
{
    bool was = r->is_corked;
    leave_corked(engine, r);
    if (was && r->session != NULL) session_cork(r->session, false);
}

void answers_durable(struct engine *engine)
{
    struct request *r;
again:
    TAILQ_FOREACH(r, &engine->corked, corked)
    {
        if (!order_may_show(&engine->order, r->need)) continue;
        order_step(&engine->order, &(struct order_event){.kind = ORDER_EV_SHOWN}, NULL);
        answers_uncork(engine, r); /* may end in on_gone, and what follows from that */
        goto again;
    }
}

void answers_forget(struct request *r)
{
    assert(!r->is_corked);
    digest_forget(r);
    buf_fini(&r->kept);
    r->streaming = false;
}

/* Half an answer went to the client and the rest will not come: he must not take it for a whole one. */
static void cut(struct engine *engine, struct request *r)
{
    leave_corked(engine, r); /* what is corked never leaves */
    struct session *s = request_let_go(r);
    digest_forget(r);
    r->streaming = r->paused = false;
    if (s == NULL) return;
    session_abort(s);
    STEP(engine, .kind = ORDER_EV_GONE, .entry = &r->entry);
}

/* ---- from the app --------------------------------------------------------------------------------------------- */

void answers_on_part(void *user, struct exchange *x, const struct http_message *head, const void *data, size_t len)
{
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    tenure_look(engine);
    digest_begin(r);
    if (r->sha != NULL && len > 0) EVP_DigestUpdate(r->sha, data, len);
    if (r->session != NULL) {
        if (order_must_keep(&engine->order, &r->entry))
            cork(engine, r);
        else if (!r->streaming)
            order_step(&engine->order, &(struct order_event){.kind = ORDER_EV_SHOWN}, NULL);
    }
    char extra[ANSWERS_EXTRA];
    if (r->session != NULL && !r->streaming) session_begin(r->session, head, answers_extra(engine, r->entry.offset, extra));
    r->streaming = true;
    if (r->session != NULL) session_part(r->session, data, len);
    if (r->session == NULL || r->paused || session_queued(r->session) < SESSION_QUEUE_MAX) return;
    r->paused = true;
    upstream_pause(x);
}

void answers_on_answer(void *user, struct exchange *x, const struct http_message *m)
{
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    bodies_stop(r); /* it may have answered before it had all of the request */
    tenure_look(engine);
    if (m == NULL && r->streaming) cut(engine, r);
    if (m == NULL)
        log_warn("the app's answer is not HTTP/1.1: passed on as 502", "offset=%" PRIu64 " trace=%s", r->entry.offset,
                 answers_trace(r, (char[ANSWERS_TRACE]){0}));
    digest_end(engine, r, m);
    bool kept = r->keep_answer || (r->session != NULL && order_must_keep(&engine->order, &r->entry));
    struct http_reader reader = {.minor = 1, .head = x->head, .keep_alive = true, .extra = ""};
    if (r->session != NULL && r->streaming && m != NULL) session_trailers(r->session, m);
    if (m != NULL && !r->streaming && kept && http_write_answer(&r->kept, m, &reader) != 0)
        buf_fini(&r->kept); /* no memory: this client gets none */
    engine->answer = m;
    engine->answering = r;
    STEP(engine, .kind = ORDER_EV_ANSWERED, .entry = &r->entry);
    engine->answer = NULL;
    engine->answering = NULL;
}

void answers_on_dropped(void *user, struct exchange *x)
{
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    if (r->streaming) cut(engine, r);
    STEP(engine, .kind = ORDER_EV_READ_DROPPED, .entry = &r->entry);
}

void answers_on_cut(void *user, struct exchange *x)
{
    cut(user, of_exchange(x));
}

/* A bound of time is over. The client need not wait any longer; a logged request stays with the app, for it must be known what it did. */
void answers_on_slow(void *user, struct exchange *x, bool begun)
{
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    log_warn("the app is slow", "phase=%s offset=%" PRIu64 " logged=%s trace=%s", begun ? "answer" : "first byte", r->entry.offset,
             x->logged ? "yes" : "no", answers_trace(r, (char[ANSWERS_TRACE]){0}));
    if (r->streaming) {
        cut(engine, r);
    } else if (r->session != NULL) {
        answers_uncork(engine, r);
        struct session *s = request_let_go(r);
        session_refuse(s, 504, "", x->logged ? "logged, and executed exactly once; the app did not answer in time" : "the app did not answer in time");
        STEP(engine, .kind = ORDER_EV_GONE, .entry = &r->entry);
    }
    if (x->logged) return;
    upstream_give_up(x);
    STEP(engine, .kind = ORDER_EV_READ_DROPPED, .entry = &r->entry);
}

/* ---- to the client -------------------------------------------------------------------------------------------- */

const char *answers_extra(const struct engine *engine, uint64_t offset, char text[static ANSWERS_EXTRA])
{
    if (!engine->settings->offset_header || offset == 0) return "";
    snprintf(text, ANSWERS_EXTRA, "Crsc-Offset: %" PRIu64 "\r\n", offset);
    return text;
}

/* Version 00 of W3C Trace Context: 00-<32 hex digits>-<16>-<2>. */
const char *answers_trace(const struct request *r, char trace[static ANSWERS_TRACE])
{
    static const char field[] = "\r\ntraceparent:";
    const char *head = (const char *)r->exchange.message->data, *end = memmem(head, r->exchange.message->len, "\r\n\r\n", 4);
    for (const char *at = head; end != NULL && (at = memchr(at, '\r', (size_t)(end - at))) != NULL; at++) {
        if ((size_t)(end - at) < sizeof field || strncasecmp(at, field, sizeof field - 1) != 0) continue;
        at += sizeof field - 1;
        while (*at == ' ' || *at == '\t') at++;
        if (end - at >= 55 && strspn(at + 3, "0123456789abcdef") == 32) memcpy(trace, at + 3, 32);
        break;
    }
    return trace;
}

static void log_access(const struct engine *engine, const struct request *r)
{
    char trace[ANSWERS_TRACE] = "";
    const char *line = (const char *)r->exchange.message->data, *space = memchr(line, ' ', r->exchange.split);
    size_t method = space != NULL ? (size_t)(space - line) : 0, target = space != NULL ? strcspn(space + 1, " \r") : 0;
    if (!engine->settings->access_log) return;
    log_info("answered", "method=%.*s target=%.*s status=%d offset=%" PRIu64 " us=%" PRIu64 " trace=%s", (int)method, line,
             (int)(target < TARGET_MAX ? target : TARGET_MAX), space != NULL ? space + 1 : "", r->digest.status, r->entry.offset,
             loop_monotonic_us() - r->begun_us, answers_trace(r, trace));
}

void answers_give_stored(const struct engine *engine, struct session *s, const uint8_t *bytes, size_t len, bool head, uint64_t offset)
{
    char extra[ANSWERS_EXTRA];
    struct http_parser *p = http_parser_new(false, &engine->answer_limits);
    size_t used;
    struct error e;
    if (p != NULL) http_parser_expect_head(p, head);
    if (p == NULL || len == 0 || http_parser_feed(p, bytes, len, &used, &e) != 1)
        session_abort(s);
    else
        session_answer(s, http_parser_message(p), answers_extra(engine, offset, extra));
    http_parser_free(p);
}

static void give_answer(struct engine *engine, struct request *r)
{
    char extra[ANSWERS_EXTRA];
    answers_uncork(engine, r);
    bool streaming = r->streaming;
    struct session *s = request_let_go(r);
    if (s == NULL) return;
    histogram_add(&engine->total, loop_monotonic_us() - r->begun_us);
    log_access(engine, r);
    if (streaming)
        session_end(s);
    else if (engine->answering == r && engine->answer != NULL)
        session_answer(s, engine->answer, answers_extra(engine, r->entry.offset, extra));
    else if (r->digest.status == 502 && r->kept.len == 0)
        session_refuse(s, 502, "", "the app's answer is not HTTP/1.1");
    else
        answers_give_stored(engine, s, r->kept.data, r->kept.len, r->exchange.head, r->entry.offset);
}

/* What it was answered; for one with an Idempotency-Key the answer itself too, behind a line's end. */
static void append_completion(struct engine *engine, const struct request *r)
{
    char text[DIGEST_TEXT_MAX];
    struct buf whole = BUF_INIT;
    size_t len = digest_print(&r->digest, text);
    bool with = r->keep_answer && r->kept.len > 0 && r->kept.len <= engine->settings->idempotency_answer &&
                buf_add(&whole, text, len) == 0 && buf_add(&whole, "\n", 1) == 0 &&
                buf_add(&whole, r->kept.data, r->kept.len) == 0;
    bool taken = with ? log_append_completion(engine->log, r->entry.offset, whole.data, whole.len)
                      : log_append_completion(engine->log, r->entry.offset, text, len);
    if (!taken) engine->mark_due = true;
    buf_fini(&whole);
}

void answers_finish(struct engine *engine, struct request *r)
{
    bool replayed = !r->entry.read && r->entry.offset <= engine->order.replay_to;
    if (replayed) progress_done(&engine->progress, loop_monotonic_us());
    if (!r->entry.read) disputes_answered(engine, r->entry.offset, &r->digest);
    if (r->entry.from_log) {
        answers_compared(engine, r->entry.offset, digests_seen(engine->digests, r->entry.offset, &r->digest));
        reader_taken(engine->reader, r->entry.bytes);
    } else {
        give_answer(engine, r); /* first: the completion never delays it */
        if (!r->entry.read) append_completion(engine, r);
    }
    repeats_finished(engine, r);
    request_free(r);
}
