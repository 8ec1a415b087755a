/* The interceptor's own stream: one epoch after another, appends in order, and what is to be known when an epoch ends.
 *
 * Opens the stream under a new epoch (again and again until that works), hands appends to libcrsc as its window takes
 * them, and when the producer breaks says of each append that was not acknowledged under which epoch and sequence it
 * may be in the log. Then it opens a new epoch, unless a newer one than ours is there: then we are fenced, for good:
 * two interceptors must not take the stream from each other in turns. Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_LOG_H
#define CRSC_INTERCEPTOR_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/crsc.h"
#include "common/buf.h"

struct log;

struct log_handlers {
    void (*on_opened)(void *user, uint64_t epoch, uint64_t last_offset);
    void (*on_appended)(void *user, void *context, uint64_t offset); /* context NULL: not a request */
    /* Of each request not acknowledged, in order; sequence 0: it never left. on_lost or on_fenced follows. */
    void (*on_unknown)(void *user, void *context, uint64_t epoch, uint64_t sequence);
    void (*on_lost)(void *user, const struct error *why); /* also when opening failed; it is tried again */
    void (*on_fenced)(void *user, const struct error *why);
};

struct log *log_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *producer,
                    const struct log_handlers *handlers, void *user);
/* No callback any more. The client is closed later, by its owner. */
void log_free(struct log *log, void (*done)(void *user), void *user);

/* Between on_opened and on_lost. `context` is the request's and not NULL. 0 or -ERROR_NOMEM. */
int log_append_request(struct log *log, struct blob *message, uint64_t after, void *context);
/* Best effort: dropped (false) when LOG_COMPLETIONS_MAX wait or the log is not open. */
bool log_append_completion(struct log *log, uint64_t offset, const void *payload, size_t len);
enum { LOG_COMPLETIONS_MAX = 65536 };

#endif
