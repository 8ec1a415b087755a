/* LatestSnapshot, ListSnapshots, ListStreams, Status. The linearizable ones wait for a read round (consensus/read_index.h) and
 * then until what was committed when they came is applied; at most QUERIES_MAX wait. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_QUERIES_H
#define CRSC_LOGD_SERVER_QUERIES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"

struct node;
struct queries;
struct session;

enum { QUERIES_MAX = 4096 };

struct queries *queries_new(struct node *node);
struct queries *queries_free(struct queries *q); /* nobody waits any more: queries_reset() first */

/* A read round of our own: `leads` when a majority has confirmed, after the call, that this server leads, and all that was committed then is
 * applied. Only on the leader. Exactly one call: at the latest at queries_reset(). */
typedef void queries_cb(void *user, uint64_t id, bool leads);
void queries_confirm(struct queries *q, queries_cb *cb, void *user, uint64_t id);

void queries_request(struct queries *q, struct session *s, const struct frame *f);
void queries_probe_reply(struct queries *q, uint64_t from, uint64_t round, uint64_t term);
struct membership;
void queries_members(struct queries *q, const struct membership *m); /* others are to be asked from now on */
void queries_pump(struct queries *q);  /* something was committed or applied */
void queries_tick(struct queries *q);  /* answers may have been lost: ask again */
void queries_reset(struct queries *q); /* leadership changed: who waits is sent to the new leader */

#endif
