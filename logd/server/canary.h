/* "Can the cluster commit now?", asked of the cluster itself and not guessed from what is remembered: for /readyz.
 *
 * The leader has a majority confirm that it still leads (a fresh read round, consensus/read_index.h); any other server asks the leader to do
 * that, over the connection between servers, and then waits until it has applied what the leader had. Yes means: at a moment after the question,
 * a majority was reachable, had a leader, and this server was as far as it. Several questions at a time share one round.
 *
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_CANARY_H
#define CRSC_LOGD_SERVER_CANARY_H

#include <stdbool.h>
#include <stdint.h>

struct node;
struct canary;

enum { CANARY_MS = 2000, CANARY_ASKERS = 64 };

struct canary *canary_new(struct node *node); /* NULL without memory */
void canary_cancel(struct canary *c); /* who waits hears no */
/* Nobody waits any more, and queries_reset() was called. `done` from the loop. */
void canary_close(struct canary *c, void (*done)(void *user), void *user);

/* `why` is for people; "" when it is ready. Exactly one call, perhaps at once, within CANARY_MS. */
typedef void canary_cb(void *user, bool ready, const char *why);
void canary_ask(struct canary *c, canary_cb *cb, void *user);

/* The leader's answer: everything up to entry `applied` was there. 0: it cannot say. */
void canary_answer(struct canary *c, uint64_t id, uint64_t applied);

#endif
