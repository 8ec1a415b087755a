/* Reads the newest events of the stream once, at the start: what an earlier interceptor knew and only the log still does.
 *
 * Begins at the stream's first offset when less is left; tries again, from the then first offset, while the log does not answer.
 * Shell. Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_REPLAY_LOOKBACK_H
#define CRSC_INTERCEPTOR_REPLAY_LOOKBACK_H

#include <stdbool.h>
#include <stdint.h>

#include "client/crsc.h"

struct lookback;

struct lookback_handlers {
    void (*on_begin)(void *user, uint64_t from, uint64_t to); /* also when it begins again; from > to: there is nothing */
    void (*on_event)(void *user, const struct crsc_event *event);
    void (*on_end)(void *user); /* once */
};

/* `what`: for the log, what cannot be read back when something fails. NULL without memory. */
struct lookback *lookback_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *what,
                              const struct lookback_handlers *handlers, void *user);
/* The newest `n` events up to `to`. Only the first call counts. Nothing to read: on_end comes before this returns. */
void lookback_start(struct lookback *l, uint64_t n, uint64_t to);
/* No callback any more. NULL: `done` comes at once. */
void lookback_free(struct lookback *l, void (*done)(void *user), void *user);

#endif
