/* An HTTP/1.1 server on libuv, for the data port and the admin port.
 *
 * Each connection is a session. It hands over one request at a time; further bytes of the client (pipelining) are
 * kept, within a bound, until that one is answered, so that answers leave in order. What HTTP itself asks for is done
 * here: 100-continue, 400/413/431 with a close that lets the client read them, keep-alive, HTTP/1.0, half-closed
 * clients, TLS, and the time a client may take. Thread: the loop's.
 *
 * A request is whole when it comes. Only where on_body is given, one whose body is over limits.body_bytes comes in parts first:
 *
 *   on_body ... on_body, on_request (message->streamed)        or on_gone, when it breaks off
 *
 * A session pointer is good from on_body or on_request until the answer is complete, or on_gone, whichever comes first. */
#ifndef CRSC_INTERCEPTOR_PROXY_SERVER_H
#define CRSC_INTERCEPTOR_PROXY_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "common/error.h"
#include "common/http.h"
#include "common/tls.h"

struct server;
struct session;

struct server_options {
    const char *address; /* host:port, numeric; copied */
    struct http_limits limits;
    unsigned sessions_max;  /* more are answered 503 and closed */
    unsigned retry_after;   /* seconds, said with that */
    uint64_t idle_ms;       /* a kept connection without a request */
    uint64_t header_ms;     /* from a request's first byte to the end of its headers; for a TLS handshake */
    uint64_t body_ms;       /* without a byte of its body */
    uint64_t send_ms;       /* in which a client takes nothing of its answer */
    struct tls_context *tls; /* NULL: plain. Borrowed */
};

struct server_handlers {
    /* The message is borrowed until this returns. Exactly one answer is owed: session_answer(), session_reply(),
     * session_begin() and so on, or session_abort(); at once or later. */
    void (*on_request)(void *user, struct session *s, const struct http_message *m);
    /* A part of a large body. NULL: such a request is refused with 413. The request may be answered before it is whole: then the rest is not
     * taken, and the connection closes behind the answer. */
    void (*on_body)(void *user, struct session *s, const struct http_message *head, const void *data, size_t len);
    /* The client of an unanswered request, or of a tunnel, is gone. Nothing is owed any more. */
    void (*on_gone)(void *user, struct session *s);
    /* All that was written has been given to the kernel; only in an answer in parts. May be NULL. */
    void (*on_drained)(void *user, struct session *s);
    /* Bytes of a tunnel. */
    void (*on_bytes)(void *user, struct session *s, const void *data, size_t len);
    /* A client was told this status, which is not the app's. May be NULL. */
    void (*on_refused)(void *user, int status);
};

int server_start(uv_loop_t *loop, const struct server_options *options, const struct server_handlers *handlers,
                 void *user, struct server **ret_server, struct error *e);
/* Accepts no more and closes idle sessions; the others close behind their answer. */
void server_stop(struct server *server);
unsigned server_sessions(const struct server *server);
/* Who is left is treated as if he were gone: the handlers are told, and may live on for a while. */
void server_abandon(struct server *server);
/* Closes what is left without a word to the handlers; `done` is called from the loop and the server is gone then. */
void server_close(struct server *server, void (*done)(void *user), void *user);

void session_set_context(struct session *s, void *context);
void *session_context(const struct session *s);
const char *session_peer(const struct session *s); /* "192.0.2.1" or "2001:db8::1", without port; never NULL */
bool session_secure(const struct session *s);      /* TLS */

/* Every answer may have `extra`: header lines with CRLF, "" for none. */
/* A whole answer of the app. */
void session_answer(struct session *s, const struct http_message *m, const char *extra);
/* An answer of our own. */
void session_reply(struct session *s, int status, const char *type, const void *body, size_t len, const char *extra);
/* {"error": "..."} */
void session_refuse(struct session *s, int status, const char *extra, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* An answer in parts. session_part() also for nothing; without a declared length the parts are chunks. session_trailers(): before the end. */
void session_begin(struct session *s, const struct http_message *m, const char *extra);
void session_part(struct session *s, const void *data, size_t len);
void session_trailers(struct session *s, const struct http_message *m);
void session_end(struct session *s);
/* Instead of an answer: from now on bytes go through, session_part() to the client, on_bytes from it; until session_abort(), session_end() or on_gone. */
void session_tunnel(struct session *s);
/* Nothing that is queued leaves until it is uncorked. */
void session_cork(struct session *s, bool on);
/* The owner takes no more of the request's body (or of the tunnel) until it is taken back. What is on its way in this call still comes. */
void session_hold(struct session *s, bool on);
size_t session_queued(const struct session *s); /* bytes the client has not taken */
/* Closes the connection without an answer, or in the middle of one. */
void session_abort(struct session *s);

#endif
