/* What is told of a replay's progress. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "interceptor/replay/progress.h"

static void test_progress(void **state)
{
    struct progress p;
    (void)state;
    progress_begin(&p, 100, 1000000);
    struct progress_view v = progress_look(&p, 100, true, 1000000);
    assert_int_equal(v.done + v.total + v.eta_ms, 0);

    for (uint64_t offset = 101; offset <= 200; offset++) progress_read(&p, offset, offset % 2 == 0);
    progress_read(&p, 150, true); /* read again after the log was lost */
    v = progress_look(&p, 500, true, 1000000); /* a quarter of it was read */
    assert_int_equal(v.total, 200);
    assert_true(v.per_s == 0 && v.eta_ms == 0);

    for (int i = 0; i < 50; i++) progress_done(&p, 1500000);
    v = progress_look(&p, 500, true, 1500000);
    assert_int_equal(v.done, 50);
    assert_true(v.per_s > 99.9 && v.per_s < 100.1);
    assert_int_equal(v.eta_ms, 1500);

    for (uint64_t offset = 201; offset <= 500; offset++) progress_read(&p, offset, offset <= 220);
    v = progress_look(&p, 500, true, 1500000); /* now it is known */
    assert_int_equal(v.total, 70);
    for (int i = 0; i < 20; i++) progress_done(&p, 2000000);
    v = progress_look(&p, 500, false, 9000000); /* long over: its rate stays */
    assert_true(v.done == 70 && v.total == 70 && v.eta_ms == 0 && v.per_s > 69.9 && v.per_s < 70.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_progress)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
