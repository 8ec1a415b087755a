/* Memory that runs out at every single allocation of an entry: streams_apply() says so and nothing else. An outcome
 * that depended on one machine's memory would make the replicas differ. malloc and its like are wrapped by the linker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "logd/streams/run_reader.h"
#include "logd/streams/streams.h"
#include "logd/streams/testing.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);

static long left = -1; /* allocations that still succeed; -1: all */

static bool out_of_memory(void)
{
    if (left < 0) return false;
    if (left == 0) return true;
    left--;
    return false;
}

void *__wrap_malloc(size_t size)
{
    return out_of_memory() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return out_of_memory() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t size)
{
    return out_of_memory() ? NULL : __real_realloc(p, size);
}
char *__wrap_strdup(const char *s)
{
    return out_of_memory() ? NULL : __real_strdup(s);
}

static void make_entry(struct buf *entry)
{
    struct buf frames = BUF_INIT;
    testing_open(&frames, "a", "p", true);
    testing_open(&frames, "a", "q", true);
    for (uint64_t i = 1; i < 9; i++) {
        testing_append(&frames, &(struct testing_append){.stream = "a", .epoch = 1, .sequence = i, .n = 1});
        testing_append(&frames, &(struct testing_append){.stream = "a", .epoch = 2, .sequence = i, .n = 1});
    }
    testing_append(&frames, &(struct testing_append){.stream = "a", .epoch = 1, .sequence = 9, .n = 500});
    testing_snapshot(&frames, &(struct testing_snapshot){.stream = "a", .id = "s", .state = 1, .image = "i"});
    testing_snapshot(&frames, &(struct testing_snapshot){.stream = "a", .id = "t", .state = 2, .image = "j"});
    testing_fence(&frames, "a", 2);
    testing_open(&frames, "b", "p", false);
    testing_entry(entry, 5, &frames);
    buf_fini(&frames);
}

static void test_apply(void **state)
{
    (void)state;
    struct buf entry = BUF_INIT;
    make_entry(&entry);
    long n = 0;
    for (int rv = -ERROR_NOMEM; rv != 0; n++) {
        struct streams_update update = STREAMS_UPDATE_INIT;
        struct error e = {0};
        struct streams *s = streams_new();
        left = n;
        rv = streams_apply(s, 1, entry.data, entry.len, (struct wal_location){1, 1}, &update, &e);
        left = -1;
        assert_true(rv == 0 || rv == -ERROR_NOMEM);
        assert_int_equal(streams_applied(s), rv == 0 ? 1 : 0);
        if (rv != 0) assert_int_equal(e.code, ERROR_NOMEM);
        unsigned done = update.n_outcomes > 0 && rv != 0 ? update.n_outcomes - 1 : update.n_outcomes;
        for (unsigned i = 0; i < done; i++) assert_int_equal(update.outcomes[i].code, 0);
        streams_update_fini(&update);
        streams_free(s);
    }
    assert_true(n > 40); /* that many allocations were made to fail */
    buf_fini(&entry);
}

static void test_load(void **state)
{
    (void)state;
    struct buf entry = BUF_INIT;
    struct streams_update update = STREAMS_UPDATE_INIT;
    struct streams *first = streams_new();
    make_entry(&entry);
    assert_int_equal(streams_apply(first, 1, entry.data, entry.len, (struct wal_location){1, 1}, &update, NULL), 0);
    streams_free(first);
    long n = 0;
    for (int rv = -ERROR_NOMEM; rv != 0; n++) {
        struct streams *s = streams_new();
        rv = 0;
        left = n;
        for (unsigned i = 0; rv == 0 && i < update.n_puts; i++) {
            const struct streams_put *p = &update.puts[i];
            if (p->table == STREAMS_TABLE_EVENT || p->value_len == 0) continue;
            rv = streams_load(s, p->table, update.bytes.data + p->key_at, p->key_len, update.bytes.data + p->value_at,
                              p->value_len, NULL);
        }
        left = -1;
        assert_true(rv == 0 || rv == -ERROR_NOMEM);
        streams_free(s);
    }
    assert_true(n > 8);
    streams_update_fini(&update);
    buf_fini(&entry);
}

static void test_check_and_read(void **state)
{
    (void)state;
    struct buf frame = BUF_INIT;
    struct frame f;
    struct run_reader r;
    testing_append(&frame, &(struct testing_append){.stream = "a", .epoch = 1, .sequence = 1, .n = 1000});
    assert_true(frame_decode(frame.data, frame.len, &f, NULL) > 0);
    const struct streams_run run = {.first_offset = 1, .count = 1000, .frame_len = (uint32_t)frame.len, .epoch = 1, .sequence = 1};
    long n = 0;
    for (int rv = -ERROR_NOMEM; rv != 0; n++) {
        left = n;
        rv = streams_check(&f, NULL);
        left = -1;
        assert_true(rv == 0 || rv == -ERROR_NOMEM);
    }
    assert_true(n > 1);
    n = 0;
    for (int rv = -ERROR_NOMEM; rv != 0; n++) {
        left = n;
        rv = run_open(&r, &run, frame.data, frame.len, 1, NULL);
        left = -1;
        assert_true(rv == 0 || rv == -ERROR_NOMEM);
    }
    assert_true(n > 1);
    run_close(&r);
    buf_fini(&frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_apply), cmocka_unit_test(test_load),
                                       cmocka_unit_test(test_check_and_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
