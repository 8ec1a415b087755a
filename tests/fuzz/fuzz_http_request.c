/* A client's bytes at the interceptor. Wherever they are cut, the same message, or a refusal; and what the interceptor then
 * writes to the app, another parser reads as exactly one request: the same method, target and body, nothing before or behind
 * (request smuggling: RFC 9112, 11.2). */
#include <stdlib.h>
#include <string.h>

#include "common/http.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/second_parser.h"

static const struct http_limits limits = {.head_bytes = 8192, .headers = 64, .body_bytes = 65536};

/* 1, 0 or the error, as http_parser_feed(); bytes in pieces of `step`. */
static int feed(struct http_parser *p, const uint8_t *data, size_t size, size_t step, size_t *ret_used)
{
    *ret_used = 0;
    while (*ret_used < size) {
        size_t n = size - *ret_used < step ? size - *ret_used : step, used = 0;
        int rv = http_parser_feed(p, data + *ret_used, n, &used, NULL);
        *ret_used += used;
        if (rv != 0) return rv;
    }
    return 0;
}

static void same(const struct http_message *a, const struct http_message *b)
{
    FUZZ_CHECK(strcmp(a->method, b->method) == 0 && strcmp(a->target, b->target) == 0 && a->minor == b->minor);
    FUZZ_CHECK(a->n_fields == b->n_fields && a->body_len == b->body_len && a->keep_alive == b->keep_alive);
    FUZZ_CHECK(a->body_len == 0 || memcmp(a->body, b->body, a->body_len) == 0);
}

/* One that is over a bound and broken at the same place is told the one or the other: where a piece ends decides which is seen first. */
static void same_refusal(int whole, int pieces)
{
    FUZZ_CHECK(whole >= 400 && pieces >= 400);
    FUZZ_CHECK(whole == pieces || whole == 431 || pieces == 431);
}

static bool equal(const struct buf *b, const void *data, size_t len)
{
    return b->len == len && (len == 0 || memcmp(b->data, data, len) == 0);
}

static void forwarded(const struct http_message *m)
{
    struct buf out = BUF_INIT;
    struct second_message second;
    FUZZ_CHECK(http_write_request(&out, m, "", NULL) == 0);
    bool taken = second_parse(true, false, out.data, out.len, &second);
    bool known = taken || second.method.len > 0 || second.target.len > 0; /* it knows only some methods and targets */
    if (known && taken) {
        FUZZ_CHECK(second.complete && second.used == out.len);
        FUZZ_CHECK(equal(&second.method, m->method, strlen(m->method)));
        FUZZ_CHECK(equal(&second.target, m->target, strlen(m->target)));
        FUZZ_CHECK(equal(&second.body, m->body, m->body_len));
    }
    second_message_fini(&second);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_parser *whole = http_parser_new(true, &limits), *pieces = http_parser_new(true, &limits);
    struct second_message second;
    size_t used, used_pieces;
    FUZZ_CHECK(whole != NULL && pieces != NULL);
    int rv = feed(whole, data, size, size > 0 ? size : 1, &used);
    int rv_pieces = feed(pieces, data, size, 1 + size % 7, &used_pieces);
    FUZZ_CHECK(rv == rv_pieces || (rv < 0 && rv_pieces < 0));
    if (rv < 0) same_refusal(http_parser_refusal(whole), http_parser_refusal(pieces));
    if (rv == 1) {
        const struct http_message *m = http_parser_message(whole);
        FUZZ_CHECK(used == used_pieces);
        same(m, http_parser_message(pieces));
        if (!m->upgrade) {
            forwarded(m);
            /* what stands before us (another proxy) and we must agree where the message ends */
            if (second_parse(true, false, data, size, &second) && second.complete) FUZZ_CHECK(second.used == used);
            second_message_fini(&second);
        }
    }
    http_parser_free(whole);
    http_parser_free(pieces);
    return 0;
}
