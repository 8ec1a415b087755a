/* The index: one LMDB environment that remembers how far the log was applied, and what that came to.
 *
 * Each transaction holds the effects of a run of Raft entries *and* the applied index of the last of them, so the two
 * can never disagree. Transactions are made on a worker thread from batches the loop's thread queues; one is under way
 * at a time, and what is queued meanwhile goes into the next. LMDB syncs every commit (never MDB_NOSYNC: a power cut
 * may leave such a file corrupt, on every replica at once).
 *
 * Thread: all functions and callbacks on the loop's thread, but where it is said; index_open() blocks. index_find() uses a read transaction
 * of its own. Source: LMDB documentation (lmdb.h, mdb_env_set_flags, MDB_NOTLS). */
#ifndef CRSC_LOGD_INDEX_INDEX_H
#define CRSC_LOGD_INDEX_INDEX_H

#include <stdbool.h>
#include <stdbool.h>
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
 * wait, except beyond 32 MiB in the queue: then until the transaction under way has ended, which is the backpressure.
 * -ERROR_NOMEM, or the code that on_failed() has told or is about to tell. */
int index_put(struct index *index, uint64_t applied_index, const struct streams_update *update, struct error *e);

/* Goes into the transaction of the next index_put(), and stays until there is another one: what the user wants to know of the entries up
 * to index_applied() when it starts again. -ERROR_NOMEM. */
int index_note(struct index *index, const void *bytes, size_t len);
const struct buf *index_opened_note(const struct index *index); /* as of index_open(); empty when there is none */

/* Asks for a transaction now rather than in commit_ms; on_durable() tells when. With nothing queued it does nothing. */
void index_sync(struct index *index);

/* The run holding `offset` of the stream, and those behind it without a gap, `most` (at least 1) at most: as many as one look into the
 * index gives. -ERROR_NOT_FOUND, -ERROR_CORRUPT, -ERROR_IO; then ret_runs is not to be read. */
int index_find(struct index *index, uint64_t stream_id, uint64_t offset, struct streams_run *ret_runs, unsigned most, unsigned *ret_n,
               struct error *e);

/* How many bytes of a segment of the log are the place of an event, as of the last durable transaction. 0: it can go. */
int index_live(struct index *index, uint64_t segment, uint64_t *ret_bytes, struct error *e);

/* Events that were copied to another place are there from the next transaction on, where they were still at the old one; index_moving() until then.
 * index_close() does not wait for it: a place that the index was not told of is not used. -ERROR_NOMEM, or the code that on_failed() has told. */
struct batch_move;
int index_move(struct index *index, const struct batch_move *moves, size_t n, struct error *e);
bool index_moving(const struct index *index);

/* Calls `each` for at most `most` runs from (*stream, *offset) on, and sets both to where it goes on. Also on other threads, as
 * of the last durable transaction; `each` must be quick: index_find() waits meanwhile. -ERROR_CORRUPT, -ERROR_IO, or `each`'s value other than 0. */
int index_scan(struct index *index, uint64_t *stream, uint64_t *offset, unsigned most,
               int (*each)(void *user, uint64_t stream_id, const struct streams_run *run, struct error *e), void *user, bool *ret_end, struct error *e);

/* Writes a consistent copy, as of some durable transaction, into an existing empty directory. Blocks: on a thread of the caller's, while
 * the index is open; everything else goes on. */
int index_copy(struct index *index, const char *dir, struct error *e);

/* Looks into an index that nobody has open: what it has applied; each segment that it points to, and then each run, stream by stream. `each_run` NULL: not asked for.
 * A callback's negative value ends it and is the result. Blocks. */
enum { INDEX_NEXT_STREAM = 1 }; /* each_run's: no more of this stream in this pass */
struct index_inspection {
    int (*each_segment)(void *user, uint64_t segment, uint64_t live_bytes, struct error *e);
    int (*each_run)(void *user, uint64_t stream_id, const struct streams_run *run, struct error *e);
    uint64_t (*from)(void *user, uint64_t stream_id); /* the offset that a pass begins with in this stream; NULL: the first. Streams come in the same order in each pass */
    int (*again)(void *user, struct error *e);        /* behind a pass over the runs: 1 for another one, 0; NULL: there is one */
    void *user;
};
int index_inspect(const char *dir, const struct index_inspection *i, uint64_t *ret_applied, struct error *e);

uint64_t index_queued_bytes(const struct index *index); /* of effects that are not durable yet */
bool index_no_room(struct index *index); /* the transaction under way waits for room on the disk; it goes on by itself */
uint64_t index_bytes(const struct index *index); /* of the data file in use */

#endif
