/* The HTTP engine: what is taken, what is refused, at every way of cutting the bytes; what is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/http.h"

static const struct http_limits limits = {.head_bytes = 1000, .headers = 10, .body_bytes = 100, .stream_bytes = UINT64_MAX};

/* Feeds it cut into pieces of `piece` bytes. As http_parser_feed(); the rest behind a whole message is left alone. */
static int feed(struct http_parser *p, const char *text, size_t len, size_t piece, size_t *ret_used)
{
    struct error e = {0};
    int rv = 0;
    size_t at = 0, used;
    while (at < len && rv == 0) {
        size_t n = len - at < piece ? len - at : piece;
        char *copy = malloc(n); /* exactly as long as it says: a sanitizer sees a read beyond */
        assert_non_null(copy);
        memcpy(copy, text + at, n);
        rv = http_parser_feed(p, copy, n, &used, &e);
        free(copy);
        at += rv >= 0 ? used : 0;
        if (rv < 0) assert_true(e.text[0] != '\0');
    }
    *ret_used = at;
    return rv;
}

static int outcome(bool request, const char *text, size_t len, size_t piece, int *ret_status)
{
    struct http_parser *p = http_parser_new(request, &limits);
    size_t used;
    assert_non_null(p);
    int rv = feed(p, text, len, piece, &used);
    *ret_status = http_parser_refusal(p);
    http_parser_free(p);
    return rv;
}

#define POST "POST /x HTTP/1.1\r\nHost: a\r\n"
#define REFUSED(status, text)                                                                                          \
    {                                                                                                                  \
        status, sizeof text - 1, text                                                                                  \
    }

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        int status;
        size_t len;
        const char *text;
    } cases[] = {
        REFUSED(400, POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        REFUSED(400, POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        REFUSED(400, POST "Content-Length: 3, 3\r\n\r\nabc"),
        REFUSED(400, POST "Content-Length: +3\r\n\r\nabc"),
        REFUSED(400, POST "Content-Length: -3\r\n\r\nabc"),
        REFUSED(400, POST "Content-Length: 0x3\r\n\r\nabc"),
        REFUSED(400, POST "Content-Length: 99999999999999999999999\r\n\r\nabc"),
        REFUSED(400, POST "Content-Length: \r\n\r\nabc"),
        REFUSED(400, POST "Content-Length : 3\r\n\r\nabc"),
        REFUSED(400, POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: identity\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding:\x0b"
                          "chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n"),
        REFUSED(400, POST "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nabc\r\n0\r\n\r\n"),
        REFUSED(400, POST "X: a\r\n b\r\n\r\n"),
        REFUSED(400, POST "X: a\0b\r\n\r\n"),
        REFUSED(400, POST "X: a\rb: c\r\n\r\n"),
        REFUSED(400, POST "X: a\x01\r\n\r\n"),
        REFUSED(400, POST "X Y: a\r\n\r\n"),
        REFUSED(400, POST ": a\r\n\r\n"),
        REFUSED(400, POST "nonsense\r\n\r\n"),
        REFUSED(400, POST "Host: b\r\n\r\n"),
        REFUSED(400, "POST /x HTTP/1.1\r\n\r\n"),
        REFUSED(400, "POST /x HTTP/1.1\nHost: a\n\n"),
        REFUSED(400, "POST /x y HTTP/1.1\r\nHost: a\r\n\r\n"),
        REFUSED(400, "FROBNICATE /x HTTP/1.1\r\nHost: a\r\n\r\n"),
        REFUSED(400, "\x16\x03\x01\x02\x01\x01\xfc\x03\x03"),
        REFUSED(400, "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n"),
        REFUSED(400, "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        REFUSED(400, "GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        REFUSED(400, "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        REFUSED(400, "GET http://a:81/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        REFUSED(400, "GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        REFUSED(417, POST "Expect: miracles\r\n\r\n"),
        REFUSED(413, POST "Content-Length: 101\r\n\r\n"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t piece = 1; piece <= cases[i].len; piece += piece < 4 ? 1 : cases[i].len - 4) {
            int status, rv = outcome(true, cases[i].text, cases[i].len, piece, &status);
            if (rv >= 0 || status != cases[i].status)
                print_error("%s\n in pieces of %zu: %d, status %d\n", cases[i].text, piece, rv, status);
            assert_true(rv < 0);
            assert_int_equal(status, cases[i].status);
        }
}

static void test_versions(void **state)
{
    (void)state;
    static const char *const cases[] = {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET / HTTP/9.9\r\nHost: a\r\n\r\n",
                                        "GET / HTTP/1.7\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                        "GET /\r\n\r\n"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status;
        assert_true(outcome(true, cases[i], strlen(cases[i]), 1000, &status) < 0);
        assert_true(status == 400 || status == 505);
    }
}

static void test_bounds(void **state)
{
    (void)state;
    char text[4000];
    int status;
    for (size_t piece = 1; piece < 4000; piece *= 60) {
        int n = snprintf(text, sizeof text, POST "X: %01200d\r\n\r\n", 0);
        assert_int_equal(outcome(true, text, (size_t)n, piece, &status), -ERROR_TOO_LARGE);
        assert_int_equal(status, 431);
        n = snprintf(text, sizeof text, "GET /%01200d HTTP/1.1\r\n", 0);
        assert_int_equal(outcome(true, text, (size_t)n, piece, &status), -ERROR_TOO_LARGE);
        n = snprintf(text, sizeof text,
                     POST "a:1\r\nb:1\r\nc:1\r\nd:1\r\ne:1\r\nf:1\r\ng:1\r\nh:1\r\ni:1\r\nj:1\r\n\r\n");
        assert_int_equal(outcome(true, text, (size_t)n, piece, &status), -ERROR_TOO_LARGE);
        assert_int_equal(status, 431);
        n = snprintf(text, sizeof text, POST "Transfer-Encoding: chunked\r\n\r\n65\r\n%0101d\r\n0\r\n\r\n", 0);
        assert_int_equal(outcome(true, text, (size_t)n, piece, &status), -ERROR_TOO_LARGE);
        assert_int_equal(status, 413);
        n = snprintf(text, sizeof text, POST "Transfer-Encoding: chunked\r\n\r\n0\r\nT: %01200d\r\n\r\n", 0);
        assert_int_equal(outcome(true, text, (size_t)n, piece, &status), -ERROR_TOO_LARGE);
    }
}

/* Framing that never ends, and is kept nowhere: it is refused some time; small chunks are not. */
static void test_endless_framing(void **state)
{
    (void)state;
    static const char head[] = POST "Transfer-Encoding: chunked\r\n\r\n";
    static const char *const endless[] = {"1;x=", "1;x=\"", "0000000000000000"};
    char piece[1000];
    size_t used;
    for (size_t i = 0; i < sizeof endless / sizeof *endless; i++) {
        struct error e = {0};
        struct http_parser *p = http_parser_new(true, &limits);
        assert_int_equal(feed(p, head, sizeof head - 1, 1000, &used), 0);
        assert_int_equal(feed(p, endless[i], strlen(endless[i]), 1000, &used), 0);
        memset(piece, i < 2 ? 'a' : '0', sizeof piece);
        int rv = 0, n = 0;
        while (rv == 0 && n++ < 100) rv = http_parser_feed(p, piece, sizeof piece, &used, &e);
        assert_int_equal(rv, -ERROR_PROTOCOL);
        assert_int_equal(http_parser_refusal(p), 400);
        http_parser_free(p);
    }
    struct http_limits large = limits;
    large.body_bytes = 100000;
    struct http_parser *p = http_parser_new(true, &large);
    assert_int_equal(feed(p, head, sizeof head - 1, 1000, &used), 0);
    for (int i = 0; i < 90000; i++) assert_int_equal(feed(p, "1\r\nx\r\n", 6, 6, &used), 0);
    assert_int_equal(feed(p, "0\r\n\r\n", 5, 5, &used), 1);
    assert_int_equal(http_parser_message(p)->body_len, 90000);
    http_parser_free(p);
}

static void test_requests(void **state)
{
    (void)state;
    static const char text[] =
        "POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-One:  two \r\nEmpty:\r\nContent-Length: 5\r\n\r\nhello"
        "PUT /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
        "Chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n"
        "Trailer-With-A-Long-Name: and a value that makes the text grow, were it kept\r\n\r\n"
        "GET / HTTP/1.0\r\n\r\n";
    for (size_t piece = 1; piece < sizeof text; piece++) {
        struct http_parser *p = http_parser_new(true, &limits);
        size_t used, at;
        assert_int_equal(feed(p, text, sizeof text - 1, piece, &used), 1);
        const struct http_message *m = http_parser_message(p);
        assert_string_equal(m->method, "POST");
        assert_string_equal(m->target, "/a?b=c");
        assert_string_equal(http_field(m, "x-one"), "two");
        assert_string_equal(http_field(m, "Empty"), "");
        assert_null(http_field(m, "Trailer"));
        assert_int_equal(m->body_len, 5);
        assert_memory_equal(m->body, "hello", 5);
        assert_true(m->keep_alive && !m->upgrade);
        at = used;
        assert_int_equal(feed(p, text + at, sizeof text - 1 - at, piece, &used), 1);
        m = http_parser_message(p);
        assert_string_equal(m->method, "PUT");
        assert_int_equal(m->n_fields, 2);
        assert_string_equal(m->fields[1].value, "Chunked");
        assert_int_equal(m->body_len, 13);
        assert_memory_equal(m->body, "abc0123456789", 13);
        assert_int_equal(m->length, -1);
        at += used;
        assert_int_equal(feed(p, text + at, sizeof text - 1 - at, piece, &used), 1);
        m = http_parser_message(p);
        assert_string_equal(m->method, "GET");
        assert_false(m->keep_alive);
        assert_int_equal(m->minor, 0);
        assert_int_equal(at + used, sizeof text - 1);
        http_parser_free(p);
    }
}

static void test_expect_and_upgrade(void **state)
{
    (void)state;
    struct http_parser *p = http_parser_new(true, &limits);
    static const char head[] = POST "Content-Length: 2\r\nExpect: 100-Continue\r\n\r\n";
    static const char upgrade[] = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    size_t used;
    assert_int_equal(feed(p, head, sizeof head - 1, 7, &used), 0);
    assert_true(http_parser_started(p));
    assert_true(http_parser_wants_continue(p));
    assert_false(http_parser_wants_continue(p)); /* once */
    assert_int_equal(feed(p, "ab", 2, 1, &used), 1);
    assert_false(http_parser_started(p));
    assert_int_equal(feed(p, upgrade, sizeof upgrade - 1, 1000, &used), 1);
    assert_true(http_parser_message(p)->upgrade);
    http_parser_free(p);
}

static void test_answers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool head;
        int status;
        const char *body;
        bool keep_alive, until_end;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, 200, "hi", true, false},
        {"HTTP/1.1 200 \r\nContent-Type: t\r\nContent-Length: 0\r\n\r\n", false, 200, "", true, false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", true, 200, "", true, false},
        {"HTTP/1.1 204 No Content\r\n\r\n", false, 204, "", true, false},
        {"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", false, 304, "", true, false},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", false, 200, "hi", true, false},
        {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", false, 200, "x", false, false},
        {"HTTP/1.0 200 OK\r\n\r\nup to the end", false, 200, "up to the end", false, true},
        {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", false, 103, "", true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t piece = 1; piece < 60; piece++) {
            struct http_parser *p = http_parser_new(false, &limits);
            size_t used;
            http_parser_expect_head(p, cases[i].head);
            int rv = feed(p, cases[i].text, strlen(cases[i].text), piece, &used);
            assert_int_equal(rv, cases[i].until_end ? 0 : 1);
            if (cases[i].until_end) assert_int_equal(http_parser_finish(p, NULL), 1);
            const struct http_message *m = http_parser_message(p);
            assert_int_equal(m->status, cases[i].status);
            assert_int_equal(m->body_len, strlen(cases[i].body));
            if (m->body_len > 0) assert_memory_equal(m->body, cases[i].body, m->body_len);
            assert_int_equal(m->keep_alive, cases[i].keep_alive);
            assert_true(m->reason == NULL || *m->reason == 0 || strstr(cases[i].text, m->reason) == cases[i].text + 13);
            http_parser_free(p);
        }
    struct http_parser *p = http_parser_new(false, &limits);
    struct error e;
    size_t used;
    assert_int_equal(http_parser_finish(p, &e), 0);
    assert_int_equal(feed(p, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", 40, 9, &used), 0);
    assert_true(http_parser_finish(p, &e) < 0); /* cut */
    http_parser_reset(p);
    assert_int_equal(feed(p, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", 39, 9, &used), 1);
    http_parser_free(p);
}

static void take_part(void *user, const struct http_message *head, const void *data, size_t len)
{
    assert_int_equal(head->status, 200);
    assert_int_equal(buf_add(user, data, len), 0);
}

static void test_parts(void **state)
{
    (void)state;
    char text[1000];
    int head = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    for (int i = 0; i < 500; i++) text[head + i] = (char)('a' + i % 26);
    for (size_t piece = 1; piece < 600; piece += 7) {
        struct http_parser *p = http_parser_new(false, &limits);
        struct buf got = BUF_INIT;
        size_t used;
        http_parser_stream(p, take_part, &got);
        assert_int_equal(feed(p, text, (size_t)head + 500, piece, &used), 1);
        assert_true(http_parser_message(p)->streamed);
        assert_int_equal(http_parser_message(p)->body_len, 0);
        assert_int_equal(http_parser_message(p)->length, 500);
        assert_int_equal(got.len, 500);
        assert_memory_equal(got.data, text + head, 500);
        buf_fini(&got);
        http_parser_free(p);
    }
}

static void assert_text(struct buf *b, const char *text)
{
    assert_int_equal(buf_add(b, "", 1), 0);
    assert_string_equal((char *)b->data, text);
    b->len = 0;
}

static void test_writing(void **state)
{
    (void)state;
    static const char request[] = "POST /p HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop\r\nX-Hop: "
                                  "1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-End: 2\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    static const char answer[] = "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    struct http_parser *p = http_parser_new(true, &limits);
    static const struct http_reader reader = {.minor = 1, .keep_alive = true, .extra = ""};
    struct buf out = BUF_INIT;
    size_t used;
    bool chunked;
    assert_int_equal(feed(p, request, sizeof request - 1, 1000, &used), 1);
    assert_int_equal(http_write_request(&out, http_parser_message(p), "Crsc-Replay: 1\r\n", NULL), 0);
    assert_text(&out, "POST /p HTTP/1.1\r\nCrsc-Replay: 1\r\nHost: h\r\nX-End: 2\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: 2\r\n\r\nhi");
    static const char *const ours[] = {"X-Forwarded-For", "Crsc-Replay", NULL};
    static const char twins[] = "GET http://h/ HTTP/1.1\r\nHost: H\r\nConnection: Host, close\r\nX_Forwarded_For: 1\r\nx-forwarded_FOR: 2\r\nCrsc_Replay: 1\r\nX-Forwarded-Fo: 3\r\n"
                                "X-Forwarded-For2: 4\r\n\r\n";
    assert_int_equal(feed(p, twins, sizeof twins - 1, 1000, &used), 1);
    assert_int_equal(http_write_request(&out, http_parser_message(p), "", ours), 0);
    assert_text(&out, "GET http://h/ HTTP/1.1\r\nHost: H\r\nX-Forwarded-Fo: 3\r\nX-Forwarded-For2: 4\r\n\r\n");
    http_parser_free(p);
    p = http_parser_new(false, &limits);
    assert_int_equal(feed(p, answer, sizeof answer - 1, 1000, &used), 1);
    assert_int_equal(http_write_answer(&out, http_parser_message(p), &reader), 0);
    assert_text(&out, "HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi");
    assert_int_equal(http_write_answer_head(&out, http_parser_message(p), &reader, &chunked), 0);
    assert_text(&out, "HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n");
    assert_false(chunked);
    assert_int_equal(http_write_chunk(&out, "0123456789abcdefg", 17), 0);
    assert_int_equal(http_write_end(&out, NULL, 0), 0);
    assert_text(&out, "11\r\n0123456789abcdefg\r\n0\r\n\r\n");
    assert_int_equal(http_write_plain(&out, 503, "text/plain", "x", 1, "Retry-After: 1\r\n", false), 0);
    assert_text(&out, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: "
                      "1\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
    buf_fini(&out);
    http_parser_free(p);
}

/* Trailers stay apart from the headers; those that would change the message go. */
static void test_trailers(void **state)
{
    (void)state;
    static const char text[] = POST "Trailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nX-A: 1\r\nHost: evil\r\nX-B:\r\n\r\n";
    static const struct http_reader now = {.minor = 1, .keep_alive = true, .extra = ""}, old = {.minor = 0, .extra = ""};
    struct buf out = BUF_INIT;
    size_t used;
    for (size_t piece = 1; piece < sizeof text; piece++) {
        struct http_parser *p = http_parser_new(true, &limits);
        assert_int_equal(feed(p, text, sizeof text - 1, piece, &used), 1);
        const struct http_message *m = http_parser_message(p);
        assert_int_equal(m->n_fields, 3);
        assert_int_equal(m->n_trailers, 2);
        assert_string_equal(http_field(m, "Host"), "a");
        assert_string_equal(m->trailers[0].name, "X-A");
        assert_string_equal(m->trailers[1].value, "");
        assert_int_equal(http_write_request(&out, m, "", NULL), 0);
        assert_text(&out, "POST /x HTTP/1.1\r\nHost: a\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-A: 1\r\nX-B: \r\n\r\n");
        http_parser_free(p);
    }
    static const char answer[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 6\r\n\r\n";
    struct http_parser *p = http_parser_new(false, &limits);
    assert_int_equal(feed(p, answer, sizeof answer - 1, 1000, &used), 1);
    assert_int_equal(http_write_answer(&out, http_parser_message(p), &now), 0);
    assert_text(&out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 6\r\n\r\n");
    assert_int_equal(http_write_answer(&out, http_parser_message(p), &old), 0);
    assert_text(&out, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
    buf_fini(&out);
    http_parser_free(p);
}

/* Random bytes made of what breaks parsers: no crash, no read beyond, and an end of some kind. */
static void test_random(void **state)
{
    (void)state;
    static const char *const words[] = {"POST ",
                                        "GET ",
                                        "/x",
                                        " HTTP/1.1",
                                        "\r\n",
                                        "\n",
                                        "\r",
                                        "Content-Length: ",
                                        "7",
                                        "Host: a\r\n",
                                        "\r\n\r\n",
                                        "0\r\n\r\n",
                                        "Transfer-Encoding: chunked\r\n",
                                        "ffffffff",
                                        "\xff",
                                        ":",
                                        " ",
                                        ",",
                                        ";",
                                        "Expect: 100-continue\r\n",
                                        "Connection: close\r\n"};
    uint64_t x = 42;
    for (int round = 0; round < 20000; round++) {
        char text[600];
        size_t len = 0;
        for (unsigned n = 0; n < 20; n++) {
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
            const char *word = words[(x >> 33) % (sizeof words / sizeof *words)];
            memcpy(text + len, word, strlen(word));
            len += strlen(word);
        }
        int status;
        outcome((x >> 40 & 1) == 0, text, len, 1 + (size_t)(x >> 50) % 40, &status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_endless_framing),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_expect_and_upgrade),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_writing),
        cmocka_unit_test(test_trailers),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
