/* Moves live events out of sparse segments (sparse.h) into files of their own (wal/moved.h), so that streams that nobody trims do not hold the disk for those that are
 * trimmed: the segments left empty go as any other (retention.h).
 *
 * A pass goes once over the index, in the order of streams: of a chunk of its rows, those in a chosen segment are copied, checked by the client's
 * checksum on the way; when the new file is full it is finished, and the index is told all of its places in one transaction. Reading and
 * writing is on a thread of libuv's pool, at most background-rate bytes a second. Whatever happens to the process, the index points to
 * bytes that are there: before that transaction to the old ones, after it to the new ones, which were synced before.
 *
 * Only segments before the log's beginning: what Raft may still need is not touched. A damaged event stays where it is (and its segment with it).
 * An error ends the pass, and the next one begins a minute later: nothing was lost.
 *
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_MOVER_H
#define CRSC_LOGD_SERVER_MOVER_H

#include <stdbool.h>
#include <stdint.h>

struct mover;
struct node;

struct mover *mover_new(struct node *node);                                     /* NULL: no memory */
void mover_close(struct mover *m, void (*done)(void *user), void *user); /* it is gone then */

/* About once a second: begins a pass if one is worth it. */
void mover_tick(struct mover *m);

/* The index was not told of this file's events yet: that nothing points to it says nothing. */
bool mover_holds(const struct mover *m, uint64_t segment);

uint64_t mover_bytes(const struct mover *m); /* of events that were moved, since the start */

#endif
