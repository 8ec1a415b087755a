/* One connection that is kept up: to the leader, wherever it is, or to one given server.
 *
 *   waiting --timer--> connecting --open--> greeting --Hello--> [asking --"I lead"-->] up
 *      ^                   |                   |                    |                  |
 *      +-------------------+------- any failure, silence, or uplink_move() -----------+
 *
 * With `leader` the uplink is up only when the server has answered a linearizable Status, that is, it leads, a majority
 * agrees, and it has applied all that was acknowledged before: whatever is read through it is never stale at that
 * moment. While it is up a Status every half second keeps watch: three in a row without any answer, or one that says
 * that another one leads, and it moves on. So a server that hangs, or is cut off, is left within seconds.
 *
 * Thread: the loop's. After uplink_close() only on_closed comes, once, from the loop; then the uplink is gone. */
#ifndef CRSC_CLIENT_UPLINK_H
#define CRSC_CLIENT_UPLINK_H

#include <stdbool.h>
#include <uv.h>

#include "client/endpoints.h"
#include "common/buf.h"
#include "common/frame.h"
#include "common/tls.h"

struct uplink;

enum {
    UPLINK_CONNECT_MS = 1000,  /* for a TCP connection */
    UPLINK_GREETING_MS = 1500, /* for the answers to Hello and Status */
    UPLINK_PROBE_MS = 500,     /* between Status requests while it is up and says nothing else */
    UPLINK_PROBES_LOST = 3,    /* so many in a row without any frame: it hangs */
};

struct uplink_handlers {
    void (*on_up)(void *user);
    void (*on_frame)(void *user, const struct frame *f);  /* while up; borrowed */
    void (*on_drained)(void *user);                       /* all that was sent is with the kernel */
    void (*on_down)(void *user, const struct error *why); /* was up and is not, or an attempt failed */
    void (*on_closed)(void *user);
};

/* Under what its connections are made. */
struct uplink_tls {
    struct tls_context *context; /* NULL: without TLS */
    const char *name;            /* NULL: the host dialled */
};

/* Begins at once; the endpoints are taken over (freed also when this fails). Strings are borrowed for its life. */
int uplink_new(uv_loop_t *loop, struct endpoints *endpoints, bool leader, const char *software,
               const struct uplink_tls *tls, const struct uplink_handlers *handlers, void *user, struct uplink **ret_uplink, struct error *e);
void uplink_close(struct uplink *u); /* idempotent */

bool uplink_up(const struct uplink *u);
/* Only while it is up. 0, -ERROR_TOO_LARGE, -ERROR_NOMEM. */
int uplink_send(struct uplink *u, uint16_t type, uint64_t id, const struct buf *head, const struct buf *body);
size_t uplink_queued(const struct uplink *u); /* bytes not yet with the kernel */

/* This server is of no use now: on to `leader` (NULL or "": unknown). Calls on_down before it returns. */
void uplink_move(struct uplink *u, const struct error *why, const char *leader);
/* The server did something useful: waiting times start anew. */
void uplink_worked(struct uplink *u);

const struct endpoints *uplink_endpoints(const struct uplink *u);

#endif
