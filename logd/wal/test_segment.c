/* The segment codec: what passes for a record, and what the bytes behind a stop prove. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "logd/wal/segment.h"

enum { SALT = 0xfeed, BYTES = 16384 };

static uint8_t bytes[BYTES];

/* A segment with records one by one; the caller says what each states as synced. */
struct builder {
    struct segment_header header;
    size_t at;
    uint64_t seq;
    uint32_t chain;
};

static bool recycled; /* every test is run on zeros, and on what an earlier life of the file left */

/* Records of an earlier life: whole, in order, one behind the other, of all lengths, and each says that much was synced. */
static void fill_with_an_earlier_life(void)
{
    uint32_t chain = 0;
    size_t at = SEGMENT_HEADER;
    for (uint64_t seq = 2; at + RECORD_HEADER + 64 <= BYTES; seq++) {
        struct record r = {RECORD_ENTRY, 5, (uint32_t)(seq * 7 % 60), 100 + seq, 2, seq, 9, chain, 0};
        uint8_t payload[64];
        memset(payload, 0xee, sizeof payload);
        record_encode(&r, SALT ^ 1, payload, bytes + at);
        memcpy(bytes + at + RECORD_HEADER, payload, r.length);
        at += record_size(r.length);
        chain = r.crc;
    }
}

static void begin(struct builder *b)
{
    memset(bytes, 0, sizeof bytes);
    if (recycled) fill_with_an_earlier_life();
    *b = (struct builder){{3, BYTES, 10, 77, SALT, recycled}, SEGMENT_HEADER, 10, 77};
    segment_header_encode(&b->header, bytes);
}

static size_t add(struct builder *b, enum record_kind kind, uint64_t synced, size_t length)
{
    uint8_t payload[2048] = {0};
    size_t at = b->at;
    for (size_t i = 0; i < length; i++) payload[i] = (uint8_t)(b->seq + i);
    struct record r = {kind, 5, (uint32_t)length, 100 + b->seq, 2, b->seq, synced, b->chain, 0};
    record_encode(&r, SALT, payload, bytes + at);
    memcpy(bytes + at + RECORD_HEADER, payload, length);
    if (kind == RECORD_MARK) return at;
    b->at += record_size(length);
    b->seq++;
    b->chain = r.crc;
    return at;
}

static unsigned scan(struct segment_scan *s, struct segment_end *end)
{
    struct segment_header h;
    struct record r;
    size_t at;
    unsigned n = 0;
    assert_int_equal(segment_header_decode(bytes, &h, NULL), 0);
    segment_scan_begin(s, &h, bytes, sizeof bytes);
    while (segment_scan_next(s, &r, &at)) n++;
    segment_scan_end(s, end);
    return n;
}

static void test_header_roundtrip_and_damage(void **state)
{
    (void)state;
    struct segment_header h = {7, 1 << 20, 99, 0xabcdef01, 0x12345678, recycled}, out;
    uint8_t block[SEGMENT_HEADER];
    segment_header_encode(&h, block);
    assert_int_equal(segment_header_decode(block, &out, NULL), 0);
    assert_true(out.id == h.id && out.bytes == h.bytes && out.first_seq == h.first_seq && out.chain == h.chain && out.salt == h.salt);
    assert_int_equal(out.recycled, recycled);
    for (size_t at = 0; at < 44; at++) {
        block[at] ^= 4;
        assert_int_equal(segment_header_decode(block, &out, NULL), -ERROR_CORRUPT);
        block[at] ^= 4;
    }
}

static void test_record_roundtrip_and_damage(void **state)
{
    (void)state;
    uint8_t b[RECORD_HEADER + 16];
    struct record r = {RECORD_ENTRY, 9, 13, 1234567890123, 42, 88, 80, 0x55aa55aa, 0}, out;
    memcpy(b + RECORD_HEADER, "hello, record\0\0\0", 16);
    record_encode(&r, SALT, b + RECORD_HEADER, b);
    assert_true(record_decode(b, sizeof b, SALT, &out));
    assert_int_equal(out.kind, RECORD_ENTRY);
    assert_int_equal(out.type, 9);
    assert_int_equal(out.length, 13);
    assert_int_equal(out.index, 1234567890123);
    assert_int_equal(out.term, 42);
    assert_int_equal(out.seq, 88);
    assert_int_equal(out.synced, 80);
    assert_int_equal(out.chain, 0x55aa55aa);
    assert_int_equal(out.crc, r.crc);
    assert_false(record_decode(b, sizeof b, SALT + 1, &out));
    for (size_t len = 0; len < RECORD_HEADER + 13; len++) assert_false(record_decode(b, len, SALT, &out));
    for (size_t bit = 0; bit < 8 * (RECORD_HEADER + 13); bit++) {
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(record_decode(b, sizeof b, SALT, &out));
        assert_int_equal(record_decode_header(b, sizeof b, SALT, &out), bit / 8 >= RECORD_HEADER);
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_clean_end(void **state)
{
    (void)state;
    struct builder b;
    struct segment_scan s;
    struct segment_end end;
    begin(&b);
    assert_int_equal(scan(&s, &end), 0);
    assert_int_equal(end.verdict, SEGMENT_CLEAN);
    assert_int_equal(end.proven, 9); /* what came before the segment */
    add(&b, RECORD_ENTRY, 9, 100);
    add(&b, RECORD_ENTRY, 9, 0);
    add(&b, RECORD_ENTRY, 11, 1);
    assert_int_equal(scan(&s, &end), 3);
    assert_int_equal(end.verdict, SEGMENT_CLEAN);
    assert_int_equal(end.proven, 11);
    assert_int_equal(s.at, b.at);
    assert_int_equal(s.seq, 13);
    add(&b, RECORD_MARK, 12, 0);
    assert_int_equal(scan(&s, &end), 3);
    assert_int_equal(end.verdict, SEGMENT_SEALED); /* its index names a segment */
    assert_int_equal(end.proven, 12);
}

/* Three groups; the record at the stop is damaged in each possible way. */
static void test_damage_is_told_from_a_torn_tail(void **state)
{
    (void)state;
    for (size_t byte = 0; byte < RECORD_HEADER + 40; byte++) {
        struct builder b;
        struct segment_scan s;
        struct segment_end end;
        /* in a recycled segment a record without its header is nothing: the same as what was there before */
        enum segment_verdict torn = recycled && byte < RECORD_HEADER ? SEGMENT_CLEAN : SEGMENT_TORN;
        begin(&b);
        add(&b, RECORD_ENTRY, 9, 40);
        size_t second = add(&b, RECORD_ENTRY, 10, 40), third = add(&b, RECORD_ENTRY, 10, 40);
        size_t fourth = add(&b, RECORD_ENTRY, 12, 40);

        bytes[fourth + byte] ^= 0x20; /* nothing behind it: torn */
        assert_int_equal(scan(&s, &end), 3);
        assert_int_equal(end.verdict, torn);
        assert_true((end.dirty > 0) == (torn == SEGMENT_TORN) && s.at == fourth);
        bytes[third + byte] ^= 0x20; /* the fourth's header, if it is whole, says that the third was synced */
        assert_int_equal(scan(&s, &end), 2);
        assert_int_equal(end.verdict, byte < RECORD_HEADER ? torn : SEGMENT_CORRUPT);
        bytes[fourth + byte] ^= 0x20;
        assert_int_equal(scan(&s, &end), 2);
        assert_int_equal(end.verdict, SEGMENT_CORRUPT);
        memset(bytes + fourth, 0, RECORD_HEADER + 40); /* the third and second were of one group */
        bytes[second + byte] ^= 0x20;
        bytes[third + byte] ^= 0x20;
        assert_int_equal(scan(&s, &end), 1);
        assert_int_equal(end.verdict, SEGMENT_TORN);
    }
}

static void test_mark_proves_the_last_group(void **state)
{
    (void)state;
    struct builder b;
    struct segment_scan s;
    struct segment_end end;
    begin(&b);
    add(&b, RECORD_ENTRY, 9, 40);
    size_t last = add(&b, RECORD_ENTRY, 10, 40);
    add(&b, RECORD_MARK, 11, 0);
    bytes[last + 60] ^= 1;
    assert_int_equal(scan(&s, &end), 1);
    assert_int_equal(end.verdict, SEGMENT_CORRUPT);
}

static void test_records_of_an_earlier_life_do_not_follow(void **state)
{
    (void)state;
    struct builder b;
    struct segment_scan s;
    struct segment_end end;
    begin(&b);
    add(&b, RECORD_ENTRY, 9, 40);
    struct builder other = b;
    add(&b, RECORD_ENTRY, 9, 40);
    add(&b, RECORD_ENTRY, 9, 40);
    other.chain ^= 1; /* the same place and seq, another predecessor */
    add(&other, RECORD_ENTRY, 9, 40);
    assert_int_equal(scan(&s, &end), 1);
    assert_int_equal(end.verdict, SEGMENT_TORN);
}

/* Even were the salt the same: seq and synced of a later life are higher than any of an earlier one. */
static void test_the_same_salt_twice(void **state)
{
    (void)state;
    struct builder b;
    struct segment_scan s;
    struct segment_end end;
    begin(&b);
    fill_with_an_earlier_life();
    struct record r;
    for (size_t at = SEGMENT_HEADER; record_decode(bytes + at, BYTES - at, SALT ^ 1, &r); at += record_size(r.length)) {
        uint8_t payload[64];
        memset(payload, 0xee, sizeof payload);
        r.seq %= 8, r.synced = r.seq == 0 ? 0 : r.seq - 1;
        record_encode(&r, SALT, payload, bytes + at);
    }
    add(&b, RECORD_ENTRY, 9, 32);
    assert_int_equal(scan(&s, &end), 1);
    assert_int_equal(s.at, b.at);
    assert_int_equal(end.proven, 9);
    assert_int_not_equal(end.verdict, SEGMENT_CORRUPT);
}

/* A client can put anything into a payload: a record in there is none, and hostile lengths harm nobody. */
static void test_payloads_prove_nothing(void **state)
{
    (void)state;
    struct builder b;
    struct segment_scan s;
    struct segment_end end;
    begin(&b);
    add(&b, RECORD_ENTRY, 9, 40);
    size_t torn = add(&b, RECORD_ENTRY, 10, 2000);
    struct record fake = {RECORD_ENTRY, 1, 0, 1, 1, 500, 499, 0, 0};
    for (uint32_t salt = 0; salt < 20; salt++)
        record_encode(&fake, salt, NULL, bytes + torn + RECORD_HEADER + salt * 64);
    for (size_t at = torn + RECORD_HEADER + 1280; at < torn + 2000; at += 8) {
        memcpy(bytes + at, "REC1", 4);
        memset(bytes + at + 4, 0xff, 4);
    }
    assert_int_equal(scan(&s, &end), 1);
    assert_int_equal(end.verdict, SEGMENT_TORN);
    assert_int_equal(end.proven, 10); /* as the torn record's own header says */
}

static void test_random_bytes(void **state)
{
    (void)state;
    uint32_t x = 20260101;
    print_message("seed %u\n", x);
    for (unsigned round = 0; round < 500; round++) {
        struct builder b;
        struct segment_scan s;
        struct segment_end end;
        begin(&b);
        unsigned n = 0;
        for (; n < round % 7; n++) add(&b, RECORD_ENTRY, 9, round % 50);
        for (size_t at = b.at; at < BYTES; at++) {
            x = x * 1664525 + 1013904223;
            bytes[at] = (uint8_t)(x >> 24);
            if (at % 8 == 0 && (x >> 8) % 4 == 0 && at + 4 <= BYTES) memcpy(bytes + at, "REC1", 4);
        }
        assert_int_equal(scan(&s, &end), n);
        assert_int_equal(end.verdict, recycled ? SEGMENT_CLEAN : SEGMENT_TORN);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_roundtrip_and_damage),
        cmocka_unit_test(test_record_roundtrip_and_damage),
        cmocka_unit_test(test_clean_end),
        cmocka_unit_test(test_damage_is_told_from_a_torn_tail),
        cmocka_unit_test(test_mark_proves_the_last_group),
        cmocka_unit_test(test_records_of_an_earlier_life_do_not_follow),
        cmocka_unit_test(test_payloads_prove_nothing),
        cmocka_unit_test(test_the_same_salt_twice),
        cmocka_unit_test(test_random_bytes),
    };
    int failed = cmocka_run_group_tests_name("zeros behind", tests, NULL, NULL);
    recycled = true;
    return failed + cmocka_run_group_tests_name("an earlier life behind", tests, NULL, NULL);
}
