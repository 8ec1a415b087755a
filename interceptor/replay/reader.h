/* Reads a range of the stream ahead of the replay: pushed by the log, in order, held back when enough is waiting.
 *
 * At most READER_BYTES of payload and READER_EVENTS requests are handed over and not given back (reader_taken()), so
 * that a replay of any length takes bounded memory, and the app never waits for a round trip to the log.
 * Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_REPLAY_READER_H
#define CRSC_INTERCEPTOR_REPLAY_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "client/crsc.h"

enum { READER_BYTES = 8 << 20, READER_EVENTS = 16384 };

struct reader;

struct reader_handlers {
    /* In order, each offset of the range once. May start or stop the reader. */
    void (*on_event)(void *user, const struct crsc_event *event);
    void (*on_failed)(void *user, const struct error *why); /* the range cannot be read, now or later */
};

struct reader *reader_new(uv_loop_t *loop, struct crsc_client *client, const char *stream,
                          const struct reader_handlers *handlers, void *user);
void reader_free(struct reader *r, void (*done)(void *user), void *user);

void reader_start(struct reader *r, uint64_t from,
                  uint64_t to); /* both included; a range that is being read is given up */
void reader_stop(struct reader *r);
/* What was handed over is not held any more: a request of that many bytes. */
void reader_taken(struct reader *r, uint32_t bytes);

#endif
