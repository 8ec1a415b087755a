/* Whatever changes in a segment is found, what did not is not blamed, and records are made anew byte for byte from their entries alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/frame.h"
#include "logd/wal/memory_disk.h" /* test_random() */
#include "logd/wal/mend.h"
#include "logd/wal/segment.h"
#include "logd/wal/sieve.h"
#include "logd/wal/writer.h"

enum { BYTES = 256 << 10, SALT = 0xfeed, FIRST_SEQ = 41, ENTRIES_MAX = 2000, RANGES_MAX = 64 };

struct entry {
    uint64_t at;
    uint32_t length;
    bool truncate;
};

static uint8_t file[BYTES], good[BYTES];
static struct entry entries[ENTRIES_MAX];
static unsigned n_entries;
static uint64_t unreadable_from, unreadable_to;

static const uint8_t *read_file(void *user, uint64_t at, size_t len)
{
    (void)user;
    assert_true(at + len <= BYTES && len <= SIEVE_PIECE);
    return at < unreadable_to && at + len > unreadable_from ? NULL : file + at;
}

/* A full segment: groups of all sizes, small and large entries, a truncate record now and then, in a file that was one before or not. */
static void make_segment(uint32_t *seed, bool recycled, unsigned most)
{
    struct segment_header h = {7, BYTES, FIRST_SEQ, 0xc4a1, SALT, recycled};
    uint64_t at = SEGMENT_HEADER, seq = FIRST_SEQ, synced = FIRST_SEQ - 1;
    uint32_t chain = h.chain;
    for (unsigned i = 0; recycled && i < BYTES; i++) file[i] = (uint8_t)(test_random(seed) >> 8);
    if (!recycled) memset(file, 0, sizeof file);
    segment_header_encode(&h, file);
    for (n_entries = 0; n_entries < ENTRIES_MAX; n_entries++, seq++) {
        bool truncate = test_random(seed) % 60 == 0;
        uint32_t length = truncate ? 0 : test_random(seed) % 10 == 0 ? test_random(seed) % (most * 20) : test_random(seed) % most;
        if (at + record_size(length) + RECORD_HEADER > BYTES) break;
        if (test_random(seed) % 3 == 0) synced = seq - 1;
        struct record r = {truncate ? RECORD_TRUNCATE : RECORD_ENTRY, 1, length, 1000 + n_entries, 3, seq, synced, chain, 0};
        uint8_t *payload = file + at + RECORD_HEADER;
        for (uint32_t k = 0; k < length; k++) payload[k] = (uint8_t)(test_random(seed) >> 16);
        record_encode(&r, SALT, payload, file + at);
        memset(payload + length, 0, record_size(length) - RECORD_HEADER - length);
        entries[n_entries] = (struct entry){at, length, truncate};
        chain = r.crc;
        at += record_size(length);
    }
    writer_mark(SALT, seq, chain, 8, file + at);
    memcpy(good, file, sizeof good);
}

static unsigned sift(struct sieve_range ranges[RANGES_MAX], bool known)
{
    struct sieve_options o = {.read = read_file, .id = 7, .bytes = BYTES};
    struct sieve s;
    enum sieve_answer answer;
    unsigned n = 0;
    if (known) o.first_seq = FIRST_SEQ, o.last_seq = FIRST_SEQ + n_entries - 1, o.salt = SALT;
    sieve_begin(&s, &o);
    while ((answer = sieve_step(&s, &ranges[n])) != SIEVE_END)
        if (answer == SIEVE_BAD && n + 1 < RANGES_MAX) n++;
    return n;
}

static bool in_ranges(const struct sieve_range *ranges, unsigned n, uint64_t at)
{
    for (unsigned i = 0; i < n; i++)
        if (at >= ranges[i].from && at < ranges[i].to) return true;
    return false;
}

static unsigned entry_at(uint64_t at)
{
    unsigned i = 0;
    while (i + 1 < n_entries && entries[i + 1].at <= at) i++;
    return i;
}

/* As the server does it: the entries that stood in the range, from elsewhere. */
static int mend(const struct sieve_range *r, uint32_t flip)
{
    struct mend_record list[MEND_RECORDS_MAX];
    unsigned n = 0;
    if (r->header) {
        struct segment_header h = {7, BYTES, FIRST_SEQ, r->chain, SALT, true};
        segment_header_encode(&h, file);
        return 0;
    }
    uint8_t *bytes = malloc(r->to - r->from), *payload = malloc(BYTES);
    for (unsigned i = 0; i < n_entries && n < MEND_RECORDS_MAX; i++)
        if (entries[i].at >= r->from && entries[i].at < r->to && !entries[i].truncate)
            list[n++] = (struct mend_record){1000 + i, 3, 1, good + entries[i].at + RECORD_HEADER, entries[i].length};
    if (flip != 0 && n > 0 && list[0].length > 0) {
        memcpy(payload, list[0].payload, list[0].length);
        payload[flip % list[0].length] ^= 1;
        list[0].payload = payload;
    }
    int rv = mend_range(r, SALT, 8, list, n, bytes);
    if (rv == 0) memcpy(file + r->from, bytes, r->to - r->from);
    free(bytes);
    free(payload);
    return rv;
}

static void whole(void **state)
{
    struct sieve_range ranges[RANGES_MAX];
    (void)state;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        uint32_t random = seed;
        make_segment(&random, seed % 2 == 0, 1000);
        assert_int_equal(sift(ranges, true), 0);
        assert_int_equal(sift(ranges, false), 0);
    }
}

/* One bit. It is blamed on one record, and that record comes back as it was. */
static void one_bit(void **state)
{
    struct sieve_range ranges[RANGES_MAX];
    unsigned mended = 0;
    (void)state;
    for (uint32_t seed = 1; seed <= 400; seed++) {
        uint32_t random = seed;
        make_segment(&random, seed % 2 == 0, 1000);
        unsigned i = test_random(&random) % n_entries;
        uint64_t size = RECORD_HEADER + entries[i].length; /* not of the padding, which means nothing */
        uint64_t at = entries[i].at + (seed % 4 == 0 ? test_random(&random) % RECORD_HEADER : test_random(&random) % size);
        file[at] ^= (uint8_t)(1u << test_random(&random) % 8);
        assert_int_equal(sift(ranges, false), 1);
        assert_int_equal(sift(ranges, true), 1);
        assert_true(ranges[0].from == entries[i].at && in_ranges(ranges, 1, at));
        assert_true(i + 1 == n_entries || ranges[0].to == entries[i + 1].at);
        if (entries[i].truncate) continue;
        assert_int_equal(mend(&ranges[0], 1 + test_random(&random)), entries[i].length > 0 ? -ERROR_CORRUPT : 0); /* not from other bytes */
        assert_int_equal(mend(&ranges[0], 0), 0);
        assert_memory_equal(file, good, sizeof file);
        mended++;
    }
    assert_true(mended > 350);
}

/* A lost sector or page, zeroed or unreadable: many small records at once, of several groups. */
static void lost_sectors(void **state)
{
    struct sieve_range ranges[RANGES_MAX];
    unsigned mended = 0, all = 0;
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        uint32_t random = seed, len = seed % 2 == 0 ? 512 : 4096;
        make_segment(&random, seed % 3 == 0, seed % 5 == 0 ? 3000 : 150);
        uint64_t end = entries[n_entries - 1].at, at = len + test_random(&random) % (end - len) / len * len;
        if (at < SEGMENT_HEADER) continue;
        if (seed % 7 == 0) unreadable_from = at, unreadable_to = at + len;
        else memset(file + at, 0, len);
        unsigned n = sift(ranges, true);
        assert_true(n >= 1);
        for (uint64_t k = at; k < at + len; k++)
            if (file[k] != good[k]) assert_true(in_ranges(ranges, n, k) || entry_at(k) + 1 == n_entries);
        for (unsigned i = 0; i < n; i++) assert_true(ranges[i].from < at + len && ranges[i].to > at);
        unreadable_from = unreadable_to = 0;
        bool truncates = false;
        for (unsigned i = 0; i < n_entries; i++) truncates = truncates || (entries[i].truncate && in_ranges(ranges, n, entries[i].at));
        if (truncates) continue;
        int rv = 0;
        for (unsigned i = 0; rv == 0 && i < n; i++) rv = mend(&ranges[i], 0);
        all++;
        if (rv != 0) continue;
        assert_memory_equal(file, good, entries[n_entries - 1].at);
        assert_int_equal(sift(ranges, true), 0);
        mended++;
    }
    assert_true(all > 100 && mended * 10 >= all * 6); /* groups of two or three, all the time: the hardest there is */
    print_message("%u of %u lost sectors were made anew\n", mended, all);
}

/* The header block: from what the log remembers. Unknown to it, everything is in doubt. */
static void lost_header(void **state)
{
    struct sieve_range ranges[RANGES_MAX];
    uint32_t random = 5;
    (void)state;
    make_segment(&random, true, 1000);
    memset(file, 0, 512);
    assert_int_equal(sift(ranges, true), 1);
    assert_true(ranges[0].header && ranges[0].to == SEGMENT_HEADER);
    assert_int_equal(mend(&ranges[0], 0), 0);
    assert_memory_equal(file, good, sizeof file);
    file[9] ^= 1;
    assert_int_equal(sift(ranges, false), 1);
    assert_true(ranges[0].from == 0 && ranges[0].to == BYTES && ranges[0].seq == 0);
}

/* The last record and the mark behind it: the next segment says what it was. */
static void lost_end(void **state)
{
    struct sieve_range ranges[RANGES_MAX];
    uint32_t random = 9;
    (void)state;
    do make_segment(&random, false, 1000);
    while (entries[n_entries - 1].truncate);
    uint64_t end = entries[n_entries - 1].at + record_size(entries[n_entries - 1].length);
    struct record mark, last;
    assert_true(record_decode(good + end, BYTES - end, SALT, &mark));
    file[end + 3] ^= 1; /* the mark alone is no loss: a later segment is there */
    assert_int_equal(sift(ranges, true), 0);
    file[entries[n_entries - 1].at + 9] ^= 1;
    assert_int_equal(sift(ranges, true), 1);
    assert_true(ranges[0].from == entries[n_entries - 1].at && ranges[0].to == BYTES && ranges[0].next_seq == 0);
    assert_true(record_decode(good + ranges[0].from, BYTES - ranges[0].from, SALT, &last));
    assert_int_equal(mend(&ranges[0], 0), -ERROR_CORRUPT);
    ranges[0].next_seq = FIRST_SEQ + n_entries;
    ranges[0].next_chain = mark.chain;
    assert_int_equal(mend(&ranges[0], 0), 0);
    assert_memory_equal(file, good, sizeof file);
}

/* A segment that is still written to: up to where a record begins, and not a byte further. */
static void open_segment(void **state)
{
    struct sieve_range range, bad = {0};
    (void)state;
    for (uint32_t seed = 1; seed <= 100; seed++) {
        uint32_t random = seed;
        make_segment(&random, seed % 2 == 0, 1000);
        unsigned until = 1 + test_random(&random) % (n_entries - 1), hit = test_random(&random) % n_entries;
        const struct sieve_options o = {.read = read_file, .id = 7, .bytes = entries[until].at, .first_seq = FIRST_SEQ, .salt = SALT, .open = true};
        for (unsigned round = 0; round < 2; round++) {
            struct sieve s;
            enum sieve_answer answer;
            unsigned found = 0;
            if (round == 1) file[entries[hit].at + test_random(&random) % (RECORD_HEADER + entries[hit].length)] ^= 4;
            sieve_begin(&s, &o);
            while ((answer = sieve_step(&s, &range)) != SIEVE_END)
                if (answer == SIEVE_BAD) found++, bad = range;
            assert_int_equal(found, round == 1 && hit < until);
            assert_true(found == 0 || bad.from == entries[hit].at);
        }
    }
}

static unsigned sift_frames(size_t len, struct sieve_range ranges[RANGES_MAX])
{
    const struct sieve_options o = {.read = read_file, .id = 1, .bytes = len, .frames = true};
    struct sieve s;
    enum sieve_answer answer;
    unsigned n = 0;
    sieve_begin(&s, &o);
    while ((answer = sieve_step(&s, &ranges[n])) != SIEVE_END)
        if (answer == SIEVE_BAD && n + 1 < RANGES_MAX) n++;
    return n;
}

static void frames(void **state)
{
    struct sieve_range ranges[RANGES_MAX];
    static uint8_t body[9000];
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        uint32_t random = seed;
        struct buf out = BUF_INIT;
        size_t ends[300] = {SEGMENT_HEADER};
        unsigned n = 0;
        static const uint8_t header[SEGMENT_HEADER];
        assert_int_equal(buf_add(&out, header, sizeof header), 0);
        while (out.len < BYTES - 10000 && n < 299) {
            struct frame f = {.type = FRAME_APPEND, .id = n, .body = body, .body_len = test_random(&random) % sizeof body};
            assert_int_equal(frame_encode(&out, &f), 0);
            ends[++n] = out.len;
        }
        memcpy(file, out.data, out.len);
        assert_int_equal(sift_frames(out.len, ranges), 0);
        unsigned i = test_random(&random) % n;
        uint64_t at = ends[i] + test_random(&random) % (seed % 2 == 0 ? FRAME_HEADER : ends[i + 1] - ends[i]);
        file[at] ^= (uint8_t)(1u << test_random(&random) % 8);
        unsigned found = sift_frames(out.len, ranges);
        assert_true(found >= 1 && ranges[0].from == ends[i] && in_ranges(ranges, found, at));
        assert_true(at < ends[i] + FRAME_HEADER || (found == 1 && ranges[0].to == ends[i + 1]));
        buf_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(one_bit), cmocka_unit_test(lost_sectors),
                                       cmocka_unit_test(lost_header), cmocka_unit_test(lost_end), cmocka_unit_test(open_segment), cmocka_unit_test(frames)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
