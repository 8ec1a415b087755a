/* An HTTP/1.1 server on libuv, for the data port and the admin port.
 *
 * Each connection is a session. It hands over one whole request at a time; further bytes of the client (pipelining) are
 * kept, within a bound, until that one is answered, so that answers leave in order. What HTTP itself asks for is done
 * here: 100-continue, 400/413/431 with a close that lets the client read them, keep-alive, HTTP/1.0, half-closed
 * clients, and the time a client may take. Thread: the loop's.
 *
 * A session pointer is good from on_request until the answer is complete, or on_gone, whichever comes first. */
#ifndef CRSC_INTERCEPTOR_PROXY_SERVER_H
#define CRSC_INTERCEPTOR_PROXY_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "common/error.h"
#include "common/http.h"

struct server;
struct session;

struct server_options {
    const char *address; /* host:port, numeric; copied */
    struct http_limits limits;
    unsigned sessions_max;
    uint64_t idle_ms;    /* a kept connection without a request */
    uint64_t request_ms; /* from the first byte of a request to its last; for an answer: without any progress */
};

struct server_handlers {
    /* The message is borrowed until this returns. Exactly one answer is owed: session_answer(), session_reply(),
     * session_begin() and so on, or session_abort(); at once or later. */
    void (*on_request)(void *user, struct session *s, const struct http_message *m);
    /* The client of an unanswered request is gone. Nothing is owed any more. */
    void (*on_gone)(void *user, struct session *s);
    /* All that was written has been given to the kernel; only in an answer in parts. May be NULL. */
    void (*on_drained)(void *user, struct session *s);
};

int server_start(uv_loop_t *loop, const struct server_options *options, const struct server_handlers *handlers,
                 void *user, struct server **ret_server, struct error *e);
/* Accepts no more and closes idle sessions; the others close behind their answer. */
void server_stop(struct server *server);
unsigned server_sessions(const struct server *server);
/* Closes what is left without a word to the handlers; `done` is called from the loop and the server is gone then. */
void server_close(struct server *server, void (*done)(void *user), void *user);

void session_set_context(struct session *s, void *context);
void *session_context(const struct session *s);

/* A whole answer of the app. */
void session_answer(struct session *s, const struct http_message *m);
/* An answer of our own. `extra`: header lines with CRLF, "" for none. */
void session_reply(struct session *s, int status, const char *type, const void *body, size_t len, const char *extra);
/* {"error": "..."} */
void session_refuse(struct session *s, int status, const char *extra, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* An answer in parts. session_part() also for nothing; without a declared length the parts are chunks. */
void session_begin(struct session *s, const struct http_message *m);
void session_part(struct session *s, const void *data, size_t len);
void session_end(struct session *s);
size_t session_queued(const struct session *s); /* bytes the client has not taken */
/* Closes the connection without an answer, or in the middle of one. */
void session_abort(struct session *s);

#endif
