#include "interceptor/replay/lookback.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "interceptor/replay/reader.h"

enum { RETRY_MS = 200 };

struct lookback {
    struct crsc_client *client;
    char *stream;
    const char *what;
    struct lookback_handlers handlers;
    void *user;
    struct reader *reader;
    uv_timer_t retry;
    uint64_t n, to;
    bool begun, freeing;
    unsigned open; /* what has to end before it is gone: a call, and the two parts while it is freed */
    void (*done)(void *user);
    void *done_user;
};

static void look(struct lookback *l);

static void one_less(void *user)
{
    struct lookback *l = user;
    if (--l->open > 0 || !l->freeing) return;
    void (*done)(void *user) = l->done;
    void *done_user = l->done_user;
    free(l->stream);
    free(l);
    done(done_user);
}

static void on_retry(uv_timer_t *timer)
{
    look(timer->data);
}

static void on_event(void *user, const struct crsc_event *event)
{
    struct lookback *l = user;
    l->handlers.on_event(l->user, event);
    if (event->kind == CRSC_REQUEST) reader_taken(l->reader, event->size);
    if (event->offset == l->to) l->handlers.on_end(l->user);
}

static void on_failed(void *user, const struct error *why)
{
    struct lookback *l = user; /* trimmed meanwhile: from the new beginning on */
    log_warn("cannot be read back from the log, tried again", "what=%s reason=%s", l->what, why->text);
    uv_timer_start(&l->retry, on_retry, RETRY_MS, 0);
}

static void on_looked(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct lookback *l = user;
    uint64_t first = 0;
    for (size_t i = 0; e == NULL && i < n; i++)
        if (strcmp(streams[i].name, l->stream) == 0) first = streams[i].first_offset;
    if (l->freeing) {
        one_less(l);
        return;
    }
    l->open--;
    if (first == 0) {
        uv_timer_start(&l->retry, on_retry, RETRY_MS, 0);
        return;
    }
    if (l->to >= l->n && l->to - l->n + 1 > first) first = l->to - l->n + 1;
    l->handlers.on_begin(l->user, first, l->to);
    if (first > l->to)
        l->handlers.on_end(l->user);
    else
        reader_start(l->reader, first, l->to);
}

static void look(struct lookback *l)
{
    l->open++;
    if (crsc_list_streams(l->client, l->stream, on_looked, l) == 0) return;
    l->open--;
    uv_timer_start(&l->retry, on_retry, RETRY_MS, 0);
}

void lookback_start(struct lookback *l, uint64_t n, uint64_t to)
{
    if (l->begun) return;
    l->begun = true;
    l->n = n;
    l->to = to;
    if (n > 0 && to > 0) {
        look(l);
        return;
    }
    l->handlers.on_begin(l->user, to + 1, to);
    l->handlers.on_end(l->user);
}

struct lookback *lookback_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *what,
                              const struct lookback_handlers *handlers, void *user)
{
    static const struct reader_handlers reader_handlers = {.on_event = on_event, .on_failed = on_failed};
    struct lookback *l = calloc(1, sizeof *l);
    if (l == NULL) return NULL;
    l->stream = strdup(stream);
    l->reader = l->stream != NULL ? reader_new(loop, client, stream, &reader_handlers, l) : NULL;
    if (l->reader == NULL) {
        free(l->stream);
        free(l);
        return NULL;
    }
    l->client = client;
    l->what = what;
    l->handlers = *handlers;
    l->user = user;
    uv_timer_init(loop, &l->retry);
    l->retry.data = l;
    return l;
}

static void on_timer_closed(uv_handle_t *handle)
{
    one_less(handle->data);
}

void lookback_free(struct lookback *l, void (*done)(void *user), void *user)
{
    if (l == NULL) {
        done(user);
        return;
    }
    l->freeing = true;
    l->done = done;
    l->done_user = user;
    l->open += 2;
    reader_free(l->reader, one_less, l);
    uv_close((uv_handle_t *)&l->retry, on_timer_closed);
}
