#include "logd/index/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <uv.h>

enum { FORMAT = 1 };
#define MAP_DEFAULT (UINT64_C(1) << 30)
#define MAP_MIN (UINT64_C(1) << 16)

struct store {
    MDB_env *env;
    MDB_dbi tables[STREAMS_TABLES], meta;
    MDB_txn *read;      /* of store_find(): reset while it is not in use, so that it pins no old page */
    MDB_cursor *cursor; /* of store_find(), on the events */
    uv_mutex_t growing; /* held by store_find() and while the map grows */
    bool has_lock;
    uint64_t opened_at;
};

static const char *const table_names[STREAMS_TABLES] = {
    [STREAMS_TABLE_STREAM] = "stream",
    [STREAMS_TABLE_SESSION] = "session",
    [STREAMS_TABLE_SNAPSHOT] = "snapshot",
    [STREAMS_TABLE_EVENT] = "event",
};

static int fail(struct error *e, int rc, const char *what)
{
    switch (rc) {
    case ENOSPC:
    case EDQUOT: return error_set(e, ERROR_NOSPACE, "%s: the index' disk is full: make room and start again", what);
    case ENOMEM: return error_set(e, ERROR_NOMEM, "%s: no memory for the index", what);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        return error_set(e, ERROR_CORRUPT, "%s: the index is damaged (%s): remove this node's data and let it rejoin",
                         what, mdb_strerror(rc));
    default: return error_set(e, ERROR_IO, "%s: %s", what, mdb_strerror(rc));
    }
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static int sync_dir(const char *dir, struct error *e)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return error_errno(e, ERROR_IO, errno, "cannot open %s", dir);
    int rv = fsync(fd) == 0 ? 0 : error_errno(e, ERROR_IO, errno, "cannot sync %s", dir);
    close(fd);
    return rv;
}

/* The directory's own entry in its parent must last as well. */
static int make_dir(const char *dir, struct error *e)
{
    if (mkdir(dir, 0700) != 0) {
        if (errno == EEXIST) return 0;
        return error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "cannot make the index directory %s", dir);
    }
    char parent[4096];
    size_t len = strlen(dir);
    if (len + 4 > sizeof parent) return error_set(e, ERROR_INVALID, "the index directory's name is too long");
    memcpy(parent, dir, len);
    memcpy(parent + len, "/..", 4);
    return sync_dir(parent, e);
}

static int get_number(MDB_txn *txn, MDB_dbi meta, const char *name, uint64_t *ret)
{
    MDB_val key = {strlen(name), (void *)name}, value;
    int rc = mdb_get(txn, meta, &key, &value);
    if (rc != 0) return rc;
    if (value.mv_size != 8) return MDB_CORRUPTED;
    *ret = get_u64(value.mv_data);
    return 0;
}

static int set_number(MDB_txn *txn, MDB_dbi meta, const char *name, uint64_t number)
{
    uint8_t bytes[8];
    put_u64(bytes, number);
    MDB_val key = {strlen(name), (void *)name}, value = {sizeof bytes, bytes};
    return mdb_put(txn, meta, &key, &value, 0);
}

static int open_tables(struct store *s, MDB_txn *txn)
{
    int rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
    for (int i = 0; rc == 0 && i < STREAMS_TABLES; i++) rc = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &s->tables[i]);
    return rc;
}

/* The transaction that makes a new index, or sees what an old one is. */
static int open_meta(struct store *s, struct error *e)
{
    MDB_txn *txn;
    uint64_t format = FORMAT;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc != 0) return fail(e, rc, "cannot begin with the index");
    rc = open_tables(s, txn);
    if (rc == 0) rc = get_number(txn, s->meta, "format", &format);
    if (rc == MDB_NOTFOUND) {
        rc = set_number(txn, s->meta, "format", FORMAT);
        if (rc == 0) rc = set_number(txn, s->meta, "applied", 0);
    } else if (rc == 0) {
        rc = get_number(txn, s->meta, "applied", &s->opened_at);
        if (rc == MDB_NOTFOUND) rc = MDB_CORRUPTED;
    }
    if (rc == 0 && format == FORMAT) {
        rc = mdb_txn_commit(txn);
        return rc == 0 ? 0 : fail(e, rc, "cannot write the index");
    }
    mdb_txn_abort(txn);
    if (rc != 0) return fail(e, rc, "cannot open the index");
    return error_set(e, ERROR_INVALID, "the index has format %" PRIu64 ", this program knows %d: use the version that made it",
                     format, FORMAT);
}

static int open_reader(struct store *s, struct error *e)
{
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &s->read);
    if (rc != 0) return fail(e, rc, "cannot read the index");
    rc = mdb_cursor_open(s->read, s->tables[STREAMS_TABLE_EVENT], &s->cursor);
    mdb_txn_reset(s->read);
    return rc == 0 ? 0 : fail(e, rc, "cannot read the index");
}

static int open_env(struct store *s, const char *dir, uint64_t map_bytes, struct error *e)
{
    int dead;
    if (map_bytes == 0) map_bytes = MAP_DEFAULT;
    if (map_bytes < MAP_MIN) map_bytes = MAP_MIN;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    map_bytes = (map_bytes + page - 1) / page * page;
    int rc = mdb_env_create(&s->env);
    if (rc != 0) return fail(e, rc, "cannot make room for the index");
    rc = mdb_env_set_maxdbs(s->env, STREAMS_TABLES + 1);
    if (rc == 0) rc = mdb_env_set_mapsize(s->env, map_bytes);
    if (rc == 0) rc = mdb_env_open(s->env, dir, MDB_NOTLS, 0600);
    if (rc == 0) rc = mdb_reader_check(s->env, &dead); /* readers that were killed would pin old pages for ever */
    return rc == 0 ? 0 : fail(e, rc, "cannot open the index");
}

int store_open(const char *dir, uint64_t map_bytes, struct store **ret_store, struct error *e)
{
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL) return error_set(e, ERROR_NOMEM, "no memory for the index");
    s->has_lock = uv_mutex_init(&s->growing) == 0;
    int rv = s->has_lock ? make_dir(dir, e) : error_set(e, ERROR_NOMEM, "no memory for the index' lock");
    if (rv == 0) rv = open_env(s, dir, map_bytes, e);
    if (rv == 0) rv = open_meta(s, e);
    if (rv == 0) rv = open_reader(s, e);
    if (rv == 0) rv = sync_dir(dir, e);
    if (rv != 0) {
        store_close(s);
        if (e != NULL) error_prefix(e, "%s", dir);
        return rv;
    }
    *ret_store = s;
    return 0;
}

struct store *store_close(struct store *s)
{
    if (s == NULL) return NULL;
    if (s->cursor != NULL) mdb_cursor_close(s->cursor);
    if (s->read != NULL) mdb_txn_abort(s->read);
    if (s->env != NULL) mdb_env_close(s->env);
    if (s->has_lock) uv_mutex_destroy(&s->growing);
    free(s);
    return NULL;
}

uint64_t store_opened_at(const struct store *s)
{
    return s->opened_at;
}

uint64_t store_bytes(const struct store *s)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(s->env, &info) != 0 || mdb_env_stat(s->env, &stat) != 0) return 0;
    return (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize;
}

/* ---- committing ----------------------------------------------------------------------------------------------- */

/* LMDB's code of the first thing that failed, after which the transaction is gone. */
static int try_commit(struct store *s, const struct batch *b)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc != 0) return rc;
    struct batch_write w;
    for (size_t at = 0; rc == 0 && batch_next(b, &at, &w);) {
        MDB_val key = {w.key_len, (void *)w.key}, value = {w.value_len, (void *)w.value};
        assert(w.table < STREAMS_TABLES);
        if (w.value_len > 0)
            rc = mdb_put(txn, s->tables[w.table], &key, &value, 0);
        else
            rc = mdb_del(txn, s->tables[w.table], &key, NULL);
        if (rc == MDB_NOTFOUND) rc = 0; /* to delete what is not there is fine */
    }
    if (rc == 0) rc = set_number(txn, s->meta, "applied", b->applied);
    if (rc == 0) return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return rc;
}

static int grow_map(struct store *s)
{
    MDB_envinfo info;
    int rc = mdb_env_info(s->env, &info);
    if (rc != 0) return rc;
    if (info.me_mapsize > SIZE_MAX / 2) return MDB_MAP_FULL;
    uv_mutex_lock(&s->growing);
    rc = mdb_env_set_mapsize(s->env, info.me_mapsize * 2);
    uv_mutex_unlock(&s->growing);
    return rc;
}

/* LMDB says EIO where a write came out short, which is how a disk fills up. */
static bool disk_full(const struct store *s)
{
    enum { NEARLY = 1 << 20 };
    struct statvfs fs;
    mdb_filehandle_t fd;
    return mdb_env_get_fd(s->env, &fd) == 0 && fstatvfs(fd, &fs) == 0 && fs.f_bavail * fs.f_frsize < NEARLY;
}

int store_commit(struct store *s, const struct batch *b, struct error *e)
{
    int rc;
    while ((rc = try_commit(s, b)) == MDB_MAP_FULL) {
        rc = grow_map(s);
        if (rc != 0) return fail(e, rc, "cannot grow the index' memory map");
    }
    if (rc == EIO && disk_full(s)) rc = ENOSPC;
    return rc == 0 ? 0 : fail(e, rc, "cannot commit to the index");
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

int store_each(struct store *s, enum streams_table table,
               int (*each)(void *user, const void *key, size_t key_len, const void *value, size_t value_len,
                           struct error *e),
               void *user, struct error *e)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    int rv = 0, rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0) return fail(e, rc, "cannot read the index");
    rc = mdb_cursor_open(txn, s->tables[table], &cursor);
    if (rc == 0) {
        for (MDB_cursor_op op = MDB_FIRST; rv == 0 && (rc = mdb_cursor_get(cursor, &key, &value, op)) == 0; op = MDB_NEXT)
            rv = each(user, key.mv_data, key.mv_size, value.mv_data, value.mv_size, e);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (rv != 0 || rc == MDB_NOTFOUND) return rv;
    return fail(e, rc, "cannot read the index");
}

/* Runs are keyed by their first offset: the one wanted is at the key or the one before it. */
static int seek(struct store *s, uint8_t wanted[static STREAMS_EVENT_KEY], MDB_val *ret_key, MDB_val *ret_value)
{
    *ret_key = (MDB_val){STREAMS_EVENT_KEY, wanted};
    int rc = mdb_cursor_renew(s->read, s->cursor);
    if (rc != 0) return rc;
    rc = mdb_cursor_get(s->cursor, ret_key, ret_value, MDB_SET_RANGE);
    if (rc == 0 && ret_key->mv_size == STREAMS_EVENT_KEY && memcmp(ret_key->mv_data, wanted, STREAMS_EVENT_KEY) == 0)
        return 0;
    if (rc == 0) return mdb_cursor_get(s->cursor, ret_key, ret_value, MDB_PREV);
    if (rc == MDB_NOTFOUND) return mdb_cursor_get(s->cursor, ret_key, ret_value, MDB_LAST);
    return rc;
}

int store_find(struct store *s, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e)
{
    uint8_t wanted[STREAMS_EVENT_KEY];
    struct streams_run run = {0};
    uint64_t id = 0;
    int decoded = 0;
    streams_event_key(stream_id, offset, wanted);

    uv_mutex_lock(&s->growing);
    MDB_val key, value;
    int rc = mdb_txn_renew(s->read);
    if (rc == 0) {
        rc = seek(s, wanted, &key, &value);
        if (rc == 0) decoded = streams_event_decode(key.mv_data, key.mv_size, value.mv_data, value.mv_size, &id, &run);
        mdb_txn_reset(s->read);
    }
    uv_mutex_unlock(&s->growing);

    if (rc != 0 && rc != MDB_NOTFOUND) return fail(e, rc, "cannot read the index");
    if (decoded != 0) return error_set(e, ERROR_CORRUPT, "the index holds a damaged place near offset %" PRIu64, offset);
    if (rc == MDB_NOTFOUND || id != stream_id || offset - run.first_offset >= run.count)
        return error_set(e, ERROR_NOT_FOUND, "the index holds no offset %" PRIu64 " of this stream", offset);
    *ret_run = run;
    return 0;
}
