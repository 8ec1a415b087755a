/* An address' listener has one name as long as it lives, whatever it is bound to; its successor has another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "interceptor/upstream/listener.h"

static struct sockaddr_in v4(const char *address, uint16_t port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET, address, &in.sin_addr), 1);
    return in;
}

static struct sockaddr_in6 v6(const char *address, uint16_t port)
{
    struct sockaddr_in6 in = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET6, address, &in.sin6_addr), 1);
    return in;
}

static uint64_t id4(const char *address, uint16_t port)
{
    struct sockaddr_in in = v4(address, port);
    return listener_id((const struct sockaddr *)&in);
}

/* Returns the socket; a port of 0 becomes the one that it got. */
static int open_listener(const char *address, uint16_t *port)
{
    struct sockaddr_in in = v4(address, *port);
    socklen_t len = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    assert_int_equal(bind(fd, (const struct sockaddr *)&in, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    *port = ntohs(in.sin_port);
    return fd;
}

static void a_successor_is_another(void **state)
{
    (void)state;
    uint16_t port = 0;
    int fd = open_listener("127.0.0.1", &port);
    uint64_t first = id4("127.0.0.1", port);
    assert_true(first != 0);
    assert_true(id4("127.0.0.1", port) == first);
    assert_true(id4("127.0.0.2", port) == 0);
    struct sockaddr_in in = v4("127.0.0.1", port);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(client, (const struct sockaddr *)&in, sizeof in), 0);
    assert_true(id4("127.0.0.1", port) == first); /* connections do not matter */
    close(client);
    close(fd);
    assert_true(id4("127.0.0.1", port) == 0);
    fd = open_listener("127.0.0.1", &port);
    assert_true(id4("127.0.0.1", port) != 0 && id4("127.0.0.1", port) != first);
    close(fd);
}

static void wildcards_count(void **state)
{
    (void)state;
    uint16_t port = 0;
    int fd = open_listener("0.0.0.0", &port);
    assert_true(id4("127.0.0.1", port) != 0);
    close(fd);
    struct sockaddr_in6 any = v6("::", 0), loopback;
    socklen_t len = sizeof any;
    fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&any, len) != 0) skip(); /* no IPv6 here */
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&any, &len), 0);
    port = ntohs(any.sin6_port);
    loopback = v6("::1", port);
    assert_true(listener_id((const struct sockaddr *)&loopback) != 0);
    assert_true(id4("127.0.0.1", port) == listener_id((const struct sockaddr *)&loopback));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_successor_is_another), cmocka_unit_test(wildcards_count)};
    return cmocka_run_group_tests_name("listener", tests, NULL, NULL);
}
