/* Segments that events were moved to: killed or cut off at each operation of the disk, and what a log makes of them when it starts. */
#include "logd/wal/test_log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/wal/memory_disk.h"
#include "logd/wal/moved.h"
#include "logd/wal/segment.h"

enum { SEGMENT = 64 << 10, PIECES = 40 };

static const char path[] = "/log/04611686018427387904.seg"; /* MOVED_FIRST */

static void fill(uint8_t *bytes, size_t len, unsigned i)
{
    for (size_t k = 0; k < len; k++) bytes[k] = (uint8_t)(i * 31 + k * 7);
}

/* Small ones, which are gathered, and two that are larger than what is gathered. */
static size_t length_of(unsigned i)
{
    return i % 20 == 7 ? 300000 : 100 + i * 37;
}

static int write_file(const struct disk *d, uint64_t positions[PIECES], struct error *e)
{
    static uint8_t bytes[300000];
    struct moved *m;
    int rv = moved_begin(d, "/log", MOVED_FIRST, &m, e);
    if (rv != 0) return rv;
    for (unsigned i = 0; rv == 0 && i < PIECES; i++) {
        fill(bytes, length_of(i), i);
        rv = moved_put(m, bytes, length_of(i), &positions[i], e);
    }
    if (rv == 0) return moved_finish(m, e);
    moved_abandon(m);
    return rv;
}

static void check_file(struct wal *wal, const uint64_t positions[PIECES])
{
    static uint8_t wanted[300000], got[300000];
    for (unsigned i = 0; i < PIECES; i++) {
        fill(wanted, length_of(i), i);
        assert_int_equal(wal_read_at(wal, (struct wal_location){MOVED_FIRST, positions[i]}, length_of(i), got, NULL), 0);
        assert_memory_equal(wanted, got, length_of(i));
    }
}

static bool nothing_is_needed(void *user, uint64_t segment)
{
    (void)user;
    (void)segment;
    return false;
}

/* The log of a few entries in "/log", closed. */
static struct memory_disk *with_log(void)
{
    struct memory_disk *m = memory_disk_new();
    struct log l;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
    for (uint64_t i = 1; i <= 20; i++) assert_int_equal(log_append(&l, i, 1, 100), 0);
    log_wait(&l, 20);
    log_close(&l);
    return m;
}

/* Once it was said to be there it is, whole; else it is not, or whole as well. The log itself never minds. */
static void crash_at_each_operation(void **state)
{
    (void)state;
    bool survived = false;
    for (unsigned at = 0; !survived; at++) {
        for (uint32_t seed = 1; seed <= 12; seed++) {
            struct memory_disk *m = with_log();
            const struct disk *d = memory_disk_table(m);
            uint64_t positions[PIECES] = {0};
            struct log l;
            uint32_t random = seed;
            size_t len;
            memory_disk_die(m, at);
            int rv = write_file(d, positions, NULL);
            survived = !memory_disk_died(m);
            if (seed % 2 == 0) memory_disk_restart(m);
            else memory_disk_power_cut(m, &random);
            assert_int_equal(log_open(&l, d, "/log", SEGMENT, 0), 0);
            assert_int_equal(wal_last_index(l.wal), 20);
            for (uint64_t i = 1; i <= 20; i++) log_check(&l, i, 1);
            bool there = memory_disk_bytes(m, path, &len) != NULL;
            assert_true(there || rv != 0);
            if (there) {
                assert_int_equal(wal_segments(l.wal), 2);
                assert_true(wal_next_moved(l.wal) == MOVED_FIRST + 1);
                assert_false(wal_segment(l.wal, 1).raft);
                check_file(l.wal, positions);
                assert_int_equal(wal_reclaim(l.wal, nothing_is_needed, NULL, 4, NULL), 1);
                assert_null(memory_disk_bytes(m, path, &len));
            }
            assert_true(wal_next_moved(l.wal) == MOVED_FIRST);
            assert_int_equal(log_append(&l, 21, 1, 50000), 0); /* the log's own segments go on from where they were */
            assert_int_equal(log_append(&l, 22, 1, 50000), 0);
            log_wait(&l, 22);
            assert_true(wal_segment(l.wal, 1).id == 2);
            /* whatever was left lying about is no obstacle */
            assert_int_equal(write_file(d, positions, NULL), 0);
            assert_int_equal(wal_adopt(l.wal, MOVED_FIRST, wal_segment(l.wal, 0).bytes), 0);
            check_file(l.wal, positions);
            log_close(&l);
            memory_disk_free(m);
        }
    }
}

/* Errors leave nothing behind, and are told by their kind. */
static void errors_leave_no_file(void **state)
{
    (void)state;
    const unsigned ops[] = {MEMORY_DISK_WRITE, MEMORY_DISK_SYNC, MEMORY_DISK_RENAME};
    for (unsigned i = 0; i < 3; i++) {
        struct memory_disk *m = with_log();
        uint64_t positions[PIECES];
        struct error e;
        size_t len;
        memory_disk_fail(m, ops[i], 0, i == 0 ? ENOSPC : EIO);
        assert_int_equal(write_file(memory_disk_table(m), positions, &e), i == 0 ? -ERROR_NOSPACE : -ERROR_IO);
        assert_null(memory_disk_bytes(m, path, &len));
        assert_null(memory_disk_bytes(m, "/log/moved.tmp", &len));
        memory_disk_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(crash_at_each_operation), cmocka_unit_test(errors_leave_no_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
