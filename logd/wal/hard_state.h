/* Raft's term and vote on disk: one small file with two checksummed copies, 4 KiB apart.
 *
 * A set writes and syncs the first copy, then the second. So after it has returned, one bad copy, from whatever cause,
 * loses nothing (a single copy that rots cannot be told from one that was being written, which is why one is not
 * enough); a crash in the middle leaves the old state or the new one, and nobody had been told of the new one. The file
 * is made under another name with both copies in it, so that a file without a whole copy is damage and never a
 * beginning.
 *
 * Blocking. Thread: one at a time. After a failed set the state on disk is unknown: every later set fails as well. */
#ifndef CRSC_LOGD_WAL_HARD_STATE_H
#define CRSC_LOGD_WAL_HARD_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/wal/disk.h"

struct hard_state {
    const struct disk *disk;
    int fd;       /* -1: not open */
    uint64_t seq; /* grows with every set */
    uint64_t term, vote;
    bool failed;
};

/* Opens "DIR/hard_state". When it is missing it is made with both 0, if `fresh`: if there is no log either. What was
 * read is written and synced again before it is believed: it may have come from the page cache of a process that died
 * before its sync. -ERROR_CORRUPT, -ERROR_IO, -ERROR_NOSPACE; closed then. */
int hard_state_open(struct hard_state *h, const struct disk *disk, const char *dir, bool fresh, struct error *e);
int hard_state_set(struct hard_state *h, uint64_t term, uint64_t vote, struct error *e);
void hard_state_close(struct hard_state *h); /* also when it is not open */

#endif
