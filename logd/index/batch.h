/* Effects on their way to one transaction: copies of writes, behind each other in one buffer.
 *
 * A batch is filled on the loop's thread, handed over whole, and read on the worker's: never by both at a time.
 * Pure; embedded. */
#ifndef CRSC_LOGD_INDEX_BATCH_H
#define CRSC_LOGD_INDEX_BATCH_H

#include "logd/streams/streams.h"

/* A run's bytes are at another place from now on, if they are still at `from`. */
struct batch_move {
    uint64_t stream_id, first_offset; /* of the run */
    struct wal_location from, to;
};

struct batch {
    struct buf bytes;
    uint64_t applied; /* Raft index of the last entry in it; 0: empty */
    struct buf moves; /* struct batch_move, one behind the other */
    struct buf note;  /* the newest that is to be kept beside the effects; empty: the one before stays */
};

struct batch_write {
    enum streams_table table;
    const void *key, *value; /* borrowed from the batch */
    size_t key_len, value_len; /* value_len 0: delete */
};

/* Adds what an entry came to. 0, or -ERROR_NOMEM and the batch is as it was. */
int batch_add(struct batch *b, uint64_t applied, const struct streams_update *update);

/* A note of the user's, in place of an earlier one. 0 or -ERROR_NOMEM. */
int batch_note(struct batch *b, const void *bytes, size_t len);

/* The write at *at, which is moved behind it; false at the end. Start with 0. */
bool batch_next(const struct batch *b, size_t *at, struct batch_write *ret_write);

/* Places that changed. 0 or -ERROR_NOMEM. */
int batch_move(struct batch *b, const struct batch_move *moves, size_t n);

/* Empties it, keeping a modest amount of memory for the next. */
void batch_clear(struct batch *b);
void batch_fini(struct batch *b);

#endif
