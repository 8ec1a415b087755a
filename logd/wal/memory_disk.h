/* A disk in memory for the tests of the wal: it knows what a real one may lose, and does lose it.
 *
 * Bytes written are live at once (the page cache) and durable after datasync(); names likewise, after syncdir().
 * memory_disk_power_cut() keeps, of what was not durable, a random choice of 512-byte sectors and a prefix of the
 * changes of names. A sync that fails leaves the live bytes clean but not durable, as Linux does. Thread: any. */
#ifndef CRSC_LOGD_WAL_MEMORY_DISK_H
#define CRSC_LOGD_WAL_MEMORY_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "logd/wal/disk.h"

struct memory_disk;

enum memory_disk_op { MEMORY_DISK_WRITE = 1, MEMORY_DISK_SYNC = 2, MEMORY_DISK_RENAME = 4, MEMORY_DISK_ANY = 7 };

struct memory_disk *memory_disk_new(void);
void memory_disk_free(struct memory_disk *m);
const struct disk *memory_disk_table(struct memory_disk *m);

/* The operation of these kinds after the next `n` fails with -error (once). */
void memory_disk_fail(struct memory_disk *m, unsigned ops, unsigned n, int error);
/* The same, of writes and syncs of that file only: for tests beside which other threads of the wal work. */
void memory_disk_fail_file(struct memory_disk *m, const char *path, unsigned ops, unsigned n, int error);
/* From the operation after the next `n` on, everything fails: the process is gone (its last write may be half done). */
void memory_disk_die(struct memory_disk *m, unsigned n);
bool memory_disk_died(struct memory_disk *m);
/* A file may not grow when all of them would have more than this many bytes: -ENOSPC. */
void memory_disk_space(struct memory_disk *m, uint64_t bytes);

/* disk.direct() is refused, as some file systems do. */
void memory_disk_no_direct(struct memory_disk *m);

/* Writes of at least `len` bytes wait until this is called with 0. */
void memory_disk_hold(struct memory_disk *m, size_t len);

/* The next process: descriptors and faults are gone; with a power cut what was not durable is, too. */
void memory_disk_restart(struct memory_disk *m);
void memory_disk_power_cut(struct memory_disk *m, uint32_t *seed);

/* The live bytes of a file, to look at and to damage (durably); NULL: no such file. */
uint8_t *memory_disk_bytes(struct memory_disk *m, const char *path, size_t *ret_len);
void memory_disk_cut(struct memory_disk *m, const char *path, size_t len);
void memory_disk_remove(struct memory_disk *m, const char *path);
/* Copies all files of `from`, durable. */
struct memory_disk *memory_disk_clone(struct memory_disk *from);

uint32_t test_random(uint32_t *seed);

#endif
