/* Records of idempotency keys: found until they are old or there is no room, and never while they are on their way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/repeat/records.h"

static const uint8_t print_[RECORDS_PRINT] = {7};

static void test_life(void **state)
{
    (void)state;
    struct records *t = records_new(100, 100000);
    assert_null(records_find(t, "a", 1, 0));
    struct record *a = records_add(t, "a", 1, print_, 1000);
    assert_ptr_equal(records_find(t, "a", 1, 9999), a); /* on its way: for as long as it takes */
    assert_null(records_find(t, "ab", 2, 1000));
    assert_null(records_at(t, 5));
    records_place(t, a, 5);
    assert_ptr_equal(records_at(t, 5), a);
    assert_ptr_equal(records_open_before(t, 5), a);
    assert_null(records_open_before(t, 4));
    records_settle(t, a, "answer", 6, 1050);
    assert_null(records_open_before(t, 5));
    a = records_find(t, "a", 1, 1100);
    assert_int_equal(a->state, RECORD_ANSWERED);
    assert_memory_equal(a->answer, "answer", 6);
    assert_null(records_find(t, "a", 1, 1101)); /* old */
    assert_null(records_at(t, 5));
    assert_int_equal(records_count(t), 0);
    assert_int_equal(records_bytes(t), 0);
    a = records_add(t, "a", 1, print_, 2000);
    records_settle(t, a, NULL, 0, 2000);
    assert_int_equal(records_find(t, "a", 1, 2001)->state, RECORD_LOST);
    records_drop(t, records_add(t, "b", 1, print_, 2000));
    assert_null(records_find(t, "b", 1, 2000));
    records_free(t);
}

static void test_bound(void **state)
{
    (void)state;
    struct records *t = records_new(1000000, 20000);
    char key[16], answer[1000] = {1};
    struct record *first = records_add(t, "first", 5, print_, 1);
    for (int i = 0; i < 200; i++) {
        int len = snprintf(key, sizeof key, "k%d", i);
        struct record *r = records_add(t, key, (size_t)len, print_, 2);
        records_place(t, r, (uint64_t)i + 1);
        records_settle(t, r, answer, sizeof answer, 3);
        assert_true(records_bytes(t) <= 20000);
    }
    assert_ptr_equal(records_find(t, "first", 5, 4), first);
    assert_null(records_find(t, "k0", 2, 4)); /* the oldest went */
    assert_non_null(records_find(t, "k199", 4, 4));
    assert_true(records_count(t) > 10);
    records_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_life), cmocka_unit_test(test_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
