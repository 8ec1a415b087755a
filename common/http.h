/* HTTP/1.1 messages (RFC 9110, RFC 9112), on llhttp in its strict mode: bytes in, messages out.
 *
 * Pure: no sockets. Everything is bounded by struct http_limits; a message is whole when it is handed over, except that
 * a body over its bound is given out in parts where somebody takes them (http_parser_stream()). What a proxy and an app
 * could read differently (both Content-Length and Transfer-Encoding, two lengths, codings other than one "chunked", bad
 * chunks, bare LF, folded headers, control characters, no Host or two) is refused; the parser cannot go on after that,
 * and the connection must be closed. Trailers are kept apart from the headers; those that would change what the message is
 * (lengths, codings, Host, ...) are dropped. "Upgrade: h2c" is passed over, as RFC 9110, 7.8 allows: what many clients send with their
 * first request, and do not mind. Thread: one per parser. Ownership: a message belongs to its parser. */
#ifndef CRSC_COMMON_HTTP_H
#define CRSC_COMMON_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <strings.h>

#include "common/buf.h"
#include "common/error.h"

struct http_limits {
    size_t head_bytes; /* start line and headers */
    unsigned headers;  /* fields, trailers included */
    size_t body_bytes; /* of a body held in memory */
    uint64_t stream_bytes; /* of one that is given out in parts; UINT64_MAX: no bound */
};

struct http_field {
    const char *name, *value; /* zero-terminated; in the message */
};

struct http_message {
    /* a request */
    const char *method, *target;
    /* an answer */
    int status;
    const char *reason;
    /* both */
    int minor; /* of HTTP/1.x */
    const struct http_field *fields;
    unsigned n_fields;
    const struct http_field *trailers; /* once the message is whole */
    unsigned n_trailers;
    const uint8_t *body; /* chunks put together; nothing when it went out in parts */
    size_t body_len;
    int64_t length;  /* of the body as declared by Content-Length; -1: it was not */
    bool streamed;   /* the body went out in parts */
    bool keep_alive; /* the connection can be used again */
    bool upgrade;    /* CONNECT or Upgrade was asked for */
};

struct http_parser;

struct http_parser *http_parser_new(bool request, const struct http_limits *limits);
struct http_parser *http_parser_free(struct http_parser *p);
void http_parser_reset(struct http_parser *p); /* for a new connection */

/* For an answer: the request was HEAD, so that no body follows whatever the headers say. Before the answer's first
 * byte. */
void http_parser_expect_head(struct http_parser *p, bool head);

/* Part of a body that is over limits.body_bytes: all of it goes this way, in order, from the first byte on. `head` has
 * no body. */
typedef void http_part_cb(void *user, const struct http_message *head, const void *data, size_t len);
void http_parser_stream(struct http_parser *p, http_part_cb *on_part, void *user);

/* Parses. 1: a whole message is there (http_parser_message()) and `*ret_used` bytes were taken; give the rest later. 0:
 * all bytes were taken and more are needed. -ERROR_TOO_LARGE or -ERROR_PROTOCOL: refused; http_parser_refusal() is the
 * status for a client: 400, 413, 417, 431, 505. */
int http_parser_feed(struct http_parser *p, const void *data, size_t len, size_t *ret_used, struct error *e);
/* The connection ended. 1: that completed an answer without a length; 0: nothing was under way; else as above. */
int http_parser_finish(struct http_parser *p, struct error *e);

/* Valid until the next feed or reset. */
const struct http_message *http_parser_message(const struct http_parser *p);
int http_parser_refusal(const struct http_parser *p);
bool http_parser_started(const struct http_parser *p); /* bytes of a message that is not whole yet were taken */
bool http_parser_in_body(const struct http_parser *p); /* of such a message the head is there */
bool http_parser_wants_continue(
    struct http_parser *p); /* true once per message: headers are there, "100-continue" was asked */

/* Field names, whatever their case. Most are told apart by their first letter, without a call. */
static inline bool http_same_name(const char *a, const char *b)
{
    return ((a[0] ^ b[0]) & ~0x20) == 0 && strcasecmp(a, b) == 0;
}

/* First value of the field, any case; NULL. */
const char *http_field(const struct http_message *m, const char *name);
/* GET, HEAD, OPTIONS, TRACE: RFC 9110, 9.2.1. */
bool http_is_safe(const char *method);

/* Appends the message with its end-to-end fields only (RFC 9110, 7.6.1) and a length of its own: Content-Length, or with trailers
 * one chunk. `extra` is whole header lines with CRLF to put first, "" for none; fields whose names are in `without` (ended by NULL; NULL: none) are
 * left out. 0 or -ERROR_NOMEM. */
int http_write_request(struct buf *out, const struct http_message *m, const char *extra, const char *const *without);

/* The head alone, with the empty line at its end: what it says of the length is of m->body_len, or chunked with trailers. */
int http_write_request_head(struct buf *out, const struct http_message *m, const char *extra, const char *const *without);

/* Who reads an answer. */
struct http_reader {
    int minor;         /* of HTTP/1.x; 0: no chunks, so no trailers */
    bool head;         /* it asked with HEAD: the app's own Content-Length is kept and no body written */
    bool keep_alive;
    const char *extra; /* header lines to put first; "" for none */
};
int http_write_answer(struct buf *out, const struct http_message *m, const struct http_reader *reader);
/* The head of a 101, with what is agreed on. */
int http_write_upgraded(struct buf *out, const struct http_message *m);
/* The head alone of an answer whose body follows in parts: with its own length, or else chunked, or else (for HTTP/1.0)
 * up to the connection's end. `ret_chunked`: the parts are to be written by http_write_chunk(), and http_write_end() at the end. */
int http_write_answer_head(struct buf *out, const struct http_message *m, const struct http_reader *reader, bool *ret_chunked);
int http_write_chunk(struct buf *out, const void *data, size_t len); /* not for nothing: that would be the end */
int http_write_trailers(struct buf *out, const struct http_message *m); /* their lines */
int http_write_end(struct buf *out, const void *trailers, size_t len);  /* the last chunk, with such lines */
/* An answer of our own. */
int http_write_plain(struct buf *out, int status, const char *type, const void *body, size_t len, const char *extra,
                     bool keep_alive);
const char *http_reason(int status); /* "Not Found"; "Unknown" */

#endif
