/* What the log finds after a crash or damage (W2): segments cut at every byte of the last batch, every byte flipped,
 * files lost; and a property: random sessions that end in a close, a killed process or a power cut, against a model. */
#include "logd/wal/test_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "logd/wal/memory_disk.h"
#include "logd/wal/recovery.h"
#include "logd/wal/segment.h"

enum { SEGMENT = 64 << 10, EARLY = 8, BATCH = 4, ALL = EARLY + BATCH };

#define FIRST "/log/00000000000000000001.seg"

static size_t length_of(uint64_t index)
{
    return 20 + index * 17 % 90;
}

static bool recycled; /* every test is run with new segments, and with ones that were segments before */

/* Leaves spares in the directory, full of records of an earlier life whose place and length are those of a later one's. */
static void leave_spares(const struct disk *disk, const char *dir)
{
    static uint8_t old[SEGMENT];
    struct segment_header h = {1, SEGMENT, 1, 0, 12345, false};
    uint32_t chain = 0;
    size_t at = SEGMENT_HEADER;
    if (!recycled) return;
    segment_header_encode(&h, old);
    for (uint64_t i = 1; at + record_size(length_of(i)) + RECORD_HEADER <= SEGMENT; i++) {
        struct record r = {RECORD_ENTRY, (uint16_t)(1 + i % 3), (uint32_t)length_of(i), i, 1, i, i - 1, chain, 0};
        struct blob *b = log_payload(i, 9, length_of(i));
        record_encode(&r, h.salt, b->data, old + at);
        memcpy(old + at + RECORD_HEADER, b->data, b->len);
        blob_unref(b);
        at += record_size(r.length);
        chain = r.crc;
    }
    if (disk == NULL) disk = disk_system();
    assert_int_equal(disk->mkdir(disk, dir), 0);
    for (unsigned i = 0; i < 4; i++) {
        char path[96];
        snprintf(path, sizeof path, "%s/spare-%02u.tmp", dir, i);
        int fd = disk->open(disk, path, O_RDWR | O_CREAT);
        assert_true(fd >= 0);
        assert_int_equal(disk_write_all(disk, fd, old, sizeof old, 0), 0);
        assert_int_equal(disk->datasync(disk, fd), 0);
        disk->close(disk, fd);
    }
}

/* EARLY entries, each synced alone, then BATCH of them in one group. Returns where the batch begins and ends. */
static void write_log(const struct disk *disk, const char *dir, size_t *ret_begin, size_t *ret_end)
{
    struct log l;
    struct wal_location where;
    leave_spares(disk, dir);
    assert_int_equal(log_open(&l, disk, dir, SEGMENT, 0), 0);
    for (uint64_t i = 1; i <= EARLY; i++) {
        assert_int_equal(log_append(&l, i, 1, length_of(i)), 0);
        log_wait(&l, i);
    }
    struct wal_entry batch[BATCH];
    for (unsigned i = 0; i < BATCH; i++) { /* one call: one group */
        batch[i] = (struct wal_entry){.index = EARLY + 1 + i,
                                      .term = 1,
                                      .type = (uint32_t)(1 + (EARLY + 1 + i) % 3),
                                      .payload = log_payload(EARLY + 1 + i, 1, length_of(EARLY + 1 + i))};
    }
    assert_int_equal(wal_append(l.wal, batch, BATCH), 0);
    for (unsigned i = 0; i < BATCH; i++) blob_unref(batch[i].payload);
    log_wait(&l, ALL);
    assert_int_equal(wal_locate(l.wal, EARLY + 1, &where), 0);
    *ret_begin = where.position - RECORD_HEADER;
    assert_int_equal(wal_locate(l.wal, ALL, &where), 0);
    *ret_end = where.position + length_of(ALL);
    log_close(&l);
}

/* The log must hold exactly `n` entries, go on with another, and hold that one after another start. */
static void check_goes_on(const struct disk *disk, const char *dir, uint64_t n)
{
    struct log l;
    if (log_open(&l, disk, dir, SEGMENT, 1) != 0) fail_msg("%s", l.error.text);
    assert_int_equal(wal_last_index(l.wal), n);
    for (uint64_t i = 1; i <= n; i++) log_check(&l, i, 1);
    assert_int_equal(log_append(&l, n + 1, 2, 10), 0);
    log_wait(&l, n + 1);
    log_close(&l);
    assert_int_equal(log_open(&l, disk, dir, SEGMENT, 1), 0);
    assert_int_equal(wal_cut_bytes(l.wal), 0);
    assert_int_equal(wal_last_index(l.wal), n + 1);
    for (uint64_t i = 1; i <= n; i++) log_check(&l, i, 1);
    log_check(&l, n + 1, 2);
    log_close(&l);
}

/* Entries of the batch that end at or before `cut`. */
static uint64_t whole_until(size_t begin, size_t cut)
{
    uint64_t n = EARLY;
    for (size_t at = begin; n < ALL && at + RECORD_HEADER + length_of(n + 1) <= cut; n++)
        at += record_size(length_of(n + 1));
    return n;
}

static void read_file(const char *path, uint8_t *ret_bytes)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && disk_read_all(disk_system(), fd, ret_bytes, SEGMENT, 0) == 0);
    close(fd);
}

static void write_file(const char *path, const uint8_t *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    assert_true(fd >= 0 && disk_write_all(disk_system(), fd, bytes, len, 0) == 0); /* a kernel may write a part */
    close(fd);
}

static void test_real_file_cut_at_every_byte_of_the_last_batch(void **state)
{
    (void)state;
    static uint8_t image[SEGMENT];
    char dir[64] = "/tmp/crsc-wal-XXXXXX", path[128], command[128];
    size_t begin, end;
    assert_non_null(mkdtemp(dir));
    write_log(NULL, dir, &begin, &end);
    snprintf(path, sizeof path, "%s/00000000000000000001.seg", dir);
    read_file(path, image);
    for (size_t cut = begin; cut <= end; cut++) {
        write_file(path, image, cut);
        check_goes_on(NULL, dir, whole_until(begin, cut));
    }
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

/* The same in memory, with what a crash really leaves: the file's size stays, and behind the cut there are zeros (0),
 * remains of something else (1), or one sector is missing and the rest of the batch is there (2). */
static void test_torn_in_every_way_at_every_byte_of_the_last_batch(void **state)
{
    (void)state;
    struct memory_disk *written = memory_disk_new();
    size_t begin, end, len;
    write_log(memory_disk_table(written), "/log", &begin, &end);
    memset(memory_disk_bytes(written, FIRST, &len) + (end + 7) / 8 * 8, 0, RECORD_HEADER); /* the mark */
    for (unsigned how = 0; how < 3; how++) {
        for (size_t cut = begin; cut < end; cut++) {
            struct memory_disk *m = memory_disk_clone(written);
            uint8_t *bytes = memory_disk_bytes(m, FIRST, &len);
            size_t to = how == 2 ? (cut / 512 + 1) * 512 : SEGMENT;
            for (size_t at = cut; at < to; at++) bytes[at] = how == 1 && at < end + 700 ? (uint8_t)(at * 37 + 1) : 0;
            const uint8_t *before = memory_disk_bytes(written, FIRST, &len);
            size_t same = cut; /* a zero over a zero changes nothing */
            while (same < end && bytes[same] == before[same]) same++;
            check_goes_on(memory_disk_table(m), "/log", whole_until(begin, same));
            memory_disk_free(m);
        }
    }
    memory_disk_free(written);
}

/* Whatever single byte changes: the log is refused, or it is all there and right. */
static void check_flip(struct memory_disk *written, const char *path, size_t at, uint8_t mask, uint64_t least,
                       uint64_t n, unsigned *ret_refused)
{
    struct memory_disk *m = memory_disk_clone(written);
    struct log l;
    size_t len;
    memory_disk_bytes(m, path, &len)[at] ^= mask;
    int rv = log_open(&l, memory_disk_table(m), "/log", SEGMENT, 1);
    if (rv != 0) {
        assert_int_equal(rv, -ERROR_CORRUPT);
        assert_non_null(strstr(l.error.text, "/log/0000"));
        ++*ret_refused;
    } else {
        uint64_t last = wal_last_index(l.wal);
        if (last < least || last > n)
            fail_msg("byte %zu of %s: %lu of %lu entries", at, path, (unsigned long)last, (unsigned long)n);
        for (uint64_t i = 1; i <= last; i++) log_check(&l, i, 1);
        log_close(&l);
    }
    memory_disk_free(m);
}

static void test_every_flipped_byte(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x80, 0xff};
    struct memory_disk *written = memory_disk_new();
    size_t begin, end, len;
    unsigned refused = 0, flips = 0;
    write_log(memory_disk_table(written), "/log", &begin, &end);
    for (unsigned with_mark = 0; with_mark < 2; with_mark++) {
        struct memory_disk *m = memory_disk_clone(written);
        if (!with_mark) memset(memory_disk_bytes(m, FIRST, &len) + (end + 7) / 8 * 8, 0, RECORD_HEADER);
        for (size_t at = 0; at < end + 100; at++) {
            if (at == 64) at = SEGMENT_HEADER - 4; /* nothing is in there */
            for (unsigned i = 0; i < sizeof masks; i++, flips++)
                check_flip(m, FIRST, at, masks[i], at >= begin && !with_mark ? EARLY : ALL, ALL, &refused);
        }
        memory_disk_free(m);
    }
    memory_disk_free(written);
    print_message("%u of %u flips refused\n", refused, flips);
    assert_true(refused > flips / 2);
}

/* In a log of several segments, where a flip may also be next to a border. */
static struct memory_disk *write_segments(uint64_t n)
{
    struct memory_disk *m = memory_disk_new();
    struct log l;
    leave_spares(memory_disk_table(m), "/log");
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), 0);
    for (uint64_t i = 1; i <= n; i++) {
        assert_int_equal(log_append(&l, i, 1, 3000 + i % 500), 0);
        log_wait(&l, i);
    }
    log_close(&l);
    size_t len;
    assert_int_equal(memory_disk_bytes(m, FIRST, &len)[7], recycled ? '2' : '1');
    return m;
}

static void test_flips_in_several_segments(void **state)
{
    (void)state;
    struct memory_disk *written = write_segments(50);
    uint32_t seed = 4711;
    unsigned refused = 0;
    char path[64];
    print_message("seed %u\n", seed);
    for (unsigned round = 0; round < 1500; round++) {
        snprintf(path, sizeof path, "/log/%020u.seg", 1 + test_random(&seed) % 3);
        check_flip(written, path, test_random(&seed) % SEGMENT, (uint8_t)(1 << test_random(&seed) % 8), 50, 50,
                   &refused);
    }
    assert_true(refused > 700);
    memory_disk_free(written);
}

static void test_lost_files_are_missed(void **state)
{
    (void)state;
    for (unsigned id = 1; id <= 3; id++) {
        for (unsigned how = 0; how < 4; how++) {
            struct memory_disk *m = write_segments(50);
            struct log l;
            size_t len;
            char path[64], text[32];
            snprintf(path, sizeof path, "/log/%020u.seg", id);
            snprintf(text, sizeof text, "%020u.seg", how == 0 && id == 3 ? 2 : id);
            if (how == 0) memory_disk_remove(m, path);
            if (how == 1) memory_disk_cut(m, path, 4095);
            if (how == 2) memset(memory_disk_bytes(m, path, &len), 0, SEGMENT_HEADER);
            if (how == 3) memory_disk_bytes(m, path, &len)[SEGMENT_HEADER + 4000] ^= 2;
            assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), -ERROR_CORRUPT);
            if (strstr(l.error.text, text) == NULL) fail_msg("%s is not in: %s", text, l.error.text);
            memory_disk_free(m);
        }
    }
}

/* A file of another log, or of another place in this one, is not taken for ours. */
static void test_exchanged_files_are_refused(void **state)
{
    (void)state;
    struct memory_disk *m = write_segments(50);
    struct log l;
    size_t len;
    uint8_t *first = memory_disk_bytes(m, FIRST, &len),
            *second = memory_disk_bytes(m, "/log/00000000000000000002.seg", &len);
    for (size_t i = 0; i < len; i++) {
        uint8_t b = first[i];
        first[i] = second[i];
        second[i] = b;
    }
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 0), -ERROR_CORRUPT);
    memory_disk_free(m);
}

/* Damage that comes after the start is met by the read: never served. */
static void test_damage_at_run_time_is_not_served(void **state)
{
    (void)state;
    struct memory_disk *m = write_segments(3);
    struct log l;
    struct wal_entry entry;
    size_t len;
    assert_int_equal(log_open(&l, memory_disk_table(m), "/log", SEGMENT, 1), 0);
    log_check(&l, 2, 1);
    memory_disk_bytes(m, FIRST, &len)[SEGMENT_HEADER + 4000] ^= 2;
    assert_int_equal(wal_read(l.wal, 2, &entry, &l.error), -ERROR_CORRUPT);
    log_check(&l, 1, 1);
    memory_disk_cut(m, FIRST, SEGMENT_HEADER + 4000);
    assert_int_equal(wal_read(l.wal, 3, &entry, &l.error), -ERROR_CORRUPT);
    log_close(&l);
    memory_disk_free(m);
}

/* A process dies at each of its operations. What recovery tells the next one is durable by then, names included; and
 * the newest file, once it was told of, is missed when it is lost. */
static void test_what_recovery_answers_is_durable(void **state)
{
    (void)state;
    bool survived = false;
    for (unsigned at = 0; !survived; at++) {
        struct memory_disk *m = memory_disk_new();
        const struct disk *d = memory_disk_table(m);
        struct log l;
        struct recovered before, after;
        uint32_t seed = at + 1;
        leave_spares(d, "/log");
        assert_int_equal(log_open(&l, d, "/log", SEGMENT, 0), 0);
        memory_disk_die(m, at);
        for (uint64_t i = 1; i <= 6 && l.failures == 0; i++) {
            if (log_append(&l, i, 1, 25000) != 0) break;
            log_wait(&l, i);
        }
        uint64_t persisted = wal_persisted_index(l.wal);
        log_close(&l);
        survived = !memory_disk_died(m);
        memory_disk_restart(m);
        assert_int_equal(recovery_run(d, "/log", &before, &l.error), 0);
        assert_true(before.n >= persisted);
        memory_disk_power_cut(m, &seed);
        assert_int_equal(recovery_run(d, "/log", &after, &l.error), 0);
        assert_int_equal(after.n, before.n);
        assert_int_equal(after.last_segment, before.last_segment);
        if (after.last_segment > 1) {
            char path[64];
            struct recovered none;
            snprintf(path, sizeof path, "/log/%020u.seg", (unsigned)after.last_segment);
            memory_disk_remove(m, path);
            assert_int_equal(recovery_run(d, "/log", &none, &l.error), -ERROR_CORRUPT);
        }
        recovered_free(&before);
        recovered_free(&after);
        memory_disk_free(m);
    }
}

/* ---- the property --------------------------------------------------------------------------------------------- */

enum { STEPS = 60, ENTRIES = 2000 };

static uint32_t current_seed; /* CRSC_TEST_SEED=N runs that one alone */

/* Every wal_append() of a session is a step; what a crash leaves must be the log after some step >= the newest one
 * reported. */
struct model {
    uint64_t terms[STEPS + 1][ENTRIES]; /* log after each step; terms[k][i] of index i + 1; content follows from it */
    uint64_t last[STEPS + 1];
    unsigned steps;
    unsigned told;             /* step that is known to be durable */
    unsigned step_of[ENTRIES]; /* the newest step that wrote this index */
};

static void on_report(void *user, uint64_t index)
{
    struct model *model = user;
    unsigned step = model->step_of[index - 1];
    if (step > model->told) model->told = step;
}

static unsigned compactions;

static bool odd_is_needed(void *user, uint64_t segment)
{
    (void)user;
    return segment % 2 == 1;
}

static void random_step(struct log *l, struct model *model, uint64_t term, uint32_t *seed)
{
    unsigned k = model->steps + 1;
    uint64_t index = model->last[k - 1] + 1;
    if (index > ENTRIES) index = ENTRIES / 2;
    if (test_random(seed) % 6 == 0 && index > 4) index -= 1 + test_random(seed) % 4;
    if (index < wal_first_index(l->wal)) index = wal_first_index(l->wal);
    size_t length = test_random(seed) % 8 == 0 ? test_random(seed) % 30000 : test_random(seed) % 700;
    if (log_append(l, index, term * 1000 + k, length) != 0) return; /* the log has failed: no step was made */
    memcpy(model->terms[k], model->terms[k - 1], sizeof model->terms[k]);
    model->terms[k][index - 1] = term * 1000 + k; /* unique: so the content is */
    model->last[k] = index;
    model->step_of[index - 1] = k;
    model->steps = k;
    if (test_random(seed) % 3 == 0) uv_run(&l->loop, UV_RUN_NOWAIT);
    if (test_random(seed) % 10 == 0) log_wait(l, index);
    uint64_t limit = index > 8 ? index - 8 : 0; /* as if committed and applied: later steps replace nothing below */
    if (test_random(seed) % 8 == 0 && wal_compact(l->wal, limit, "note", 4, NULL) == 0) compactions += wal_first_index(l->wal) > 1;
    if (test_random(seed) % 8 == 0) wal_reclaim(l->wal, odd_is_needed, NULL, 2, NULL);
}

static bool same(const struct model *model, unsigned k, uint64_t last, struct wal *wal)
{
    if (last != wal_last_index(wal)) return false;
    for (uint64_t i = wal_first_index(wal); i <= last; i++)
        if (wal_term_at(wal, i) != model->terms[k][i - 1]) return false;
    return true;
}

/* Finds the step that the log stands at, and begins the model anew from there. */
static void check_model(struct log *l, struct model *model)
{
    unsigned k = model->told;
    while (k <= model->steps && !same(model, k, model->last[k], l->wal)) {
        /* Or it stands between the two records of a replacement: the old ones are dropped, the new one is not there. */
        if (++k <= model->steps && model->last[k] <= model->last[k - 1] && same(model, k, model->last[k] - 1, l->wal)) {
            model->last[k]--;
            break;
        }
    }
    if (k > model->steps)
        fail_msg("seed %u: steps %u to %u were possible, but the log has %lu entries of something else", current_seed,
                 model->told, model->steps, (unsigned long)wal_last_index(l->wal));
    for (uint64_t i = wal_first_index(l->wal); i <= model->last[k]; i++) log_check(l, i, model->terms[k][i - 1]);
    if (k != 0) memmove(model->terms[0], model->terms[k], sizeof model->terms[0]);
    model->last[0] = model->last[k];
    model->steps = model->told = 0;
    memset(model->step_of, 0, sizeof model->step_of);
}

static void one_life(uint32_t seed)
{
    struct memory_disk *m = memory_disk_new();
    static struct model model;
    uint64_t hard = 0;
    memset(&model, 0, sizeof model);
    leave_spares(memory_disk_table(m), "/log");
    if (seed % 4 == 0) memory_disk_no_direct(m);
    for (unsigned session = 1; session <= 6; session++) {
        struct log l;
        unsigned ending = test_random(&seed) % 4; /* a close, a killed process, twice as often the power */
        uint64_t tried = hard;
        if (log_open(&l, memory_disk_table(m), "/log", SEGMENT, test_random(&seed) % 2 == 0 ? 1 : 0) != 0)
            fail_msg("seed %u, session %u: %s", current_seed, session, l.error.text);
        l.on_report = on_report;
        l.user = &model;
        check_model(&l, &model);
        assert_true(wal_term(l.wal) == hard || wal_term(l.wal) == hard + 1);
        hard = wal_term(l.wal);
        if (ending != 0) memory_disk_die(m, test_random(&seed) % 90);
        unsigned steps = test_random(&seed) % STEPS;
        for (unsigned i = 0; i < steps; i++) {
            if (tried == hard && test_random(&seed) % 20 == 0) {
                tried = hard + 1;
                if (wal_set_hard_state(l.wal, tried, 1, NULL) == 0) hard = tried;
            }
            random_step(&l, &model, session, &seed);
        }
        if (ending == 0) log_wait(&l, wal_last_index(l.wal));
        log_close(&l);
        if (ending == 0) assert_int_equal(model.told, model.steps);
        if (ending <= 1)
            memory_disk_restart(m);
        else
            memory_disk_power_cut(m, &seed);
    }
    memory_disk_free(m);
}

#ifdef __SANITIZE_THREAD__ /* threads are the same in each: fewer, as each takes ten times as long */
enum { LIVES = 100 };
#else
enum { LIVES = 300 };
#endif

static void test_random_lives(void **state)
{
    (void)state;
    const char *given = getenv("CRSC_TEST_SEED");
    uint32_t from = given == NULL ? 1 : (uint32_t)strtoul(given, NULL, 10), lives = given == NULL ? LIVES : 1;
    print_message("seeds %u to %u\n", from, from + lives - 1);
    for (uint32_t seed = from; seed < from + lives; seed++) {
        current_seed = seed;
        one_life(seed * 2654435761U);
    }
    print_message("%u times with a moved beginning\n", compactions);
    if (lives >= 100) assert_true(compactions > lives);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_file_cut_at_every_byte_of_the_last_batch),
        cmocka_unit_test(test_torn_in_every_way_at_every_byte_of_the_last_batch),
        cmocka_unit_test(test_every_flipped_byte),
        cmocka_unit_test(test_flips_in_several_segments),
        cmocka_unit_test(test_lost_files_are_missed),
        cmocka_unit_test(test_exchanged_files_are_refused),
        cmocka_unit_test(test_damage_at_run_time_is_not_served),
        cmocka_unit_test(test_what_recovery_answers_is_durable),
        cmocka_unit_test(test_random_lives),
    };
    int failed = cmocka_run_group_tests_name("new segments", tests, NULL, NULL);
    recycled = true;
    return failed + cmocka_run_group_tests_name("recycled segments", tests, NULL, NULL);
}
