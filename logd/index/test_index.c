/* The index: what was durable is there after any end of the process, effects and applied index together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
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

static void test_put_find_reopen(void **state)
{
    struct fixture *f = *state;
    struct streams_run run;
    open_index(f, 0, 5);
    assert_int_equal(index_applied(f->index), 0);
    open_producer(f);
    for (uint64_t i = 0; i < 10; i++) append(f, 1, 1 + i * 3, 3);
    assert_int_equal(index_find(f->index, 1, 1, &run, NULL), -ERROR_NOT_FOUND); /* queued only */
    assert_true(index_queued_bytes(f->index) > 0);
    wait_durable(f, 11); /* by its timer */
    assert_int_equal(index_queued_bytes(f->index), 0);
    assert_int_equal(index_applied(f->index), 11);
    assert_true(index_bytes(f->index) > 0);
    for (int round = 0; round < 2; round++) {
        for (uint64_t offset = 1; offset <= 30; offset++) {
            assert_int_equal(index_find(f->index, 1, offset, &run, NULL), 0);
            assert_int_equal(run.first_offset, (offset - 1) / 3 * 3 + 1);
            assert_int_equal(run.count, 3);
            assert_int_equal(run.sequence, run.first_offset);
            assert_int_equal(run.where.segment, 2 + (offset - 1) / 3);
        }
        assert_int_equal(index_find(f->index, 1, 31, &run, NULL), -ERROR_NOT_FOUND);
        assert_int_equal(index_find(f->index, 1, 0, &run, NULL), -ERROR_NOT_FOUND);
        assert_int_equal(index_find(f->index, 2, 1, &run, NULL), -ERROR_NOT_FOUND);
        assert_int_equal(index_find(f->index, 0, 1, &run, NULL), -ERROR_NOT_FOUND);
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
        int rv = index_find(f->index, 1, offset, &run, NULL);
        assert_true(rv == 0 ? run.first_offset == offset : rv == -ERROR_NOT_FOUND);
    }
    wait_durable(f, APPENDS + 1);
    assert_true(index_bytes(f->index) > MAP);
    for (uint64_t i = 1; i <= APPENDS; i++) assert_int_equal(index_find(f->index, 1, i, &run, NULL), 0);
    close_index(f);
    open_index(f, MAP, 1); /* smaller than what is in it */
    assert_int_equal(last_offset(f), APPENDS);
    assert_int_equal(index_find(f->index, 1, APPENDS, &run, NULL), 0);
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
            puts[i] = (struct streams_put){STREAMS_TABLE_EVENT, (uint32_t)update.bytes.len, sizeof key,
                                           (uint32_t)(update.bytes.len + sizeof key), sizeof value};
            buf_add(&update.bytes, key, sizeof key);
            buf_add(&update.bytes, value, sizeof value);
        }
        update.puts = puts;
        update.n_puts = PUTS;
        assert_int_equal(index_put(f->index, entry, &update, NULL), 0);
        assert_true(index_queued_bytes(f->index) <= 2 * (65u << 20)); /* one queue, and one under way */
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
        assert_int_equal(index_find(f->index, 1, offset, &run, NULL), 0);
        assert_int_equal(run.where.segment, (offset + 1) / 2 + 1);
    }
    assert_int_equal(index_find(f->index, 1, last + 1, &run, NULL), -ERROR_NOT_FOUND);
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

#define unit(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        unit(test_put_find_reopen), unit(test_sync), unit(test_entry_without_effects), unit(test_map_grows),
        unit(test_queue_is_bounded), unit(test_not_an_index), unit(test_failure), unit(test_no_space), unit(test_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
