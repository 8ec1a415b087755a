/* Where the log begins: the file "base" that says which Raft entries it no longer keeps, because the index has their effects.
 *
 * Without it the log begins with entry 1 in segment 1. With it, entries up to `index` are gone from Raft's sight; the segments before
 * `segment` may still be there, as the place of events that the index points to, and are not read at start-up. Replaced as a whole
 * (written beside, synced, renamed, synced): after a crash there is the old one or the new one. Blocking. */
#ifndef CRSC_LOGD_WAL_BASE_H
#define CRSC_LOGD_WAL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/wal/disk.h"

enum { BASE_NOTE_MAX = 3072 };

struct base {
    uint64_t index, term; /* of the last entry that is gone; 0, 0: none is */
    uint64_t segment;     /* the first that is read at start-up */
    uint64_t seq;         /* of that segment's first record */
    bool empty;           /* the log came from another server: that segment may not exist yet */
    size_t note_len;
    uint8_t note[BASE_NOTE_MAX]; /* the user's: what it needs of the entries that are gone */
};

/* {0, 0, 1, 1} when there is no such file. -ERROR_CORRUPT, -ERROR_IO. */
int base_read(const struct disk *disk, const char *dir, struct base *ret_base, struct error *e);

/* -ERROR_NOSPACE, -ERROR_IO: the one before is still there. */
int base_write(const struct disk *disk, const char *dir, const struct base *b, struct error *e);

#endif
