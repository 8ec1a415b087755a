/* An app's bytes at the interceptor: as fuzz_http_request.c, in the other direction; and an answer that is passed on in parts. */
#include <stdlib.h>
#include <string.h>

#include "common/http.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/second_parser.h"

static const struct http_limits limits = {.head_bytes = 8192, .headers = 64, .body_bytes = 256, .stream_bytes = UINT64_MAX};

struct parts {
    struct buf written;
    size_t n;
    bool chunked, begun;
};

static void on_part(void *user, const struct http_message *head, const void *data, size_t len)
{
    struct parts *p = user;
    if (!p->begun) FUZZ_CHECK(http_write_answer_head(&p->written, head, &(struct http_reader){.minor = 1, .keep_alive = true, .extra = ""}, &p->chunked) == 0);
    p->begun = true;
    p->n += len;
    if (len == 0) return;
    FUZZ_CHECK(p->chunked ? http_write_chunk(&p->written, data, len) == 0 : buf_add(&p->written, data, len) == 0);
}

static void check(const struct http_message *m, struct parts *p, bool head)
{
    struct second_message second;
    size_t expected = m->streamed ? p->n : m->body_len;
    struct http_reader reader = {.minor = 1, .head = head, .keep_alive = true, .extra = ""};
    struct buf trailers = BUF_INIT;
    FUZZ_CHECK(http_write_trailers(&trailers, m) == 0);
    if (m->streamed && p->chunked) FUZZ_CHECK(http_write_end(&p->written, trailers.data, trailers.len) == 0);
    if (!m->streamed) FUZZ_CHECK(http_write_answer(&p->written, m, &reader) == 0);
    buf_fini(&trailers);
    if (second_parse(false, head, p->written.data, p->written.len, &second)) {
        FUZZ_CHECK(second.complete && second.used == p->written.len && second.status == (unsigned)m->status);
        FUZZ_CHECK(second.body.len == (head ? 0 : expected));
    }
    second_message_fini(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_parser *p = http_parser_new(false, &limits);
    struct parts parts = {.written = BUF_INIT};
    bool head = size > 0 && data[0] == '!'; /* the first byte is ours */
    size_t at = head ? 1 : 0, used = 0;
    int rv = 0;
    FUZZ_CHECK(p != NULL);
    http_parser_stream(p, on_part, &parts);
    http_parser_expect_head(p, head);
    while (rv == 0 && at < size) {
        size_t n = size - at < 61 ? size - at : 61;
        rv = http_parser_feed(p, data + at, n, &used, NULL);
        at += used;
    }
    if (rv == 0) rv = http_parser_finish(p, NULL);
    if (rv == 1 && http_parser_message(p)->status >= 200) check(http_parser_message(p), &parts, head);
    http_parser_free(p);
    buf_fini(&parts.written);
    return 0;
}
