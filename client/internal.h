/* What the files of libcrsc share: the client, its channels and calls. Nobody else includes this.
 *
 * A client has two channels to the leader, made when first needed: `main` for appends and everything small, `bulk` for
 * reads, so that a large answer never delays an append; and one `once` channel for each status asked of a given server.
 * A follow has an uplink of its own.
 *
 * User callbacks may do anything, so nothing is touched after one unless it is known to be there: the client's memory
 * stays until its handles have told the loop that they are closed; producers that were closed wait in `graveyard` for
 * the next turn of the loop. */
#ifndef CRSC_CLIENT_INTERNAL_H
#define CRSC_CLIENT_INTERNAL_H

#include <sys/queue.h>

#include "client/crsc.h"
#include "client/outbox.h"
#include "client/uplink.h"
#include "client/wire.h"

enum {
    CALLS_MAX = 4096,     /* outstanding, per client */
    PRODUCERS_MAX = 4096, /* open, per client */
    QUEUED_MAX = 8 << 20, /* bytes waiting in a connection before more appends are put there */
    RETRY_FIRST_MS = 2,   /* after a BUSY */
    RETRY_MOST_MS = 200,
};

struct call;
/* Ends the call: decodes `f` (NULL with an error) and calls its user. -ERROR_PROTOCOL, nobody called, for a bad answer.
 */
typedef int call_finish(struct call *call, const struct error *e, const struct frame *f);

struct call {
    TAILQ_ENTRY(call) entry;
    struct channel *channel;
    uint16_t type;
    uint64_t id;
    struct buf head;
    uint64_t deadline, retry_at; /* loop time, ms */
    unsigned tries;
    bool sent;
    struct error why; /* of the last refusal; code 0: none yet */
    call_finish *finish;
    void (*callback)(void); /* the user's, in the type that `finish` knows */
    void *user;
};

struct channel {
    struct crsc_client *client;
    struct uplink *uplink; /* NULL until needed */
    TAILQ_HEAD(calls, call) calls;
    bool once; /* one server, one attempt; goes with its call */
};

struct crsc_producer {
    TAILQ_ENTRY(crsc_producer) entry, dirty_entry;
    struct crsc_client *client;
    unsigned slot; /* in client->producers; high half of its frames' ids, less one */
    char *stream;
    struct call *opening;
    struct outbox *outbox;
    uint64_t epoch;       /* 0: not opened */
    uint64_t last_offset; /* highest acknowledged: they only grow */
    uint64_t resume_at;   /* after a refusal; 0: not waiting */
    unsigned tries;       /* refusals since the last success */
    struct error why;     /* last refusal, for a timeout's text */
    struct error broken;  /* code 0: it works */
    bool closed, dirty;
    crsc_opened_cb *opened;
    void (*on_broken)(void *user, const struct error *e);
    void *user;
};

struct held; /* follow.c: a frame that came while paused */

struct crsc_follow {
    TAILQ_ENTRY(crsc_follow) entry;
    struct crsc_client *client;
    struct uplink *uplink;
    char *stream;
    uint64_t next;         /* offset to be received next */
    uint64_t subscription; /* frame id; 0: none on this connection */
    uint32_t owed;         /* credit to give back */
    uint64_t resume_at;    /* of a new subscription after a refusal; 0: at once */
    unsigned tries;
    bool paused, ended, cancelled;
    STAILQ_HEAD(, held) held;
    crsc_events_cb *on_events;
    void *user;
};

TAILQ_HEAD(producer_list, crsc_producer);
TAILQ_HEAD(follow_list, crsc_follow);

struct crsc_client {
    uv_loop_t *loop;
    struct endpoints *endpoints; /* as given; uplinks start from a copy */
    char *software, *tls_name;
    struct uplink_tls tls;
    uint32_t timeout_ms, window_bytes;
    bool fixed;
    struct channel main, bulk;
    TAILQ_HEAD(onces, once) onces;
    unsigned n_calls;
    uint64_t last_id;                 /* of frames: low half */
    struct crsc_producer **producers; /* by slot; NULL: free */
    unsigned n_slots;
    struct producer_list open, dirty, graveyard;
    struct follow_list follows;
    uv_timer_t timer;     /* the next deadline or retry */
    uint64_t timer_at;    /* UINT64_MAX: not set */
    uv_prepare_t prepare; /* sends what was appended in this turn of the loop */
    unsigned handles;     /* not closed yet */
    bool closing;
    void (*done)(void *user);
    void *done_user;
};

/* ---- client.c */
uint64_t client_now(const struct crsc_client *c);
uint32_t client_backoff(unsigned tries);
void client_wake_at(struct crsc_client *c, uint64_t when); /* ticks then at the latest */
void client_next_turn(struct crsc_client *c);              /* runs the prepare handle before the loop blocks again */
/* An uplink to the leader (or, fixed, to whoever is given) that knows what the main channel's has learnt. */
int client_uplink(struct crsc_client *c, const struct uplink_handlers *handlers, void *user,
                  struct uplink **ret_uplink);
void client_uplink_gone(struct crsc_client *c); /* from on_closed of such an uplink */
/* Takes `head` over in any case. */
int client_call(struct channel *channel, uint16_t type, struct buf *head, call_finish *finish, void (*callback)(void),
                void *user, struct call **ret_call);
void client_cancel_call(struct call *call); /* no callback */
/* What a failed attempt comes to: "...: a:1 (refused), b:2 (does not lead)". */
void client_explain(const struct crsc_client *c, const struct uplink *u, const struct error *last, struct error *ret_e,
                    const char *what);

/* What to do about an ErrorReply. */
enum client_verdict {
    VERDICT_FINAL, /* the answer */
    VERDICT_MOVE,  /* another server may do it */
    VERDICT_RETRY, /* the same server, a little later */
};
enum client_verdict client_judge(enum error_code code);

/* ---- producer.c */
void producer_main_up(struct crsc_client *c);
void producer_main_down(struct crsc_client *c);
void producer_frame(struct crsc_client *c, const struct frame *f);
void producer_flush_dirty(struct crsc_client *c);
void producer_flush_all(struct crsc_client *c);
uint64_t producer_tick(struct crsc_client *c, uint64_t now); /* returns when it wants the next one */
void producer_bury(struct crsc_client *c);

/* ---- follow.c */
void follow_turn(struct crsc_client *c);
uint64_t follow_tick(struct crsc_client *c, uint64_t now);
void follow_end(struct crsc_follow *f, const struct error *e);

#endif
