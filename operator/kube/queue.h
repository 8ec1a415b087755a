/* A work queue of keys with rate limits, as controllers want it: a key is in it once, whatever happens meanwhile; one that fails comes
 * again after a pause that doubles (QUEUE_PAUSE_MIN_MS to QUEUE_PAUSE_MAX_MS, with jitter); one that changed while it was worked on comes
 * again when it is done. Pure: time (of a clock that never goes back) and randomness are arguments. Keys are copied. */
#ifndef CRSC_OPERATOR_KUBE_QUEUE_H
#define CRSC_OPERATOR_KUBE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { QUEUE_PAUSE_MIN_MS = 50, QUEUE_PAUSE_MAX_MS = 60000, QUEUE_KEYS_MAX = 100000 };

struct queue;

struct queue *queue_new(void);
struct queue *queue_free(struct queue *q);

/* It is to be looked at, at `at_ms` or sooner. -ERROR_NOMEM, or -ERROR_BUSY with QUEUE_KEYS_MAX in it. */
int queue_add(struct queue *q, const char *key, uint64_t at_ms);
/* The same, of one that is in it already; false: it is not. */
bool queue_hasten(struct queue *q, const char *key, uint64_t at_ms);
/* The key that is due longest, not one that is worked on; NULL: none. Borrowed until it is done or forgotten. */
const char *queue_take(struct queue *q, uint64_t now_ms);
/* Done with it: well (its pause begins anew the next time), or not (it comes again by itself). */
void queue_done(struct queue *q, const char *key, bool ok, uint64_t now_ms, uint64_t random);
/* When the next one is due; UINT64_MAX: none waits. */
uint64_t queue_next(const struct queue *q);
size_t queue_waiting(const struct queue *q);

#endif
