#include "interceptor/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/loop.h"

enum {
    OPEN_RETRY_MS = 200,
    LAZY_MS = 5,          /* nobody waits for a completion: it goes with the next request, or after this time */
    LAZY_MAX = 256,       /* of them */
    LAZY_BYTES = 4 << 10, /* a larger one goes at once */
};

struct item {
    TAILQ_ENTRY(item) entry;
    struct log *log;
    void *context; /* NULL: a completion or a mark */
    enum crsc_kind kind;
    struct blob *payload;
    uint64_t ref, after;
    uint64_t sequence; /* 0: not handed to libcrsc yet */
    bool told;         /* log_seen() said that it is there */
    uint64_t sent_us, added_ms;
};

struct log {
    struct crsc_client *client;
    struct crsc_producer *producer;
    struct log_handlers handlers;
    void *user;
    char *stream, *name;
    TAILQ_HEAD(, item) items; /* in the order of appending; those handed over are in front */
    struct item *unsent;      /* the first that was not; NULL: none */
    unsigned completions;
    uv_timer_t retry, lazy;
    bool pressed; /* what is unsent is to be handed over, as soon as the window lets it in */
    uint64_t epoch, sequence; /* ours; of the last append of this epoch */
    bool shared, open, fenced, freeing;
    unsigned calls; /* to libcrsc, unanswered */
    void (*done)(void *user);
    void *done_user;
};

static void open_stream(struct log *log);

static void item_free(struct item *item)
{
    blob_unref(item->payload);
    free(item);
}

static void take_out(struct log *log, struct item *item)
{
    if (log->unsent == item) log->unsent = TAILQ_NEXT(item, entry);
    if (item->context == NULL) log->completions--;
    TAILQ_REMOVE(&log->items, item, entry);
}

static void flush(struct log *log);

static bool is_part(const struct item *item)
{
    return item->kind == CRSC_MARK && item->context != NULL;
}

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct item *item = user;
    struct log *log = item->log;
    if (log->freeing || e != NULL) return; /* the producer is broken: on_broken looks after all of them */
    void *context = item->context;
    bool part = is_part(item), told = item->told;
    uint64_t sent_us = item->sent_us;
    take_out(log, item);
    item_free(item);
    if (part)
        log->handlers.on_part(log->user, context, offset);
    else if (!told)
        log->handlers.on_appended(log->user, context, offset, sent_us);
    if (log->pressed) flush(log);
}

static void flush(struct log *log)
{
    log->pressed = true;
    while (log->open && log->unsent != NULL) {
        struct item *item = log->unsent;
        struct crsc_event ev = {.kind = item->kind,
                                .ref = item->ref,
                                .after = item->after,
                                .payload = item->payload->data,
                                .size = (uint32_t)item->payload->len};
        /* Refused: the window is full, and an answer will come; or the producer is about to say that it is broken. */
        item->sent_us = loop_monotonic_us();
        if (crsc_append(log->producer, &ev, on_appended, item) != 0) return;
        item->sequence = ++log->sequence;
        log->unsent = TAILQ_NEXT(item, entry);
    }
    log->pressed = log->unsent != NULL;
}

static void on_lazy(uv_timer_t *timer)
{
    struct log *log = timer->data;
    uint64_t now = uv_now(timer->loop), due = log->unsent != NULL ? log->unsent->added_ms + LAZY_MS : now;
    if (due > now)
        uv_timer_start(timer, on_lazy, due - now, 0); /* those it was started for went with a request */
    else
        flush(log);
}

/* What was read and not acknowledged is in front; behind it, in the order of the log, what was not read. */
void log_seen(struct log *log, uint64_t epoch, uint64_t sequence, uint64_t offset)
{
    struct item *item;
    if (!log->open || epoch != log->epoch) return;
    TAILQ_FOREACH(item, &log->items, entry)
    if (item->sequence == 0 || item->sequence >= sequence) break;
    if (item == NULL || item->sequence != sequence || item->told) return;
    item->told = true;
    log->handlers.on_appended(log->user, item->context, offset, item->sent_us);
}

/* ---- the end of an epoch -------------------------------------------------------------------------------------- */

static void forget_items(struct log *log, bool tell)
{
    struct item *item;
    while ((item = TAILQ_FIRST(&log->items)) != NULL) {
        void *context = item->context;
        uint64_t sequence = item->sequence;
        bool part = is_part(item), told = item->told;
        take_out(log, item);
        item_free(item);
        if (part)
            log->handlers.on_part_lost(log->user, context); /* also at the end: it frees what it holds */
        else if (tell && context != NULL && !told) log->handlers.on_unknown(log->user, context, log->epoch, sequence);
    }
}

static void on_retry(uv_timer_t *timer)
{
    open_stream(timer->data);
}

static void close_producer(struct log *log)
{
    struct crsc_producer *producer = log->producer;
    log->open = false;
    log->producer = NULL;
    if (producer != NULL) crsc_producer_close(producer);
}

static void fence(struct log *log, const struct error *why)
{
    if (log->fenced || log->freeing) return;
    log->fenced = true;
    uv_timer_stop(&log->retry);
    close_producer(log);
    forget_items(log, true);
    log->handlers.on_fenced(log->user, why);
}

bool log_overtaken(struct log *log, const struct crsc_stream_info *streams, size_t n)
{
    struct error why;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(streams[i].name, log->stream) != 0 || streams[i].epoch <= log->epoch) continue;
        error_set(&why, ERROR_FENCED, "stream %.150s belongs to epoch %llu now, ours was %llu", log->stream,
                  (unsigned long long)streams[i].epoch, (unsigned long long)log->epoch);
        fence(log, &why);
        return true;
    }
    return false;
}

static void on_broken(void *user, const struct error *e)
{
    struct log *log = user;
    if (log->freeing) return;
    struct error why = *e;
    if (why.code == ERROR_FENCED) {
        fence(log, &why);
        return;
    }
    close_producer(log);
    forget_items(log, true);
    log->handlers.on_lost(log->user, &why);
    uv_timer_start(&log->retry, on_retry, OPEN_RETRY_MS, 0);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static void maybe_done(struct log *log);

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last)
{
    struct log *log = user;
    log->calls--;
    if (log->freeing) {
        maybe_done(log);
        return;
    }
    if (e != NULL) {
        struct error why = *e;
        close_producer(log);
        log->handlers.on_lost(log->user, &why);
        uv_timer_start(&log->retry, on_retry, OPEN_RETRY_MS, 0);
        return;
    }
    log->open = true;
    log->epoch = epoch;
    log->sequence = 0;
    log->handlers.on_opened(log->user, epoch, last);
}

static void open_producer(struct log *log)
{
    struct error e;
    log->calls++;
    if (crsc_producer_open(log->client, log->stream, log->name, log->shared, on_opened, on_broken, log, &log->producer, &e) ==
        0)
        return;
    log->calls--;
    log->handlers.on_lost(log->user, &e);
    uv_timer_start(&log->retry, on_retry, OPEN_RETRY_MS, 0);
}

/* Before taking the stream again: has somebody else taken it? Between this look and the opening another could; then
 * both say so in their logs, and the older one of the two ends up fenced. */
static void on_looked(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct log *log = user;
    log->calls--;
    if (log->freeing) {
        maybe_done(log);
        return;
    }
    if (e != NULL) {
        struct error why = *e;
        log->handlers.on_lost(log->user, &why);
        uv_timer_start(&log->retry, on_retry, OPEN_RETRY_MS, 0);
        return;
    }
    if (!log_overtaken(log, streams, n)) open_producer(log);
}

static void open_stream(struct log *log)
{
    if (log->epoch == 0 || log->shared) {
        open_producer(log);
        return;
    }
    log->calls++;
    if (crsc_list_streams(log->client, log->stream, on_looked, log) == 0) return;
    log->calls--;
    uv_timer_start(&log->retry, on_retry, OPEN_RETRY_MS, 0);
}

/* ---- the owner's side ----------------------------------------------------------------------------------------- */

static int add(struct log *log, struct item *item)
{
    item->log = log;
    item->added_ms = uv_now(log->lazy.loop);
    TAILQ_INSERT_TAIL(&log->items, item, entry);
    if (log->unsent == NULL) log->unsent = item;
    bool lazy = item->kind == CRSC_COMPLETION && item->payload->len <= LAZY_BYTES && log->completions < LAZY_MAX;
    if (log->pressed || !lazy)
        flush(log);
    else if (!uv_is_active((uv_handle_t *)&log->lazy))
        uv_timer_start(&log->lazy, on_lazy, LAZY_MS, 0);
    return 0;
}

static int append_owned(struct log *log, enum crsc_kind kind, struct blob *payload, uint64_t after, uint64_t ref, void *context)
{
    struct item *item = calloc(1, sizeof *item);
    if (item == NULL) return -ERROR_NOMEM;
    item->payload = blob_ref(payload);
    item->context = context;
    item->kind = kind;
    item->after = after;
    item->ref = ref;
    return add(log, item);
}

int log_append_request(struct log *log, struct blob *message, uint64_t after, uint64_t flags, void *context)
{
    return append_owned(log, CRSC_REQUEST, message, after, flags, context);
}

int log_append_part(struct log *log, struct blob *bytes, uint64_t upload, void *context)
{
    return append_owned(log, CRSC_MARK, bytes, 0, upload, context);
}

static bool append_note(struct log *log, enum crsc_kind kind, uint64_t ref, const void *payload, size_t len)
{
    if (!log->open || log->completions >= LOG_COMPLETIONS_MAX) return false;
    struct item *item = calloc(1, sizeof *item);
    struct blob *copy = blob_new(len);
    if (item == NULL || copy == NULL) {
        free(item);
        blob_unref(copy);
        return false;
    }
    memcpy(copy->data, payload, len);
    item->payload = copy;
    item->kind = kind;
    item->ref = ref;
    log->completions++;
    return add(log, item) == 0;
}

bool log_append_completion(struct log *log, uint64_t offset, const void *payload, size_t len)
{
    return append_note(log, CRSC_COMPLETION, offset, payload, len);
}

void log_hurry(struct log *log)
{
    flush(log);
}

bool log_append_vote(struct log *log, uint64_t offset, const void *payload, size_t len)
{
    return append_note(log, CRSC_MARK, offset, payload, len);
}

bool log_idle(const struct log *log)
{
    return TAILQ_EMPTY(&log->items);
}

bool log_append_mark(struct log *log, const void *payload, size_t len)
{
    return append_note(log, CRSC_MARK, 0, payload, len);
}

struct log *log_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *producer, bool shared,
                    const struct log_handlers *handlers, void *user)
{
    struct log *log = calloc(1, sizeof *log);
    if (log == NULL) return NULL;
    log->stream = strdup(stream);
    log->name = strdup(producer);
    if (log->stream == NULL || log->name == NULL) {
        free(log->stream);
        free(log->name);
        free(log);
        return NULL;
    }
    log->client = client;
    log->shared = shared;
    log->handlers = *handlers;
    log->user = user;
    TAILQ_INIT(&log->items);
    uv_timer_init(loop, &log->retry);
    uv_timer_init(loop, &log->lazy);
    log->retry.data = log->lazy.data = log;
    uv_timer_start(&log->retry, on_retry, 0, 0); /* callbacks from the loop only */
    return log;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct log *log = handle->data;
    log->calls--;
    maybe_done(log);
}

static void maybe_done(struct log *log)
{
    if (log->calls > 0) return;
    void (*done)(void *user) = log->done;
    void *user = log->done_user;
    free(log->stream);
    free(log->name);
    free(log);
    if (done != NULL) done(user);
}

void log_free(struct log *log, void (*done)(void *user), void *user)
{
    log->freeing = true;
    log->done = done;
    log->done_user = user;
    log->calls += 2; /* the timers' closing */
    close_producer(log);
    forget_items(log, false);
    uv_close((uv_handle_t *)&log->retry, on_timer_closed);
    uv_close((uv_handle_t *)&log->lazy, on_timer_closed);
}
