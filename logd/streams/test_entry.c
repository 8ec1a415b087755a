/* The entry codec: what goes in comes out, and nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "logd/streams/entry.h"
#include "logd/streams/testing.h"

static void test_round_trip(void **state)
{
    (void)state;
    struct buf frames = BUF_INIT, entry = BUF_INIT;
    testing_open(&frames, "c/n/k/a", "p", false);
    size_t second = frames.len;
    testing_append(&frames, &(struct testing_append){.stream = "c/n/k/a", .epoch = 1, .sequence = 1, .n = 3});
    testing_entry(&entry, 1234567, &frames);
    assert_int_equal(entry.len, ENTRY_HEADER + frames.len);

    struct entry_reader r;
    struct frame f;
    size_t at, len;
    assert_int_equal(entry_open(&r, entry.data, entry.len, NULL), 0);
    assert_int_equal(r.time_us, 1234567);
    assert_int_equal(entry_next(&r, &f, &at, &len, NULL), 1);
    assert_int_equal(f.type, FRAME_OPEN_PRODUCER);
    assert_int_equal(at, ENTRY_HEADER);
    assert_int_equal(len, second);
    assert_int_equal(entry_next(&r, &f, &at, &len, NULL), 1);
    assert_int_equal(f.type, FRAME_APPEND);
    assert_int_equal(at, ENTRY_HEADER + second);
    assert_memory_equal(entry.data + at, frames.data + second, len);
    assert_int_equal(entry_next(&r, &f, &at, &len, NULL), 0);
    buf_fini(&frames);
    buf_fini(&entry);
}

static void test_empty(void **state)
{
    (void)state;
    struct buf entry = BUF_INIT;
    struct entry_reader r;
    struct frame f;
    size_t at, len;
    assert_int_equal(entry_begin(&entry, 1), 0);
    assert_int_equal(entry_open(&r, entry.data, entry.len, NULL), 0);
    assert_int_equal(entry_next(&r, &f, &at, &len, NULL), 0);
    buf_fini(&entry);
}

/* 0 when all of the bytes can be read as an entry. */
static int read_all(const uint8_t *data, size_t len)
{
    struct entry_reader r;
    struct frame f;
    size_t at, size;
    int rv = entry_open(&r, data, len, NULL);
    if (rv != 0) return rv;
    while ((rv = entry_next(&r, &f, &at, &size, NULL)) > 0)
        ;
    return rv;
}

static void test_cut_and_flipped(void **state)
{
    (void)state;
    struct buf frames = BUF_INIT, entry = BUF_INIT;
    testing_open(&frames, "c/n/k/a", "p", false);
    size_t second = frames.len;
    testing_append(&frames, &(struct testing_append){.stream = "c/n/k/a", .epoch = 1, .sequence = 1, .n = 2});
    testing_entry(&entry, 99, &frames);
    assert_int_equal(read_all(entry.data, entry.len), 0);
    for (size_t len = 0; len < entry.len; len++) {
        uint8_t *cut = test_malloc(len + 1); /* its own block, so that a sanitizer sees a read too far */
        memcpy(cut, entry.data, len);
        assert_int_equal(read_all(cut, len), -ERROR_CORRUPT);
        test_free(cut);
    }
    for (size_t i = 8; i < entry.len; i++) { /* the time, before it, may be anything */
        size_t in_frame = i < ENTRY_HEADER + second ? i - ENTRY_HEADER : i - ENTRY_HEADER - second;
        if (i >= ENTRY_HEADER && in_frame >= 28 && in_frame < 32) continue; /* reserved, not under the checksum */
        for (int bit = 0; bit < 8; bit++) {
            entry.data[i] ^= (uint8_t)(1 << bit);
            assert_int_equal(read_all(entry.data, entry.len), -ERROR_CORRUPT);
            entry.data[i] ^= (uint8_t)(1 << bit);
        }
    }
    buf_fini(&frames);
    buf_fini(&entry);
}

static void test_trailing(void **state)
{
    (void)state;
    struct buf frames = BUF_INIT, entry = BUF_INIT;
    testing_fence(&frames, "s", 3);
    testing_entry(&entry, 99, &frames);
    assert_int_equal(buf_add(&entry, "", 1), 0);
    struct entry_reader r;
    struct frame f;
    size_t at, size;
    assert_int_equal(entry_open(&r, entry.data, entry.len, NULL), 0);
    assert_int_equal(entry_next(&r, &f, &at, &size, NULL), 1);
    assert_int_equal(entry_next(&r, &f, &at, &size, NULL), -ERROR_CORRUPT);
    buf_fini(&frames);
    buf_fini(&entry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_cut_and_flipped),
        cmocka_unit_test(test_trailing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
