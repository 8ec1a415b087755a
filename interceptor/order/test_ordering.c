/* What the setting `ordering` means, and which requests share a key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/order/ordering.h"

static uint64_t key(const char *setting, const char *message)
{
    struct ordering o;
    struct error e;
    assert_int_equal(ordering_parse(setting, &o, &e), 0);
    return ordering_key(&o, message, strlen(message));
}

static void test_parse(void **state)
{
    (void)state;
    struct ordering o;
    struct error e;
    assert_int_equal(ordering_parse("serial", &o, &e), 0);
    assert_int_equal(o.mode, ORDER_SERIAL);
    assert_int_equal(ordering_parse("concurrent", &o, &e), 0);
    assert_int_equal(o.mode, ORDER_CONCURRENT);
    static const char *const wrong[] = {"", "Serial", "keyed", "keyed:", "keyed:a b", "keyed:/a", "keyed:/a/*", "keyed:/{}",
                                        "keyed:/{a}?x", "concurrent "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(ordering_parse(wrong[i], &o, &e), -ERROR_INVALID);
        assert_true(e.text[0] != '\0');
    }
    char longest[300] = "keyed:";
    memset(longest + 6, 'a', 256);
    assert_int_equal(ordering_parse(longest, &o, &e), -ERROR_INVALID);
}

static void test_header(void **state)
{
    (void)state;
    uint64_t a = key("keyed:X-Account", "POST / HTTP/1.1\r\nHost: x\r\nx-account: 7\r\n\r\n");
    assert_true(a != 0);
    assert_true(a == key("keyed:X-Account", "PUT /else HTTP/1.1\r\nX-ACCOUNT:7 \r\n\r\nbody"));
    assert_true(a != key("keyed:X-Account", "POST / HTTP/1.1\r\nX-Account: 8\r\n\r\n"));
    assert_true(key("keyed:X-Account", "POST / HTTP/1.1\r\nX-Accounts: 7\r\n\r\n") == 0);
    assert_true(key("keyed:X-Account", "POST / HTTP/1.1\r\n\r\nX-Account: 7\r\n") == 0); /* that is its body */
    assert_true(key("keyed:X-Account", "POST /") == 0);
    assert_true(key("serial", "POST / HTTP/1.1\r\nX-Account: 7\r\n\r\n") == 0);
}

static uint64_t path(const char *pattern, const char *target)
{
    char setting[100], message[200];
    snprintf(setting, sizeof setting, "keyed:%s", pattern);
    snprintf(message, sizeof message, "POST %s HTTP/1.1\r\nHost: x\r\n\r\n", target);
    return key(setting, message);
}

static void test_path(void **state)
{
    (void)state;
    uint64_t a = path("/accounts/{id}", "/accounts/17");
    assert_true(a != 0);
    assert_true(a == path("/accounts/{id}", "/accounts/17/deposits?x=1"));
    assert_true(a == path("/accounts/{id}", "/accounts/17?x=1"));
    assert_true(a != path("/accounts/{id}", "/accounts/18"));
    assert_true(path("/accounts/{id}", "/accounts") == 0);
    assert_true(path("/accounts/{id}", "/accounts/") == 0);
    assert_true(path("/accounts/{id}", "/account/17") == 0);
    assert_true(path("/*/{id}", "/x/17") == path("/*/{id}", "/y/17"));
    assert_true(path("/{a}/{b}", "/ab/c") != path("/{a}/{b}", "/a/bc"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse), cmocka_unit_test(test_header), cmocka_unit_test(test_path)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
