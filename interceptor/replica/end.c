#include "interceptor/replica/end.h"

#include <stdbool.h>
#include <stdlib.h>

enum { RETRY_MS = 100 };

struct end {
    struct crsc_client *client;
    const char *stream;
    void (*on_end)(void *user, uint64_t offset);
    void *user;
    uv_timer_t retry;
    unsigned users; /* the owner or the closing timer, and a call that was not answered */
    bool freeing;
    void (*done)(void *user);
    void *done_user;
};

static void drop(struct end *end)
{
    if (--end->users == 0) free(end);
}

static void on_retry(uv_timer_t *timer)
{
    end_ask(timer->data);
}

static void on_answer(void *user, const struct error *e, uint64_t offset)
{
    struct end *end = user;
    if (!end->freeing && e != NULL)
        uv_timer_start(&end->retry, on_retry, RETRY_MS, 0);
    else if (!end->freeing)
        end->on_end(end->user, offset);
    drop(end);
}

void end_ask(struct end *end)
{
    end->users++;
    if (crsc_stream_end(end->client, end->stream, on_answer, end) == 0) return;
    end->users--;
    uv_timer_start(&end->retry, on_retry, RETRY_MS, 0);
}

struct end *end_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, void (*on_end)(void *user, uint64_t offset), void *user)
{
    struct end *end = calloc(1, sizeof *end);
    if (end == NULL) return NULL;
    end->client = client;
    end->stream = stream;
    end->on_end = on_end;
    end->user = user;
    end->users = 1;
    uv_timer_init(loop, &end->retry);
    end->retry.data = end;
    return end;
}

static void on_closed(uv_handle_t *handle)
{
    struct end *end = handle->data;
    end->done(end->done_user);
    drop(end);
}

void end_free(struct end *end, void (*done)(void *user), void *user)
{
    end->freeing = true;
    end->done = done;
    end->done_user = user;
    uv_close((uv_handle_t *)&end->retry, on_closed);
}
