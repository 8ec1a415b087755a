/* The listening socket and the connections it accepted: clients, and the other servers sending to us.
 *
 * The first frame of a connection is HELLO; it says which of the two it is. A client's requests are answered in any order,
 * matched by frame id. With TLS its certificate says what it may be and ask for (access.h). Bounds: connections, commands and queries outstanding per
 * connection (reading pauses), a client's frames and its silence (settings); replies queued (reading pauses), follows per connection, ten seconds
 * and 64 KiB for the HELLO. What cannot be understood is
 * answered with ErrorReply and, where the stream of frames cannot be trusted any more, the connection is closed.
 *
 * A session lives until its connection is closed and nobody holds a reference: who owes it an answer holds one.
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_SESSION_H
#define CRSC_LOGD_SERVER_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"
#include "logd/server/rpc_codec.h"

struct node;
struct session;
struct sessions;

enum {
    SESSION_REPLIES_MAX = 8 << 20, /* queued bytes of replies at which its requests are not read any more */
    SESSION_FOLLOWS_MAX = 64,
};

/* Begins to listen on settings->listen. */
int sessions_start(struct node *node, struct sessions **ret_sessions, struct error *e);
const char *sessions_address(const struct sessions *ss); /* where we listen, with the port the system chose */

/* For those who watch. */
struct sessions_state {
    unsigned clients, peers, unknown, follows;
    size_t queued; /* bytes of answers */
};
void sessions_state(const struct sessions *ss, struct sessions_state *ret_state);

/* Stops accepting; then every session is closed after sending what is queued (bounded), and `done` called. */
void sessions_stop_accepting(struct sessions *ss);
void sessions_close(struct sessions *ss, void (*done)(void *user), void *user);
/* Others belong to the cluster now: who does no more is told so, and its connections are closed. */
void sessions_recheck(struct sessions *ss);
void sessions_sweep(struct sessions *ss, uint64_t now_ms); /* call about once a second */

struct session *session_ref(struct session *s);
void session_unref(struct session *s);

/* An answer to frame `id`. Nothing happens when the connection is gone. */
void session_reply(struct session *s, uint16_t type, uint64_t id, const struct buf *head, const void *body, size_t body_len);
void session_reply_pieces(struct session *s, uint16_t type, uint64_t id, const struct buf *head, const struct frame_piece *body, size_t n);
void session_error(struct session *s, uint64_t id, const struct rpc_error *error);
void session_fail(struct session *s, uint64_t id, const struct error *error); /* code and text alone */

/* Counts what is owed to the session (a command or query that is not answered at once). */
void session_owe(struct session *s, size_t bytes);
void session_paid(struct session *s, size_t bytes);

bool session_open(const struct session *s);
bool session_sees(const struct session *s, const char *stream); /* it may know that there is this stream */
size_t session_queued(const struct session *s);
struct follow **session_follows(struct session *s, unsigned **ret_n); /* the list of follow.c */

#endif
