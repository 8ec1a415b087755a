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
    /* context NULL: not a request. It was handed over at `sent_us` (monotonic): our epoch was the newest at some moment since. */
    void (*on_appended)(void *user, void *context, uint64_t offset, uint64_t sent_us);
    /* Of each request not acknowledged, in order; sequence 0: it never left. on_lost or on_fenced follows. */
    void (*on_unknown)(void *user, void *context, uint64_t epoch, uint64_t sequence);
    void (*on_part)(void *user, void *context, uint64_t offset); /* as on_appended, of a part of a body */
    void (*on_part_lost)(void *user, void *context); /* as on_unknown: it is or is not in the log, and is appended again by its owner */
    void (*on_lost)(void *user, const struct error *why); /* also when opening failed; it is tried again */
    void (*on_fenced)(void *user, const struct error *why);
};

/* `shared`: other producers append to the stream too; only an older epoch of the same name is fenced. */
struct log *log_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *producer, bool shared,
                    const struct log_handlers *handlers, void *user);
/* The streams as they are listed now: does a newer epoch own ours? Then it is as when the producer hears of it. What is not acknowledged may be in the log all
 * the same: on_unknown for each request, then on_fenced, before this returns. */
bool log_overtaken(struct log *log, const struct crsc_stream_info *streams, size_t n);
/* No callback any more. The client is closed later, by its owner. */
void log_free(struct log *log, void (*done)(void *user), void *user);

/* Between on_opened and on_lost. `context` is the request's and not NULL. 0 or -ERROR_NOMEM. */
int log_append_request(struct log *log, struct blob *message, uint64_t after, uint64_t flags, void *context);
enum {
    LOG_ORDERED = 1, /* flags of a request, its event's `ref`: it was executed behind everything before it */
    LOG_PARTS = 2,   /* its body is in parts (parts/manifest.h) */
};
/* A mark with bytes of the body `upload` (not 0). The same. */
int log_append_part(struct log *log, struct blob *bytes, uint64_t upload, void *context);
/* The stream was read, and has this at `offset`. If it is ours and was not acknowledged yet, on_appended comes now, and not again. Called
 * for everything that is read, in order. Only when shared, where no bodies are in parts. */
void log_seen(struct log *log, uint64_t epoch, uint64_t sequence, uint64_t offset);
/* Completions that wait for company go at once. */
void log_hurry(struct log *log);

/* Best effort, and a little later, with whatever else is appended: dropped (false) when LOG_COMPLETIONS_MAX wait or the log is not open. */
bool log_append_completion(struct log *log, uint64_t offset, const void *payload, size_t len);
enum { LOG_COMPLETIONS_MAX = 65536 };
/* About the request at `offset`. */
bool log_append_vote(struct log *log, uint64_t offset, const void *payload, size_t len);
bool log_idle(const struct log *log); /* everything that was handed over is in the log, or lost */
bool log_append_mark(struct log *log, const void *payload, size_t len); /* the same: replay/proof.h */

#endif
