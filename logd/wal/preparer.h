/* Makes the next segment's file before it is needed: zero-filled and synced, under a temporary name, on a thread of its
 * own, so that the writer does not wait for 64 MiB of zeros at every change of segment. The zeros are what makes the
 * later syncs cheap: overwriting written blocks has no metadata to write. */
#ifndef CRSC_LOGD_WAL_PREPARER_H
#define CRSC_LOGD_WAL_PREPARER_H

#include <stdint.h>

#include "common/error.h"
#include "logd/wal/disk.h"

struct preparer;

int preparer_new(const struct disk *disk, const char *dir, struct preparer **ret_preparer, struct error *e);
void preparer_free(struct preparer *p); /* waits for a file under way; takes NULL */

/* Begins a file of `bytes`, unless one is there or under way. Any thread. */
void preparer_ask(struct preparer *p, uint64_t bytes);

/* A file of `bytes` with the path preparer_path(), open for reading and writing; waits, or makes it here when none was
 * asked for. The file is the caller's then. -ERROR_NOSPACE, -ERROR_IO. The writer's thread. */
int preparer_take(struct preparer *p, uint64_t bytes, int *ret_fd, struct error *e);
const char *preparer_path(const struct preparer *p);

#endif
