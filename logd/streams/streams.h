/* The replicated state machine: streams, epochs, producers' sequences, snapshot records.
 *
 * Functional core. streams_apply() takes one committed Raft entry and says what came of each command and what must be
 * written into the index; it reads no clock, does no I/O and gives the same outcome on every replica for the same
 * entries, whatever bytes they hold. The shell (logd/server/) hands the writes to index/ and the outcomes to waiting
 * clients.
 *
 * State lives in memory, except the positions of old events: those are in the index (LMDB). Positions of events whose
 * index transaction is not durable yet are kept here too (the overlay), so that an event can be read as soon as it is
 * applied: streams_find() first, index_find() when it answers ERROR_NOT_FOUND with `ret_stream_id` set.
 *
 * Invariants (DESIGN, section 4): L2 offsets are dense and each has one content; L3 a repeated append has one effect
 * and one answer; L4 after Fence(e) nothing of an epoch < e is applied.
 *
 * Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_STREAMS_H
#define CRSC_LOGD_STREAMS_STREAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"
#include "logd/wal/location.h"

struct streams;

/* Which events of a stream go by themselves (message Retention of proto/rpc.proto); all 0: none. */
struct streams_policy {
    uint32_t keep_snapshots;
    uint64_t max_age_us, max_bytes;
    bool beyond_snapshots;
};
static inline bool streams_policy_is_set(const struct streams_policy *p)
{
    return p->keep_snapshots > 0 || p->max_age_us > 0 || p->max_bytes > 0;
}

enum {
    STREAMS_NAME_MAX = 255,   /* bytes of a stream, producer or snapshot name */
    STREAMS_BATCH_MAX = 4096, /* events in one append */
    STREAMS_DEDUP_MAX = 65536, /* newest sequences of an epoch whose outcome is remembered */
    STREAMS_MAX = 1 << 20,       /* streams */
    STREAMS_SESSIONS_MAX = 256,  /* live epochs of a stream (shared producers); beyond, the longest idle one is fenced */
    STREAMS_SNAPSHOTS_MAX = 1024, /* snapshot records of a stream; beyond, the oldest deleted or failed one is forgotten */
    STREAMS_IMAGE_MAX = 1024,    /* bytes of a snapshot's image reference */
    STREAMS_DIGEST_MAX = 128,    /* of its sha256 */
    STREAMS_REASON_MAX = 1024,   /* of its reason */
};

/* Which LMDB database a write goes to; keys and values are this module's own fixed formats. */
enum streams_table { STREAMS_TABLE_STREAM, STREAMS_TABLE_SESSION, STREAMS_TABLE_SNAPSHOT, STREAMS_TABLE_EVENT, STREAMS_TABLES };

/* One write. Keys and values are at most 511 bytes (LMDB's key bound) and 4 KiB. value_len 0: delete; in STREAMS_TABLE_EVENT: the
 * stream begins at the key's offset, and every run that ends before it goes. */
struct streams_put {
    enum streams_table table;
    uint32_t key_at, key_len;     /* in streams_update.bytes */
    uint32_t value_at, value_len;
};

/* What came of one command (frame) of the entry. */
struct streams_outcome {
    uint16_t type;        /* enum frame_type of the command */
    enum error_code code; /* ERROR_NONE, or why it had no effect */
    uint64_t stream_id;   /* 0: none */
    uint64_t offset;      /* append: first offset; open: last offset; trim, retain: the stream's first offset from now on */
    uint32_t count;       /* append: events */
    bool duplicate;       /* append: it was there already */
    uint64_t epoch;       /* open: the new one; fence: lowest that may append; fenced: the owner */
    uint64_t expected;    /* sequence: the next that is accepted; conflict: the last offset, or how far a trim may go */
    char text[128];       /* of an error, for the client */
};

/* Filled by streams_apply(); reused from call to call; streams_update_fini() at the end. */
struct streams_update {
    struct streams_outcome *outcomes; /* one per command, in order */
    unsigned n_outcomes, cap_outcomes;
    struct streams_put *puts;
    unsigned n_puts, cap_puts;
    struct buf bytes; /* of keys and values */
};
#define STREAMS_UPDATE_INIT {0}
void streams_update_fini(struct streams_update *u);

struct streams *streams_new(void);
struct streams *streams_free(struct streams *s);

/* Start-up: feeds one record of the index back (any order, STREAMS_TABLE_EVENT excluded), then streams_loaded() with the
 * index' applied Raft index. -ERROR_CORRUPT, -ERROR_NOMEM. */
int streams_load(struct streams *s, enum streams_table table, const void *key, size_t key_len, const void *value,
                 size_t value_len, struct error *e);
int streams_loaded(struct streams *s, uint64_t applied_index, struct error *e);

/* Applies the entry at `index` (the one after streams_applied()), whose payload begins at `where`.
 * An entry that carries no commands of ours (a Raft barrier or configuration) is applied with data NULL, len 0.
 * 0; -ERROR_CORRUPT when the bytes are no entry (the replica must stop: L6); -ERROR_NOMEM. */
int streams_apply(struct streams *s, uint64_t index, const void *data, size_t len, struct wal_location where,
                  struct streams_update *update, struct error *e);
uint64_t streams_applied(const struct streams *s);

/* The index has made everything up to this Raft index durable: the overlay up to there is dropped. */
void streams_index_durable(struct streams *s, uint64_t applied_index);

/* A leader's first look at a command before it is proposed: shape and limits only (names, counts, sizes against the
 * body, kinds). Anything that depends on state is decided by streams_apply(). 0, -ERROR_INVALID, -ERROR_TOO_LARGE;
 * -ERROR_NOMEM. */
int streams_check(const struct frame *f, struct error *e);

/* Where events are: one run is the frame of one append, holding `count` events from `first_offset` on. */
struct streams_run {
    uint64_t first_offset;
    uint32_t count;
    uint32_t frame_len;          /* bytes */
    uint64_t before;             /* payload bytes that the stream had before it; 0 also where an early version did not note it */
    struct wal_location where;   /* of the frame */
    uint64_t epoch, sequence;    /* of its first event */
    uint64_t time_us;
};

/* Stream id by name, 0 if there is none. Ids start at 1 and are never reused. */
uint64_t streams_id(const struct streams *s, const char *name, size_t len);

/* The run holding `offset`. 0; -ERROR_NOT_FOUND with *ret_in_index true: ask index_find(); false: no such event. */
int streams_find(const struct streams *s, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run,
                 bool *ret_in_index);

/* Key and value of STREAMS_TABLE_EVENT: shared with index_find(). Key order is (stream, offset) order. */
enum { STREAMS_EVENT_KEY = 16 };
void streams_event_key(uint64_t stream_id, uint64_t offset, uint8_t ret_key[static STREAMS_EVENT_KEY]);
enum { STREAMS_EVENT_VALUE = 60 };
void streams_event_encode(const uint8_t key[static STREAMS_EVENT_KEY], const struct streams_run *run, uint8_t ret_value[static STREAMS_EVENT_VALUE]);
int streams_event_decode(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_stream_id,
                         struct streams_run *ret_run);

struct streams_info {
    uint64_t id;
    const char *name; /* borrowed until the next streams_apply() */
    uint64_t first_offset, last_offset;
    uint64_t epoch, min_epoch;
    uint64_t bytes, last_time_us;
    uint32_t snapshots_valid; /* that can be restored from */
    uint64_t latest_snapshot_offset;
    const char *producer; /* borrowed likewise; "" before the first open */
    struct streams_policy policy;
};
int streams_info(const struct streams *s, uint64_t stream_id, struct streams_info *ret_info);
uint64_t streams_count(const struct streams *s); /* ids are 1..count */

const struct streams_policy *streams_policy(const struct streams *s, uint64_t stream_id); /* NULL: it has none, nothing goes by itself */
/* The last event that the stream's retention policy lets go as far as its snapshots are concerned; false: none goes. */
bool streams_policy_bound(const struct streams *s, uint64_t stream_id, uint64_t *ret_offset);

/* Snapshot records of a stream, in order of their first recording. The pointer is borrowed until the next
 * streams_apply(); strings are zero-terminated, never NULL. */
struct streams_snapshot {
    const char *id;
    uint64_t offset;
    uint32_t state; /* crsc.SnapshotState */
    const char *image, *sha256, *node, *template_hash, *reason;
    uint64_t size, started_us, finished_us, recorded_us;
};
unsigned streams_snapshots(const struct streams *s, uint64_t stream_id);
int streams_snapshot(const struct streams *s, uint64_t stream_id, unsigned i, struct streams_snapshot *ret_snapshot);
/* The valid one with the highest offset whose following events are there (template_hash "" for any). -ERROR_NOT_FOUND. */
int streams_latest_snapshot(const struct streams *s, uint64_t stream_id, const char *template_hash,
                            struct streams_snapshot *ret_snapshot);

#endif
