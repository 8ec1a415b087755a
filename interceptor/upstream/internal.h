/* What the module's files share: upstream.c (connections, and the app as a whole) and exchange.c (a request and its answer on one of them). */
#ifndef CRSC_INTERCEPTOR_UPSTREAM_INTERNAL_H
#define CRSC_INTERCEPTOR_UPSTREAM_INTERNAL_H

#include "interceptor/upstream/upstream.h"

enum { UPSTREAM_READ = 64 << 10 };

enum link_state {
    LINK_CONNECTING,
    LINK_IDLE,
    LINK_BUSY,
    LINK_DOUBT,  /* ended with an exchange, whose fate depends on whether the app lives */
    LINK_ENDING, /* half closed for a drain */
    LINK_CLOSING,
};

TAILQ_HEAD(exchange_list, exchange);

struct upstream_link {
    struct upstream *upstream;
    TAILQ_ENTRY(upstream_link) entry;
    enum link_state state;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    uv_connect_t connect;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct http_parser *parser;
    struct exchange *exchange; /* BUSY, DOUBT, and CONNECTING for one */
    struct exchange_list behind; /* those that follow it */
    struct blob *writing;
    uint64_t since_ms; /* CONNECTING, IDLE; BUSY: of the last progress */
    uint64_t listener; /* while starting: who listened before it was begun */
    uint64_t doubt;    /* probes that began up to this one say nothing about it */
    bool writes;       /* a write is under way */
    bool probe;        /* CONNECTING to see whether the app lives */
    bool complete;     /* DOUBT: the answer is whole if the app lives */
    bool sent;         /* BUSY: all of the request was written, or is being */
    char line[24];     /* of a chunk */
    bool answering;    /* BUSY: a byte of the answer came */
    bool ended;
};

struct upstream {
    uv_loop_t *loop;
    struct upstream_options options;
    struct upstream_handlers handlers;
    void *user;
    struct sockaddr_storage address;
    TAILQ_HEAD(, upstream_link) links; /* idle ones: the last used first */
    struct exchange_list waiting;      /* for a verdict */
    struct upstream_link *pipe;        /* has the exchanges that follow; NULL: there is none */
    uv_prepare_t turn;                 /* what follows is written at the end of the loop's turn, together */
    uv_timer_t retry, deadline, sweep;
    uint64_t listener, connect_by_ms, retry_ms;
    uint64_t probes; /* begun so far */
    unsigned handles;
    unsigned short_lived; /* connections that ended unused and young, in a row */
    bool watching;        /* it is suspect: it will be lost some time, and that is to be seen */
    bool starting, there, closing_gently, freeing;
    bool probing;
    void (*done)(void *user);
    void *done_user;
    char chunk[UPSTREAM_READ];
};

/* upstream.c */
void upstream_link_close(struct upstream_link *l);
void upstream_link_idle(struct upstream_link *l);  /* an exchange came to its end on it */
void upstream_link_ended(struct upstream_link *l, bool in_order); /* the app's side; or, not in order, an error */
void upstream_keep_one(struct upstream *u);        /* where nothing is connected any more a death would go unseen */
void upstream_suspect(struct upstream *u, const char *why);
void upstream_flush_waiting(struct upstream *u);
/* exchange.c */
void upstream_link_begin(struct upstream_link *l, struct exchange *x);
void upstream_link_follow(struct upstream_link *l, struct exchange *x);
void upstream_link_unfollow(struct upstream_link *l); /* what is behind has not been executed: it waits again, in front */
void upstream_on_turn(uv_prepare_t *turn);
void upstream_link_read(struct upstream_link *l);
void upstream_on_part(void *user, const struct http_message *head, const void *data, size_t len); /* of its parser */

#endif
