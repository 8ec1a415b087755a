/* Redirections: the words, and what is refused. That packets go where they should is shown with real connections by tests/integration/test_runtime.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/redirect.h"

static void test_words(void **state)
{
    static const char *const bad[] = {"", "=", "1", "1=", "=1", "1=1", "0=1", "1=0", "1=65536", "65536=1", "100000=1", "1=2,", ",1=2", "1=2,1=3", "1=2;3=4", "1=2 ", "-1=2",
        "1=2,2=3,3=4,4=5,5=6", "1=2=3", "a=b"};
    struct redirect r;
    struct error e;
    (void)state;
    assert_int_equal(redirect_parse("8080=15020,15023=8080", &r, &e), 0);
    assert_int_equal(r.n, 2);
    assert_true(r.pairs[0].from == 8080 && r.pairs[0].to == 15020 && r.pairs[1].from == 15023 && r.pairs[1].to == 8080);
    assert_int_equal(redirect_parse("1=65535,2=1,3=1,65535=1", &r, &e), 0);
    assert_int_equal(r.n, REDIRECT_PAIRS_MAX);
    assert_int_equal(r.pairs[3].from, 65535);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r.n = 77;
        if (redirect_parse(bad[i], &r, &e) != -ERROR_INVALID || r.n != 77) fail_msg("\"%s\" was taken", bad[i]);
    }
}

/* The network that the caller is in is the host's: whatever a pod's words say, it stays as it is. Who may not open it learns as much. */
static void test_refused(void **state)
{
    struct redirect r;
    struct error e = {0};
    (void)state;
    assert_int_equal(redirect_parse("1=2", &r, &e), 0);
    assert_int_equal(redirect_set(getpid(), &r, &e), -ERROR_DENIED);
    assert_non_null(strstr(e.text, "host's network"));
    assert_int_equal(redirect_set(0x7ffffff0, &r, &e), -ERROR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_words), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
