/* The small HTTP server, asked by raw bytes and by our own HTTP client, plain and over TLS; and the histograms that it mostly shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>

#include <cmocka.h>
#include <uv.h>

#include "common/http_client.h"
#include "common/http_listener.h"
#include "common/prom.h"
#include "common/testing_pki.h"

static uv_loop_t loop;
static struct http_listener *listener;
static struct http_exchange *later; /* a request for /later that is not answered yet */
static unsigned requests;
static bool listener_gone;

static void on_request(void *user, struct http_exchange *x, const char *target)
{
    (void)user;
    requests++;
    if (strcmp(target, "/later") == 0) later = x;
    else http_exchange_reply(x, strcmp(target, "/none") == 0 ? 404 : 200, "text/plain", target, strlen(target));
}

static void on_listener_gone(void *user)
{
    (void)user;
    listener_gone = true;
}

static int set_up(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&loop);
    later = NULL;
    requests = 0;
    listener_gone = false;
    return http_listener_start(&loop, "127.0.0.1:0", NULL, on_request, NULL, &listener, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    if (listener != NULL) http_listener_close(listener, on_listener_gone, NULL);
    listener = NULL;
    uv_run(&loop, UV_RUN_DEFAULT);
    return !listener_gone || uv_loop_close(&loop) != 0;
}

/* ---- raw bytes ------------------------------------------------------------------------------------------------ */

struct raw {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    char got[60000];
    size_t len;
    bool ended, connected;
};

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    struct raw *r = handle->data;
    (void)suggested;
    *ret = uv_buf_init(r->got + r->len, (unsigned)(sizeof r->got - 1 - r->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *unused)
{
    struct raw *r = stream->data;
    (void)unused;
    if (n < 0) r->ended = true;
    else r->len += (size_t)n;
    r->got[r->len] = '\0';
}

static void on_connected(uv_connect_t *request, int status)
{
    struct raw *r = request->data;
    assert_int_equal(status, 0);
    r->connected = true;
    uv_read_start((uv_stream_t *)&r->tcp, on_alloc, on_read);
}

static struct raw *raw_new(void)
{
    struct raw *r = calloc(1, sizeof *r);
    struct sockaddr_in to;
    uv_tcp_init(&loop, &r->tcp);
    r->tcp.data = r->connect.data = r;
    uv_ip4_addr("127.0.0.1", atoi(strrchr(http_listener_address(listener), ':') + 1), &to);
    uv_tcp_connect(&r->connect, &r->tcp, (struct sockaddr *)&to, on_connected);
    while (!r->connected) uv_run(&loop, UV_RUN_ONCE);
    return r;
}

static void raw_send(struct raw *r, const char *bytes, size_t len)
{
    uv_buf_t b = uv_buf_init((char *)bytes, (unsigned)len);
    while (len > 0) {
        int n = uv_try_write((uv_stream_t *)&r->tcp, &b, 1);
        if (n < 0 && n != UV_EAGAIN) break; /* it was closed */
        if (n > 0) len -= (size_t)n, b = uv_buf_init(b.base + n, (unsigned)len);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

static void on_raw_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void raw_free(struct raw *r)
{
    uv_close((uv_handle_t *)&r->tcp, on_raw_closed);
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;
    for (; (text = strstr(text, what)) != NULL; text++) n++;
    return n;
}

static void requests_are_answered_in_order(void **state)
{
    (void)state;
    struct raw *r = raw_new();
    static const char bytes[] = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /later HTTP/1.1\r\nHost: x\r\n\r\nHEAD /c HTTP/1.1\r\nHost: x\r\n\r\n"
                                "GET /d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /e HTTP/1.1\r\nHost: x\r\n\r\n";
    for (size_t i = 0; i < sizeof bytes - 1; i++) raw_send(r, bytes + i, 1);
    while (later == NULL) uv_run(&loop, UV_RUN_ONCE);
    for (unsigned i = 0; i < 20; i++) uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(requests, 2);
    http_exchange_reply(later, 200, "text/plain", "b", 1);
    while (!r->ended) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(requests, 4); /* nothing after "close" */
    assert_int_equal(count(r->got, "HTTP/1.1 200 OK\r\n"), 4);
    const char *a = strstr(r->got, "\r\n\r\n/a"), *b = strstr(r->got, "\r\n\r\nb"), *d = strstr(r->got, "\r\n\r\n/d");
    assert_true(a != NULL && b != NULL && d != NULL && a < b && b < d);
    assert_int_equal(count(r->got, "/c"), 0); /* HEAD: a length and no body */
    assert_int_equal(count(r->got, "Content-Length: 2\r\n"), 3);
    raw_free(r);
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *answer;
    } cases[] = {
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405 "},
        {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 413 "},
        {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
        {"nonsense\r\n\r\n", "HTTP/1.1 400 "},
        {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 400 "},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct raw *r = raw_new();
        raw_send(r, cases[i].bytes, strlen(cases[i].bytes));
        while (!r->ended) uv_run(&loop, UV_RUN_ONCE);
        if (strncmp(r->got, cases[i].answer, strlen(cases[i].answer)) != 0) fail_msg("case %u: %s", i, r->got);
        assert_int_equal(count(r->got, "Connection: close"), 1);
        raw_free(r);
    }
    assert_int_equal(requests, 0);
    struct raw *r = raw_new(); /* a head without an end */
    char line[1024];
    raw_send(r, "GET / HTTP/1.1\r\nHost: x\r\n", 25);
    memset(line, 'a', sizeof line);
    memcpy(line, "X-Y: ", 5);
    memcpy(line + sizeof line - 2, "\r\n", 2);
    for (unsigned i = 0; i < 40 && !r->ended; i++) raw_send(r, line, sizeof line);
    while (!r->ended) uv_run(&loop, UV_RUN_ONCE);
    assert_true(r->len == 0 || strncmp(r->got, "HTTP/1.1 431 ", 13) == 0);
    raw_free(r);
}

static void who_leaves_before_the_answer_harms_nobody(void **state)
{
    (void)state;
    struct raw *r = raw_new();
    raw_send(r, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n", 32);
    while (later == NULL) uv_run(&loop, UV_RUN_ONCE);
    raw_free(r);
    for (unsigned i = 0; i < 50; i++) uv_run(&loop, UV_RUN_NOWAIT);
    http_exchange_reply(later, 200, "text/plain", "b", 1);
    /* and one that is owed when the listener goes */
    later = NULL;
    r = raw_new();
    raw_send(r, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n", 32);
    while (later == NULL) uv_run(&loop, UV_RUN_ONCE);
    http_listener_close(listener, on_listener_gone, NULL);
    listener = NULL;
    while (!r->ended) uv_run(&loop, UV_RUN_ONCE);
    assert_false(listener_gone);
    http_exchange_reply(later, 200, "text/plain", "b", 1);
    raw_free(r);
}

static void connections_are_bounded(void **state)
{
    (void)state;
    struct raw *many[HTTP_LISTENER_CONNECTIONS + 5];
    unsigned n = sizeof many / sizeof *many, ended = 0;
    for (unsigned i = 0; i < n; i++) many[i] = raw_new();
    for (unsigned i = 0; i < 1000 && ended < 5; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        ended = 0;
        for (unsigned k = 0; k < n; k++) ended += many[k]->ended;
    }
    assert_int_equal(ended, 5);
    for (unsigned i = 0; i < n; i++) raw_free(many[i]);
}

/* ---- over TLS, asked by http_client --------------------------------------------------------------------------- */

struct outcome {
    bool done;
    int status, code;
    char body[200], why[300];
};

static void on_reply(void *user, const struct http_reply *reply)
{
    struct outcome *o = user;
    o->done = true;
    o->status = reply->status;
    o->code = reply->code;
    snprintf(o->body, sizeof o->body, "%s", reply->status == 0 ? reply->body : "");
    snprintf(o->why, sizeof o->why, "%s", reply->status == 0 ? "" : reply->error.text);
}

static struct outcome call(struct http_client *c, const char *host, const char *path)
{
    struct outcome o = {0};
    struct http_call *call;
    struct error e;
    char url[200];
    snprintf(url, sizeof url, "https://%s:%s%s", host, strrchr(http_listener_address(listener), ':') + 1, path);
    struct http_call_options options = {.method = "GET", .url = url, .timeout_ms = 60000};
    assert_int_equal(http_client_call(c, &options, on_reply, &o, &call, &e), 0);
    while (!o.done) uv_run(&loop, UV_RUN_ONCE);
    return o;
}

static void tls_with_and_without_a_client_certificate(void **state)
{
    (void)state;
    struct pki *pki = pki_new();
    struct tls_context *tls;
    struct http_client *client;
    struct error e;
    pki_ca(pki, "ca");
    pki_ca(pki, "other");
    pki_issue(pki, "ca", "server", "DNS:localhost,IP:127.0.0.1", 24);
    pki_issue(pki, "ca", "client", NULL, 24);
    struct tls_options o = {.side = TLS_SERVER, .ca = pki_path(pki, "ca.pem"), .cert = pki_path(pki, "server.pem"), .key = pki_path(pki, "server.key")};
    for (unsigned anyone = 0; anyone < 2; anyone++) {
        http_listener_close(listener, NULL, NULL);
        o.anyone = anyone;
        assert_int_equal(tls_context_new(&o, &tls, &e), 0);
        assert_int_equal(http_listener_start(&loop, "127.0.0.1:0", tls, on_request, NULL, &listener, &e), 0);
        assert_int_equal(http_client_new(&loop, &client, &e), 0);
        assert_int_equal(http_client_secure(client, o.ca, pki_path(pki, "client.pem"), pki_path(pki, "client.key"), &e), 0);
        struct outcome got = call(client, "127.0.0.1", "/with");
        if (got.status != 0) fail_msg("%s", got.why);
        assert_string_equal(got.body, "/with");
        assert_int_equal(call(client, "localhost", "/none").code, 404);
        assert_int_equal(http_client_secure(client, o.ca, "", "", &e), 0);
        http_client_close(client, NULL, NULL);
        assert_int_equal(http_client_new(&loop, &client, &e), 0); /* without kept connections */
        assert_int_equal(http_client_secure(client, o.ca, "", "", &e), 0);
        got = call(client, "127.0.0.1", "/without");
        assert_true(anyone ? got.status == 0 && strcmp(got.body, "/without") == 0 : got.status == -ERROR_UNAVAILABLE);
        assert_int_equal(http_client_secure(client, pki_path(pki, "other.pem"), "", "", &e), 0);
        http_client_close(client, NULL, NULL);
        assert_int_equal(http_client_new(&loop, &client, &e), 0);
        assert_int_equal(http_client_secure(client, pki_path(pki, "other.pem"), "", "", &e), 0);
        got = call(client, "127.0.0.1", "/believed");
        assert_int_equal(got.status, -ERROR_UNAVAILABLE); /* a CA that did not make the server */
        http_client_close(client, NULL, NULL);
        for (unsigned i = 0; i < 50; i++) uv_run(&loop, UV_RUN_NOWAIT);
        if (anyone == 0) {
            http_listener_close(listener, NULL, NULL);
            assert_int_equal(http_listener_start(&loop, "127.0.0.1:0", NULL, on_request, NULL, &listener, &e), 0);
            for (unsigned i = 0; i < 50; i++) uv_run(&loop, UV_RUN_NOWAIT);
        } else {
            http_listener_close(listener, on_listener_gone, NULL);
            listener = NULL;
            while (!listener_gone) uv_run(&loop, UV_RUN_ONCE);
        }
        tls_context_free(tls);
    }
    pki_free(pki);
}

/* ---- prom ----------------------------------------------------------------------------------------------------- */

static void an_observation_is_in_the_bucket_whose_bound_it_does_not_pass(void **state)
{
    (void)state;
    for (uint64_t us = 0; us < 20000000; us += us < 5000 ? 1 : us / 97) {
        unsigned i = prom_bucket(us);
        assert_true(i < PROM_BUCKETS);
        if (i < PROM_BUCKETS - 1) assert_true(us <= (uint64_t)PROM_FIRST_US << i);
        if (i > 0) assert_true(us > (uint64_t)PROM_FIRST_US << (i - 1));
    }
    assert_int_equal(prom_bucket(UINT64_MAX), PROM_BUCKETS - 1);
}

static void the_text_is_as_prometheus_wants_it(void **state)
{
    (void)state;
    struct buf text = BUF_INIT;
    struct prom p = {.out = &text};
    static struct prom_histogram h;
    char label[20];
    prom_observe(&h, 10);
    prom_observe(&h, 17);
    prom_observe(&h, UINT64_C(100000000));
    prom_family(&p, "a", "gauge", "An a.");
    prom_value(&p, "x=\"1\"", 0.5);
    prom_count(&p, "x=\"2\"", UINT64_MAX);
    prom_histogram(&p, "b_seconds", "A b.", &h);
    assert_int_equal(p.rv, 0);
    assert_int_equal(buf_add(&text, "", 1), 0);
    const char *t = (const char *)text.data;
    static const char begin[] = "# HELP a An a.\n# TYPE a gauge\na{x=\"1\"} 0.5\na{x=\"2\"} 18446744073709551615\n"
                                "# HELP b_seconds A b.\n# TYPE b_seconds histogram\nb_seconds_bucket{le=\"1.6e-05\"} 1\nb_seconds_bucket{le=\"3.2e-05\"} 2\n";
    assert_memory_equal(t, begin, sizeof begin - 1);
    assert_non_null(strstr(t, "b_seconds_bucket{le=\"+Inf\"} 3\nb_seconds_sum 100.00002"));
    assert_non_null(strstr(t, "\nb_seconds_count 3\n"));
    assert_string_equal(prom_label("a\"b\\c\nd", label, sizeof label), "a\\\"b\\\\c\\nd");
    assert_string_equal(prom_label("0123456789\"", label, 12), "0123456789"); /* never half an escape */
    buf_fini(&text);
}

int main(void)
{
#define NET(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        NET(requests_are_answered_in_order),
        NET(what_is_no_request_is_refused),
        NET(who_leaves_before_the_answer_harms_nobody),
        NET(connections_are_bounded),
        NET(tls_with_and_without_a_client_certificate),
        cmocka_unit_test(an_observation_is_in_the_bucket_whose_bound_it_does_not_pass),
        cmocka_unit_test(the_text_is_as_prometheus_wants_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
