/* The index: what was durable is there after any end of the process, effects and applied index together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "logd/index/index.h"
#include "logd/streams/testing.h"

static const char name[] = "c/n/k/a";

struct fixture {
    char dir[64];
    uv_loop_t loop;
    struct index *index;
    struct streams *streams;
    struct streams_update update;
    uint64_t durable; /* as on_durable() told */
    unsigned durables, failures, closed;
    struct error why;
};

static void on_durable(void *user, uint64_t applied_index)
{
    struct fixture *f = user;
    assert_true(applied_index > f->durable);
    f->durable = applied_index;
    f->durables++;
    if (f->streams != NULL) streams_index_durable(f->streams, applied_index);
}

static void on_failed(void *user, const struct error *e)
{
    struct fixture *f = user;
    f->failures++;
    f->why = *e;
}

static void on_closed(void *user)
{
    struct fixture *f = user;
    f->closed++;
    f->index = NULL;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/crsc-index-XXXXXX");
    if (mkdtemp(f->dir) == NULL) return -1;
    uv_loop_init(&f->loop);
    *state = f;
    return 0;
}

static void path_of(const struct fixture *f, const char *file, char *ret, size_t size)
{
    snprintf(ret, size, "%s/index%s", f->dir, file);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char path[128];
    const char *files[] = {"/data.mdb", "/lock.mdb"};
    streams_free(f->streams);
    streams_update_fini(&f->update);
    int left = uv_loop_close(&f->loop);
    for (int i = 0; i < 2; i++) {
        path_of(f, files[i], path, sizeof path);
        unlink(path);
    }
    path_of(f, "", path, sizeof path);
    rmdir(path);
    int gone = rmdir(f->dir);
    free(f);
    return left != 0 || gone != 0 ? -1 : 0;
}

static int try_open(struct fixture *f, uint64_t map_bytes, uint32_t commit_ms, struct error *e)
{
    char path[128];
    path_of(f, "", path, sizeof path);
    struct index_options options = {.dir = path, .map_bytes = map_bytes, .commit_ms = commit_ms, .user = f,
                                    .on_durable = on_durable, .on_failed = on_failed};
    return index_open(&f->loop, &options, &f->index, e);
}

/* Opens it and loads a new state from it. */
static void open_index(struct fixture *f, uint64_t map_bytes, uint32_t commit_ms)
{
    struct error e = {0};
    if (try_open(f, map_bytes, commit_ms, &e) != 0) fail_msg("%s", e.text);
    f->durable = index_applied(f->index);
    streams_free(f->streams);
    f->streams = streams_new();
    if (index_load(f->index, f->streams, &e) != 0) fail_msg("%s", e.text);
    assert_int_equal(streams_applied(f->streams), f->durable);
}

static void close_index(struct fixture *f)
{
    index_close(f->index, on_closed, f);
    f->closed = 0;
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->closed, 1);
}

/* Applies the frames as the next entry and gives what came of it to the index. */
static void apply(struct fixture *f, struct buf *frames)
{
    struct buf entry = BUF_INIT;
    struct error e = {0};
    uint64_t index = streams_applied(f->streams) + 1;
    testing_entry(&entry, index, frames);
    if (streams_apply(f->streams, index, entry.data, entry.len, (struct wal_location){index, 100}, &f->update, &e) != 0 ||
        index_put(f->index, index, &f->update, &e) != 0)
        fail_msg("%s", e.text);
    for (unsigned i = 0; i < f->update.n_outcomes; i++) assert_int_equal(f->update.outcomes[i].code, 0);
    buf_fini(&entry);
    buf_fini(frames);
}

static void open_producer(struct fixture *f)
{
    struct buf frames = BUF_INIT;
    testing_open(&frames, name, "p", false);
    apply(f, &frames);
}

static void append(struct fixture *f, uint64_t epoch, uint64_t sequence, uint32_t n)
{
    struct buf frames = BUF_INIT;
    testing_append(&frames, &(struct testing_append){.stream = name, .epoch = epoch, .sequence = sequence, .n = n});
    apply(f, &frames);
}

static void wait_durable(struct fixture *f, uint64_t applied)
{
    while (f->durable < applied && f->failures == 0) uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->failures, 0);
}

static uint64_t last_offset(const struct fixture *f)
{
    struct streams_info info = {0};
    streams_info(f->streams, streams_id(f->streams, name, strlen(name)), &info);
    return info.last_offset;
}

static int find(struct fixture *f, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run)
{
    unsigned n = 0;
    int rv = index_find(f->index, stream_id, offset, ret_run, 1, &n, NULL);
    assert_int_equal(n, rv == 0 ? 1 : 0);
    return rv;
}

/* Several at once: as far as one follows the other, of one stream. */
static void check_find_many(struct fixture *f, uint64_t offset, unsigned most, unsigned expected)
{
    struct streams_run runs[16];
    unsigned n = 0;
    assert_int_equal(index_find(f->index, 1, offset, runs, most, &n, NULL), 0);
    assert_int_equal(n, expected);
    for (unsigned i = 0; i < n; i++) assert_int_equal(runs[i].first_offset, (offset - 1) / 3 * 3 + 1 + i * 3);
}

static void test_put_find_reopen(void **state)
{
    struct fixture *f = *state;
    struct streams_run run;
    open_index(f, 0, 5);
    assert_int_equal(index_applied(f->index), 0);
    open_producer(f);
    for (uint64_t i = 0; i < 10; i++) append(f, 1, 1 + i * 3, 3);
    assert_int_equal(find(f, 1, 1, &run), -ERROR_NOT_FOUND); /* queued only */
    assert_true(index_queued_bytes(f->index) > 0);
    wait_durable(f, 11); /* by its timer */
    assert_int_equal(index_queued_bytes(f->index), 0);
    assert_int_equal(index_applied(f->index), 11);
    assert_true(index_bytes(f->index) > 0);
    for (int round = 0; round < 2; round++) {
        for (uint64_t offset = 1; offset <= 30; offset++) {
            assert_int_equal(find(f, 1, offset, &run), 0);
            assert_int_equal(run.first_offset, (offset - 1) / 3 * 3 + 1);
            assert_int_equal(run.count, 3);
            assert_int_equal(run.sequence, run.first_offset);
            assert_int_equal(run.where.segment, 2 + (offset - 1) / 3);
        }
        check_find_many(f, 1, 16, 10);
        check_find_many(f, 5, 4, 4);
        check_find_many(f, 28, 16, 1);
        assert_int_equal(find(f, 1, 31, &run), -ERROR_NOT_FOUND);
        assert_int_equal(find(f, 1, 0, &run), -ERROR_NOT_FOUND);
        assert_int_equal(find(f, 2, 1, &run), -ERROR_NOT_FOUND);
        assert_int_equal(find(f, 0, 1, &run), -ERROR_NOT_FOUND);
        close_index(f);
        open_index(f, 0, 5);
        assert_int_equal(streams_applied(f->streams), 11);
        assert_int_equal(last_offset(f), 30);
    }
    append(f, 1, 31, 1); /* the session is there too */
    close_index(f);      /* commits what is queued */
    open_index(f, 0, 5);
    assert_int_equal(last_offset(f), 31);
    close_index(f);
}

static uint64_t live(struct fixture *f, uint64_t segment)
{
    uint64_t bytes = 0;
    assert_int_equal(index_live(f->index, segment, &bytes, NULL), 0);
    return bytes;
}

static void trim(struct fixture *f, uint64_t offset)
{
    struct buf frames = BUF_INIT;
    testing_trim(&frames, name, offset, true);
    apply(f, &frames);
}

/* Segments are told apart by the entry here: apply(). */
static void test_trim_and_live_bytes(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 50, FRAMES = 1000 };
    struct streams_run run;
    char copy[160];
    open_index(f, 0, 5);
    open_producer(f);
    for (uint64_t i = 0; i < 10; i++) append(f, 1, 1 + i * 3, 3);
    wait_durable(f, 11);
    uint64_t each = live(f, 2);
    assert_true(each > 15 && live(f, 11) == each && live(f, 12) == 0 && live(f, 1) == 0);
    trim(f, 13); /* the run of 13 to 15 stays */
    wait_durable(f, 12);
    for (uint64_t segment = 2; segment <= 11; segment++) assert_int_equal(live(f, segment), segment < 6 ? 0 : each);
    assert_int_equal(find(f, 1, 12, &run), -ERROR_NOT_FOUND);
    assert_int_equal(find(f, 1, 14, &run), 0);
    path_of(f, "copy", copy, sizeof copy);
    assert_int_equal(mkdir(copy, 0700), 0);
    assert_int_equal(index_copy(f->index, copy, NULL), 0);
    for (uint64_t i = 0; i < MANY; i++) {
        struct buf frames = BUF_INIT;
        for (uint64_t k = 0; k < FRAMES; k++)
            testing_append(&frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 31 + i * FRAMES + k, .n = 1});
        apply(f, &frames);
    }
    trim(f, 30 + (MANY - 1) * FRAMES + 1); /* more than fits into one transaction: it goes on by itself, also after a start */
    wait_durable(f, 13 + MANY);
    close_index(f);
    open_index(f, 0, 5);
    while (live(f, 11 + MANY) != 0 || live(f, 12) != 0) uv_run(&f->loop, UV_RUN_ONCE);
    assert_true(live(f, 12 + MANY) > 0);
    assert_int_equal(last_offset(f), 30 + MANY * FRAMES);
    close_index(f);
    struct index_options options = {.dir = copy, .commit_ms = 5, .user = f, .on_durable = on_durable, .on_failed = on_failed};
    assert_int_equal(index_open(&f->loop, &options, &f->index, NULL), 0);
    assert_int_equal(index_applied(f->index), 12); /* as it was then */
    assert_int_equal(live(f, 11), each);
    close_index(f);
    unlink(strcat(copy, "/data.mdb"));
    strcpy(strrchr(copy, '/'), "/lock.mdb");
    unlink(copy);
    *strrchr(copy, '/') = '\0';
    rmdir(copy);
}

static void test_sync(void **state)
{
    struct fixture *f = *state;
    open_index(f, 0, 3600 * 1000);
    index_sync(f->index); /* nothing to do */
    open_producer(f);
    index_sync(f->index);
    append(f, 1, 1, 1); /* while that is under way */
    append(f, 1, 2, 1);
    wait_durable(f, 1);
    index_sync(f->index);
    wait_durable(f, 3);
    assert_int_equal(f->durables, 2); /* what came meanwhile went together */
    close_index(f);
}

static void test_entry_without_effects(void **state)
{
    struct fixture *f = *state;
    open_index(f, 0, 1);
    assert_int_equal(streams_apply(f->streams, 1, NULL, 0, (struct wal_location){0}, &f->update, NULL), 0);
    assert_int_equal(index_put(f->index, 1, &f->update, NULL), 0);
    wait_durable(f, 1);
    close_index(f);
    open_index(f, 0, 1);
    assert_int_equal(index_applied(f->index), 1);
    close_index(f);
}

static void test_map_grows(void **state)
{
    struct fixture *f = *state;
    struct streams_run run;
    enum { MAP = 64 << 10, APPENDS = 4000 };
    open_index(f, MAP, 1);
    open_producer(f);
    for (uint64_t i = 1; i <= APPENDS; i++) {
        append(f, 1, i, 1);
        if (i % 100 == 0) uv_run(&f->loop, UV_RUN_NOWAIT);
        /* reading while the worker may be growing the map */
        uint64_t offset = 1 + i * 7919 % i;
        int rv = find(f, 1, offset, &run);
        assert_true(rv == 0 ? run.first_offset == offset : rv == -ERROR_NOT_FOUND);
    }
    wait_durable(f, APPENDS + 1);
    assert_true(index_bytes(f->index) > MAP);
    for (uint64_t i = 1; i <= APPENDS; i++) assert_int_equal(find(f, 1, i, &run), 0);
    close_index(f);
    open_index(f, MAP, 1); /* smaller than what is in it */
    assert_int_equal(last_offset(f), APPENDS);
    assert_int_equal(find(f, 1, APPENDS, &run), 0);
    close_index(f);
}

static void test_queue_is_bounded(void **state)
{
    struct fixture *f = *state;
    enum { ENTRIES = 40, VALUE = 4000, PUTS = 1000 };
    struct streams_update update = STREAMS_UPDATE_INIT;
    struct streams_put puts[PUTS];
    open_index(f, 0, 3600 * 1000);
    for (uint64_t entry = 1; entry <= ENTRIES; entry++) { /* 160 MB in all, and the loop does not run meanwhile */
        update.bytes.len = 0;
        for (unsigned i = 0; i < PUTS; i++) {
            uint8_t key[STREAMS_EVENT_KEY], value[VALUE] = {0};
            streams_event_key(entry, i + 1, key);
            puts[i] = (struct streams_put){STREAMS_TABLE_SESSION, (uint32_t)update.bytes.len, sizeof key,
                                           (uint32_t)(update.bytes.len + sizeof key), sizeof value};
            buf_add(&update.bytes, key, sizeof key);
            buf_add(&update.bytes, value, sizeof value);
        }
        update.puts = puts;
        update.n_puts = PUTS;
        assert_int_equal(index_put(f->index, entry, &update, NULL), 0);
        assert_true(index_queued_bytes(f->index) <= 2 * (33u << 20)); /* one queue, and one under way */
    }
    buf_fini(&update.bytes);
    index_sync(f->index);
    wait_durable(f, ENTRIES);
    close_index(f);
}

static void test_not_an_index(void **state)
{
    struct fixture *f = *state;
    struct error e = {0};
    char path[128];
    path_of(f, "", path, sizeof path);
    assert_int_equal(mkdir(path, 0700), 0);
    path_of(f, "/data.mdb", path, sizeof path);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 9000; i++) fputs("x", file);
    fclose(file);
    assert_int_equal(try_open(f, 0, 1, &e), -ERROR_CORRUPT);
    assert_non_null(strstr(e.text, f->dir));
    assert_int_equal(try_open(f, 0, 1, NULL), -ERROR_CORRUPT);
    unlink(path);
    path_of(f, "/lock.mdb", path, sizeof path);
    unlink(path);
    open_index(f, 0, 1);
    close_index(f);
}

/* A put that LMDB refuses (an empty key) ends the index: told once, and nothing of that transaction is there. */
static void test_failure(void **state)
{
    struct fixture *f = *state;
    struct error e = {0};
    open_index(f, 0, 1);
    open_producer(f);
    wait_durable(f, 1);
    append(f, 1, 1, 1);
    struct streams_put bad = {STREAMS_TABLE_EVENT, 0, 0, 0, 1};
    struct streams_update update = {.puts = &bad, .n_puts = 1};
    buf_add(&update.bytes, "x", 1);
    assert_int_equal(index_put(f->index, 3, &update, NULL), 0);
    while (f->failures == 0) uv_run(&f->loop, UV_RUN_ONCE);
    assert_true(strlen(f->why.text) > 0);
    assert_int_equal(index_put(f->index, 4, &update, &e), -(int)f->why.code);
    assert_string_equal(e.text, f->why.text);
    index_sync(f->index);
    close_index(f);
    assert_int_equal(f->failures, 1);
    buf_fini(&update.bytes);
    open_index(f, 0, 1);
    assert_int_equal(index_applied(f->index), 1);
    assert_int_equal(last_offset(f), 0);
    close_index(f);
}

/* Entry 1 opens, entry i > 1 appends two events: the applied index says exactly which effects must be there. */
static void assert_together(struct fixture *f, uint64_t told)
{
    struct streams_run run;
    uint64_t applied = index_applied(f->index), last = applied > 0 ? 2 * (applied - 1) : 0;
    assert_true(applied >= told); /* what was called durable is */
    assert_int_equal(last_offset(f), last);
    for (uint64_t offset = 1; offset <= last; offset++) {
        assert_int_equal(find(f, 1, offset, &run), 0);
        assert_int_equal(run.where.segment, (offset + 1) / 2 + 1);
    }
    assert_int_equal(find(f, 1, last + 1, &run), -ERROR_NOT_FOUND);
}

/* The file may not grow any more (a limit of the process stands for a full disk): told once, nothing is torn. */
static void test_no_space(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    open_index(f, 0, 1);
    open_producer(f);
    wait_durable(f, 1);
    tight = before;
    tight.rlim_cur = 300 << 10;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    for (uint64_t i = 0; i < 100000 && f->failures == 0; i++) {
        append(f, 1, 1 + i * 2, 2);
        if (i % 64 == 63) index_sync(f->index);
        if (i % 64 == 63) uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(f->failures, 1);
    assert_true(f->why.code == ERROR_NOSPACE || f->why.code == ERROR_IO);
    uint64_t told = f->durable;
    assert_true(told > 1);
    close_index(f);
    f->failures = 0;
    open_index(f, 0, 1);
    assert_together(f, told);
    append(f, 1, last_offset(f) + 1, 2); /* and with room again it goes on */
    wait_durable(f, index_applied(f->index) + 1);
    close_index(f);
}

/* One life of the process: goes on from where the index is, appends for ever, and tells through the pipe what is durable. */
static void child(struct fixture *f, int out)
{
    uv_loop_init(&f->loop);
    open_index(f, 64 << 10, 1);
    uint64_t told = f->durable;
    if (f->durable == 0) open_producer(f);
    for (;;) {
        append(f, 1, last_offset(f) + 1, 2);
        if (streams_applied(f->streams) % 16 == 0) uv_run(&f->loop, UV_RUN_NOWAIT);
        while (index_queued_bytes(f->index) > 256 << 10) uv_run(&f->loop, UV_RUN_ONCE); /* a "segment" per entry: large transactions take forever */
        if (f->durable == told) continue;
        told = f->durable;
        if (write(out, &told, sizeof told) != sizeof told) _exit(1);
    }
}

static void test_killed(void **state)
{
    struct fixture *f = *state;
    struct testing_random random = testing_seed("index-killed");
    for (int round = 0; round < 15; round++) {
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            close(pipes[0]);
            child(f, pipes[1]);
        }
        close(pipes[1]);
        uint64_t told = 0, reports = 1 + testing_below(&random, 10);
        for (uint64_t i = 0; i < reports; i++) assert_int_equal(read(pipes[0], &told, sizeof told), sizeof told);
        usleep((useconds_t)testing_below(&random, 5000)); /* to whatever it is doing then */
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        while (read(pipes[0], &told, sizeof told) == sizeof told)
            ;
        close(pipes[0]);
        open_index(f, 0, 1);
        assert_together(f, told);
        close_index(f);
    }
    assert_true(f->durable > 15);
}

/* ---- what LMDB itself would not notice: rows that are hidden, or of another time ------------------------------ */

typedef void damage_fn(MDB_txn *txn, MDB_dbi table);

static void damage(const struct fixture *f, const char *table, damage_fn *fn)
{
    char path[128];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    path_of(f, "", path, sizeof path);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 16), 0);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, table, 0, &dbi), 0);
    fn(txn, dbi);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static uint8_t old_key[64], old_value[4096];
static size_t old_key_len, old_value_len;

static void first_row(MDB_txn *txn, MDB_dbi table, MDB_val *key, MDB_val *value)
{
    MDB_cursor *cursor;
    assert_int_equal(mdb_cursor_open(txn, table, &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, key, value, MDB_FIRST), 0);
    mdb_cursor_close(cursor);
}

static void remember_row(MDB_txn *txn, MDB_dbi table)
{
    MDB_val key, value;
    first_row(txn, table, &key, &value);
    memcpy(old_key, key.mv_data, old_key_len = key.mv_size);
    memcpy(old_value, value.mv_data, old_value_len = value.mv_size);
}

static void old_row(MDB_txn *txn, MDB_dbi table)
{
    MDB_val key = {old_key_len, old_key}, value = {old_value_len, old_value};
    assert_int_equal(mdb_put(txn, table, &key, &value, 0), 0);
}

static void hide_row(MDB_txn *txn, MDB_dbi table)
{
    MDB_val key, value;
    first_row(txn, table, &key, &value);
    memcpy(old_key, key.mv_data, old_key_len = key.mv_size);
    key.mv_data = old_key;
    assert_int_equal(mdb_del(txn, table, &key, NULL), 0);
}

static void put_meta(MDB_txn *txn, MDB_dbi table, const char *row, const void *bytes, size_t len)
{
    MDB_val key = {strlen(row), (void *)(uintptr_t)row}, value = {len, (void *)(uintptr_t)bytes};
    assert_int_equal(mdb_put(txn, table, &key, &value, 0), 0);
}

static void lower_applied(MDB_txn *txn, MDB_dbi meta)
{
    uint8_t bytes[8] = {4};
    put_meta(txn, meta, "applied", bytes, sizeof bytes);
}

static void other_note(MDB_txn *txn, MDB_dbi meta)
{
    put_meta(txn, meta, "note", "who is her?", 11);
}

static void without_format(MDB_txn *txn, MDB_dbi meta)
{
    MDB_val key = {6, (void *)(uintptr_t)"format"};
    assert_int_equal(mdb_del(txn, meta, &key, NULL), 0);
}

/* As the version before wrote it. */
static void without_seal(MDB_txn *txn, MDB_dbi meta)
{
    uint8_t format[8] = {2};
    MDB_val key = {4, (void *)(uintptr_t)"seal"};
    assert_int_equal(mdb_del(txn, meta, &key, NULL), 0);
    put_meta(txn, meta, "format", format, sizeof format);
}

static void refuses(struct fixture *f)
{
    struct error e = {0};
    assert_int_equal(try_open(f, 0, 5, &e), -ERROR_CORRUPT);
    assert_non_null(strstr(e.text, "damaged"));
}

static void test_damage(void **state)
{
    static const struct { const char *table; damage_fn *fn; } damages[] = {
        {"stream", old_row}, {"stream", hide_row}, {"session", hide_row}, {"live", hide_row}, {"meta", lower_applied}, {"meta", other_note}, {"meta", without_format},
    };
    struct fixture *f = *state;
    char data[128], lock[128];
    path_of(f, "/data.mdb", data, sizeof data);
    path_of(f, "/lock.mdb", lock, sizeof lock);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        unlink(data);
        unlink(lock);
        open_index(f, 0, 5);
        assert_int_equal(index_note(f->index, "who is here", 11), 0);
        open_producer(f);
        append(f, 1, 1, 3);
        close_index(f);
        damage(f, "stream", remember_row);
        open_index(f, 0, 5);
        append(f, 1, 4, 3);
        trim(f, 3);
        append(f, 1, 7, 3);
        close_index(f);
        open_index(f, 0, 5); /* nothing is wrong yet */
        assert_int_equal(last_offset(f), 9);
        close_index(f);
        damage(f, damages[i].table, damages[i].fn);
        refuses(f);
    }
}

static void test_without_seal(void **state)
{
    struct fixture *f = *state;
    open_index(f, 0, 5);
    open_producer(f);
    append(f, 1, 1, 3);
    close_index(f);
    damage(f, "meta", without_seal);
    open_index(f, 0, 5); /* it is sealed now */
    append(f, 1, 4, 3);
    close_index(f);
    open_index(f, 0, 5);
    assert_int_equal(last_offset(f), 6);
    close_index(f);
    damage(f, "session", hide_row);
    refuses(f);
}

#define unit(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        unit(test_put_find_reopen), unit(test_trim_and_live_bytes), unit(test_sync), unit(test_entry_without_effects), unit(test_map_grows),
        unit(test_queue_is_bounded), unit(test_not_an_index), unit(test_failure), unit(test_no_space), unit(test_killed), unit(test_damage), unit(test_without_seal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
