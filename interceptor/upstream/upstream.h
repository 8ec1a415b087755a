/* Connections to the app, and what their ends mean.
 *
 * An app may end an idle connection, or one after its answer, as it likes. So an end alone says little; a new
 * connection, tried at once, says the rest:
 *
 *   the new connection is refused, or reaches another listener (listener.h)    the app is lost
 *   it succeeds; nothing was under way on the old one                          nothing has happened
 *   it succeeds; a read was under way                                          on_dropped: it can be asked again
 *   it succeeds; a logged request was under way                                the app is suspect: nobody knows whether
 * it executed it it succeeds; the answer's end was the connection's end                     the answer was complete
 *
 * Several on one connection (`follows`): each is sent behind the one before it, which is not answered yet. A server executes what is not safe one
 * by one, in that order (RFC 9112, 9.3.2), and nothing behind an answer that says "close" (9.6): those go on another connection then. Where the
 * connection ends otherwise, or what comes is not HTTP, nobody knows how far it got: the app is suspect.
 *
 * While that is being found out nothing more is sent. A connection that was idle for IDLE_MAX_MS is not used again,
 * because the app may be about to close it. One idle connection is kept where possible: its end is how a death shows at
 * once. Callbacks come from the loop only, never from inside a call. Thread: the loop's. */
#ifndef CRSC_INTERCEPTOR_UPSTREAM_UPSTREAM_H
#define CRSC_INTERCEPTOR_UPSTREAM_UPSTREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/http.h"

struct upstream;
struct upstream_link;

/* One request with the app. The owner's memory, from upstream_send() to on_answer, on_dropped or on_cut. */
struct exchange {
    /* the owner's, before upstream_send(): */
    struct blob *message; /* a whole HTTP/1.1 request; a reference is taken while it is needed */
    size_t split;         /* bytes of it before which `extra` goes in: the length of the request line */
    const char *extra;    /* static header lines, "" for none */
    bool logged, head;
    bool streams; /* `message` is a head, and the body comes by upstream_body() */
    bool chunked; /* in chunks; else as long as the head says */
    bool follows; /* behind the last one that follows and is not answered, on its connection; logged ones only, and then all of them */
    /* the module's: */
    struct upstream_link *link;
    bool parts;  /* on_part was called */
    bool slow;   /* on_slow was */
    bool paused;
    bool written; /* its message was, or is being */
    TAILQ_ENTRY(exchange) entry;
};

enum { UPSTREAM_FOLLOW_MAX = 64 }; /* on one connection at a time; the owner keeps to it */

struct upstream_options {
    struct http_limits limits; /* of answers */
    uint64_t connect_ms;       /* for a connection to an app that is there; then it is lost */
    uint64_t first_byte_ms;    /* from the request's last byte to the answer's first; 0: no bound */
    uint64_t body_ms;          /* between two bytes of the answer; 0: no bound */
};

struct upstream_handlers {
    void (*on_connected)(void *user);
    void (*on_lost)(void *user, const char *why);    /* upstream_drop() is owed, before it returns */
    void (*on_suspect)(void *user, const char *why); /* the same; on_lost comes when it is gone at last */
    void (*on_closed)(void *user);                   /* what upstream_close() wanted */
    void (*on_part)(void *user, struct exchange *x, const struct http_message *head, const void *data, size_t len);
    /* A whole answer; `m` NULL: the app answered with what is not HTTP. */
    void (*on_answer)(void *user, struct exchange *x, const struct http_message *m);
    void (*on_dropped)(void *user, struct exchange *x); /* a read: no answer, and the app lives */
    void (*on_cut)(void *user,
                   struct exchange *x); /* in upstream_drop(): parts were handed over, the rest will not come */
    /* A bound of the options is over, once per exchange; `begun`: in the middle of the answer. It goes on all the same, unless it is given up. */
    void (*on_slow)(void *user, struct exchange *x, bool begun);
    /* It can take the next piece of its body: one upstream_body() or upstream_body_end() is owed, at once or later. */
    void (*on_wants)(void *user, struct exchange *x);
};

struct upstream *upstream_new(uv_loop_t *loop, const struct upstream_options *options,
                              const struct upstream_handlers *handlers, void *user);
void upstream_free(struct upstream *u, void (*done)(void *user), void *user); /* done from the loop */

/* "host:port", numeric, or "unix:/path/of/a/socket". 0 or -ERROR_INVALID. */
int upstream_address(const char *text, struct sockaddr_storage *ret_address, struct error *e);
/* The app to talk to from now on. Tried until it takes a connection (on_connected) or the time
 * is over (on_lost). */
int upstream_connect(struct upstream *u, const char *address, uint64_t timeout_ms, struct error *e);
void upstream_send(struct upstream *u, struct exchange *x);
/* A piece of the body, not empty; a reference is taken. Nothing happens when the app has answered already, or its connection has ended. */
void upstream_body(struct exchange *x, struct blob *piece);
void upstream_body_end(struct exchange *x, const struct buf *trailers); /* trailers: header lines */
/* All connections are closed now and all exchanges forgotten; nothing more is heard of this app. */
void upstream_drop(struct upstream *u);
/* Closes the (idle) connections so that the app's side of them is gone too, within a short time; then on_closed. */
void upstream_close(struct upstream *u);
void upstream_reopen(struct upstream *u);
/* The sockets that listen at this address now are those behind which the app was that upstream_connect() reached last:
 * it is that process still. False also when nothing can be said. */
bool upstream_is_same(const struct upstream *u, const char *address);
/* Nobody wants this answer any more: its connection is closed, and the exchange forgotten. Not for a logged request: nobody would know whether it was
 * executed. */
void upstream_give_up(struct exchange *x);
/* The one who takes the parts is slow: stop and go on. */
void upstream_pause(struct exchange *x);
void upstream_resume(struct exchange *x);

#endif
