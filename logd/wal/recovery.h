/* Start-up: reads every segment, says which entries the log holds and where it goes on, or why it must not be used.
 *
 * What it may cut is decided by segment.h; nothing is changed on disk before all of it was read and found right. What
 * it then answers is durable: bytes that only the page cache may have held (the process died between its write and its
 * sync, or after a sync that failed) are written again and synced. Blocking; holds one segment in memory at a time. */
#ifndef CRSC_LOGD_WAL_RECOVERY_H
#define CRSC_LOGD_WAL_RECOVERY_H

#include <stdint.h>

#include "common/error.h"
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

struct recovered {
    struct recovered_entry *entries; /* entries[i] is index i + 1; the receiver's to free */
    uint64_t n, cap;
    struct writer_tail tail;
    uint64_t next_seq;
    uint64_t last_segment; /* 0: none yet */
    uint64_t bytes;        /* of all segments */
    uint64_t cut_bytes;    /* of a torn tail that was cut */
};

/* -ERROR_CORRUPT with file and position, -ERROR_IO, -ERROR_NOSPACE, -ERROR_NOMEM; nothing to free then. */
int recovery_run(const struct disk *disk, const char *dir, struct recovered *ret_recovered, struct error *e);

#endif
