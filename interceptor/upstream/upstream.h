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
    /* the module's: */
    struct upstream_link *link;
    bool parts; /* on_part was called */
    TAILQ_ENTRY(exchange) entry;
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
};

struct upstream *upstream_new(uv_loop_t *loop, const struct http_limits *limits,
                              const struct upstream_handlers *handlers, void *user);
void upstream_free(struct upstream *u, void (*done)(void *user), void *user); /* done from the loop */

/* The app to talk to from now on ("host:port", numeric). Tried until it takes a connection (on_connected) or the time
 * is over (on_lost). */
int upstream_connect(struct upstream *u, const char *address, uint64_t timeout_ms, struct error *e);
void upstream_send(struct upstream *u, struct exchange *x);
/* All connections are closed now and all exchanges forgotten; nothing more is heard of this app. */
void upstream_drop(struct upstream *u);
/* Closes the (idle) connections so that the app's side of them is gone too, within a short time; then on_closed. */
void upstream_close(struct upstream *u);
void upstream_reopen(struct upstream *u);
/* The sockets that listen at this address now are those behind which the app was that upstream_connect() reached last:
 * it is that process still. False also when nothing can be said. */
bool upstream_is_same(const struct upstream *u, const char *address);
/* The one who takes the parts is slow: stop and go on. */
void upstream_pause(struct exchange *x);
void upstream_resume(struct exchange *x);

#endif
