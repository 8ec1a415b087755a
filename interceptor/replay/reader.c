#include "interceptor/replay/reader.h"

#include <stdlib.h>
#include <string.h>

enum { RETRY_MS = 200 };

struct reader {
    struct crsc_client *client;
    struct reader_handlers handlers;
    void *user;
    char *stream;
    struct crsc_follow *follow;
    uv_timer_t retry;
    uint64_t next, to; /* next > to: nothing is to be read */
    uint64_t run;      /* counts starts and stops: events of an earlier run are not handed over */
    uint64_t bytes;    /* handed over and not given back */
    uint32_t events;
    bool paused;
    void (*done)(void *user);
    void *done_user;
};

static void begin(struct reader *r);

static void cancel(struct reader *r)
{
    if (r->follow != NULL) crsc_follow_cancel(r->follow);
    r->follow = NULL;
    r->paused = false;
    uv_timer_stop(&r->retry);
}

static void on_retry(uv_timer_t *timer)
{
    begin(timer->data);
}

static void hold_back(struct reader *r)
{
    bool full = r->bytes >= READER_BYTES || r->events >= READER_EVENTS;
    if (r->follow == NULL || r->paused || !full) return;
    r->paused = true;
    crsc_follow_pause(r->follow);
}

static void ended(struct reader *r, const struct error *e)
{
    struct error why = *e;
    cancel(r);
    /* Not there any more, or never: waiting does not help. Everything else passes. */
    if (why.code == ERROR_NOT_FOUND || why.code == ERROR_INVALID || why.code == ERROR_CORRUPT) {
        r->next = 1;
        r->to = 0;
        r->handlers.on_failed(r->user, &why);
    } else {
        uv_timer_start(&r->retry, on_retry, RETRY_MS, 0);
    }
}

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct reader *r = user;
    uint64_t run = r->run;
    (void)last;
    if (e != NULL) {
        ended(r, e);
        return;
    }
    if (n > 0 && events[0].offset != r->next) {
        struct error gap; /* operator/drivers/kubernetes/agents.c knows these words */
        error_set(&gap, ERROR_NOT_FOUND, "the log begins at offset %llu, %llu is needed",
                  (unsigned long long)events[0].offset, (unsigned long long)r->next);
        ended(r, &gap);
        return;
    }
    for (size_t i = 0; i < n && r->run == run && r->next <= r->to; i++) {
        r->next++;
        if (events[i].kind == CRSC_REQUEST) {
            r->bytes += events[i].size;
            r->events++;
        }
        r->handlers.on_event(r->user, &events[i]);
    }
    if (r->run != run) return;
    if (r->next > r->to)
        cancel(r);
    else
        hold_back(r);
}

static void begin(struct reader *r)
{
    if (r->next > r->to || r->follow != NULL) return;
    if (crsc_follow(r->client, r->stream, r->next, on_events, r, &r->follow) != 0)
        uv_timer_start(&r->retry, on_retry, RETRY_MS, 0);
}

void reader_start(struct reader *r, uint64_t from, uint64_t to)
{
    cancel(r);
    r->run++;
    r->next = from;
    r->to = to;
    begin(r);
}

void reader_stop(struct reader *r)
{
    cancel(r);
    r->run++;
    r->next = 1;
    r->to = 0;
}

void reader_taken(struct reader *r, uint32_t bytes)
{
    r->bytes -= bytes;
    r->events--;
    if (!r->paused || r->bytes > READER_BYTES / 2 || r->events > READER_EVENTS / 2) return;
    r->paused = false;
    crsc_follow_resume(r->follow);
}

struct reader *reader_new(uv_loop_t *loop, struct crsc_client *client, const char *stream,
                          const struct reader_handlers *handlers, void *user)
{
    struct reader *r = calloc(1, sizeof *r);
    if (r == NULL || (r->stream = strdup(stream)) == NULL) {
        free(r);
        return NULL;
    }
    r->client = client;
    r->handlers = *handlers;
    r->user = user;
    r->next = 1;
    uv_timer_init(loop, &r->retry);
    r->retry.data = r;
    return r;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct reader *r = handle->data;
    void (*done)(void *user) = r->done;
    void *user = r->done_user;
    free(r->stream);
    free(r);
    if (done != NULL) done(user);
}

void reader_free(struct reader *r, void (*done)(void *user), void *user)
{
    reader_stop(r);
    r->done = done;
    r->done_user = user;
    uv_close((uv_handle_t *)&r->retry, on_timer_closed);
}
