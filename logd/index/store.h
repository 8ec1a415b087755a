/* The LMDB environment of the index: all that knows of LMDB, and all that blocks on its file.
 *
 * One sub-database per table of streams.h and `meta` (format version, applied index). store_commit() is one
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

/* ERROR_NOSPACE, ERROR_IO, ERROR_CORRUPT, ERROR_NOMEM: nothing of the batch is there. */
int store_commit(struct store *s, const struct batch *b, struct error *e);

/* Calls `each` for every record of a table in key order, until it returns other than 0, which is then the result.
 * Keys and values are borrowed. */
int store_each(struct store *s, enum streams_table table,
               int (*each)(void *user, const void *key, size_t key_len, const void *value, size_t value_len,
                           struct error *e),
               void *user, struct error *e);

/* The run holding the offset. -ERROR_NOT_FOUND, -ERROR_CORRUPT, -ERROR_IO. */
int store_find(struct store *s, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e);

uint64_t store_bytes(const struct store *s); /* of the data file in use */

#endif
