/* A manifest comes back as it was written; nothing else is taken for one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/parts/manifest.h"

static void test_round_trip(void **state)
{
    (void)state;
    struct manifest m = {.upload = UINT64_MAX, .bytes = 5000000000}, back = {0};
    struct buf text = BUF_INIT, again = BUF_INIT;
    for (uint64_t i = 1; i <= 1000; i++) assert_int_equal(manifest_add(&m, i * 7 / 5), 0);
    assert_in_range(m.n_runs, 300, 500); /* runs are joined */
    memset(m.print, 0xa5, sizeof m.print);
    assert_int_equal(buf_add(&m.trailers, "X-A: 1\r\nX-B: parts 1-2\r\n", 24), 0);
    assert_int_equal(manifest_write(&m, &text), 0);
    assert_int_equal(manifest_parse(&back, text.data, text.len), 0);
    assert_int_equal(back.upload, m.upload);
    assert_int_equal(back.bytes, m.bytes);
    assert_int_equal(back.n_runs, m.n_runs);
    assert_memory_equal(back.runs, m.runs, m.n_runs * sizeof *m.runs);
    assert_memory_equal(back.print, m.print, sizeof m.print);
    assert_int_equal(manifest_write(&back, &again), 0);
    assert_int_equal(again.len, text.len);
    assert_memory_equal(again.data, text.data, text.len);
    manifest_fini(&back);
    for (size_t cut = 0; cut < text.len; cut++) { /* every beginning of it is refused, and read within its bounds */
        uint8_t *copy = malloc(cut + 1);
        assert_non_null(copy);
        memcpy(copy, text.data, cut);
        assert_int_equal(manifest_parse(&back, cut > 0 ? copy : NULL, cut), -ERROR_CORRUPT);
        assert_null(back.runs);
        free(copy);
    }
    buf_fini(&text);
    buf_fini(&again);
    manifest_fini(&m);
}

#define END "trailers 0\n"
#define PRINT "print aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "upload 1\nbytes 5\n" PRINT,                      /* no parts */
        "upload 1\n" PRINT "parts 1-2\n" END,                 /* no bytes */
        "upload 1\nbytes 5\n" PRINT "parts 2-1\n" END,        "upload 1\nbytes 5\n" PRINT "parts 1-3\nparts 3-4\n" END,
        "upload 1\nbytes 5\n" PRINT "parts 0-1\n" END,        "upload 1\nbytes 5\n" PRINT "parts 1\n" END,
        "upload 1\nbytes -5\n" PRINT "parts 1-2\n" END,       "upload 1\nbytes 5 \n" PRINT "parts 1-2\n" END,
        "upload 1\nbytes 99999999999999999999\n" PRINT "parts 1-2\n" END,
        "upload 1\nbytes 5\nprint aa\nparts 1-2\n" END,       "upload 1\nbytes 5\n" PRINT "parts 1-2\nmore 5\ntrailers 0\n",
        "upload 1\nbytes 5\n" PRINT "parts 1-2\ntrailers 0\nX",       "upload 1\nbytes 5\n" PRINT "parts 1-2\ntrailers 9\nX: y\r\n",
    };
    static const char good[] = "upload 1\nbytes 5\n" PRINT "parts 1-2\n" END;
    struct manifest m = {0};
    assert_int_equal(manifest_parse(&m, good, sizeof good - 1), 0);
    manifest_fini(&m);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (manifest_parse(&m, bad[i], strlen(bad[i])) != -ERROR_CORRUPT) fail_msg("taken: %s", bad[i]);
        assert_null(m.runs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
