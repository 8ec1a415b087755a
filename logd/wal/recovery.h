/* Start-up: reads every segment from the base on, says which entries the log holds and where it goes on, or why it must not be used.
 *
 * What it may cut is decided by segment.h; nothing is changed on disk before all of it was read and found right. What
 * it then answers is durable: bytes that only the page cache may have held (the process died between its write and its
 * sync, or after a sync that failed) are written again and synced. Blocking; holds one segment in memory at a time. */
#ifndef CRSC_LOGD_WAL_RECOVERY_H
#define CRSC_LOGD_WAL_RECOVERY_H

#include <stdint.h>

#include "common/error.h"
#include "logd/wal/base.h"
#include "logd/wal/disk.h"
#include "logd/wal/location.h"
#include "logd/wal/writer.h"

struct recovered_entry {
    uint64_t term;
    struct wal_location where; /* of the payload */
    uint32_t length;
    uint32_t crc; /* of the payload alone: a read checks it */
    uint16_t type;
};

/* A segment that is there. */
struct recovered_segment {
    uint64_t id, bytes;
    uint64_t first_seq; /* of its first record; 0 when it was not read (it is before the base) */
    uint32_t salt;      /* with first_seq */
    uint64_t end;       /* last index when it was full; 0: entries up to there were replaced later, or it is the last one */
};

struct recovered {
    struct base base;
    struct recovered_entry *entries; /* entries[i] is index base.index + i + 1 */
    uint64_t n, cap;                 /* n: the last index */
    struct recovered_segment *segments; /* ascending; those of moved.h are not among them */
    size_t n_segments;
    struct recovered_segment *moved; /* those, ascending */
    size_t n_moved;
    struct writer_tail tail;
    uint64_t next_seq;
    uint64_t last_segment; /* 0: none yet */
    uint64_t bytes;        /* of all segments */
    uint64_t cut_bytes;    /* of a torn tail that was cut */
};

/* Frees entries and both lists of segments. */
void recovered_free(struct recovered *r);

/* -ERROR_CORRUPT with file and position, -ERROR_IO, -ERROR_NOSPACE, -ERROR_NOMEM; nothing to free then. */
int recovery_run(const struct disk *disk, const char *dir, struct recovered *ret_recovered, struct error *e);

#endif
