/* The index: one LMDB environment that remembers how far the log was applied, and what that came to.
 *
 * Each transaction holds the effects of a run of Raft entries *and* the applied index of the last of them, so the two
 * can never disagree. Transactions are made on a worker thread from batches the loop's thread queues; one is under way
 * at a time, and what is queued meanwhile goes into the next. LMDB syncs every commit (never MDB_NOSYNC: a power cut
 * may leave such a file corrupt, on every replica at once).
 *
 * Thread: all functions and callbacks on the loop's thread; index_open() blocks. index_find() uses a read transaction
 * of its own. Source: LMDB documentation (lmdb.h, mdb_env_set_flags, MDB_NOTLS). */
#ifndef CRSC_LOGD_INDEX_INDEX_H
#define CRSC_LOGD_INDEX_INDEX_H

#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "logd/streams/streams.h"

struct index;

struct index_options {
    const char *dir;         /* borrowed during index_open(); made if it is missing */
    uint64_t map_bytes;      /* LMDB map size to start with (it grows by itself when full); 0: 1 GiB */
    uint32_t commit_ms;      /* a transaction is begun when the oldest queued effect is this old; 0: 100 */
    void *user;
    void (*on_durable)(void *user, uint64_t applied_index);
    void (*on_failed)(void *user, const struct error *e); /* once; the node must stop */
};

int index_open(uv_loop_t *loop, const struct index_options *options, struct index **ret_index, struct error *e);

/* Commits what is queued, then calls `done`; the index is gone by then. on_durable() and on_failed() may still come
 * before `done`, and none after it. */
void index_close(struct index *index, void (*done)(void *user), void *user);

/* Applied Raft index as of the last durable transaction; 0 in a new index. */
uint64_t index_applied(const struct index *index);

/* Feeds every record except the events' to streams_load(), then streams_loaded(). Blocks; start-up only. */
int index_load(struct index *index, struct streams *streams, struct error *e);

/* Queues the effects of the entry `applied_index` (copied). Call once per applied entry, also without effects. Does not
 * wait, except beyond 64 MiB in the queue: then until the transaction under way has ended, which is the backpressure.
 * -ERROR_NOMEM, or the code that on_failed() has told or is about to tell. */
int index_put(struct index *index, uint64_t applied_index, const struct streams_update *update, struct error *e);

/* Asks for a transaction now rather than in commit_ms; on_durable() tells when. With nothing queued it does nothing. */
void index_sync(struct index *index);

/* The run holding `offset` of the stream. -ERROR_NOT_FOUND, -ERROR_CORRUPT, -ERROR_IO. */
int index_find(struct index *index, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e);

uint64_t index_queued_bytes(const struct index *index); /* of effects that are not durable yet */
uint64_t index_bytes(const struct index *index); /* of the data file in use */

#endif
