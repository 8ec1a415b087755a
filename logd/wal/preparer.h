/* Makes the next segment's file before it is needed, synced, under a temporary name, on a thread of its own, so that the writer
 * does not wait for it at every change of segment.
 *
 * The best file is one that was a segment before and is not needed any more (a *spare*): its blocks are written, so that the syncs of
 * an overwrite have no metadata to write (p50 0.25 instead of 0.36 ms), and nothing had to be written for that. Filled with zeros, its
 * syncs are as cheap, but every byte is written twice, and the zeros come in bursts that the syncs wait behind: so, for want
 * of a spare, a log that fills its segments quickly has them allocated only (half the disk traffic). */
#ifndef CRSC_LOGD_WAL_PREPARER_H
#define CRSC_LOGD_WAL_PREPARER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/wal/disk.h"

enum { SPARES_MAX = 16 };

struct preparer;

/* Spares that an earlier process left are found again if they have `bytes`; others are removed. */
int preparer_new(const struct disk *disk, const char *dir, uint64_t bytes, struct preparer **ret_preparer, struct error *e);
void preparer_free(struct preparer *p); /* waits for a file under way; takes NULL */

/* Keeps the file at `path` as a spare, under another name, if it has the right size and there are less than `most` (and SPARES_MAX).
 * False: it is where it was. Any thread. */
bool preparer_recycle(struct preparer *p, const char *path, uint64_t bytes, unsigned most);

/* Begins a file of `bytes`, unless one is there or under way. `zeros`: filled, else allocated only, if there is no spare. Any thread. */
void preparer_ask(struct preparer *p, uint64_t bytes, bool zeros);

/* A file of `bytes` with the path preparer_path(), open for reading and writing; waits, or makes it here when none was
 * asked for. The file is the caller's then. *ret_recycled: it was a segment; its name as such is gone, durably.
 * -ERROR_NOSPACE: nothing has happened, and it may be asked for again; -ERROR_IO. The writer's thread. */
int preparer_take(struct preparer *p, uint64_t bytes, int *ret_fd, bool *ret_recycled, struct error *e);
const char *preparer_path(const struct preparer *p);

#endif
