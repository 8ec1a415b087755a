/* A TCP connection that carries frames (common/frame.h), on a libuv loop: used by servers, peers and clients alike.
 *
 * Sending copies the frame into the connection's output buffer; what was sent while a write is under way leaves in the
 * next one, so that many small frames share a system call. Receiving hands over each frame in place. Both directions
 * are bounded: a frame over the limits closes the connection before anything is allocated for it, and a sender looks
 * at conn_queued() before producing more.
 *
 * conn_secure() puts TLS below the frames (common/tls.h): nothing is sent or delivered before the handshake is done.
 *
 * TCP_NODELAY is always on. Thread: the loop's. After conn_close() no callback but on_close comes; the connection frees
 * itself after on_close, which comes exactly once, never from inside a call of the owner's. */
#ifndef CRSC_COMMON_CONN_H
#define CRSC_COMMON_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/tls.h"

struct conn;

struct conn_handlers {
    void (*on_open)(struct conn *c, void *user);                         /* connected; NULL for accepted ones */
    void (*on_frame)(struct conn *c, void *user, const struct frame *f); /* `f` is borrowed until it returns */
    void (*on_drained)(struct conn *c, void *user);                      /* nothing queued any more; may be NULL */
    void (*on_close)(struct conn *c, void *user, const struct error *why); /* the last call; why->code may be NONE */
};

/* Takes a connection waiting on `listener` (from its connection callback). */
int conn_accept(uv_stream_t *listener, const struct conn_handlers *handlers, void *user, struct conn **ret_conn,
                struct error *e);

/* Begins connecting to "host:port" (IPv4, [IPv6]:port or a name). on_open or on_close follows. */
int conn_connect(uv_loop_t *loop, const char *address, uint32_t timeout_ms, const struct conn_handlers *handlers,
                 void *user, struct conn **ret_conn, struct error *e);

/* TLS on this connection, from its first byte on: right after conn_accept() or conn_connect(), before the loop runs again. `tls` must live
 * until the handshake is over; `name` is what the server's certificate has to say (tls_new()). A client's on_open comes when
 * its side of the handshake is done; that the server refuses our certificate comes later, as on_close. An accepted one has CONN_HANDSHAKE_MS for
 * it. On an error the connection is still to be closed. */
enum { CONN_HANDSHAKE_MS = 10000 };
int conn_secure(struct conn *c, struct tls_context *tls, const char *name, struct error *e);
/* Who the other side is; NULL without TLS, or before the handshake is done. Accepted: known at the first frame. */
const struct tls_peer *conn_tls_peer(const struct conn *c);

/* A larger frame than this is refused, from now on: the connection is closed with ERROR_TOO_LARGE. The limits of frame.h hold in any case. */
void conn_limit(struct conn *c, size_t frame_max);

/* What is sent leaves within the call, as far as the kernel takes it, instead of at the end of the loop's turn together with what else is sent in that
 * turn: cheaper where the owner sends once in a turn, dearer where it sends often. */
void conn_prompt(struct conn *c);

/* Queues a frame (copied). -ERROR_TOO_LARGE, -ERROR_NOMEM; a closing connection swallows it and returns 0. */
int conn_send(struct conn *c, const struct frame *f);
int conn_send_pieces(struct conn *c, const struct frame *f, const struct frame_piece *body, size_t n);

/* Bytes queued and not yet given to the kernel. */
size_t conn_queued(const struct conn *c);

/* Stops and resumes reading (backpressure on the peer). Frames already read are still delivered. */
void conn_pause(struct conn *c);
void conn_resume(struct conn *c);

/* Sends what is queued (within `linger_ms`, 0: drop it), then closes. Idempotent. `why` is given to on_close; NULL: none. */
void conn_close(struct conn *c, uint32_t linger_ms, const struct error *why);

void *conn_user(const struct conn *c);
void conn_set_user(struct conn *c, const struct conn_handlers *handlers, void *user); /* hand it to another owner */
const char *conn_peer(const struct conn *c); /* "host:port" of the other side, for logs; never NULL */

/* Splits "host:port" / "[v6]:port". 0 or -ERROR_INVALID. */
int address_split(const char *address, char *ret_host, size_t host_size, char *ret_port, size_t port_size, struct error *e);

/* Resolves an address that must be numeric (127.0.0.1:80, [::1]:80): listening sockets. Does not block. */
int address_numeric(const char *address, struct sockaddr_storage *ret_addr, struct error *e);

#endif
