/* Two ends of a connection on loopback, on one loop: order, large frames, backpressure, garbage, closing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/conn.h"

struct end {
    struct conn *conn;
    uint64_t frames;      /* received, ids in order from 1 */
    uint64_t bytes;
    unsigned opens, closes;
    struct error why;
    bool echo, pause_at_first;
};

static uv_loop_t loop;
static uv_tcp_t listener;
static struct end server, client;
static char address[64];

static void on_open(struct conn *c, void *user)
{
    struct end *end = user;
    (void)c;
    end->opens++;
}

static void on_frame(struct conn *c, void *user, const struct frame *f)
{
    struct end *end = user;
    assert_int_equal(f->id, ++end->frames);
    end->bytes += f->body_len;
    if (end->echo) assert_int_equal(conn_send(c, f), 0);
    if (end->pause_at_first && end->frames == 1) conn_pause(c);
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct end *end = user;
    (void)c;
    end->closes++;
    end->why = *why;
    end->conn = NULL;
}

static const struct conn_handlers handlers = {on_open, on_frame, NULL, on_close};

static void on_connection(uv_stream_t *stream, int status)
{
    assert_int_equal(status, 0);
    assert_int_equal(conn_accept(stream, &handlers, &server, &server.conn, NULL), 0);
}

static int set_up(void **state)
{
    (void)state;
    struct sockaddr_in any, bound;
    int len = sizeof bound;
    memset(&server, 0, sizeof server);
    memset(&client, 0, sizeof client);
    uv_loop_init(&loop);
    uv_tcp_init(&loop, &listener);
    uv_ip4_addr("127.0.0.1", 0, &any);
    uv_tcp_bind(&listener, (struct sockaddr *)&any, 0);
    if (uv_listen((uv_stream_t *)&listener, 8, on_connection) != 0) return 1;
    uv_tcp_getsockname(&listener, (struct sockaddr *)&bound, &len);
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(bound.sin_port));
    return conn_connect(&loop, address, 60000, &handlers, &client, &client.conn, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    if (client.conn != NULL) conn_close(client.conn, 0, NULL);
    if (server.conn != NULL) conn_close(server.conn, 0, NULL);
    uv_close((uv_handle_t *)&listener, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static void send_frame(struct end *end, uint64_t id, size_t size)
{
    uint8_t *body = calloc(1, size + 1);
    struct frame f = {.type = FRAME_READ, .id = id, .body = body, .body_len = size};
    assert_int_equal(conn_send(end->conn, &f), 0);
    free(body);
}

static void until(const uint64_t *value, uint64_t wanted)
{
    for (int i = 0; i < 100000 && *value < wanted; i++) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(*value, wanted);
}

static void frames_arrive_in_order(void **state)
{
    (void)state;
    server.echo = true;
    for (uint64_t i = 1; i <= 5000; i++) send_frame(&client, i, (i * 37) % 3000);
    until(&client.frames, 5000);
    assert_int_equal(client.bytes, server.bytes);
    assert_int_equal(client.opens, 1);
    assert_int_equal(conn_queued(client.conn), 0);
}

static void the_largest_frame_passes(void **state)
{
    (void)state;
    send_frame(&client, 1, FRAME_BODY_MAX);
    send_frame(&client, 2, 1);
    until(&server.frames, 2);
    assert_int_equal(server.bytes, FRAME_BODY_MAX + 1);
}

static void a_paused_end_gets_nothing_until_resumed(void **state)
{
    (void)state;
    server.pause_at_first = true;
    for (uint64_t i = 1; i <= 10; i++) send_frame(&client, i, 10);
    until(&server.frames, 1);
    for (int i = 0; i < 20; i++) uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(server.frames, 1);
    conn_resume(server.conn);
    until(&server.frames, 10);
}

static void closing_with_linger_sends_what_is_queued(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 100; i++) send_frame(&client, i, 10000);
    conn_close(client.conn, 60000, NULL);
    send_frame(&client, 101, 1); /* swallowed */
    until(&server.frames, 100);
    while (server.closes == 0 || client.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(client.closes, 1);
    assert_int_equal(server.why.code, ERROR_NONE);
}

static void on_raw_connected(uv_connect_t *request, int status)
{
    (void)request, (void)status;
}

static void on_write_done(uv_write_t *request, int status)
{
    (void)request, (void)status;
}

static void garbage_closes(void **state)
{
    (void)state;
    uv_tcp_t raw;
    uv_connect_t connect;
    uv_write_t write;
    struct sockaddr_in to;
    while (server.conn == NULL) uv_run(&loop, UV_RUN_ONCE); /* the client's own connection */
    conn_close(client.conn, 0, NULL);
    while (server.closes == 0) uv_run(&loop, UV_RUN_ONCE);

    uv_tcp_init(&loop, &raw);
    uv_ip4_addr("127.0.0.1", atoi(strchr(address, ':') + 1), &to);
    uv_tcp_connect(&connect, &raw, (struct sockaddr *)&to, on_raw_connected);
    while (server.conn == NULL) uv_run(&loop, UV_RUN_ONCE);
    uv_buf_t bytes = uv_buf_init("GET / HTTP/1.1\r\n\r\n", 18);
    uv_write(&write, (uv_stream_t *)&raw, &bytes, 1, on_write_done);
    while (server.closes == 1) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(server.why.code, ERROR_PROTOCOL);
    uv_close((uv_handle_t *)&raw, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
}

static void refused_and_unknown_addresses_say_so(void **state)
{
    (void)state;
    struct end other = {0};
    assert_int_equal(conn_connect(&loop, "127.0.0.1:1", 60000, &handlers, &other, &other.conn, NULL), 0);
    while (other.closes == 0) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(other.why.code, ERROR_UNAVAILABLE);
    assert_non_null(strstr(other.why.text, "127.0.0.1:1"));
    assert_int_equal(conn_connect(&loop, "nonsense", 60000, &handlers, &other, &other.conn, NULL), -ERROR_INVALID);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(frames_arrive_in_order),
        TEST(the_largest_frame_passes),
        TEST(a_paused_end_gets_nothing_until_resumed),
        TEST(closing_with_linger_sends_what_is_queued),
        TEST(garbage_closes),
        TEST(refused_and_unknown_addresses_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
