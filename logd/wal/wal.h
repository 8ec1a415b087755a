/* The write-ahead log: where an event's bytes are made durable, once, on this replica.
 *
 * It keeps what Raft must find again after a crash: the entries (in segment files) and the term and vote (in a small
 * double-buffered file). A Raft entry is one *record*; records go behind each other into segments whose blocks are written
 * already (with zeros, or in an earlier life of the file: they are recycled), so that fdatasync has no metadata to write. A writer thread writes whatever has been queued since the
 * last sync in one go and syncs it: that is the group commit.
 *
 * Promises
 *  W1  on_persisted(index) is called only after every byte up to `index` is on the disk.
 *  W2  After a crash wal_open() finds every persisted entry, in order, unchanged, or refuses with ERROR_CORRUPT and
 * says where: only a torn tail behind the last position known to be synced is cut, never anything below it. W3
 * Replacing a suffix (a conflict seen by Raft) is one durable record before the place is used again. W4  A failed write
 * or sync is fatal: on_failed() is called once, nothing is retried, nothing is reported persisted. W5  Room for another segment is waited
 * for (wal_no_room()): nothing was written yet that could be half there.
 *
 * Thread: all functions on the loop's thread; the callbacks too. wal_open() and wal_set_hard_state() block (start-up
 * and elections only). Reads take bytes from memory or the page cache with pread.
 * Source: protocol-aware recovery (Alagappan et al., FAST'18); recycled log files as in XFS, PostgreSQL. */
#ifndef CRSC_LOGD_WAL_WAL_H
#define CRSC_LOGD_WAL_WAL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/buf.h"
#include "common/error.h"
#include "logd/wal/location.h"

struct disk;
struct wal;
struct prom_histogram;

struct wal_options {
    const char *dir;         /* borrowed during wal_open(); made if it is missing (its parent must exist) */
    uint64_t segment_bytes;  /* 64 KiB to 1 GiB, a multiple of 4096; an entry larger than a segment gets a larger one */
    uint64_t cache_bytes;    /* newest entries kept in memory for followers and readers; 0: 32 MiB */
    const struct disk *disk; /* NULL: the system's; tests and the simulator give their own (disk.h) */
    uint32_t salt_seed;      /* of the segments' salts, for tests that must repeat; 0: random salts */
    void *user;              /* given to the callbacks */
    void (*on_persisted)(void *user, uint64_t index, uint64_t term); /* highest entry now on the disk, and its term */
    void (*on_failed)(void *user, const struct error *e);
};

struct wal_entry {
    uint64_t index; /* consecutive in one call */
    uint64_t term;
    uint32_t type;        /* opaque here: the consensus module's */
    struct blob *payload; /* the log takes its own reference */
};

/* Opens or makes the log in `dir`, recovering it. `loop` must outlive the wal. Errors: ERROR_IO, ERROR_NOSPACE,
 * ERROR_CORRUPT (W2), ERROR_INVALID (options), ERROR_EXISTS (another process has it open: a lock file is held). */
int wal_open(uv_loop_t *loop, const struct wal_options *options, struct wal **ret_wal, struct error *e);

/* Finishes queued writes (blocking; the callbacks may still come from inside), stops the thread, and calls `done` from
 * the loop; the wal is gone by then. Allowed inside the callbacks. */
void wal_close(struct wal *wal, void (*done)(void *user), void *user);

/* Entries present. An empty log has first 1, last 0, or after wal_compact() and at its beginning first = last + 1. */
uint64_t wal_first_index(const struct wal *wal);
uint64_t wal_last_index(const struct wal *wal);      /* queued, perhaps not yet persisted */
uint64_t wal_persisted_index(const struct wal *wal); /* W1 */
uint64_t wal_bytes(const struct wal *wal);           /* in segment files */
uint64_t wal_cut_bytes(const struct wal *wal);       /* of a torn tail that wal_open() cut (W2): for a log line */

/* Term of a present entry, and of the one before the first; 0 for any other index. */
uint64_t wal_term_at(const struct wal *wal, uint64_t index);

/* Queues entries for writing. entries[0].index must be <= last + 1; when it is <= last, everything from it on is
 * replaced (W3). Never blocks; on_persisted() follows in order. -ERROR_TOO_LARGE (a payload over 64 MiB; nothing was
 * queued), -ERROR_NOMEM (the wal is failed then: stop the node), -ERROR_INTERNAL after a failure.
 * Entries replaced before they were written are not reported. Queued bytes are bounded by what Raft has in flight;
 * wal_queued_bytes() tells. */
int wal_append(struct wal *wal, const struct wal_entry *entries, unsigned n);
uint64_t wal_queued_bytes(const struct wal *wal);
uint64_t wal_sync_under_way_us(const struct wal *wal); /* for how long the one that is under way has been; 0: none is */
bool wal_no_room(struct wal *wal); /* W5: what is queued waits for room on the disk */
const struct prom_histogram *wal_sync_times(const struct wal *wal); /* of writing and syncing a group */

/* The whole entry at `index`, from memory or disk; its checksum was verified. A new reference for the caller.
 * -ERROR_NOT_FOUND, -ERROR_CORRUPT (L6: say so, never serve it), -ERROR_IO, -ERROR_NOMEM. */
int wal_read(struct wal *wal, uint64_t index, struct wal_entry *ret_entry, struct error *e);

/* Where the payload of a present entry is (or will be) on disk; known as soon as the entry is queued. */
int wal_locate(const struct wal *wal, uint64_t index, struct wal_location *ret_location);

/* Copies `len` payload bytes from a place that wal_locate() gave (plus an offset inside the entry). The caller checks
 * them: client frames carry their own checksum. Works for queued entries as well. */
int wal_read_at(struct wal *wal, struct wal_location at, size_t len, void *ret_bytes, struct error *e);

/* Moves the beginning of the log: entries up to some index <= `limit` go, as far as whole segments allow (none: nothing happens).
 * Only what is applied, and durably so in the index, may go: limit is at most that. Their segments stay, as events are read
 * from them by wal_read_at(), until wal_reclaim(). `note`: what the caller needs of them at the next start, at most 3072 bytes.
 * Blocks for one small synced file. -ERROR_NOSPACE, -ERROR_IO: the log begins where it did. */
int wal_compact(struct wal *wal, uint64_t limit, const void *note, size_t note_len, struct error *e);
const void *wal_note(const struct wal *wal, size_t *ret_len); /* of the last one; borrowed until the next */

/* Removes segments before the beginning that are not needed, at most `most`. The number of them, or -ERROR_IO. Some are kept, under
 * another name, to become later segments: whoever still has one open must not read it any more. */
typedef bool wal_needed_cb(void *user, uint64_t segment);
int wal_reclaim(struct wal *wal, wal_needed_cb *needed, void *user, unsigned most, struct error *e);

/* The last index that can go while at least `keep_bytes` of segments with entries stay; 0: none. */
uint64_t wal_index_before(const struct wal *wal, uint64_t keep_bytes);

/* A segment that events were moved to (moved.h), which is there, durably, and belongs to the log from now on. -ERROR_NOMEM: it does from the next start on. */
int wal_adopt(struct wal *wal, uint64_t id, uint64_t bytes);
uint64_t wal_next_moved(const struct wal *wal); /* an id for the next one */

/* The segments there are, in ascending order of ids, with gaps. */
struct wal_segment {
    uint64_t id, bytes;
    bool raft; /* it is of the log, and not before its beginning */
    bool sealed; /* nothing is written to it any more, and all that was is on the disk */
    uint64_t first_seq, last_seq; /* of its records; 0: not known */
    uint32_t salt;                /* with first_seq */
};
size_t wal_segments(const struct wal *wal);
struct wal_segment wal_segment(const struct wal *wal, size_t i);

/* The newest segment, and up to where it is written and synced in whole blocks, which nobody writes to any more: a record begins there. False: nothing is. */
bool wal_settled(const struct wal *wal, struct wal_segment *ret_segment, uint64_t *ret_until);

/* Of the present entries, those whose records begin at [from, to) of a segment, in order, `most` at most; how many. */
struct wal_place {
    uint64_t index, term, position; /* of the record */
    uint32_t length, crc;           /* of the payload */
    uint16_t type;
};
size_t wal_entries_in(const struct wal *wal, uint64_t segment, uint64_t from, uint64_t to, struct wal_place *ret_places, size_t most);

/* Another file took a sealed segment's name, with the same bytes where those were good: later reads are from it. */
void wal_replaced(struct wal *wal, uint64_t segment);

/* The next record begins a new segment: so that this one can be sealed, and looked at. */
void wal_roll(struct wal *wal);

/* Raft's hard state; both 0 in a new log. Set blocks until it is on the disk; when it fails, it answers so (without
 * on_failed()), and the log takes nothing more: stop the node. */
uint64_t wal_term(const struct wal *wal);
uint64_t wal_vote(const struct wal *wal);
int wal_set_hard_state(struct wal *wal, uint64_t term, uint64_t vote, struct error *e);

#endif
