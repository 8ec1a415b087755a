/* A segment's file made anew beside the old one: killed or cut off at each operation of the disk, there is the one or the other. And what cannot be read. */
#include "logd/wal/test_log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/wal/memory_disk.h"
#include "logd/wal/patch.h"
#include "logd/wal/raw_file.h"
#include "logd/wal/segment.h"

enum { SEGMENT = 64 << 10 };

static const char path[] = "/log/00000000000000000001.seg";

static struct memory_disk *with_log(uint64_t n)
{
    struct memory_disk *m = memory_disk_new();
    struct log l;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
    for (uint64_t i = 1; i <= n; i++) assert_int_equal(log_append(&l, i, 1, 1000), 0);
    log_wait(&l, n);
    log_close(&l);
    return m;
}

static int run(const struct disk *d, const struct patch_piece *pieces, size_t n, struct error *e)
{
    struct patch *p;
    int rv = patch_begin(d, "/log", 1, SEGMENT, pieces, n, &p, e);
    if (rv != 0) return rv;
    while ((rv = patch_step(p, e)) == 1) continue;
    patch_free(p);
    return rv;
}

/* Damaged in two places; pieces with what was there, one across the border of two steps' pages. */
static void crash_at_each_operation(void **state)
{
    (void)state;
    bool survived = false;
    for (unsigned at = 0; !survived; at++) {
        for (uint32_t seed = 1; seed <= 8; seed++) {
            struct memory_disk *m = with_log(100);
            size_t len;
            uint8_t *bytes = memory_disk_bytes(m, path, &len), good[SEGMENT], bad[SEGMENT];
            assert_int_equal(len, SEGMENT);
            memcpy(good, bytes, SEGMENT);
            bytes[9000] ^= 1;
            memset(bytes + 20000, 0, 5000);
            memcpy(bad, bytes, SEGMENT);
            const struct patch_piece pieces[] = {{8990, good + 8990, 20}, {20000, good + 20000, 5000}};
            uint32_t random = seed;
            memory_disk_die(m, at);
            int rv = run(memory_disk_table(m), pieces, 2, NULL);
            survived = !memory_disk_died(m);
            if (seed % 2 == 0) memory_disk_restart(m);
            else memory_disk_power_cut(m, &random);
            bytes = memory_disk_bytes(m, path, &len);
            assert_non_null(bytes);
            assert_int_equal(len, SEGMENT);
            bool is_new = memcmp(bytes, good, SEGMENT) == 0;
            assert_true(is_new || memcmp(bytes, bad, SEGMENT) == 0);
            assert_true(rv != 0 || is_new);
            if (is_new) { /* and it is a log */
                struct log l;
                assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 100), 0);
                log_close(&l);
            }
            memory_disk_free(m);
        }
    }
}

/* A full disk, an error: the old file is there, and nothing else. */
static void errors(void **state)
{
    (void)state;
    static const int codes[] = {ENOSPC, EIO};
    for (unsigned k = 0; k < 2; k++)
        for (unsigned n = 0; n < 4; n++) {
            struct memory_disk *m = with_log(100);
            struct error e;
            size_t len;
            uint8_t before[SEGMENT];
            memcpy(before, memory_disk_bytes(m, path, &len), SEGMENT);
            memory_disk_fail(m, MEMORY_DISK_ANY, n, codes[k]);
            int rv = run(memory_disk_table(m), NULL, 0, &e);
            if (rv != 0) assert_int_equal(rv, codes[k] == ENOSPC ? -ERROR_NOSPACE : -ERROR_IO);
            assert_memory_equal(memory_disk_bytes(m, path, &len), before, SEGMENT);
            assert_null(memory_disk_bytes(m, "/log/repair.tmp", &len));
            memory_disk_free(m);
        }
}

static const struct disk *real;
static uint64_t hole_from, hole_to;

static ssize_t read_with_hole(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at)
{
    (void)d;
    if (at >= hole_from && at < hole_to) return -EIO;
    if (at < hole_from && at + len > hole_from) len = hole_from - at; /* what is before it comes */
    return real->pread(real, fd, bytes, len, at);
}

/* Sectors that the disk does not give keep nobody from reading what is beside them; a file that is gone, or too short, is read as nothing. */
static void unreadable(void **state)
{
    (void)state;
    struct memory_disk *m = with_log(100);
    real = memory_disk_table(m);
    struct disk d = *real;
    struct raw_file f = {.fd = -1};
    size_t len;
    uint8_t good[SEGMENT];
    memcpy(good, memory_disk_bytes(m, path, &len), SEGMENT);
    d.pread = read_with_hole;
    hole_from = 12288;
    hole_to = 20480;
    assert_int_equal(raw_file_open(&f, &d, path, SEGMENT), 0);
    for (uint64_t at = 0; at + 300 <= SEGMENT; at += 100) {
        const uint8_t *bytes = raw_file_read(&f, at, 300);
        assert_int_equal(bytes == NULL, at < hole_to && at + 300 > hole_from);
        if (bytes != NULL) assert_memory_equal(bytes, good + at, 300);
    }
    assert_null(raw_file_read(&f, SEGMENT - 10, 11));
    const struct patch_piece piece = {hole_from, good + hole_from, (size_t)(hole_to - hole_from)};
    assert_int_equal(run(&d, &piece, 1, NULL), 0);
    assert_memory_equal(memory_disk_bytes(m, path, &len), good, SEGMENT);
    hole_from = hole_to = 0;
    memory_disk_cut(m, path, 30000);
    assert_int_equal(raw_file_open(&f, &d, path, SEGMENT), 0);
    assert_non_null(raw_file_read(&f, 28000, 600));
    assert_null(raw_file_read(&f, 29900, 200));
    assert_null(raw_file_read(&f, 50000, 1));
    memory_disk_remove(m, path);
    assert_int_equal(raw_file_open(&f, &d, path, SEGMENT), 0);
    assert_null(raw_file_read(&f, 0, 1));
    const struct patch_piece all = {0, good, SEGMENT};
    assert_int_equal(run(&d, &all, 1, NULL), 0);
    assert_memory_equal(memory_disk_bytes(m, path, &len), good, SEGMENT);
    raw_file_fini(&f);
    memory_disk_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(crash_at_each_operation), cmocka_unit_test(errors), cmocka_unit_test(unreadable)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
