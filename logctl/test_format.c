#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "logctl/format.h"
#include "logctl/progress.h"

static void times_sizes_durations(void **state)
{
    (void)state;
    char t[FORMAT_TIME_MAX], s[FORMAT_SIZE_MAX];
    setenv("TZ", "XYZ-5:30", 1);
    tzset();
    assert_string_equal(format_time(1767323045678901, t), "2026-01-02T08:34:05.678+05:30");
    assert_string_equal(format_time(0, t), "-");
    assert_true(strlen(format_time(UINT64_MAX, t)) < FORMAT_TIME_MAX);
    assert_string_equal(format_size(0, s), "0 B");
    assert_string_equal(format_size(1023, s), "1023 B");
    assert_string_equal(format_size(1024, s), "1.0 KiB");
    assert_string_equal(format_size((1 << 20) - 1, s), "1.0 MiB");
    assert_string_equal(format_size(UINT64_MAX, s), "16.0 EiB");
    assert_string_equal(format_duration(999, s), "999ms");
    assert_string_equal(format_duration(12345, s), "12.3s");
    assert_string_equal(format_duration(245000, s), "4m05s");
    assert_string_equal(format_duration(11220000, s), "3h07m");
    assert_string_equal(format_duration(187200000, s), "2d04h");
    assert_true(strlen(format_duration(UINT64_MAX, s)) < FORMAT_SIZE_MAX);
}

static void what_is_text(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        bool text;
    } cases[] = {{"", 0, true},
                 {"GET /\r\n\t", 8, true},
                 {"gr\xc3\xbc\xc3\x9f", 6, true},
                 {"\xf0\x9f\x98\x80", 4, true},
                 {"\0", 1, false},
                 {"\x1b[2J", 4, false},
                 {"\x7f", 1, false},
                 {"\xc3", 1, false},
                 {"\xc0\xaf", 2, false},
                 {"\xed\xa0\x80", 3, false},
                 {"\xf4\x90\x80\x80", 4, false},
                 {"\xe0\x80\x80", 3, false},
                 {"\xff", 1, false},
                 {"\xc2\x9b", 2, false}}; /* C1: a terminal may take it for ESC [ */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *exact = malloc(cases[i].len > 0 ? cases[i].len : 1); /* so that reading beyond is seen */
        memcpy(exact, cases[i].bytes, cases[i].len);
        if (format_is_text(exact, cases[i].len) != cases[i].text) fail_msg("case %zu", i);
        free(exact);
    }
}

static char *printed(const char *bytes, size_t len, bool lines)
{
    char *out = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&out, &n);
    format_print_safe(to, bytes, len, lines);
    fclose(to);
    return out;
}

static void nothing_reaches_the_terminal_that_it_obeys(void **state)
{
    (void)state;
    char *out = printed("a\x1b[1m\r\nb\xff\xc2\x9b", 11, false);
    assert_string_equal(out, "a\\x1b[1m\\x0d\\x0ab\\xff\\xc2\\x9b");
    free(out);
    out = printed("a\r\nb\rc\td\n", 9, true);
    assert_string_equal(out, "a\nb\\x0dc\td\n");
    free(out);
    uint64_t random = 1;
    for (int i = 0; i < 20000; i++) {
        char bytes[24];
        for (size_t k = 0; k < sizeof bytes; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            bytes[k] = (char)(random >> 11);
        }
        out = printed(bytes, sizeof bytes, false);
        for (const char *p = out; *p != '\0'; p++) assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
        assert_true(format_is_text(out, strlen(out)));
        free(out);
    }
}

static void base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xff\xfe\xfd", "//79"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char *out = format_base64(pairs[i][0], strlen(pairs[i][0]));
        assert_string_equal(out, pairs[i][1]);
        free(out);
    }
}

static void request_lines(void **state)
{
    (void)state;
    struct format_request r;
    const char *good = "PUT /metrics/job/a HTTP/1.1\r\nHost: x\r\n\r\nbody";
    assert_true(format_request(good, strlen(good), &r));
    assert_int_equal(r.method_len, 3);
    assert_memory_equal(r.method, "PUT", 3);
    assert_int_equal(r.target_len, 14);
    assert_memory_equal(r.target, "/metrics/job/a", 14);
    static const char *const bad[] = {"",
                                      "\n",
                                      "\r\n",
                                      "PUT\r\n",
                                      "PUT /\r\n",
                                      "PUT  HTTP/1.1\r\n",
                                      " / HTTP/1.1\r\n",
                                      "PUT / HTTP/1.1\n",
                                      "PUT / HTTP/2.0\r\n",
                                      "PUT / HTTP/1.10\r\n",
                                      "P(T / HTTP/1.1\r\n",
                                      "PUT / HTTP/1.1",
                                      "PUT / a HTTP/1.1\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (format_request(bad[i], strlen(bad[i]), &r)) fail_msg("\"%s\" is no request line", bad[i]);
    for (size_t len = 0; len < 29; len++) { /* cut anywhere before its end */
        char *cut = malloc(len > 0 ? len : 1);
        memcpy(cut, good, len);
        assert_false(format_request(cut, len, &r));
        free(cut);
    }
}

static void columns_are_aligned(void **state)
{
    (void)state;
    static const char *const headers[] = {"NAME", "N"}, *const one[] = {"gr\xc3\xbcn", "7"},
                             *const two[] = {"x\n", "1234"};
    static const bool right[] = {false, true};
    char *out = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&out, &n);
    struct table *t = table_new(headers, right, 2);
    table_add(t, one);
    table_add(t, two);
    table_print(t, to);
    table_free(t);
    fclose(to);
    assert_string_equal(out, "NAME      N\ngr\xc3\xbcn      7\nx\\x0a  1234\n");
    free(out);
}

static void progress_says_how_much_how_fast_how_long(void **state)
{
    (void)state;
    char line[PROGRESS_LINE_MAX];
    struct progress p = {.what = "backup", .unit = PROGRESS_BYTES, .total = 1000 << 20};
    assert_string_equal(progress_line(&p, 0, 0, line), "backup [>                   ]   0%  0 B of 1000.0 MiB");
    assert_string_equal(progress_line(&p, 250 << 20, 5000, line), "backup [=====>              ]  25%  250.0 MiB of 1000.0 MiB  50.0 MiB/s  15.0s left");
    assert_string_equal(progress_line(&p, 1000 << 20, 20000, line), "backup [====================] 100%  1000.0 MiB of 1000.0 MiB  50.0 MiB/s  0ms left");
    assert_string_equal(progress_line(&p, 1001 << 20, 20000, line), "backup [====================] 100%  1000.0 MiB of 1000.0 MiB  50.0 MiB/s  0ms left");
    p = (struct progress){.what = "reading", .unit = PROGRESS_COUNT};
    assert_string_equal(progress_line(&p, 300, 100, line), "reading  300  3000/s");
    p = (struct progress){.what = "a name that is far too long for any terminal there is, and then some more of it", .unit = PROGRESS_MS, .total = UINT64_MAX};
    assert_true(strlen(progress_line(&p, UINT64_MAX / 3, UINT64_MAX / 3, line)) < PROGRESS_LINE_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_sizes_durations),
        cmocka_unit_test(what_is_text),
        cmocka_unit_test(nothing_reaches_the_terminal_that_it_obeys),
        cmocka_unit_test(base64),
        cmocka_unit_test(request_lines),
        cmocka_unit_test(columns_are_aligned),
        cmocka_unit_test(progress_says_how_much_how_fast_how_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
