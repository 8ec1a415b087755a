/* The order in which requests reach the app: the interceptor's core.
 *
 * A request's life:
 *
 *   arrived -> appending -> logged(offset)       what the log knows of a logged request; in order of arrival
 *   away -> sent -> answered -> finished         what the app has of it
 *   held -> sent -> answered -> finished         a read (an unlogged safe method): sent only in Active
 *
 * Pessimistic (the default): sent when it is logged. Optimistic: sent as soon as it is appending, and the answer is kept
 * until everything that the app had been given by then is logged (so no answer, a read's neither, shows what is not
 * durable). When the log is lost before that, the app is ahead of it: it is suspect, and nothing it said counts.
 *
 * Which logged requests may be with the app together:
 *
 *   serial      one, in the order of offsets; or, `following`, several that the app takes one after the other from one connection
 *   keyed       of those with the same key one, in the order of their offsets; one without a key is alone
 *   concurrent  all
 *
 * With the log goes, for each request, the highest offset that somebody could have seen the effect of when it arrived
 * (`after`). In the replay a request waits for everything up to there: so what a client could observe as earlier stays
 * earlier. It need not wait for what came into the log since the app was attached: nobody saw that from an app before.
 * Requests that were logged in serial order say so (`ordered`) and are replayed that way in any mode.
 *
 * The states, seen from outside, are computed from six facts: is the log open, is our lease live, is an app attached and connected, does
 * a person hold it, is a drain going on, is something left to replay. One rule per row, the first that holds:
 *
 *   state      when                                        logged requests      reads        new requests
 *   Waiting    fenced by a newer epoch                     given up             503          503
 *   Waiting    no app, or it is lost or suspect            stay in place        held         appended, wait
 *   Draining   a drain is wanted or done                   stay; those sent,    held; sent   appended, wait
 *                                                          and what was         ones are
 *                                                          overtaken by them,   finished
 *                                                          are finished
 *   Waiting    the log is not open                         stay in place        held         wait
 *   Waiting    our lease on the stream is not live         stay in place;       held; the    appended, wait
 *                                                          answers are kept     same
 *   Waiting    a person holds it, or we stop               stay in place        held         appended, wait
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
 *   O1 An incarnation of the app that was attached with offset N has executed, after N, only requests of the log (or, in
 *      optimistic logging, ones that will be in it, or it is suspect), each once, and each only behind everything that it has to
 *      follow: all before it (serial), those of its key, what could be seen when it arrived. All up to `executed` are among them;
 *      in serial order no others.
 *   O2 A request whose append was acknowledged stays until it is answered or a newer epoch owns the stream.
 *   O3 A client gets at most one answer: that of the incarnation whose history survives, and only when all that can be seen in
 *      it is durable.
 *      Nothing is answered while our lease is not live: another interceptor may serve the stream already.
 *   O4 While a drain is done and not ended, nothing reaches the app: its state is that of requests <= the drained offset.
 *
 * Gathering: in serial order what is durable keeps the app busy for a while. As long as more requests are durable and wait for the app than
 * wait for the log, or while an append is on its way and some are durable, the next appends wait, and then go all at once: one entry of the log, one write on each
 * disk, for many requests. Nobody waits longer for that: the app is never without a durable request because of it. It is for Active only, where the app goes on.
 *
 * Recovery: attach(N) has the log read from N+1 to its end as it is known then. A request read that is one of our own,
 * still unanswered, is not a second one: it waits at its place in the queue. So whoever still waits for an answer gets
 * that of the replay. An append whose outcome was never told (the log was lost) is unknown until that part of the log
 * was read; it is found there by epoch and sequence, or else appended again.
 *
 * Shared: several interceptors append to the stream, each with an app of its own (serial and pessimistic only). The log is read
 * without end, from the attached offset on; what others appended is executed in its place among our own, and ours only when
 * the reading has come to it. What differs:
 *
 *   - The log may be longer than we know, so attach first asks for its end (ASK): up to there it is Replaying. The same question
 *     makes a read linearizable: it is sent when everything up to the end, as told after it came, has been executed.
 *   - The attached state may contain requests of our own clients that another app executed: what ours would have answered is
 *     not known, and they are abandoned (the client repeats it elsewhere). The same for one whose append has an unknown outcome
 *     and may be in that part of the log.
 *   - LOGGED comes before the READ of the same event.
 *   - With `refuses`, who can be answered by another replica is not made to wait for ours: while there is no app, or it has not caught up since it was
 *     attached, new requests, reads, and what is certainly in no log are rejected. What is or may be in the log stays: it is executed, and who
 *     asked elsewhere would do it twice.
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
    ORDER_ARRIVED,   /* to be appended; a read stays this */
    ORDER_APPENDING, /* handed to the log, no answer yet */
    ORDER_UNKNOWN,   /* handed to a log that was lost: perhaps in it */
    ORDER_LOGGED,    /* durable at `offset` */
    ORDER_OVER,      /* its outcome is to be pulled, or was */
};

enum order_place {
    ORDER_AWAY,     /* not with the app */
    ORDER_SENT,     /* with it */
    ORDER_ANSWERED, /* the answer is kept until all that can be seen in it is durable */
};

enum order_outcome { ORDER_FINISHED, ORDER_DROPPED, ORDER_REJECTED, ORDER_FAILED, ORDER_ABANDONED };

struct order_entry {
    uint32_t bytes; /* owner's: what it takes of the hold bound */
    bool read;      /* owner's: unlogged */
    bool anchored;  /* owner's: it needs what is before it in the log, so a drain is not done before it was executed */
    uint64_t key;   /* owner's, for ORDER_KEYED: equal for equal keys; 0: none, it is alone with the app */
    /* the core's, to be read only: */
    bool waiting;     /* a client waits for the answer */
    bool from_log;    /* was read back from the log: nobody of ours waits for it */
    uint8_t attempts; /* times it was sent before */
    bool ordered;     /* it follows everything before it */
    bool murky;       /* shared: perhaps in the part of the log that the attached state contains */
    bool aimed;       /* a linearizable read: `after` is known */
    enum order_life life;
    enum order_place place;
    enum order_outcome outcome;
    uint64_t offset;          /* from ORDER_LOGGED on */
    uint64_t after;           /* from ORDER_APPENDING on; of a linearizable read: what the app must have executed before */
    uint64_t epoch, sequence; /* while ORDER_UNKNOWN */
    uint64_t number;          /* ours: counts arrivals */
    uint64_t need;            /* while ORDER_ANSWERED: up to that number all must be durable */
    TAILQ_ENTRY(order_entry) link, ripening;
};
TAILQ_HEAD(order_list, order_entry);

enum order_app { ORDER_APP_NONE, ORDER_APP_STARTING, ORDER_APP_READY, ORDER_APP_LOST, ORDER_APP_SUSPECT };
enum order_state { ORDER_WAITING, ORDER_ACTIVE, ORDER_DRAINING, ORDER_REPLAYING };
enum order_drain { ORDER_DRAIN_NONE, ORDER_DRAIN_WANTED, ORDER_DRAIN_CLOSING, ORDER_DRAIN_DONE };

enum order_mode { ORDER_SERIAL, ORDER_KEYED, ORDER_CONCURRENT };

struct order_limits {
    enum order_mode mode;
    bool optimistic;
    bool shared;            /* others append too; serial and pessimistic only */
    bool linearizable;      /* shared: reads are */
    bool refuses;           /* shared: nothing new waits for an app */
    uint32_t executing;     /* logged requests sent to the app at a time, unless serial */
    uint32_t following;     /* serial: the same, sent one behind the other so that the app executes them in that order; 0 and 1: one */
    uint32_t hold_requests; /* logged requests and reads that are not answered yet */
    uint64_t hold_bytes;    /* of them */
    uint32_t reads;         /* sent to the app at a time */
};

struct order_counters {
    uint64_t acknowledged; /* logged requests answered by the app */
    uint64_t logged;       /* appends acknowledged by the log */
    uint64_t reads;        /* reads answered */
    uint64_t rejected;     /* 503: over the hold bound, fenced, or refused for want of an app */
    uint64_t replayed;     /* requests sent to the app that were read back from the log, or sent before */
    uint64_t followed;     /* shared: requests of others sent to the app when they came */
    uint64_t abandoned;    /* shared: what the attached state contained already */
};

struct order {
    struct order_limits limits;
    struct order_counters counters;
    struct order_list queue;      /* logged requests, in order of arrival, which is that of their offsets */
    struct order_list replays;    /* read back from the log, in order of their offsets, not executed yet */
    struct order_list held, sent; /* reads; `sent`: also ANSWERED ones */
    struct order_list ripe;       /* by `ripening`: ANSWERED ones, of queue and sent, in order of `need` */
    struct order_list out;        /* ORDER_OVER */
    struct order_entry *unsent;   /* first of `queue` that is ARRIVED; NULL: none */
    struct order_entry *matched;  /* last of `queue` that the log was seen to have; NULL: none */
    struct order_entry *first;    /* of `queue` that is not ANSWERED; NULL: none */
    uint32_t lives[ORDER_OVER];   /* entries in queue, by `life` */
    uint32_t n_flying;            /* logged requests SENT */
    uint32_t n_anchored;          /* in queue */
    uint32_t n_held, n_sent;      /* entries in queue and held; in sent */
    uint64_t numbers;             /* given so far */
    uint64_t sent_number;         /* the highest that this app was given */
    uint64_t durable_number;      /* up to there all are LOGGED */
    uint64_t sent_offset;         /* the highest that any app was given, as far as known */
    uint64_t seen;                /* the highest offset whose effect somebody could have seen: the next `after` */
    uint64_t held_bytes;
    enum order_app app;
    enum order_drain drain;
    uint64_t drain_number;
    bool fenced, log_open, lapsed, hold, stopped;
    bool reading;          /* the log is being read, up to `read_to` */
    bool pouring;          /* what is unsent goes to the log now, to the last one */
    bool unresolved;       /* there are ORDER_UNKNOWN ones */
    bool unsettled;        /* the app went away with more, or perhaps more, than the requests up to `executed` */
    uint64_t epoch, known; /* our epoch; the log's last offset as far as we know */
    uint64_t attached;     /* the offset the app came with */
    uint64_t executed;     /* O1 */
    uint64_t furthest;     /* the highest offset it has executed; above `executed` while one before it is missing */
    uint64_t read_pos, read_to, replay_from, replay_to;
    bool aiming, asking, asked_aim; /* shared: the log's end is not known since the attach; is asked for; since then */
    uint64_t asked_number;          /* reads up to there were here when it was asked for */
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
    ORDER_EV_LAPSED,     /* our lease on the stream is not live: nothing may be told */
    ORDER_EV_LEASED,     /* it is (again); so it is from the beginning, for who has no leases */
    ORDER_EV_FENCED,     /* a newer epoch owns the stream: for good */
    ORDER_EV_READ, /* the log has at `offset`: a request (entry: new) of `epoch`, `sequence`; or another event (entry
                      NULL) */
    ORDER_EV_READ_FAILED, /* the log cannot be read from where the app stands */
    ORDER_EV_END,         /* the answer to ASK: the log ended at `offset`, at some time after it was asked */
    ORDER_EV_ATTACH,      /* an app with state `offset`; `same`: the process that was attached last */
    ORDER_EV_DETACH,
    ORDER_EV_CONNECTED,    /* the attached app takes connections */
    ORDER_EV_LOST,         /* the app is gone */
    ORDER_EV_SUSPECT,      /* it lives, and dropped a logged request: nobody knows what it executed */
    ORDER_EV_SHOWN,        /* a client gets the first part of an answer that is not whole yet */
    ORDER_EV_ANSWERED,     /* entry: by the app, wholly */
    ORDER_EV_READ_DROPPED, /* entry (a read): the app lives and did not answer */
    ORDER_EV_HOLD,         /* by a person */
    ORDER_EV_RELEASE,
    ORDER_EV_DRAIN,   /* begin one */
    ORDER_EV_CLOSED,  /* the connections to the app are closed, as drain `number` asked */
    ORDER_EV_RESUME,  /* end it */
    ORDER_EV_EXPIRED, /* its time is over: it ends broken */
    ORDER_EV_STOP,    /* for good: nothing more is given to the app; a drain ends broken */
};

struct order_event {
    enum order_event_kind kind;
    struct order_entry *entry;
    uint64_t offset, epoch, sequence;
    uint64_t after;  /* READ: as it was appended */
    uint64_t number; /* CLOSED: the drain's */
    bool ordered;    /* READ: the same */
    bool same;       /* ATTACH */
};

enum order_action_kind {
    ORDER_DO_DROP,    /* close every connection to the app now; no answer of it may come in any more */
    ORDER_DO_CONNECT, /* to the app that was attached, as long as it takes; then CONNECTED or LOST */
    ORDER_DO_REOPEN,  /* a drain has ended: connections to the app may be opened again */
    ORDER_DO_STOP,    /* reading the log */
    ORDER_DO_ASK,     /* for the log's end, linearizably; then END, however long it takes */
    ORDER_DO_READ,    /* the log from `offset` to `to` (without end: UINT64_MAX), each event as a READ (after a READ that failed: again) */
    ORDER_DO_APPEND,  /* entry, with its `after` and `ordered`; then LOGGED or UNKNOWN */
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
    ORDER_DO_ABANDON, /* it is or may be logged, and another interceptor sees to it: no answer */
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

/* Shared: the app has executed everything up to there. */
uint64_t order_applied(const struct order *o);
/* What is not in the log is rejected now: no app has caught up since it was attached. Always false without limits.refuses. */
bool order_refuses(const struct order *o);
/* It was in the log before the app was attached: others, or an earlier app, executed it long ago. */
bool order_is_replay(const struct order *o, const struct order_entry *r);
/* The number up to which all must be durable before anything that the app says now may be told. */
uint64_t order_shown(const struct order *o);
bool order_may_show(const struct order *o, uint64_t number); /* it is durable, and our lease live */
/* An answer to this entry would have to be kept now: it is FINISHed later, or never and the entry is sent again. */
bool order_must_keep(const struct order *o, const struct order_entry *r);
/* After STOP: the app has all requests up to `*ret_offset` and no other, and gets nothing from us any more. False: not (yet), or there is no app. */
bool order_rests(const struct order *o, uint64_t *ret_offset);
/* The app that was attached last has, or may have, executed more than it came with. */
bool order_was_fed(const struct order *o);

enum order_state order_state(const struct order *o);
const char *order_state_name(enum order_state state); /* "waiting", "active", "draining", "replaying" */
const char *order_reason(const struct order *o);      /* why it is in this state: a short sentence; never NULL */

/* Everything still in it, one by one, for the owner to free at the end. NULL: none left. */
struct order_entry *order_take_any(struct order *o);

#endif
