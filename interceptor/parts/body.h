/* Streams a body in parts back out of the log: one piece at a time, when it is asked for, the next one read ahead.
 *
 * Two pieces of at most MANIFEST_PART_BYTES are held, whatever the body's size. A log that cannot be read for a while is waited for.
 * Thread: the loop's. Callbacks come from the loop, never from inside a call. */
#ifndef CRSC_INTERCEPTOR_PARTS_BODY_H
#define CRSC_INTERCEPTOR_PARTS_BODY_H

#include "client/crsc.h"
#include "interceptor/parts/manifest.h"

struct body;

struct body_handlers {
    void (*on_piece)(void *user, struct blob *piece); /* taken with blob_ref() if it is kept; NULL: that was all */
    void (*on_failed)(void *user, const struct error *why); /* it cannot be read, now or later */
};

/* The manifest is borrowed until body_close(), the stream's name copied. NULL without memory. */
struct body *body_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const struct manifest *m,
                      const struct body_handlers *handlers, void *user);
void body_close(struct body *b); /* takes NULL; no callback any more */
void body_next(struct body *b);  /* one on_piece or on_failed follows */

#endif
