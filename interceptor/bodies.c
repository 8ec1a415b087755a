/* The engine's part for bodies in parts, on their way out of the log to the app. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "interceptor/engine_internal.h"

int request_in_parts(struct request *r)
{
    struct blob *stored = r->exchange.message;
    const uint8_t *end = memmem(stored->data, stored->len, "\r\n\r\n", 4);
    size_t head = end != NULL ? (size_t)(end - stored->data) + 4 : 0;
    struct blob *message = blob_new(head);
    int rv = end == NULL ? -ERROR_CORRUPT : message == NULL ? -ERROR_NOMEM : 0;
    if (rv == 0) rv = manifest_parse(&r->manifest, stored->data + head, stored->len - head);
    if (rv != 0) {
        blob_unref(message);
        return rv;
    }
    memcpy(message->data, stored->data, head);
    r->stored = stored;
    r->exchange.message = message;
    r->exchange.streams = true;
    r->exchange.chunked = r->manifest.trailers.len > 0;
    r->entry.anchored = true;
    return 0;
}

void bodies_stop(struct request *r)
{
    if (r->body == NULL) return;
    body_close(r->body);
    r->body = NULL;
    TAILQ_REMOVE(&r->engine->sending, r, sending);
}

void bodies_stop_all(struct engine *engine)
{
    while (!TAILQ_EMPTY(&engine->sending)) bodies_stop(TAILQ_FIRST(&engine->sending));
}

static void on_piece(void *user, struct blob *piece)
{
    struct request *r = user;
    if (piece != NULL) {
        upstream_body(&r->exchange, piece);
        return;
    }
    bodies_stop(r);
    upstream_body_end(&r->exchange, &r->manifest.trailers);
}

/* The app has half a request. What it makes of that nobody knows. */
static void on_failed(void *user, const struct error *why)
{
    struct request *r = user;
    struct engine *engine = r->engine;
    log_error("the body of a request cannot be read from the log", "offset=%" PRIu64 " reason=%s", r->entry.offset, why->text);
    bodies_stop(r);
    snprintf(engine->detail, sizeof engine->detail, "%s", why->text);
    engine_step(engine, &(struct order_event){.kind = ORDER_EV_SUSPECT}, NULL);
}

void bodies_on_wants(void *user, struct exchange *x)
{
    static const struct body_handlers handlers = {.on_piece = on_piece, .on_failed = on_failed};
    struct engine *engine = user;
    struct request *r = of_exchange(x);
    if (r->body == NULL) {
        r->body = body_new(engine->loop, engine->client, engine->settings->stream, &r->manifest, &handlers, r);
        if (r->body == NULL) {
            struct error e;
            error_set(&e, ERROR_NOMEM, "no memory");
            on_failed(r, &e);
            return;
        }
        TAILQ_INSERT_TAIL(&engine->sending, r, sending);
    }
    body_next(r->body);
}
