/* What a standby takes from a line of the other one's /watch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/replica/vigil.h"

static enum vigil_word word(const char *line)
{
    return vigil_read(line, strlen(line));
}

static void test_well(void **state)
{
    (void)state;
    assert_int_equal(word("{\"state\":\"active\",\"fenced\":false,\"app\":{\"lost\":false,\"suspect\":false}}\r\n"), VIGIL_WELL);
    assert_int_equal(word("12f\r\n{\"state\":\"draining\",\"app\":{}}\r\n"), VIGIL_WELL); /* a chunk's size before it */
    assert_int_equal(word("{\"state\":\"starting\",\"app\":{\"lost\":false}}"), VIGIL_NOTHING);
}

static void test_lost(void **state)
{
    (void)state;
    assert_int_equal(word("{\"state\":\"active\",\"app\":{\"lost\":true,\"suspect\":false}}"), VIGIL_LOST);
    assert_int_equal(word("{\"state\":\"active\",\"app\":{\"lost\":false,\"suspect\":true}}"), VIGIL_LOST);
    assert_int_equal(word("{\"state\":\"active\",\"fenced\":true,\"app\":{\"lost\":false,\"suspect\":false}}"), VIGIL_LOST);
    assert_int_equal(word("{\"state\":\"active\",\"fenced\":false,\"leaving\":true,\"app\":{\"lost\":false}}"), VIGIL_LOST);
}

static void test_no_word(void **state)
{
    (void)state;
    static const char *const lines[] = {"", "\r\n", "0\r\n", "HTTP/1.1 200 OK\r\n", "{\"state\":\"act", "{}", "{\"state\":1,\"app\":[]}", "{\"fenced\":\"true\",\"app\":{\"lost\":1}}"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) assert_int_equal(word(lines[i]), VIGIL_NOTHING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_well), cmocka_unit_test(test_lost), cmocka_unit_test(test_no_word)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
