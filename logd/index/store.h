/* The LMDB environment of the index: all that knows of LMDB, and all that blocks on its file.
 *
 * One sub-database per table of streams.h, `meta` (format version, applied index), `live` and `trim`. store_commit() is one
 * transaction: all of a batch and its applied index, or nothing. LMDB syncs at every commit, so what store_commit()
 * answered 0 for survives a power cut.
 *
 * Thread: one thread may commit while another one finds; everything else while nobody does either. The map can only
 * grow while no transaction is under way in this process, which a lock between the two sees to.
 * Source: lmdb.h 0.9 (mdb_env_set_mapsize, mdb_txn_renew, MDB_NOTLS). */
#ifndef CRSC_LOGD_INDEX_STORE_H
#define CRSC_LOGD_INDEX_STORE_H

#include "logd/index/batch.h"

struct store;

/* Makes `dir` (its parent must exist) and the files in it if they are missing. `map_bytes` is where the map starts; it
 * doubles when it is full. ERROR_IO, ERROR_NOSPACE, ERROR_CORRUPT, ERROR_INVALID (of another version), ERROR_NOMEM. */
int store_open(const char *dir, uint64_t map_bytes, struct store **ret_store, struct error *e);
struct store *store_close(struct store *s);

/* Applied index of the last committed batch as of store_open(), 0 in a new store. */
uint64_t store_opened_at(const struct store *s);
const struct buf *store_opened_note(const struct store *s); /* empty when there is none */

/* ERROR_NOSPACE, ERROR_IO, ERROR_CORRUPT, ERROR_NOMEM: nothing of the batch is there. */
int store_commit(struct store *s, const struct batch *b, struct error *e);

/* Calls `each` for every record of a table in key order, until it returns other than 0, which is then the result.
 * Keys and values are borrowed. */
typedef int store_each_cb(void *user, const void *key, size_t key_len, const void *value, size_t value_len, struct error *e);
int store_each_live(struct store *s, int (*each)(void *user, uint64_t segment, uint64_t bytes, struct error *e), void *user, struct error *e);
int store_each(struct store *s, enum streams_table table, store_each_cb *each, void *user, struct error *e);

/* How many bytes of a segment are in runs; 0: nobody reads from it any more. */
int store_live(struct store *s, uint64_t segment, uint64_t *ret_bytes, struct error *e);

/* Are there rows of trimmed streams still to be deleted? Each commit deletes some; one of an empty batch does nothing else. */
bool store_trims(struct store *s);

/* Writes a consistent copy into an existing empty directory, as of some committed batch. Thread: any; commits go on meanwhile, but
 * for one that must grow the map. Not synced. */
int store_copy(struct store *s, const char *dir, struct error *e);

/* Calls `each` for at most `most` runs, from that of (*stream, *offset) or behind it on, in order, and sets both to where it goes on; `*ret_end`: there are no
 * more. Rows that are on their way out (a trim) are among them. Thread: any; commits go on, finds wait meanwhile. */
typedef int store_run_cb(void *user, uint64_t stream_id, const struct streams_run *run, struct error *e);
int store_scan(struct store *s, uint64_t *stream, uint64_t *offset, unsigned most, store_run_cb *each, void *user, bool *ret_end, struct error *e);

/* The run holding the offset and those behind it, `most` at most, without a gap. -ERROR_NOT_FOUND, -ERROR_CORRUPT, -ERROR_IO; a failure
 * may have written into ret_runs. */
int store_find(struct store *s, uint64_t stream_id, uint64_t offset, struct streams_run *ret_runs, unsigned most, unsigned *ret_n,
               struct error *e);

uint64_t store_bytes(const struct store *s); /* of the data file in use */

#endif
