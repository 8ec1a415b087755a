/* Where does the stream end? Asks the log, linearizably, until it is told.
 *
 * One question at a time. An answer counts for everything that was acknowledged, to anybody, before the question.
 * Thread: the loop's; the answer never comes from inside a call. */
#ifndef CRSC_INTERCEPTOR_REPLICA_END_H
#define CRSC_INTERCEPTOR_REPLICA_END_H

#include <stdint.h>
#include <uv.h>

#include "client/crsc.h"

struct end;

/* NULL without memory. `stream` is borrowed. */
struct end *end_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, void (*on_end)(void *user, uint64_t offset),
                    void *user);
/* No answer any more; `done` from the loop. The client is closed later, by its owner. */
void end_free(struct end *end, void (*done)(void *user), void *user);
/* Not again before it was answered. */
void end_ask(struct end *end);

#endif
