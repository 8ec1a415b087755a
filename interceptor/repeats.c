/* The engine's part for Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a repeated request is answered with what
 * the first one was answered, waits while that is on its way, and never reaches the app.
 *
 * What is known (repeat/records.h) is read back from the log at the start: requests hold their keys, completions the
 * answers. Until that is done requests with a key wait. One that is in the log without an answer gets it when it is
 * replayed; if the attached state contains it already, its answer is lost, and a repetition is told so. */
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "common/loop.h"
#include "interceptor/engine_internal.h"

static const char field[] = "idempotency-key:";

/* The value in a stored message; how many such fields there are. */
static unsigned find_key(const struct blob *message, const char **ret_key, size_t *ret_len)
{
    const char *line = (const char *)message->data, *end = line + message->len, *stop;
    unsigned found = 0;
    for (; (stop = memchr(line, '\n', (size_t)(end - line))) != NULL && stop - line > 1; line = stop + 1) {
        if ((size_t)(stop - line) < sizeof field || strncasecmp(line, field, sizeof field - 1) != 0) continue;
        const char *from = line + sizeof field - 1, *to = stop;
        while (from < to && (*from == ' ' || *from == '\t')) from++;
        while (to > from && (to[-1] == '\r' || to[-1] == ' ' || to[-1] == '\t')) to--;
        *ret_key = from;
        *ret_len = (size_t)(to - from);
        found++;
    }
    return found;
}

bool repeats_concerns(const struct engine *engine, const struct request *r)
{
    const char *key;
    size_t len;
    return engine->settings->idempotency_ttl > 0 && !engine->settings->shared && !r->entry.read && find_key(r->exchange.message, &key, &len) > 0;
}

/* Of what is asked for: the request line and the body. */
static void print(const struct engine *engine, const struct request *r, uint8_t out[RECORDS_PRINT])
{
    const struct blob *m = r->exchange.message;
    const uint8_t *body = memmem(m->data, m->len, "\r\n\r\n", 4);
    if (r->stored != NULL) {
        memcpy(out, r->manifest.print, RECORDS_PRINT);
        return;
    }
    EVP_DigestInit_ex(engine->sha, EVP_sha256(), NULL);
    EVP_DigestUpdate(engine->sha, m->data, r->exchange.split);
    if (body != NULL) EVP_DigestUpdate(engine->sha, body + 4, (size_t)(m->data + m->len - body) - 4);
    EVP_DigestFinal_ex(engine->sha, out, NULL);
}

/* ---- answers to repetitions ----------------------------------------------------------------------------------- */

static void refuse(struct request *r, int status, const char *why)
{
    struct session *s = request_let_go(r);
    if (s != NULL) session_refuse(s, status, "", "%s", why);
    request_free(r);
}

static void give(struct engine *engine, struct request *r, uint64_t offset, const uint8_t *answer, size_t len)
{
    struct session *s = request_let_go(r);
    if (answer == NULL) {
        if (s != NULL)
            session_refuse(s, 409, "", "a request with this Idempotency-Key was executed, and what it was answered is not known any more");
    } else {
        engine->repeated++;
        if (s != NULL) answers_give_stored(engine, s, answer, len, r->exchange.head, offset);
    }
    request_free(r);
}

static struct request *of_waiter(struct record_waiter *w)
{
    return (struct request *)((char *)w - offsetof(struct request, wait));
}

static void settle(struct engine *engine, struct record *record, const uint8_t *answer, size_t len)
{
    struct record_waiters waiters = TAILQ_HEAD_INITIALIZER(waiters);
    struct record_waiter *w;
    uint64_t offset = record->offset;
    TAILQ_CONCAT(&waiters, &record->waiters, entry);
    records_settle(engine->records, record, answer, len, loop_wall_us());
    while ((w = TAILQ_FIRST(&waiters)) != NULL) {
        TAILQ_REMOVE(&waiters, w, entry);
        w->record = NULL;
        give(engine, of_waiter(w), offset, answer, len); /* the session may bring its next request at once */
    }
}

/* ---- requests come and end ------------------------------------------------------------------------------------ */

static void wait_for(struct request *r, struct record *record)
{
    r->wait.record = record;
    TAILQ_INSERT_TAIL(&record->waiters, &r->wait, entry);
}

static bool wait_for_past(struct engine *engine, struct request *r)
{
    if (engine->n_early >= engine->settings->hold_requests) {
        refuse(r, 503, "not logged and not executed: too many requests are waiting");
        return true;
    }
    r->is_early = true;
    engine->n_early++;
    TAILQ_INSERT_TAIL(&engine->early, r, early);
    return true;
}

bool repeats_take(struct engine *engine, struct request *r)
{
    uint8_t asked[RECORDS_PRINT];
    const char *key;
    size_t len = 0;
    if (!repeats_concerns(engine, r)) return false;
    if (find_key(r->exchange.message, &key, &len) != 1 || len == 0 || len > RECORDS_KEY_MAX) {
        refuse(r, 400, "one Idempotency-Key of 1 to 255 bytes is wanted");
        return true;
    }
    if (!engine->past_known) return wait_for_past(engine, r);
    print(engine, r, asked);
    uint64_t now = loop_wall_us();
    struct record *record = records_find(engine->records, key, len, now);
    if (record == NULL) {
        r->record = records_add(engine->records, key, len, asked, now);
        if (r->record == NULL) refuse(r, 503, "no memory");
        return r->record == NULL;
    }
    if (memcmp(record->print, asked, sizeof asked) != 0)
        refuse(r, 422, "this Idempotency-Key was used for another request");
    else if (record->state == RECORD_OPEN)
        wait_for(r, record);
    else
        give(engine, r, record->offset, record->answer, record->answer_len);
    return true;
}

bool repeats_gone(struct engine *engine, struct request *r)
{
    if (r->is_early) {
        TAILQ_REMOVE(&engine->early, r, early);
        engine->n_early--;
    } else if (r->wait.record != NULL) {
        TAILQ_REMOVE(&r->wait.record->waiters, &r->wait, entry);
    } else {
        return false;
    }
    request_free(r);
    return true;
}

/* One read back from the log was executed, perhaps before its key was read back. */
static struct record *find_replayed(struct engine *engine, const struct request *r)
{
    uint8_t asked[RECORDS_PRINT];
    const char *key;
    size_t len = 0;
    uint64_t now = loop_wall_us();
    if (!repeats_concerns(engine, r) || find_key(r->exchange.message, &key, &len) != 1 || len == 0 || len > RECORDS_KEY_MAX)
        return NULL;
    struct record *record = records_find(engine->records, key, len, now);
    if (record != NULL) return record->offset == r->entry.offset ? record : NULL;
    if (engine->past_known) return NULL;
    print(engine, r, asked);
    if ((record = records_add(engine->records, key, len, asked, now)) != NULL)
        records_place(engine->records, record, r->entry.offset);
    return record;
}

void repeats_finished(struct engine *engine, struct request *r)
{
    struct record *record = r->entry.from_log ? find_replayed(engine, r) : r->record;
    bool whole = r->kept.len > 0 && r->kept.len <= engine->settings->idempotency_answer;
    r->record = NULL;
    if (record == NULL || record->state != RECORD_OPEN) return;
    if (record->offset == 0) records_place(engine->records, record, r->entry.offset);
    settle(engine, record, whole ? r->kept.data : NULL, whole ? r->kept.len : 0);
}

void repeats_undone(struct engine *engine, struct request *r, bool abandoned)
{
    struct record_waiters waiters = TAILQ_HEAD_INITIALIZER(waiters);
    struct record_waiter *w;
    if (r->record == NULL) return;
    TAILQ_CONCAT(&waiters, &r->record->waiters, entry);
    records_drop(engine->records, r->record);
    r->record = NULL;
    while ((w = TAILQ_FIRST(&waiters)) != NULL) {
        struct request *other = of_waiter(w);
        TAILQ_REMOVE(&waiters, w, entry);
        w->record = NULL;
        if (!abandoned) {
            engine_admit(engine, other); /* now it is the first */
            continue;
        }
        struct session *s = request_let_go(other);
        if (s != NULL) session_abort(s); /* its outcome is not for us to tell */
        request_free(other);
    }
}

/* The state that is attached contains these: they will not be replayed, and no completion told their answers. */
void repeats_attached(struct engine *engine, uint64_t offset)
{
    struct record *record;
    engine->past_attached = offset;
    while (engine->past_known && (record = records_open_before(engine->records, offset)) != NULL)
        settle(engine, record, NULL, 0);
}

/* ---- what the log knows --------------------------------------------------------------------------------------- */

static void past_known(struct engine *engine)
{
    struct request *r;
    engine->past_known = true;
    log_info("idempotency keys are read back", "keys=%u bytes=%zu", records_count(engine->records),
             records_bytes(engine->records));
    if (engine->order.app != ORDER_APP_NONE) repeats_attached(engine, engine->past_attached);
    while ((r = TAILQ_FIRST(&engine->early)) != NULL) {
        TAILQ_REMOVE(&engine->early, r, early);
        engine->n_early--;
        r->is_early = false;
        engine_admit(engine, r);
    }
}

static void past_request(struct engine *engine, const struct crsc_event *event)
{
    struct request *r = request_new(engine, event->payload, event->size);
    uint8_t asked[RECORDS_PRINT];
    const char *key;
    size_t len = 0;
    uint64_t now = loop_wall_us();
    bool whole = r != NULL && ((event->ref & LOG_PARTS) == 0 || request_in_parts(r) == 0);
    bool young = event->time_us + engine->settings->idempotency_ttl * 1000 >= now;
    if (whole && young && find_key(r->exchange.message, &key, &len) == 1 && len > 0 && len <= RECORDS_KEY_MAX &&
        records_find(engine->records, key, len, now) == NULL) {
        print(engine, r, asked);
        struct record *record = records_add(engine->records, key, len, asked, event->time_us);
        if (record != NULL) records_place(engine->records, record, event->offset);
    }
    if (r != NULL) request_free(r);
}

static void past_completion(struct engine *engine, const struct crsc_event *event)
{
    struct record *record = records_at(engine->records, event->ref);
    const uint8_t *line = event->size > 0 ? memchr(event->payload, '\n', event->size) : NULL;
    if (record == NULL || record->state != RECORD_OPEN) return;
    size_t len = line != NULL ? event->size - (size_t)(line + 1 - (const uint8_t *)event->payload) : 0;
    settle(engine, record, len > 0 ? line + 1 : NULL, len);
}

static void on_past_begin(void *user, uint64_t from, uint64_t to)
{
    (void)user, (void)from, (void)to; /* what is told again is known already */
}

static void on_past(void *user, const struct crsc_event *event)
{
    struct engine *engine = user;
    if (event->kind == CRSC_REQUEST) past_request(engine, event);
    if (event->kind == CRSC_COMPLETION) past_completion(engine, event);
}

static void on_past_end(void *user)
{
    past_known(user);
}

void repeats_begin(struct engine *engine, uint64_t last)
{
    lookback_start(engine->past, engine->settings->idempotency_ttl > 0 && !engine->settings->shared ? engine->settings->idempotency_lookback : 0, last);
}

int repeats_new(struct engine *engine)
{
    static const struct lookback_handlers handlers = {.on_begin = on_past_begin, .on_event = on_past, .on_end = on_past_end};
    TAILQ_INIT(&engine->early);
    engine->records = records_new(engine->settings->idempotency_ttl * 1000, engine->settings->idempotency_bytes);
    engine->past = lookback_new(engine->loop, engine->client, engine->settings->stream, "idempotency keys", &handlers, engine);
    return engine->records != NULL && engine->past != NULL ? 0 : -ERROR_NOMEM;
}

void repeats_free(struct engine *engine)
{
    struct request *r;
    struct record *record;
    while ((r = TAILQ_FIRST(&engine->early)) != NULL) {
        TAILQ_REMOVE(&engine->early, r, early);
        request_free(r);
    }
    while (engine->records != NULL && (record = records_open(engine->records)) != NULL) {
        struct record_waiter *w;
        while ((w = TAILQ_FIRST(&record->waiters)) != NULL) {
            TAILQ_REMOVE(&record->waiters, w, entry);
            request_free(of_waiter(w)); /* its session was closed before */
        }
        records_drop(engine->records, record);
    }
    engine->records = records_free(engine->records);
}
