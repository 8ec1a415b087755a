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

#include "common/crc32c.h"
#include "common/file.h"
#include "common/mutant.h"

enum { FORMAT = 3, FORMAT_WITHOUT_SEAL = 2, FORMAT_WITHOUT_LIVE = 1, SEAL = 12, TRIM_ROWS = 20000 /* of one transaction, so that none is long */ };
#define MAP_DEFAULT (UINT64_C(1) << 30)
#define MAP_MIN (UINT64_C(1) << 16)

struct store {
    MDB_env *env;
    MDB_dbi tables[STREAMS_TABLES], meta;
    MDB_dbi live; /* segment: bytes of it that runs are in */
    MDB_dbi trim; /* stream: where it begins, while older runs are still to be deleted */
    MDB_txn *read;      /* of store_find(): reset while it is not in use, so that it pins no old page */
    MDB_cursor *cursor; /* of store_find(), on the events */
    uv_mutex_t growing; /* held by store_find() and while the map grows */
    uv_mutex_t copying; /* held by store_copy() and while the map grows */
    bool has_lock, has_copying;
    uint64_t opened_at;
    struct buf opened_note;
    uint64_t sum;       /* of the last transaction: see below */
    uint64_t applied;
    uint32_t note_crc;
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
    return file_sync_dir(parent, e);
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

static int set_note(MDB_txn *txn, MDB_dbi meta, const struct buf *note)
{
    MDB_val key = {4, (void *)"note"}, value = {note->len, note->data};
    return mdb_put(txn, meta, &key, &value, 0);
}

static int get_note(MDB_txn *txn, MDB_dbi meta, struct buf *ret)
{
    MDB_val key = {4, (void *)"note"}, value;
    int rc = mdb_get(txn, meta, &key, &value);
    if (rc == MDB_NOTFOUND) return 0;
    return rc != 0 ? rc : buf_add(ret, value.mv_data, value.mv_size) == 0 ? 0 : ENOMEM;
}

/* ---- the seal ------------------------------------------------------------------------------------------------- */

/* LMDB has no checksums. A record's own (records.h) tells that its bytes are right; what a damaged page can do besides is to hide rows, or to lead to an
 * older page, whose rows are right as well, but of another time: a replica that went on with those would go another way than the others. So each
 * transaction keeps, beside the applied index, the sum of a number made of each row, of all tables but the events', and a checksum of all that:
 * a start goes over the rows (store_open()) and sees whether they are those of the applied index. Events' rows are not in it, as there are too many of
 * them: a missing one is told when it is looked for, and a place that is wrong when it is read. */
static uint64_t mix(uint64_t x, const MDB_val *bytes)
{
    const uint8_t *p = bytes->mv_data;
    uint64_t word = bytes->mv_size;
    for (size_t left = bytes->mv_size;; p += 8, left -= 8) {
        x = (x ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        x ^= x >> 29;
        if (left < 8) {
            word = 0;
            for (size_t i = 0; i < left; i++) word |= (uint64_t)p[i] << 8 * i;
            x = (x ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
            return x ^ x >> 32;
        }
        word = get_u64(p);
    }
}

/* No CRC: a record ends with its own, so that every record would have the same. */
static uint64_t row_number(const struct store *s, MDB_dbi table, const MDB_val *key, const MDB_val *value)
{
    return mix(mix(table - s->meta /* as they are opened, in open_tables() */, key), value);
}

static int forget_row(const struct store *s, MDB_txn *txn, MDB_dbi table, MDB_val *key, uint64_t *sum)
{
    MDB_val before;
    int rc = mdb_get(txn, table, key, &before);
    if (rc == 0) *sum -= row_number(s, table, key, &before);
    return rc;
}

static int put_row(const struct store *s, MDB_txn *txn, MDB_dbi table, MDB_val *key, MDB_val *value, uint64_t *sum)
{
    int rc = forget_row(s, txn, table, key, sum);
    if (rc != 0 && rc != MDB_NOTFOUND) return rc;
    *sum += row_number(s, table, key, value);
    return mdb_put(txn, table, key, value, 0);
}

/* To delete what is not there is fine. */
static int delete_row(const struct store *s, MDB_txn *txn, MDB_dbi table, MDB_val *key, uint64_t *sum)
{
    int rc = forget_row(s, txn, table, key, sum);
    if (rc == 0) rc = mdb_del(txn, table, key, NULL);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int sum_table(const struct store *s, MDB_txn *txn, MDB_dbi table, uint64_t *sum)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, table, &cursor);
    if (rc != 0) return rc;
    for (MDB_cursor_op op = MDB_FIRST; (rc = mdb_cursor_get(cursor, &key, &value, op)) == 0; op = MDB_NEXT) *sum += row_number(s, table, &key, &value);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int sum_all(const struct store *s, MDB_txn *txn, uint64_t *sum)
{
    int rc = sum_table(s, txn, s->live, sum);
    if (rc == 0) rc = sum_table(s, txn, s->trim, sum);
    for (int i = 0; rc == 0 && i < STREAMS_TABLES; i++)
        if (i != STREAMS_TABLE_EVENT) rc = sum_table(s, txn, s->tables[i], sum);
    return rc;
}

static void make_seal(uint64_t applied, uint32_t note_crc, uint64_t sum, uint8_t seal[static SEAL])
{
    uint8_t all[20];
    put_u64(all, sum);
    put_u64(all + 8, applied);
    put_u32(all + 16, note_crc);
    memcpy(seal, all, 8);
    put_u32(seal + 8, crc32c(0, all, sizeof all));
}

static int put_seal(MDB_txn *txn, MDB_dbi meta, uint64_t applied, uint32_t note_crc, uint64_t sum)
{
    uint8_t seal[SEAL];
    make_seal(applied, note_crc, sum, seal);
    MDB_val key = {4, (void *)"seal"}, value = {sizeof seal, seal};
    return mdb_put(txn, meta, &key, &value, 0);
}

/* Is this what was committed, all of one time? */
static int check_seal(const struct store *s, MDB_txn *txn)
{
    uint8_t seal[SEAL];
    MDB_val key = {4, (void *)"seal"}, value;
    int rc = mdb_get(txn, s->meta, &key, &value);
    if (rc != 0) return rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc;
    make_seal(s->applied, s->note_crc, s->sum, seal);
    return value.mv_size == SEAL && memcmp(value.mv_data, seal, SEAL) == 0 ? 0 : MDB_CORRUPTED;
}

static int open_tables(struct store *s, MDB_txn *txn)
{
    int rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
    if (rc == 0) rc = mdb_dbi_open(txn, "live", MDB_CREATE, &s->live);
    if (rc == 0) rc = mdb_dbi_open(txn, "trim", MDB_CREATE, &s->trim);
    for (int i = 0; rc == 0 && i < STREAMS_TABLES; i++) rc = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &s->tables[i]);
    return rc;
}

/* ---- live bytes of segments ----------------------------------------------------------------------------------- */

/* What a transaction changes, by segment. Runs come in order of their places, mostly: the last one is the likeliest. */
struct changes {
    struct change {
        uint64_t segment;
        int64_t bytes;
    } *all;
    size_t n, cap;
};

static int change(struct changes *c, uint64_t segment, int64_t bytes)
{
    for (size_t i = c->n; i-- > 0;) {
        if (c->all[i].segment != segment) continue;
        c->all[i].bytes += bytes;
        return 0;
    }
    if (c->n == c->cap) {
        size_t cap = c->cap == 0 ? 16 : 2 * c->cap;
        struct change *grown = realloc(c->all, cap * sizeof *grown);
        if (grown == NULL) return ENOMEM;
        c->all = grown;
        c->cap = cap;
    }
    c->all[c->n++] = (struct change){segment, bytes};
    return 0;
}

/* Of a row of the table of events. */
static int change_run(struct changes *c, const MDB_val *key, const MDB_val *value, int sign)
{
    struct streams_run run;
    uint64_t stream;
    if (streams_event_decode(key->mv_data, key->mv_size, value->mv_data, value->mv_size, &stream, &run) != 0) return MDB_CORRUPTED;
    return change(c, run.where.segment, sign * (int64_t)run.frame_len);
}

static void key_number(uint64_t number, uint8_t key[static 8]) /* big-endian: in order */
{
    for (int i = 0; i < 8; i++) key[i] = (uint8_t)(number >> (56 - 8 * i));
}

static uint64_t number_of_key(const uint8_t *key)
{
    uint64_t number = 0;
    for (int i = 0; i < 8; i++) number = number << 8 | key[i];
    return number;
}

static int write_changes(const struct store *s, MDB_txn *txn, const struct changes *c, uint64_t *sum)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < c->n; i++) {
        uint8_t name[8], bytes[8];
        key_number(c->all[i].segment, name);
        MDB_val key = {sizeof name, name}, value;
        rc = mdb_get(txn, s->live, &key, &value);
        int64_t before = rc == 0 && value.mv_size == 8 ? (int64_t)get_u64(value.mv_data) : 0;
        if (rc != 0 && rc != MDB_NOTFOUND) return rc;
        if (before + c->all[i].bytes < 0) return MDB_CORRUPTED;
        put_u64(bytes, (uint64_t)(before + c->all[i].bytes));
        value = (MDB_val){sizeof bytes, bytes};
        rc = get_u64(bytes) != 0 ? put_row(s, txn, s->live, &key, &value, sum) : delete_row(s, txn, s->live, &key, sum);
    }
    return rc;
}

/* For an index of a version that did not keep these numbers. */
static int count_live(const struct store *s, MDB_txn *txn)
{
    struct changes c = {0};
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, s->tables[STREAMS_TABLE_EVENT], &cursor);
    if (rc != 0) return rc;
    for (MDB_cursor_op op = MDB_FIRST; rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, op)) == 0; op = MDB_NEXT)
        rc = change_run(&c, &key, &value, 1);
    mdb_cursor_close(cursor);
    uint64_t unused = 0; /* the whole is summed up afterwards */
    if (rc == MDB_NOTFOUND) rc = write_changes(s, txn, &c, &unused);
    free(c.all);
    return rc;
}

static bool is_empty(const struct store *s, MDB_txn *txn)
{
    MDB_stat stat;
    bool empty = mdb_stat(txn, s->meta, &stat) == 0 && stat.ms_entries == 0;
    for (int i = 0; i < STREAMS_TABLES; i++) empty = empty && mdb_stat(txn, s->tables[i], &stat) == 0 && stat.ms_entries == 0;
    return empty;
}

/* What the commits go on from. `seals`: there is no seal yet. */
static int sum_opened(struct store *s, MDB_txn *txn, bool seals)
{
    uint64_t sum = 0;
    int rc = sum_all(s, txn, &sum);
    if (rc != 0) return rc;
    s->sum = sum;
    s->applied = s->opened_at;
    s->note_crc = crc32c(0, s->opened_note.data, s->opened_note.len);
    return seals ? put_seal(txn, s->meta, s->applied, s->note_crc, s->sum) : check_seal(s, txn);
}

/* The transaction that makes a new index, or sees what an old one is. */
static int open_meta(struct store *s, struct error *e)
{
    MDB_txn *txn;
    uint64_t format = FORMAT;
    bool seals = false;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc != 0) return fail(e, rc, "cannot begin with the index");
    rc = open_tables(s, txn);
    if (rc == 0) rc = get_number(txn, s->meta, "format", &format);
    if (rc == MDB_NOTFOUND && !is_empty(s, txn)) {
        rc = MDB_CORRUPTED; /* where the rest is there, the format was too */
    } else if (rc == MDB_NOTFOUND) {
        rc = set_number(txn, s->meta, "format", FORMAT);
        if (rc == 0) rc = set_number(txn, s->meta, "applied", 0);
        seals = true;
    } else if (rc == 0) {
        rc = get_number(txn, s->meta, "applied", &s->opened_at);
        if (rc == MDB_NOTFOUND) rc = MDB_CORRUPTED;
        if (rc == 0) rc = get_note(txn, s->meta, &s->opened_note);
        if (rc == 0 && format == FORMAT_WITHOUT_LIVE) {
            rc = count_live(s, txn);
            format = FORMAT_WITHOUT_SEAL;
        }
        if (rc == 0 && format == FORMAT_WITHOUT_SEAL) {
            rc = set_number(txn, s->meta, "format", format = FORMAT);
            seals = true;
        }
    }
    if (rc == 0 && format == FORMAT) rc = sum_opened(s, txn, seals);
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

static int open_env(struct store *s, const char *path, unsigned flags, uint64_t map_bytes, struct error *e)
{
    int dead;
    if (map_bytes == 0) map_bytes = MAP_DEFAULT;
    if (map_bytes < MAP_MIN) map_bytes = MAP_MIN;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    map_bytes = (map_bytes + page - 1) / page * page;
    int rc = mdb_env_create(&s->env);
    if (rc != 0) return fail(e, rc, "cannot make room for the index");
    rc = mdb_env_set_maxdbs(s->env, STREAMS_TABLES + 3);
    if (rc == 0) rc = mdb_env_set_mapsize(s->env, map_bytes);
    if (rc == 0) rc = mdb_env_open(s->env, path, MDB_NOTLS | flags, 0600);
    if (rc == 0) rc = mdb_reader_check(s->env, &dead); /* readers that were killed would pin old pages for ever */
    return rc == 0 ? 0 : fail(e, rc, "cannot open the index");
}

/* LMDB writes the first pages of a new file before it knows that they arrived: one whose writer died there is no file of LMDB's, and looks like a damaged
 * index. So a new one is made beside, and takes its name when it is whole and durable; what an earlier life left there is made again. */
static int make_file(const char *dir, uint64_t map_bytes, struct error *e)
{
    struct store s = {0};
    struct stat there;
    char path[4096], made[4096];
    if ((size_t)snprintf(made, sizeof made, "%s/data.mdb.new", dir) >= sizeof made) return error_set(e, ERROR_INVALID, "the index directory's name is too long");
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    if (stat(path, &there) == 0 || MUTANT(torn_index)) return 0;
    if (errno != ENOENT) return error_errno(e, ERROR_IO, errno, "cannot look at %s", path);
    if (unlink(made) != 0 && errno != ENOENT) return error_errno(e, ERROR_IO, errno, "cannot remove %s", made);
    int rv = open_env(&s, made, MDB_NOSUBDIR | MDB_NOLOCK, map_bytes, e);
    if (rv == 0) rv = open_meta(&s, e);
    if (s.env != NULL) mdb_env_close(s.env);
    buf_fini(&s.opened_note);
    if (rv == 0 && rename(made, path) != 0) rv = error_errno(e, ERROR_IO, errno, "cannot rename %s", made);
    return rv == 0 ? file_sync_dir(dir, e) : rv;
}

int store_open(const char *dir, uint64_t map_bytes, struct store **ret_store, struct error *e)
{
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL) return error_set(e, ERROR_NOMEM, "no memory for the index");
    s->has_lock = uv_mutex_init(&s->growing) == 0;
    s->has_copying = uv_mutex_init(&s->copying) == 0;
    int rv = s->has_lock && s->has_copying ? make_dir(dir, e) : error_set(e, ERROR_NOMEM, "no memory for the index' lock");
    if (rv == 0) rv = make_file(dir, map_bytes, e);
    if (rv == 0) rv = open_env(s, dir, 0, map_bytes, e);
    if (rv == 0) rv = open_meta(s, e);
    if (rv == 0) rv = open_reader(s, e);
    if (rv == 0) rv = file_sync_dir(dir, e);
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
    if (s->has_copying) uv_mutex_destroy(&s->copying);
    buf_fini(&s->opened_note);
    free(s);
    return NULL;
}

uint64_t store_opened_at(const struct store *s)
{
    return s->opened_at;
}

const struct buf *store_opened_note(const struct store *s)
{
    return &s->opened_note;
}

uint64_t store_bytes(const struct store *s)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(s->env, &info) != 0 || mdb_env_stat(s->env, &stat) != 0) return 0;
    return (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize;
}

/* ---- committing ----------------------------------------------------------------------------------------------- */

/* Deletes the stream's runs that end before `begin`, at most *budget of them. *ret_done: none is left. */
static int trim_stream(const struct store *s, MDB_txn *txn, uint64_t stream, uint64_t begin, unsigned *budget, struct changes *c,
                       bool *ret_done)
{
    uint8_t from[STREAMS_EVENT_KEY];
    MDB_cursor *cursor;
    MDB_val key = {sizeof from, from}, value;
    struct streams_run run;
    uint64_t id;
    streams_event_key(stream, 0, from);
    *ret_done = false;
    int rc = mdb_cursor_open(txn, s->tables[STREAMS_TABLE_EVENT], &cursor);
    if (rc != 0) return rc;
    for (MDB_cursor_op op = MDB_SET_RANGE; rc == 0 && *budget > 0; op = MDB_NEXT, --*budget) { /* LMDB: after a delete, the next is not skipped */
        rc = mdb_cursor_get(cursor, &key, &value, op);
        if (rc == 0 && streams_event_decode(key.mv_data, key.mv_size, value.mv_data, value.mv_size, &id, &run) != 0) rc = MDB_CORRUPTED;
        *ret_done = rc == MDB_NOTFOUND || (rc == 0 && (id != stream || run.first_offset + run.count > begin));
        if (rc != 0 || *ret_done) break;
        rc = change(c, run.where.segment, -(int64_t)run.frame_len);
        if (rc == 0) rc = mdb_cursor_del(cursor, 0);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Goes on with what is to be trimmed. Rows on the way out are no harm: readers ask the stream where it begins. */
static int trim_some(const struct store *s, MDB_txn *txn, struct changes *c, uint64_t *sum)
{
    unsigned budget = TRIM_ROWS;
    int rc = 0;
    while (rc == 0 && budget > 0) {
        MDB_cursor *cursor;
        MDB_val key, value;
        bool done = false;
        rc = mdb_cursor_open(txn, s->trim, &cursor);
        if (rc != 0) return rc;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        if (rc == 0 && (key.mv_size != 8 || value.mv_size != 8)) rc = MDB_CORRUPTED;
        if (rc == 0) rc = trim_stream(s, txn, number_of_key(key.mv_data), get_u64(value.mv_data), &budget, c, &done);
        if (rc == 0 && done) {
            rc = mdb_cursor_get(cursor, &key, &value, MDB_GET_CURRENT); /* what it told before may have moved */
            if (rc == 0) *sum -= row_number(s, s->trim, &key, &value);
            if (rc == 0) rc = mdb_cursor_del(cursor, 0);
        }
        mdb_cursor_close(cursor);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int begin_trim(const struct store *s, MDB_txn *txn, const struct batch_write *w, uint64_t *sum)
{
    uint8_t name[8], offset[8];
    uint64_t stream = number_of_key(w->key), begin = number_of_key((const uint8_t *)w->key + 8);
    key_number(stream, name);
    put_u64(offset, begin);
    MDB_val key = {sizeof name, name}, value = {sizeof offset, offset};
    return put_row(s, txn, s->trim, &key, &value, sum);
}

static int write_one(const struct store *s, MDB_txn *txn, const struct batch_write *w, struct changes *c, uint64_t *sum)
{
    MDB_val key = {w->key_len, (void *)w->key}, value = {w->value_len, (void *)w->value};
    assert(w->table < STREAMS_TABLES);
    if (w->table == STREAMS_TABLE_EVENT && w->value_len == 0) return begin_trim(s, txn, w, sum);
    if (w->value_len == 0) return delete_row(s, txn, s->tables[w->table], &key, sum);
    if (w->table != STREAMS_TABLE_EVENT) return put_row(s, txn, s->tables[w->table], &key, &value, sum);
    int rc = mdb_put(txn, s->tables[w->table], &key, &value, 0);
    return rc == 0 ? change_run(c, &key, &value, 1) : rc;
}

/* A run that was trimmed meanwhile, or is not where it was, stays as it is. */
static int move_run(const struct store *s, MDB_txn *txn, const struct batch_move *m, struct changes *c)
{
    uint8_t name[STREAMS_EVENT_KEY], bytes[STREAMS_EVENT_VALUE];
    struct streams_run run;
    uint64_t id;
    streams_event_key(m->stream_id, m->first_offset, name);
    MDB_val key = {sizeof name, name}, value;
    int rc = mdb_get(txn, s->tables[STREAMS_TABLE_EVENT], &key, &value);
    if (rc != 0) return rc == MDB_NOTFOUND ? 0 : rc;
    if (streams_event_decode(name, sizeof name, value.mv_data, value.mv_size, &id, &run) != 0) return MDB_CORRUPTED;
    if (run.where.segment != m->from.segment || run.where.position != m->from.position) return 0;
    run.where = m->to;
    streams_event_encode(name, &run, bytes);
    value = (MDB_val){sizeof bytes, bytes};
    rc = change(c, m->from.segment, -(int64_t)run.frame_len);
    if (rc == 0) rc = change(c, m->to.segment, (int64_t)run.frame_len);
    return rc == 0 ? mdb_put(txn, s->tables[STREAMS_TABLE_EVENT], &key, &value, 0) : rc;
}

static int move_runs(const struct store *s, MDB_txn *txn, const struct batch *b, struct changes *c)
{
    struct batch_move m;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < b->moves.len; at += sizeof m) {
        memcpy(&m, b->moves.data + at, sizeof m);
        rc = move_run(s, txn, &m, c);
    }
    return rc;
}

/* LMDB's code of the first thing that failed, after which the transaction is gone. */
static int try_commit(struct store *s, const struct batch *b)
{
    struct changes c = {0};
    uint64_t sum = s->sum;
    MDB_txn *txn;
    uint64_t applied = b->applied != 0 ? b->applied + MUTANT(index_too_far) - MUTANT(index_too_short) : s->applied;
    uint32_t note_crc = b->note.len != 0 ? crc32c(0, b->note.data, b->note.len) : s->note_crc;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc != 0) return rc;
    struct batch_write w;
    for (size_t at = 0; rc == 0 && batch_next(b, &at, &w);) rc = write_one(s, txn, &w, &c, &sum);
    if (rc == 0) rc = move_runs(s, txn, b, &c);
    if (rc == 0) rc = trim_some(s, txn, &c, &sum);
    if (rc == 0) rc = write_changes(s, txn, &c, &sum);
    if (rc == 0 && b->applied != 0) rc = set_number(txn, s->meta, "applied", applied);
    if (rc == 0 && b->note.len != 0) rc = set_note(txn, s->meta, &b->note);
    if (rc == 0) rc = put_seal(txn, s->meta, applied, note_crc, sum);
    free(c.all);
    if (rc != 0) mdb_txn_abort(txn);
    else rc = mdb_txn_commit(txn);
    if (rc != 0) return rc;
    s->sum = sum;
    s->applied = applied;
    s->note_crc = note_crc;
    return 0;
}

static int grow_map(struct store *s)
{
    MDB_envinfo info;
    int rc = mdb_env_info(s->env, &info);
    if (rc != 0) return rc;
    if (info.me_mapsize > SIZE_MAX / 2) return MDB_MAP_FULL;
    uv_mutex_lock(&s->copying);
    uv_mutex_lock(&s->growing);
    rc = mdb_env_set_mapsize(s->env, info.me_mapsize * 2);
    uv_mutex_unlock(&s->growing);
    uv_mutex_unlock(&s->copying);
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

static int each_row(struct store *s, MDB_dbi table, store_each_cb *each, void *user, struct error *e)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    int rv = 0, rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0) return fail(e, rc, "cannot read the index");
    rc = mdb_cursor_open(txn, table, &cursor);
    if (rc == 0) {
        for (MDB_cursor_op op = MDB_FIRST; rv == 0 && (rc = mdb_cursor_get(cursor, &key, &value, op)) == 0; op = MDB_NEXT)
            rv = each(user, key.mv_data, key.mv_size, value.mv_data, value.mv_size, e);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (rv != 0 || rc == MDB_NOTFOUND) return rv;
    return fail(e, rc, "cannot read the index");
}

int store_each(struct store *s, enum streams_table table, store_each_cb *each, void *user, struct error *e)
{
    return each_row(s, s->tables[table], each, user, e);
}

struct each_live {
    int (*each)(void *user, uint64_t segment, uint64_t bytes, struct error *e);
    void *user;
};

static int on_live(void *user, const void *key, size_t key_len, const void *value, size_t value_len, struct error *e)
{
    const struct each_live *x = user;
    if (key_len != 8 || value_len != 8) return fail(e, MDB_CORRUPTED, "cannot read the index");
    return x->each(x->user, number_of_key(key), get_u64(value), e);
}

int store_each_live(struct store *s, int (*each)(void *user, uint64_t segment, uint64_t bytes, struct error *e), void *user, struct error *e)
{
    struct each_live x = {each, user};
    return each_row(s, s->live, on_live, &x, e);
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

int store_live(struct store *s, uint64_t segment, uint64_t *ret_bytes, struct error *e)
{
    uint8_t name[8];
    key_number(segment, name);
    MDB_val key = {sizeof name, name}, value;
    uv_mutex_lock(&s->growing);
    int rc = mdb_txn_renew(s->read);
    if (rc == 0) {
        rc = mdb_get(s->read, s->live, &key, &value);
        *ret_bytes = rc == 0 && value.mv_size == 8 ? get_u64(value.mv_data) : 0;
        mdb_txn_reset(s->read);
    }
    uv_mutex_unlock(&s->growing);
    return rc == 0 || rc == MDB_NOTFOUND ? 0 : fail(e, rc, "cannot read the index");
}

bool store_trims(struct store *s)
{
    MDB_txn *txn;
    MDB_stat stat = {0};
    if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0) return false;
    bool some = mdb_stat(txn, s->trim, &stat) == 0 && stat.ms_entries > 0;
    mdb_txn_abort(txn);
    return some;
}

int store_copy(struct store *s, const char *dir, struct error *e)
{
    uv_mutex_lock(&s->copying);
    int rc = mdb_env_copy(s->env, dir);
    uv_mutex_unlock(&s->copying);
    return rc == 0 ? 0 : fail(e, rc, "cannot copy the index");
}

static int scan(const struct store *s, MDB_txn *txn, uint64_t *stream, uint64_t *offset, unsigned most, store_run_cb *each, void *user, bool *ret_end,
                struct error *e)
{
    uint8_t from[STREAMS_EVENT_KEY];
    MDB_cursor *cursor;
    MDB_val key = {sizeof from, from}, value;
    int rv = 0, rc = mdb_cursor_open(txn, s->tables[STREAMS_TABLE_EVENT], &cursor);
    if (rc != 0) return fail(e, rc, "cannot read the index");
    streams_event_key(*stream, *offset, from);
    *ret_end = false;
    for (MDB_cursor_op op = MDB_SET_RANGE; rv == 0 && most > 0; op = MDB_NEXT, most--) {
        struct streams_run run;
        rc = mdb_cursor_get(cursor, &key, &value, op);
        *ret_end = rc == MDB_NOTFOUND;
        if (rc != 0) break;
        if (streams_event_decode(key.mv_data, key.mv_size, value.mv_data, value.mv_size, stream, &run) != 0) {
            rv = error_set(e, ERROR_CORRUPT, "the index holds a damaged place behind offset %" PRIu64 " of stream %" PRIu64, *offset, *stream);
            break;
        }
        rv = each(user, *stream, &run, e);
        *offset = run.first_offset + 1;
    }
    mdb_cursor_close(cursor);
    return rv != 0 || rc == 0 || rc == MDB_NOTFOUND ? rv : fail(e, rc, "cannot read the index");
}

int store_scan(struct store *s, uint64_t *stream, uint64_t *offset, unsigned most, store_run_cb *each, void *user, bool *ret_end, struct error *e)
{
    MDB_txn *txn;
    uv_mutex_lock(&s->growing); /* the map must not become larger below it */
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    int rv = rc == 0 ? scan(s, txn, stream, offset, most, each, user, ret_end, e) : fail(e, rc, "cannot read the index");
    if (rc == 0) mdb_txn_abort(txn);
    uv_mutex_unlock(&s->growing);
    return rv;
}

/* Runs one behind the other, from where the cursor stands. */
static int collect(struct store *s, uint64_t stream_id, MDB_val key, MDB_val value, struct streams_run *runs, unsigned most, unsigned *n)
{
    struct streams_run run;
    uint64_t id;
    int rc = 0;
    for (*n = 0; rc == 0 && *n < most; rc = mdb_cursor_get(s->cursor, &key, &value, MDB_NEXT)) {
        if (streams_event_decode(key.mv_data, key.mv_size, value.mv_data, value.mv_size, &id, &run) != 0) return *n == 0 ? MDB_CORRUPTED : 0;
        if (id != stream_id || (*n > 0 && run.first_offset != runs[*n - 1].first_offset + runs[*n - 1].count)) return 0;
        runs[(*n)++] = run;
    }
    return *n > 0 ? 0 : rc; /* what is wrong behind them is said when somebody asks for that */
}

int store_find(struct store *s, uint64_t stream_id, uint64_t offset, struct streams_run *ret_runs, unsigned most, unsigned *ret_n,
               struct error *e)
{
    uint8_t wanted[STREAMS_EVENT_KEY];
    unsigned n = 0;
    streams_event_key(stream_id, offset, wanted);

    uv_mutex_lock(&s->growing);
    MDB_val key, value;
    int rc = mdb_txn_renew(s->read);
    if (rc == 0) {
        rc = seek(s, wanted, &key, &value);
        if (rc == 0) rc = collect(s, stream_id, key, value, ret_runs, most, &n);
        mdb_txn_reset(s->read);
    }
    uv_mutex_unlock(&s->growing);

    if (rc == MDB_CORRUPTED) return error_set(e, ERROR_CORRUPT, "the index holds a damaged place near offset %" PRIu64, offset);
    if (rc != 0 && rc != MDB_NOTFOUND) return fail(e, rc, "cannot read the index");
    if (n == 0 || offset - ret_runs[0].first_offset >= ret_runs[0].count)
        return error_set(e, ERROR_NOT_FOUND, "the index holds no offset %" PRIu64 " of this stream", offset);
    *ret_n = n;
    return 0;
}
