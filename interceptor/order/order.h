/* The order in which requests reach the app: the interceptor's core.
 *
 * A request's life:
 *
 *   arrived -> appending -> logged(offset) -> sent -> answered     a logged request: one at a time, in offset order
 *   arrived -> (held) -> sent -> answered                          a read (an unlogged safe method): only in Active
 *
 * The states, seen from outside, are computed from five facts: is the log open, is an app attached and connected, does
 * a person hold it, is a drain going on, is something left to replay. One rule per row, the first that holds:
 *
 *   state      when                                        logged requests      reads        new requests
 *   Waiting    fenced by a newer epoch                     given up             503          503
 *   Waiting    no app, or it is lost or suspect            stay in place        held         appended, wait
 *   Draining   a drain is wanted or done                   stay; one in flight  held; in     appended, wait
 *                                                          is finished          flight too
 *   Waiting    the log is not open                         stay in place        held         wait
 *   Waiting    a person holds it                           stay in place        held         appended, wait
 *   Replaying  the app is starting, the log is read, or a  sent in offset       held         appended, follow
 *              request at or before the target is left     order
 *   Active     otherwise                                   sent in offset       sent         appended, follow
 *                                                          order
 *
 *      attach          connected, replayed up to the target            drain
 *   Waiting --------> Replaying ------------------------> Active ---------------> Draining
 *     ^                  |                                  ^  |                   |   |
 *     +------------------+--- lost, suspect, detach --------|--+-------------------+   |
 *                                                           +--- resume, expiry -------+
 *
 * What always holds (the property test checks it on a model):
 *   O1 An incarnation of the app that was attached with offset N has executed, after N, exactly the log's requests
 *      N < o1 < o2 < ... <= executed, each once, in this order, none left out. So its state is that of requests 1..executed.
 *   O2 A request whose append was acknowledged stays until it is answered or a newer epoch owns the stream.
 *   O3 A client gets at most one answer: that of the incarnation whose history survives.
 *   O4 While a drain is done and not ended, nothing reaches the app: its state is that of requests <= the drained offset.
 *
 * Recovery: attach(N) has the log read from N+1 to its end as it is known then. A request read that is one of our own,
 * still unanswered, is not a second one: it waits at its place in the queue. So whoever still waits for an answer gets
 * that of the replay. An append whose outcome was never told (the log was lost) is unknown until that part of the log
 * was read; it is found there by epoch and sequence, or else appended again.
 *
 * Pure: no I/O, no clock, no allocation. Entries are the owner's memory; the core links them. Events go in by
 * order_step(); what is to be done is then pulled out by order_next() until it has nothing more. Thread: one. */
#ifndef CRSC_INTERCEPTOR_ORDER_ORDER_H
#define CRSC_INTERCEPTOR_ORDER_ORDER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/error.h"

enum order_life {
    ORDER_ARRIVED,   /* to be appended, or (read) to be sent */
    ORDER_APPENDING, /* handed to the log, no answer yet */
    ORDER_UNKNOWN,   /* handed to a log that was lost: perhaps in it */
    ORDER_LOGGED,    /* durable at `offset` */
    ORDER_SENT,      /* with the app */
    ORDER_OVER,      /* its outcome is to be pulled, or was */
};

enum order_outcome { ORDER_FINISHED, ORDER_DROPPED, ORDER_REJECTED, ORDER_FAILED, ORDER_ABANDONED };

struct order_entry {
    uint32_t bytes; /* owner's: what it takes of the hold bound */
    bool read;      /* owner's: unlogged */
    /* the core's, to be read only: */
    bool waiting;     /* a client waits for the answer */
    bool from_log;    /* was read back from the log: nobody of ours waits for it */
    uint8_t attempts; /* times it was sent before */
    enum order_life life;
    enum order_outcome outcome;
    uint64_t offset;          /* from ORDER_LOGGED on */
    uint64_t epoch, sequence; /* while ORDER_UNKNOWN */
    TAILQ_ENTRY(order_entry) link;
};
TAILQ_HEAD(order_list, order_entry);

enum order_app { ORDER_APP_NONE, ORDER_APP_STARTING, ORDER_APP_READY, ORDER_APP_LOST, ORDER_APP_SUSPECT };
enum order_state { ORDER_WAITING, ORDER_ACTIVE, ORDER_DRAINING, ORDER_REPLAYING };
enum order_drain { ORDER_DRAIN_NONE, ORDER_DRAIN_WANTED, ORDER_DRAIN_CLOSING, ORDER_DRAIN_DONE };

struct order_limits {
    uint32_t hold_requests; /* logged requests and reads that are not answered yet */
    uint64_t hold_bytes;    /* of them */
    uint32_t reads;         /* sent to the app at a time */
};

struct order_counters {
    uint64_t acknowledged; /* logged requests answered by the app */
    uint64_t logged;       /* appends acknowledged by the log */
    uint64_t reads;        /* reads answered */
    uint64_t rejected;     /* 503: over the hold bound, or fenced */
    uint64_t replayed;     /* requests sent to the app that were read back from the log, or sent before */
};

struct order {
    struct order_limits limits;
    struct order_counters counters;
    struct order_list queue;      /* logged requests, in order of arrival, which is that of their offsets */
    struct order_list replays;    /* read back from the log, in order of their offsets, not executed yet */
    struct order_list held, sent; /* reads */
    struct order_list out;        /* ORDER_OVER */
    struct order_entry *unsent;   /* first of `queue` that is ARRIVED; NULL: none */
    struct order_entry *matched;  /* last of `queue` that the log was seen to have; NULL: none */
    struct order_entry *flying;   /* the one logged request with the app */
    uint32_t n_held, n_sent;      /* entries in queue and held; in sent */
    uint64_t held_bytes;
    enum order_app app;
    enum order_drain drain;
    uint64_t drain_number;
    bool fenced, log_open, hold;
    bool reading;          /* the log is being read, up to `read_to` */
    bool unresolved;       /* there are ORDER_UNKNOWN ones */
    bool unsettled;        /* the app went away while it had a logged request: what it executed is not known */
    uint64_t epoch, known; /* our epoch; the log's last offset as far as we know */
    uint64_t attached;     /* the offset the app came with */
    uint64_t executed;     /* O1 */
    uint64_t read_pos, read_to, replay_from, replay_to;
    bool do_drop, do_connect, do_read, do_stop, do_reopen, do_close, do_drained, do_broken; /* to be pulled */
};

enum order_event_kind {
    ORDER_EV_ARRIVED, /* entry: new, with bytes and read filled in */
    ORDER_EV_GONE,    /* entry: its client waits no more */
    ORDER_EV_LOGGED,  /* entry (NULL: something else of ours, a completion) is at `offset` */
    ORDER_EV_UNKNOWN, /* entry was appended under `epoch`, `sequence` (0: never left us) and the log is lost; LOG_LOST
                         follows */
    ORDER_EV_LOG_OPENED, /* `epoch` is ours, the log ends at `offset` */
    ORDER_EV_LOG_LOST,   /* nothing can be appended until it is opened again */
    ORDER_EV_FENCED,     /* a newer epoch owns the stream: for good */
    ORDER_EV_READ, /* the log has at `offset`: a request (entry: new) of `epoch`, `sequence`; or another event (entry
                      NULL) */
    ORDER_EV_READ_FAILED, /* the log cannot be read from where the app stands */
    ORDER_EV_ATTACH,      /* an app with state `offset`; `same`: the process that was attached last */
    ORDER_EV_DETACH,
    ORDER_EV_CONNECTED,    /* the attached app takes connections */
    ORDER_EV_LOST,         /* the app is gone */
    ORDER_EV_SUSPECT,      /* it lives, and dropped a logged request: nobody knows what it executed */
    ORDER_EV_ANSWERED,     /* entry: by the app, wholly */
    ORDER_EV_READ_DROPPED, /* entry (a read): the app lives and did not answer */
    ORDER_EV_HOLD,         /* by a person */
    ORDER_EV_RELEASE,
    ORDER_EV_DRAIN,   /* begin one */
    ORDER_EV_CLOSED,  /* the connections to the app are closed, as drain `number` asked */
    ORDER_EV_RESUME,  /* end it */
    ORDER_EV_EXPIRED, /* its time is over: it ends broken */
};

struct order_event {
    enum order_event_kind kind;
    struct order_entry *entry;
    uint64_t offset, epoch, sequence;
    uint64_t number; /* CLOSED: the drain's */
    bool same;       /* ATTACH */
};

enum order_action_kind {
    ORDER_DO_DROP,    /* close every connection to the app now; no answer of it may come in any more */
    ORDER_DO_CONNECT, /* to the app that was attached, as long as it takes; then CONNECTED or LOST */
    ORDER_DO_REOPEN,  /* a drain has ended: connections to the app may be opened again */
    ORDER_DO_STOP,    /* reading the log */
    ORDER_DO_READ,    /* the log from `offset` to `to`, each event as a READ (after a READ that failed: again) */
    ORDER_DO_APPEND,  /* entry; then LOGGED or UNKNOWN */
    ORDER_DO_SEND,    /* entry to the app; then ANSWERED, READ_DROPPED, or LOST or SUSPECT without entry */
    ORDER_DO_CLOSE,   /* the connections to the app, gently, for drain `number`; then CLOSED */
    ORDER_DO_DRAINED, /* drain `number` is done: the app's state is that of `offset` */
    ORDER_DO_BROKEN,  /* drain `number` has ended by itself */
    /* The last that is heard of an entry; it is the owner's again: */
    ORDER_DO_FINISH,  /* it was answered: if somebody waits, give it to him; if it is ours and logged, append its
                         completion */
    ORDER_DO_FREE,    /* nobody waits */
    ORDER_DO_REJECT,  /* 503: it was not logged */
    ORDER_DO_FAIL,    /* 502: a read the app would not answer */
    ORDER_DO_ABANDON, /* fenced: it is or may be logged, and another interceptor sees to it: no answer */
};

struct order_action {
    enum order_action_kind kind;
    struct order_entry *entry;
    uint64_t offset, to, number;
};

void order_init(struct order *o, const struct order_limits *limits);

/* 0; -ERROR_CONFLICT (the state forbids it), -ERROR_INVALID (the argument is wrong: an offset beyond the log), or
 * -ERROR_PROTOCOL (READ out of turn: read again), and then nothing has changed. Only ATTACH, DETACH, HOLD, RELEASE,
 * DRAIN, RESUME, READ can be refused; the entry of a refused READ stays the owner's. */
int order_step(struct order *o, const struct order_event *event, struct error *e);

/* The next thing to do, once. False: nothing now. */
bool order_next(struct order *o, struct order_action *ret_action);

enum order_state order_state(const struct order *o);
const char *order_state_name(enum order_state state); /* "waiting", "active", "draining", "replaying" */
const char *order_reason(const struct order *o);      /* why it is in this state: a short sentence; never NULL */

/* Everything still in it, one by one, for the owner to free at the end. NULL: none left. */
struct order_entry *order_take_any(struct order *o);

#endif
