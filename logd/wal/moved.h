/* Segments that live events were moved to, out of segments in which little else was left (server/mover.h).
 *
 * They are no part of Raft's log and are never read at start-up: client frames, each with its own checksum, one behind the other from
 * SEGMENT_HEADER on, at the places that the index gives. Their ids begin at MOVED_FIRST, so that no segment of the log ever has one of them.
 *
 * Crash-safe by order: the file is written under a temporary name, synced, renamed, the name synced; only then does the index hear of the new
 * places, and the old segment goes when the index says, durably, that nothing is in it. Whatever a crash cuts off leaves a file that nothing
 * points to, which goes as any segment without live events does (or is written over: the temporary one).
 *
 * Blocking. Thread: one at a time. Functions that fail leave no file behind; what was moved before is untouched. */
#ifndef CRSC_LOGD_WAL_MOVED_H
#define CRSC_LOGD_WAL_MOVED_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/wal/disk.h"

#define MOVED_FIRST (UINT64_C(1) << 62)

struct moved;

static inline bool moved_is(uint64_t segment)
{
    return segment >= MOVED_FIRST;
}

/* Begins the file of this id, which no file has. -ERROR_NOSPACE, -ERROR_IO, -ERROR_NOMEM. */
int moved_begin(const struct disk *disk, const char *dir, uint64_t id, struct moved **ret_moved, struct error *e);

/* Appends the bytes; where they are from moved_finish() on. */
int moved_put(struct moved *m, const void *bytes, size_t len, uint64_t *ret_position, struct error *e);

uint64_t moved_bytes(const struct moved *m); /* of the file as it would be now */

/* The file is there, durably, or an error and there is none. `m` is gone in any case. */
int moved_finish(struct moved *m, struct error *e);
void moved_abandon(struct moved *m); /* takes NULL */

#endif
