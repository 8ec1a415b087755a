#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "client/endpoints.h"

static struct endpoints *make(const char *servers)
{
    struct endpoints *ep = NULL;
    struct error e;
    assert_int_equal(endpoints_new(servers, false, &ep, &e), 0);
    return ep;
}

static void refuses_what_is_no_list(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ",", "nohost", ":1", "a:", "a:70000", "::1:80", "a:1,b", "a:1;b:2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct endpoints *ep = NULL;
        struct error e = {0};
        assert_int_equal(endpoints_new(bad[i], false, &ep, &e), -ERROR_INVALID);
        assert_true(e.text[0] != '\0');
    }
    char many[1024] = "";
    for (int i = 0; i <= ENDPOINTS_MAX; i++) snprintf(many + strlen(many), 16, "h:%d,", i + 1);
    struct endpoints *ep = NULL;
    assert_int_equal(endpoints_new(many, false, &ep, NULL), -ERROR_TOO_LARGE);
}

static void goes_round_and_waits_from_the_second_round_on(void **state)
{
    (void)state;
    struct endpoints *ep = make(" a:1, b:2,c:3 ,a:1");
    static const char *const order[] = {"a:1", "b:2", "c:3"};
    uint32_t most = 0;
    for (unsigned i = 0; i < 60; i++) {
        struct endpoints_choice c = endpoints_next(ep, i * 7919);
        assert_string_equal(c.address, order[i % 3]);
        assert_string_equal(endpoints_current(ep), c.address);
        if (i < 3)
            assert_int_equal(c.wait_ms, 0);
        else
            assert_in_range(c.wait_ms, ENDPOINTS_WAIT_MIN / 2, ENDPOINTS_WAIT_MAX);
        if (c.wait_ms > most) most = c.wait_ms;
    }
    assert_true(most > ENDPOINTS_WAIT_MAX / 2);
    endpoints_succeeded(ep);
    assert_int_equal(endpoints_next(ep, 5).wait_ms, 0);
    endpoints_free(ep);
}

static void follows_a_hint_but_not_for_ever(void **state)
{
    (void)state;
    struct endpoints *ep = make("a:1,b:2");
    endpoints_next(ep, 0);
    endpoints_hint(ep, "z:9"); /* not known before */
    assert_string_equal(endpoints_next(ep, 0).address, "z:9");
    unsigned asked = 0, others = 0;
    for (int i = 0; i < 30; i++) { /* everybody names z, which never works */
        endpoints_hint(ep, "z:9");
        if (strcmp(endpoints_next(ep, 0).address, "z:9") == 0)
            asked++;
        else
            others++;
    }
    assert_true(asked >= 2);
    assert_true(others >= 15); /* the others are asked at least as often */
    endpoints_succeeded(ep);
    endpoints_hint(ep, "z:9");
    assert_string_equal(endpoints_next(ep, 0).address, "z:9");
    endpoints_hint(ep, NULL);
    endpoints_hint(ep, "");
    endpoints_hint(ep, "not an address");
    assert_string_equal(endpoints_next(ep, 0).address, "a:1");
    endpoints_free(ep);
}

static void a_fixed_list_learns_nothing(void **state)
{
    (void)state;
    struct endpoints *ep = NULL;
    assert_int_equal(endpoints_new("a:1", true, &ep, NULL), 0);
    endpoints_hint(ep, "b:2");
    assert_int_equal(endpoints_learn(ep, "c:3"), -1);
    for (int i = 0; i < 5; i++) assert_string_equal(endpoints_next(ep, 0).address, "a:1");
    endpoints_free(ep);
}

static void what_it_learns_is_bounded(void **state)
{
    (void)state;
    struct endpoints *ep = make("a:1");
    for (int i = 0; i < 100; i++) {
        char address[16];
        snprintf(address, sizeof address, "h:%d", i + 1);
        int place = endpoints_learn(ep, address);
        assert_true(place < ENDPOINTS_MAX && (place >= 0) == (i + 1 < ENDPOINTS_MAX));
    }
    endpoints_free(ep);
}

static void a_copy_begins_where_the_other_succeeded(void **state)
{
    (void)state;
    struct endpoints *ep = make("a:1,b:2,c:3");
    endpoints_next(ep, 0);
    endpoints_next(ep, 0);
    endpoints_succeeded(ep);
    struct endpoints *copy = endpoints_copy(ep);
    assert_string_equal(endpoints_next(copy, 0).address, "b:2");
    endpoints_free(copy);
    endpoints_free(ep);
}

static void describes_why_each_failed(void **state)
{
    (void)state;
    struct endpoints *ep = make("a:1,b:2");
    char text[128];
    endpoints_describe(ep, text, sizeof text);
    assert_string_equal(text, "a:1 (not asked yet), b:2 (not asked yet)");
    endpoints_next(ep, 0);
    endpoints_failed(ep, "refused");
    endpoints_next(ep, 0);
    endpoints_describe(ep, text, sizeof text);
    assert_string_equal(text, "a:1 (refused), b:2 (no answer yet)");
    for (size_t size = 1; size < sizeof text; size++) {
        memset(text, 'x', sizeof text);
        endpoints_describe(ep, text, size);
        assert_true(strlen(text) < size);
    }
    endpoints_free(ep);
}

static void backs_off_within_its_bounds(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252u;
    for (unsigned step = 0; step < 200; step++) {
        for (int i = 0; i < 100; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            uint64_t cap = step < 10 ? (uint64_t)3 << step : 1000;
            if (cap > 1000) cap = 1000;
            assert_in_range(endpoints_backoff(step, 3, 1000, random), cap / 2 > 0 ? cap / 2 : 1, cap);
        }
    }
    assert_int_equal(endpoints_backoff(0, 0, 0, 0), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_no_list),
        cmocka_unit_test(goes_round_and_waits_from_the_second_round_on),
        cmocka_unit_test(follows_a_hint_but_not_for_ever),
        cmocka_unit_test(a_fixed_list_learns_nothing),
        cmocka_unit_test(what_it_learns_is_bounded),
        cmocka_unit_test(a_copy_begins_where_the_other_succeeded),
        cmocka_unit_test(describes_why_each_failed),
        cmocka_unit_test(backs_off_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
