/* Calls to HTTP servers from a libuv loop: libcurl's multi interface, driven by uv_poll and one timer.
 *
 * A call is one request over HTTP/1.1. Its answer is collected up to `answer_max` bytes, or handed over in parts as it comes
 * (a watch, which has no end). Connections are kept and used again. Proxies named in the environment are not used: what is called is
 * part of the system.
 *
 * A call calls back exactly once, from the loop, never from inside http_client_call(); a canceled one never does. The callback may begin
 * and cancel calls and close the client; the part callback may not.
 * Thread: the loop's. Strings and bodies are copied. */
#ifndef CRSC_COMMON_HTTP_CLIENT_H
#define CRSC_COMMON_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"

struct http_client;
struct http_call;

struct http_reply {
    int status;         /* 0: an answer came, whole, whatever its code; -ERROR_UNAVAILABLE: none, and nobody knows what the
                           request did; -ERROR_TIMEOUT: the same, after timeout_ms; -ERROR_TOO_LARGE; -ERROR_NOMEM */
    struct error error; /* when status is not 0 */
    int code;           /* of HTTP, 100..599 */
    const char *body;   /* zero-terminated behind `len`; "" when it went out in parts; until the callback returns */
    size_t len;
};
typedef void http_call_cb(void *user, const struct http_reply *reply);

/* A part of the answer's body. False ends the call, as -ERROR_CANCELED. */
typedef bool http_call_part_cb(void *user, int code, const char *data, size_t len);

/* Who we are and whom we believe, as PEM. NULL: none of it. With `name`, the server's certificate must be for that name, whatever the
 * URL says (an address, say). */
struct http_tls {
    const char *ca, *cert, *key, *name;
};

struct http_call_options {
    const char *method; /* "GET", "POST" */
    const char *url;
    const char *body;         /* NULL: none; else sent as content_type */
    const char *content_type; /* NULL: application/json */
    const char *bearer;       /* NULL: none; else sent as a token of RFC 6750 */
    const struct http_tls *tls; /* of an https URL; NULL: the machine's own CAs; copied */
    uint32_t timeout_ms;      /* of the whole call; 0: no bound */
    uint32_t silence_s;       /* the call fails after so many seconds without a byte; 0: no bound */
    size_t answer_max;        /* bytes of the answer that are collected; 0: 1 MiB */
    http_call_part_cb *on_part; /* NULL: the answer is collected */
};

int http_client_new(uv_loop_t *loop, struct http_client **ret_client, struct error *e);
int http_client_call(struct http_client *c, const struct http_call_options *options, http_call_cb *cb, void *user,
                     struct http_call **ret_call, struct error *e);
void http_call_cancel(struct http_call *call); /* it is gone, without a callback */
/* How calls of https: URLs from now on prove who they are and whom they believe: PEM files of the CAs that the server's certificate must come from
 * (and it must be for the URL's host), and of our own certificate and key ("" both: none is shown). TLS 1.3 only. The files are read at each new
 * connection, so that new ones need no restart. Strings are copied. */
int http_client_secure(struct http_client *c, const char *ca, const char *cert, const char *key, struct error *e);
/* Calls under way are canceled. `done` (may be NULL) comes from the loop; the client is gone by then. */
void http_client_close(struct http_client *c, void (*done)(void *user), void *user);

#endif
