/* The log as its users see it, on real files and on the memory disk; faults of the disk; term and vote. */
#include "logd/wal/test_log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "logd/wal/hard_state.h"
#include "logd/wal/memory_disk.h"
#include "logd/wal/preparer.h"

enum { SEGMENT = 64 << 10 };

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/crsc-wal-XXXXXX");
    return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static void test_entries_come_back(void **state)
{
    (void)state;
    struct log l;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    assert_int_equal(wal_first_index(l.wal), 1);
    assert_int_equal(wal_last_index(l.wal), 0);
    for (uint64_t i = 1; i <= 300; i++) assert_int_equal(log_append(&l, i, 1 + i / 100, i * 7 % 2000), 0);
    assert_int_equal(wal_last_index(l.wal), 300);
    for (uint64_t i = 1; i <= 300; i++) log_check(&l, i, 1 + i / 100); /* queued, written or both */
    log_wait(&l, 300);
    assert_int_equal(l.persisted, 300);
    assert_int_equal(l.term, 4);
    assert_int_equal(wal_queued_bytes(l.wal), 0);
    log_close(&l);

    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    assert_int_equal(wal_last_index(l.wal), 300);
    assert_int_equal(wal_persisted_index(l.wal), 300);
    assert_int_equal(wal_cut_bytes(l.wal), 0);
    assert_true(wal_bytes(l.wal) > SEGMENT);
    for (uint64_t i = 1; i <= 300; i++) log_check(&l, i, 1 + i / 100);
    assert_int_equal(wal_term_at(l.wal, 301), 0);
    assert_int_equal(wal_term_at(l.wal, 0), 0);
    struct wal_entry entry;
    assert_int_equal(wal_read(l.wal, 301, &entry, NULL), -ERROR_NOT_FOUND);
    log_close(&l);
}

static bool needs_one(void *user, uint64_t segment)
{
    return segment == *(uint64_t *)user;
}

static void test_the_beginning_moves(void **state)
{
    (void)state;
    struct log l;
    struct wal_location early, late;
    struct wal_entry entry;
    struct error e;
    uint8_t bytes[900];
    size_t len;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0);
    for (uint64_t i = 1; i <= 500; i++) assert_int_equal(log_append(&l, i, 1 + i / 200, 900), 0);
    log_wait(&l, 500);
    assert_int_equal(wal_locate(l.wal, 3, &early), 0);
    assert_int_equal(wal_locate(l.wal, 100, &late), 0);
    assert_int_equal(wal_compact(l.wal, 10, "x", 1, &e), 0); /* not one whole segment */
    assert_int_equal(wal_first_index(l.wal), 1);
    assert_int_equal(wal_compact(l.wal, 400, "members", 7, &e), 0);
    uint64_t first = wal_first_index(l.wal);
    assert_true(first > 300 && first <= 401);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(wal_first_index(l.wal), first);
        assert_int_equal(wal_last_index(l.wal), 500);
        assert_int_equal(wal_term_at(l.wal, first - 1), 1 + (first - 1) / 200);
        assert_int_equal(wal_term_at(l.wal, first - 2), 0);
        assert_memory_equal(wal_note(l.wal, &len), "members", 7);
        assert_int_equal(len, 7);
        for (uint64_t i = first; i <= 500; i++) log_check(&l, i, 1 + i / 200);
        assert_int_equal(wal_read(l.wal, first - 1, &entry, NULL), -ERROR_NOT_FOUND);
        struct blob *was = log_payload(3, 1, 900);
        assert_int_equal(wal_read_at(l.wal, early, 900, bytes, &e), 0); /* events are read from there still */
        assert_memory_equal(bytes, was->data, 900);
        blob_unref(was);
        if (again == 1) break;
        log_close(&l);
        assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0);
    }
    uint64_t before = wal_bytes(l.wal);
    assert_int_equal(wal_reclaim(l.wal, needs_one, &late.segment, 2, &e), 2);
    while (wal_reclaim(l.wal, needs_one, &late.segment, 2, &e) > 0) {}
    assert_true(wal_bytes(l.wal) < before);
    assert_int_equal(wal_read_at(l.wal, late, 900, bytes, &e), 0);
    assert_int_equal(wal_read_at(l.wal, early, 900, bytes, &e), -ERROR_IO);
    assert_int_equal(log_append(&l, 501, 3, 900), 0);
    log_wait(&l, 501);
    before = wal_bytes(l.wal);
    log_close(&l);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0);
    assert_int_equal(wal_bytes(l.wal), before);
    assert_int_equal(wal_segment(l.wal, 0).id, late.segment);
    assert_false(wal_segment(l.wal, 0).raft);
    log_check(&l, 501, 3);
    log_close(&l);
}

static void test_replaced_suffix(void **state)
{
    (void)state;
    struct log l;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    for (uint64_t i = 1; i <= 20; i++) assert_int_equal(log_append(&l, i, 1, 100), 0);
    assert_int_equal(log_append(&l, 11, 2, 50), 0); /* some of the old ones may be queued, some written */
    assert_int_equal(wal_last_index(l.wal), 11);
    log_check(&l, 10, 1);
    log_check(&l, 11, 2);
    log_wait(&l, 11);
    assert_int_equal(l.term, 2);
    log_close(&l);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    assert_int_equal(wal_last_index(l.wal), 11);
    log_check(&l, 10, 1);
    log_check(&l, 11, 2);
    log_close(&l);
}

static void test_large_entry_gets_a_large_segment(void **state)
{
    (void)state;
    struct log l;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0); /* and nothing stays in memory */
    assert_int_equal(log_append(&l, 1, 1, 10), 0);
    assert_int_equal(log_append(&l, 2, 1, 300000), 0);
    assert_int_equal(log_append(&l, 3, 1, 10), 0);
    assert_int_equal(log_append(&l, 4, 1, SEGMENT - 4096 - 2 * 56), 0); /* fills one to the last byte */
    assert_int_equal(log_append(&l, 5, 1, 0), 0);
    assert_int_equal(log_append(&l, 6, 1, SEGMENT - 4096 - 2 * 56 + 1),
                     0); /* no room for the mark: gets a larger one */
    log_wait(&l, 6);
    assert_int_equal(wal_bytes(l.wal), SEGMENT + 75 * 4096 + SEGMENT + SEGMENT + SEGMENT + 4096);
    for (uint64_t i = 1; i <= 6; i++) log_check(&l, i, 1);
    log_close(&l);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0);
    for (uint64_t i = 1; i <= 6; i++) log_check(&l, i, 1);
    assert_int_equal(log_append(&l, 7, 1, 3333333), 0); /* more than is written at a time */
    log_wait(&l, 7);
    log_check(&l, 7, 1);
    struct blob *huge = blob_new((64 << 20) + 1);
    assert_non_null(huge);
    memset(huge->data, 0, huge->len);
    struct wal_entry entry = {8, 1, 1, huge};
    assert_int_equal(wal_append(l.wal, &entry, 1), -ERROR_TOO_LARGE);
    blob_unref(huge);
    assert_int_equal(wal_last_index(l.wal), 7);
    log_close(&l);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0);
    log_check(&l, 7, 1);
    log_close(&l);
}

static bool needs_none(void *user, uint64_t segment)
{
    (void)user, (void)segment;
    return false;
}

static uint8_t magic_of(struct memory_disk *m, uint64_t segment)
{
    char path[64];
    size_t len;
    snprintf(path, sizeof path, "/log/%020llu.seg", (unsigned long long)segment);
    const uint8_t *bytes = memory_disk_bytes(m, path, &len);
    return bytes == NULL ? 0 : bytes[7];
}

/* What is reclaimed becomes a later segment, also in the next process; and no more of it is kept than a part of the log. */
static void test_segments_are_recycled(void **state)
{
    (void)state;
    struct memory_disk *m = memory_disk_new();
    struct log l;
    size_t len;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 1), 0);
    for (uint64_t i = 1; i <= 60; i++) assert_int_equal(log_append(&l, i, 1, 20000), 0); /* twenty segments */
    log_wait(&l, 60);
    assert_int_equal(magic_of(m, 10), '1');
    assert_int_equal(wal_compact(l.wal, 54, "", 0, NULL), 0);
    assert_int_equal(wal_reclaim(l.wal, needs_none, NULL, 100, NULL), 18);
    assert_int_equal(wal_segments(l.wal), 2);
    assert_int_equal(magic_of(m, 18), 0);
    unsigned spares = 0;
    for (unsigned i = 0; i < SPARES_MAX; i++) {
        char path[32];
        snprintf(path, sizeof path, "/log/spare-%02u.tmp", i);
        spares += memory_disk_bytes(m, path, &len) != NULL;
    }
    assert_in_range(spares, 1, 2); /* 1 + 20 / 16 of them are kept; the preparer may have had one already */
    log_close(&l);
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 1), 0);
    for (uint64_t i = 61; i <= 90; i++) {
        assert_int_equal(log_append(&l, i, 1, 20000), 0);
        log_wait(&l, i);
    }
    unsigned recycled = 0;
    for (uint64_t id = 21; id <= 30; id++) recycled += magic_of(m, id) == '2';
    assert_in_range(recycled, 2, 3); /* the file that the first process had made and not used is one, too */
    log_close(&l);
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 1), 0);
    for (uint64_t i = 55; i <= 90; i++) log_check(&l, i, 1);
    log_close(&l);
    memory_disk_free(m);
}

static void check_both(void *user, uint64_t index)
{
    struct log *l = user;
    if (index != 512) return;
    assert_int_equal(wal_last_index(l->wal), 513);
    log_check(l, 512, 1);
    log_check(l, 513, 1);
}

/* However small the cache: what is not on the disk yet is answered from memory. */
static void test_unwritten_entries_stay_in_memory(void **state)
{
    (void)state;
    struct memory_disk *m = memory_disk_new();
    struct log l;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 1), 0);
    l.on_report = check_both;
    l.user = &l;
    assert_int_equal(log_append(&l, 1, 1, 8), 0);
    log_wait(&l, 1);
    memory_disk_hold(m, 40000);
    for (uint64_t i = 2; i <= 512; i++) assert_int_equal(log_append(&l, i, 1, 8), 0);
    assert_int_equal(log_append(&l, 513, 1, 45000), 0);
    log_wait(&l, 512); /* while the next segment cannot be made */
    assert_int_equal(l.persisted, 512);
    log_check(&l, 513, 1);
    assert_int_equal(wal_queued_bytes(l.wal), 45000);
    memory_disk_hold(m, 0);
    log_wait(&l, 513);
    log_check(&l, 513, 1);
    memory_disk_hold(m, 1);
    assert_int_equal(log_append(&l, 400, 2, 100), 0); /* below what the cache has let go of */
    log_check(&l, 400, 2);
    memory_disk_hold(m, 0);
    log_wait(&l, 400);
    log_check(&l, 400, 2);
    log_close(&l);
    memory_disk_free(m);
}

static void test_many_segments_are_read_with_few_descriptors(void **state)
{
    (void)state;
    struct log l;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 1), 0);
    for (uint64_t i = 1; i <= 40; i++) {
        assert_int_equal(log_append(&l, i, 1, 50000), 0);
        log_wait(&l, i);
    }
    for (uint64_t i = 40; i >= 1; i--) log_check(&l, i, 1);
    assert_true(wal_bytes(l.wal) == 40 * SEGMENT);
    log_close(&l);
}

static void test_one_process_at_a_time(void **state)
{
    (void)state;
    struct log l, other;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    assert_int_equal(log_open(&other, NULL, dir, SEGMENT, 0), -ERROR_EXISTS);
    log_close(&l);
    assert_int_equal(log_open(&other, NULL, dir, SEGMENT, 0), 0);
    log_close(&other);
}

static void test_options_are_checked(void **state)
{
    (void)state;
    struct log l;
    char missing[100];
    snprintf(missing, sizeof missing, "%s/no/such", dir);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT - 4096, 0), -ERROR_INVALID);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT + 1, 0), -ERROR_INVALID);
    assert_int_equal(log_open(&l, NULL, dir, UINT64_C(2) << 30, 0), -ERROR_INVALID);
    assert_int_equal(log_open(&l, NULL, missing, SEGMENT, 0), -ERROR_IO);
}

static void test_hard_state_comes_back(void **state)
{
    (void)state;
    struct log l;
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    assert_int_equal(wal_term(l.wal), 0);
    assert_int_equal(wal_set_hard_state(l.wal, 5, 2, NULL), 0);
    assert_int_equal(wal_set_hard_state(l.wal, 6, 3, NULL), 0);
    log_close(&l);
    assert_int_equal(log_open(&l, NULL, dir, SEGMENT, 0), 0);
    assert_int_equal(wal_term(l.wal), 6);
    assert_int_equal(wal_vote(l.wal), 3);
    log_close(&l);
}

static void test_failed_disk(int errno_value, enum memory_disk_op op, enum error_code expected)
{
    for (unsigned at = 0; at < 6; at++) {
        struct memory_disk *m = memory_disk_new();
        struct log l;
        assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
        for (uint64_t i = 1; i <= 5; i++) {
            assert_int_equal(log_append(&l, i, 1, 500), 0);
            log_wait(&l, i);
        }
        memory_disk_fail(m, op, at, errno_value);
        for (uint64_t i = 6; i <= 40 && l.failures == 0; i++) {
            if (log_append(&l, i, 1, 500) != 0) break;
            log_wait(&l, i);
        }
        assert_int_equal(l.failures, 1);
        assert_int_equal(l.error.code, expected);
        uint64_t persisted = l.persisted, reports = l.reports;
        assert_int_equal(log_append(&l, wal_last_index(l.wal) + 1, 1, 10), -ERROR_INTERNAL);
        for (int i = 0; i < 5; i++) uv_run(&l.loop, UV_RUN_NOWAIT);
        log_close(&l);
        assert_int_equal(l.failures, 1);
        assert_int_equal(l.reports, reports);

        /* The next process may find more than was reported, but then it must be durable; never less. */
        uint32_t seed = at + 1;
        memory_disk_restart(m);
        assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
        uint64_t found = wal_persisted_index(l.wal);
        assert_true(found >= persisted);
        log_close(&l);
        memory_disk_power_cut(m, &seed);
        assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
        assert_int_equal(wal_persisted_index(l.wal), found);
        for (uint64_t i = 1; i <= found; i++) log_check(&l, i, 1);
        log_close(&l);
        memory_disk_free(m);
    }
}

static void test_failed_write_is_fatal(void **state)
{
    (void)state;
    test_failed_disk(EIO, MEMORY_DISK_WRITE, ERROR_IO);
}

static void test_failed_sync_is_fatal(void **state)
{
    (void)state;
    test_failed_disk(EIO, MEMORY_DISK_SYNC, ERROR_IO);
}

/* For the next segment it waits, as nothing is half written then; a write of the log that finds no room is as fatal as any. */
static void test_full_disk_is_waited_for(void **state)
{
    (void)state;
    test_failed_disk(ENOSPC, MEMORY_DISK_WRITE, ERROR_NOSPACE);
    for (int closed = 0; closed < 2; closed++) {
        struct memory_disk *m = memory_disk_new();
        struct log l;
        uint64_t last = 0;
        assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
        memory_disk_space(m, 3 * SEGMENT);
        while (!wal_no_room(l.wal)) {
            assert_int_equal(log_append(&l, ++last, 1, 2000), 0);
            while (wal_persisted_index(l.wal) < last && !wal_no_room(l.wal)) uv_run(&l.loop, UV_RUN_NOWAIT);
            assert_int_equal(l.failures, 0);
        }
        assert_int_equal(log_append(&l, ++last, 1, 2000), 0);
        uint64_t persisted = wal_persisted_index(l.wal);
        assert_true(persisted > 50 && persisted < 200); /* two segments and a bit */
        if (closed == 0) {
            memory_disk_space(m, UINT64_MAX);
            log_wait(&l, last);
            assert_false(wal_no_room(l.wal));
        }
        log_close(&l);
        assert_int_equal(l.failures, 0);
        memory_disk_restart(m);
        assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
        if (closed == 0) assert_int_equal(wal_last_index(l.wal), last);
        else assert_true(wal_last_index(l.wal) >= persisted && wal_last_index(l.wal) < last);
        for (uint64_t i = 1; i <= wal_last_index(l.wal); i++) log_check(&l, i, 1);
        log_close(&l);
        memory_disk_free(m);
    }
}

/* The process dies at each operation of a set, then the power goes: term and vote are the old ones or the new ones, and
 * the new ones if the set had returned; one copy may rot on top of it. */
static void test_hard_state_at_each_crash_point(void **state)
{
    (void)state;
    bool survived = false;
    for (unsigned at = 0; !survived; at++) {
        for (uint32_t seed = 1; seed <= 60; seed++) {
            struct memory_disk *m = memory_disk_new();
            const struct disk *d = memory_disk_table(m);
            struct hard_state h;
            uint32_t random = seed;
            uint64_t told = 0;
            memory_disk_die(m, at);
            int rv = hard_state_open(&h, d, "/log", true, NULL);
            bool opened = rv == 0;
            for (uint64_t term = 1; term <= 3 && rv == 0; term++) {
                rv = hard_state_set(&h, term, term + 10, NULL);
                if (rv == 0) told = term;
            }
            uint64_t shown = opened ? h.term : 0;
            if (opened) hard_state_close(&h);
            survived = !memory_disk_died(m);
            assert_int_equal(shown, told);
            if (seed % 2 == 0)
                memory_disk_restart(m);
            else
                memory_disk_power_cut(m, &random);
            size_t len;
            uint8_t *bytes = memory_disk_bytes(m, "/log/hard_state", &len);
            assert_true(bytes != NULL || !opened);
            if (survived)
                bytes[test_random(&random) % 2 * 4096 + test_random(&random) % 36] ^= 0x10; /* one copy rots */
            assert_int_equal(hard_state_open(&h, d, "/log", !opened, NULL), 0);
            uint64_t found = h.term;
            assert_true(found >= told && found <= told + 1);
            assert_int_equal(h.vote, found == 0 ? 0 : found + 10);
            hard_state_close(&h);
            /* What was found is told to others now: it must stay, whichever copy rots next. */
            memory_disk_power_cut(m, &random);
            bytes = memory_disk_bytes(m, "/log/hard_state", &len);
            bytes[seed / 2 % 2 * 4096 + 16] ^= 1;
            assert_int_equal(hard_state_open(&h, d, "/log", false, NULL), 0);
            assert_int_equal(h.term, found);
            hard_state_close(&h);
            memory_disk_free(m);
        }
    }
}

static void test_damaged_hard_state_is_refused(void **state)
{
    (void)state;
    struct memory_disk *m = memory_disk_new();
    struct log l;
    size_t len;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
    assert_int_equal(wal_set_hard_state(l.wal, 1, 1, NULL), 0);
    log_close(&l);
    uint8_t *bytes = memory_disk_bytes(m, "/log/hard_state", &len);
    bytes[17] ^= 1;
    bytes[4096 + 33] ^= 1;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), -ERROR_CORRUPT);
    bytes[17] ^= 1;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
    assert_int_equal(log_append(&l, 1, 1, 1), 0);
    log_wait(&l, 1);
    log_close(&l);
    memory_disk_remove(m, "/log/hard_state");
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), -ERROR_CORRUPT);
    memory_disk_free(m);
}

static void test_failed_hard_state_stays_failed(void **state)
{
    (void)state;
    struct memory_disk *m = memory_disk_new();
    struct log l;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
    assert_int_equal(wal_set_hard_state(l.wal, 4, 1, NULL), 0);
    memory_disk_fail_file(m, "/log/hard_state", MEMORY_DISK_SYNC, 1, EIO);
    assert_int_equal(wal_set_hard_state(l.wal, 5, 1, NULL), -ERROR_IO);
    assert_int_equal(wal_term(l.wal), 4);
    assert_int_equal(wal_set_hard_state(l.wal, 5, 1, NULL), -ERROR_IO);
    assert_int_equal(log_append(&l, 1, 4, 10), -ERROR_INTERNAL);
    log_close(&l);
    memory_disk_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_entries_come_back, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_the_beginning_moves, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_replaced_suffix, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_large_entry_gets_a_large_segment, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_many_segments_are_read_with_few_descriptors, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_one_process_at_a_time, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_options_are_checked, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_hard_state_comes_back, make_dir, remove_dir),
        cmocka_unit_test(test_segments_are_recycled),
        cmocka_unit_test(test_unwritten_entries_stay_in_memory),
        cmocka_unit_test(test_failed_write_is_fatal),
        cmocka_unit_test(test_failed_sync_is_fatal),
        cmocka_unit_test(test_full_disk_is_waited_for),
        cmocka_unit_test(test_hard_state_at_each_crash_point),
        cmocka_unit_test(test_damaged_hard_state_is_refused),
        cmocka_unit_test(test_failed_hard_state_stays_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
