/* Codecs and parsers of common/: frame, crc, buf, error, sizes and durations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/config.h"
#include "common/conn.h"
#include "common/crc32c.h"
#include "common/frame.h"

static void crc_is_castagnoli(void **state)
{
    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    assert_int_equal(crc32c(0, "", 0), 0);
    uint8_t bytes[1200]; /* short and long ones are summed up in different ways: together they must come to the same */
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 31 + i / 7);
    uint32_t whole = crc32c(0, bytes, sizeof bytes);
    for (size_t i = 0; i <= sizeof bytes; i++) assert_int_equal(crc32c(crc32c(0, bytes, i), bytes + i, sizeof bytes - i), whole);
}

static void buf_grows_and_consumes(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    uint8_t byte;
    for (int i = 0; i < 1000; i++) {
        byte = (uint8_t)i;
        assert_int_equal(buf_add(&b, &byte, 1), 0);
    }
    buf_consume(&b, 300);
    assert_int_equal(b.len, 700);
    for (int i = 0; i < 700; i++) assert_int_equal(b.data[i], (uint8_t)(i + 300));
    buf_consume(&b, 700);
    assert_int_equal(b.len, 0);
    assert_int_equal(buf_reserve(&b, SIZE_MAX - 4), -ERROR_NOMEM);
    buf_fini(&b);
}

static struct buf sample(void)
{
    struct buf out = BUF_INIT;
    struct frame_piece body[] = {{"pay", 3}, {NULL, 0}, {"load", 4}};
    struct frame f = {.type = FRAME_APPEND, .id = 0x1122334455667788, .head = (const uint8_t *)"head", .head_len = 4};
    assert_int_equal(frame_encode_pieces(&out, &f, body, 3), 0);
    return out;
}

static void frame_round_trip(void **state)
{
    (void)state;
    struct buf bytes = sample();
    struct frame f;
    assert_int_equal(frame_decode(bytes.data, bytes.len, &f, NULL), (int64_t)bytes.len);
    assert_int_equal(f.type, FRAME_APPEND);
    assert_int_equal(f.id, 0x1122334455667788);
    assert_int_equal(f.head_len, 4);
    assert_memory_equal(f.head, "head", 4);
    assert_int_equal(f.body_len, 7);
    assert_memory_equal(f.body, "payload", 7);
    assert_int_equal(frame_length(&f), bytes.len);
    struct frame peeked;
    for (size_t len = 0; len < FRAME_HEADER + 4; len++) assert_int_equal(frame_peek(bytes.data, len, &peeked, NULL), 0);
    assert_int_equal(frame_peek(bytes.data, FRAME_HEADER + 4, &peeked, NULL), (int64_t)bytes.len); /* the body need not be there */
    assert_int_equal(peeked.type, f.type);
    assert_int_equal(peeked.id, f.id);
    assert_ptr_equal(peeked.head, f.head);
    assert_int_equal(peeked.head_len, f.head_len);
    assert_int_equal(peeked.body_len, f.body_len);
    assert_null(peeked.body);
    buf_fini(&bytes);
}

static void frame_wants_every_byte(void **state)
{
    (void)state;
    struct buf bytes = sample();
    struct frame f;
    for (size_t len = 0; len < bytes.len; len++) assert_int_equal(frame_decode(bytes.data, len, &f, NULL), 0);
    buf_fini(&bytes);
}

/* Whatever single bit is flipped, the frame is refused, or more bytes are asked for: never accepted. */
static void frame_refuses_every_flipped_bit(void **state)
{
    (void)state;
    struct buf bytes = sample();
    struct frame f;
    for (size_t i = 0; i < bytes.len * 8; i++) {
        if (i / 8 >= 28 && i / 8 < 32) continue; /* reserved, ignored by a receiver */
        bytes.data[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_true(frame_decode(bytes.data, bytes.len, &f, NULL) <= 0);
        bytes.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    buf_fini(&bytes);
}

static void frame_limits_are_seen_from_the_header(void **state)
{
    (void)state;
    struct buf bytes = sample();
    struct frame f;
    struct error e;
    put_u32(bytes.data + 20, FRAME_BODY_MAX + 1);
    assert_int_equal(frame_decode(bytes.data, FRAME_HEADER, &f, &e), -ERROR_TOO_LARGE);
    put_u32(bytes.data + 20, 0xffffffff);
    assert_int_equal(frame_decode(bytes.data, FRAME_HEADER, &f, &e), -ERROR_TOO_LARGE);
    assert_int_equal(frame_decode((const uint8_t *)"GET / HTTP/1.1", 14, &f, &e), -ERROR_PROTOCOL);
    buf_fini(&bytes);
}

static void sizes_and_durations(void **state)
{
    (void)state;
    uint64_t v = 0;
    assert_int_equal(config_parse_size("64KiB", &v), 0);
    assert_int_equal(v, 65536);
    assert_int_equal(config_parse_size("7", &v), 0);
    assert_int_equal(v, 7);
    assert_int_equal(config_parse_duration("250ms", &v), 0);
    assert_int_equal(v, 250);
    assert_int_equal(config_parse_duration("2h", &v), 0);
    assert_int_equal(v, 7200000);
    static const char *const bad[] = {"", "-1", "1.5s", "5 s", "s", "5days", "99999999999999999999s", "18446744073709551615h"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(config_parse_duration(bad[i], &v), -ERROR_INVALID);
    assert_int_equal(config_parse_duration("5", &v), -ERROR_INVALID);
}

static void addresses(void **state)
{
    (void)state;
    char host[64], port[8];
    assert_int_equal(address_split("127.0.0.1:80", host, sizeof host, port, sizeof port, NULL), 0);
    assert_string_equal(host, "127.0.0.1");
    assert_string_equal(port, "80");
    assert_int_equal(address_split("[::1]:7400", host, sizeof host, port, sizeof port, NULL), 0);
    assert_string_equal(host, "::1");
    static const char *const bad[] = {"", ":", "host", "host:", ":80", "::1:80", "h:99999", "h:8o", "h:-1", "[]:1", "h:123456789"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(address_split(bad[i], host, sizeof host, port, sizeof port, NULL), -ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_is_castagnoli),
        cmocka_unit_test(buf_grows_and_consumes),
        cmocka_unit_test(frame_round_trip),
        cmocka_unit_test(frame_wants_every_byte),
        cmocka_unit_test(frame_refuses_every_flipped_bit),
        cmocka_unit_test(frame_limits_are_seen_from_the_header),
        cmocka_unit_test(sizes_and_durations),
        cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
