/* What the server's files share: server.c (listening, the end), session.c (one connection) and answer.c (what is written to it). */
#ifndef CRSC_INTERCEPTOR_PROXY_INTERNAL_H
#define CRSC_INTERCEPTOR_PROXY_INTERNAL_H

#include <sys/queue.h>

#include "common/buf.h"
#include "common/tls.h"
#include "interceptor/proxy/server.h"

enum { READ_SIZE = 64 << 10, PEER_MAX = 64 };

struct session {
    struct server *server;
    TAILQ_ENTRY(session) entry;
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct http_parser *parser;
    struct tls *tls;         /* NULL: plain */
    struct buf plain;        /* TLS: decrypted, not looked at yet */
    struct buf ahead;        /* read, not parsed yet */
    struct buf out, writing; /* to be written; being written */
    struct buf trailers;     /* of the answer that goes out in chunks */
    void *context;
    uint64_t since_ms; /* the last progress of whatever it is about */
    char peer[PEER_MAX];
    int minor;
    bool head, keep_alive; /* of the request being answered */
    bool begun;            /* a request goes out in parts, and is not whole yet */
    bool busy;             /* a request is being answered */
    bool chunked;          /* its answer goes out in chunks */
    bool corked;
    bool held;             /* the owner takes no more of the request's body now */
    bool tunnel;           /* bytes, no HTTP any more */
    bool in_body;          /* of the request that is being read, the head is there */
    bool feeding, reading, ended, closing;
    bool last;       /* nothing is parsed any more: close when all is written */
    bool discarding; /* all is written: only waits for the client to end */
};

struct server {
    uv_loop_t *loop;
    struct server_options options;
    struct server_handlers handlers;
    void *user;
    uv_tcp_t listener;
    uv_timer_t sweep;
    TAILQ_HEAD(, session) sessions;
    unsigned n_sessions, handles;
    bool stopped, closing;
    void (*done)(void *user);
    void *done_user;
    char chunk[READ_SIZE];
};

/* session.c */
void session_accept(struct server *server, uv_stream_t *listener);
void session_check_time(struct session *s, uint64_t now);
void session_stop(struct session *s); /* nothing more is read from it */
void session_lost(struct session *s);       /* the client is gone, or treated as if it were */
void session_end_gently(struct session *s); /* all is written */
void session_feed_ahead(struct session *s); /* what came while an answer was on its way */
/* answer.c */
void session_flush(struct session *s);
bool session_written(struct session *s, int rv); /* of a writer; without memory for an answer there is none, and the session is lost */
/* server.c */
void server_handle_gone(struct server *server);

#endif
