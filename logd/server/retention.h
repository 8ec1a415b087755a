/* Keeps the log bounded: lets Raft's part of it begin later, and removes segments that no event is in any more.
 *
 * Order (DESIGN, section 4): the index has an entry's effects durably -> the log's new beginning is durable -> consensus hears of it ->
 * segments before it that the index does not point to are removed. Entries stay for servers that are behind: always log_keep bytes of
 * segments; for a server that is connected, at most log_keep_max. Who needs more fetches the state (rebuild.h).
 *
 * Segments that hold little are left to mover.h.
 *
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_RETENTION_H
#define CRSC_LOGD_SERVER_RETENTION_H

#include <stdbool.h>

struct node;

/* About once a second; true: there is more to remove, call it again soon. */
bool retention_tick(struct node *node);

#endif
