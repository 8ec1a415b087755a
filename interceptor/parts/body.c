#include "interceptor/parts/body.h"

#include <stdlib.h>
#include <string.h>

enum { RETRY_MS = 200 };

struct body {
    struct crsc_client *client;
    const struct manifest *manifest;
    struct body_handlers handlers;
    void *user;
    char *stream;
    uv_timer_t timer;   /* the next read after one that failed; or the delivery of what is there */
    struct blob *piece; /* read ahead */
    size_t run;         /* of what is read next */
    uint64_t next;      /* offset; 0: the run's first */
    uint64_t left;      /* bytes not read yet */
    struct error why;
    bool wanted, reading, failed, closed, timer_closed;
};

static void look(struct body *b);

static void maybe_free(struct body *b)
{
    if (!b->closed || b->reading || !b->timer_closed) return;
    blob_unref(b->piece);
    free(b->stream);
    free(b);
}

static void on_timer(uv_timer_t *timer)
{
    look(timer->data);
}

static void fail(struct body *b, const struct error *why)
{
    b->failed = true;
    b->why = *why;
}

/* What was read is the part that was wanted. */
static bool take(struct body *b, const struct crsc_event *event, struct error *e)
{
    const struct manifest *m = b->manifest;
    if (event->offset != b->next || event->kind != CRSC_MARK || event->ref != m->upload || event->size == 0 || event->size > b->left) {
        error_set(e, ERROR_CORRUPT, "offset %llu of the log is not the part of a body that it should be", (unsigned long long)b->next);
        return false;
    }
    b->piece = blob_new(event->size);
    if (b->piece == NULL) {
        error_set(e, ERROR_NOMEM, "no memory for a part of a body");
        return false;
    }
    memcpy(b->piece->data, event->payload, event->size);
    b->left -= event->size;
    if (b->next++ == m->runs[b->run].last) {
        b->run++;
        b->next = 0;
    }
    return true;
}

static void on_read(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct body *b = user;
    struct error why;
    (void)last;
    b->reading = false;
    if (b->closed) {
        maybe_free(b);
        return;
    }
    if (e != NULL && e->code != ERROR_NOT_FOUND && e->code != ERROR_INVALID && e->code != ERROR_CORRUPT) {
        uv_timer_start(&b->timer, on_timer, RETRY_MS, 0); /* it passes */
        return;
    }
    if (e != NULL)
        fail(b, e);
    else if (n == 0)
        fail(b, (error_set(&why, ERROR_NOT_FOUND, "a part of a body is not in the log any more"), &why));
    else if (!take(b, &events[0], &why))
        fail(b, &why);
    look(b);
}

static void read_ahead(struct body *b)
{
    if (b->reading || b->failed || b->piece != NULL || b->left == 0) return;
    if (b->run == b->manifest->n_runs) {
        fail(b, (error_set(&b->why, ERROR_CORRUPT, "a body is shorter than it should be"), &b->why));
        return;
    }
    if (b->next == 0) b->next = b->manifest->runs[b->run].first;
    b->reading = crsc_read(b->client, b->stream, b->next, b->next, 0, on_read, b) == 0;
    if (!b->reading) uv_timer_start(&b->timer, on_timer, RETRY_MS, 0);
}

/* Reads on, and hands over what is wanted and there. */
static void look(struct body *b)
{
    read_ahead(b);
    if (!b->wanted || (b->piece == NULL && !b->failed && b->left > 0)) return;
    struct blob *piece = b->piece;
    b->piece = NULL;
    b->wanted = false;
    read_ahead(b);
    if (piece == NULL && b->failed)
        b->handlers.on_failed(b->user, &b->why);
    else
        b->handlers.on_piece(b->user, piece); /* may close this */
    blob_unref(piece);
}

void body_next(struct body *b)
{
    b->wanted = true;
    if (!b->reading) uv_timer_start(&b->timer, on_timer, 0, 0);
}

struct body *body_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const struct manifest *m,
                      const struct body_handlers *handlers, void *user)
{
    struct body *b = calloc(1, sizeof *b);
    if (b == NULL || (b->stream = strdup(stream)) == NULL) {
        free(b);
        return NULL;
    }
    b->client = client;
    b->manifest = m;
    b->left = m->bytes;
    b->handlers = *handlers;
    b->user = user;
    uv_timer_init(loop, &b->timer);
    b->timer.data = b;
    return b;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct body *b = handle->data;
    b->timer_closed = true;
    maybe_free(b);
}

void body_close(struct body *b)
{
    if (b == NULL || b->closed) return;
    b->closed = true;
    uv_close((uv_handle_t *)&b->timer, on_timer_closed);
}
