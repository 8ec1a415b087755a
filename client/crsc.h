/* libcrsc: the C client of the log, on a libuv loop.
 *
 * A client knows one or more servers, finds the leader among them, follows it when it changes, reconnects with backoff,
 * and repeats what was not answered. Repeating is safe: appends carry (epoch, sequence), the rest is idempotent. Every
 * call is asynchronous and ends with exactly one callback, also at a timeout or at crsc_client_close().
 *
 * The program ignores SIGPIPE (loop_signals_start() sees to it), as libuv wants it.
 *
 * Thread: the loop's, for calls and callbacks. A callback may call anything, crsc_client_close() included.
 * Ownership: arguments are copied during the call; what a callback is given is borrowed until it returns.
 * Errors: a callback gets `e` NULL when it succeeded. While there is no leader the client keeps trying until the
 * call's deadline (options.timeout_ms) and then answers ERROR_TIMEOUT with the last reason; an append's outcome is then
 * unknown to its caller, and the producer is broken (see crsc_append). */
#ifndef CRSC_CLIENT_CRSC_H
#define CRSC_CLIENT_CRSC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"

struct crsc_client;
struct crsc_producer;
struct crsc_follow;

struct crsc_client_options {
    const char *servers;     /* "host:port,host:port,...": any of the cluster; the rest is learnt */
    const char *software;    /* program name and version, for the servers' logs; may be NULL */
    uint32_t timeout_ms;     /* per call, retries included; 0: 30000 */
    uint32_t window_bytes;   /* appended and not yet acknowledged, per producer; 0: 16 MiB */
    bool fixed;              /* ask these servers as they are, leader or not, and learn no others: reads are what that
                              * server has, and what it refuses because it does not lead fails */
    /* TLS: PEM files of the CAs that the servers' certificates come from, and of our own certificate (its names say what we may do:
     * docs/OPERATIONS.md) and key. All NULL or "": no TLS. Read again for new connections when they have changed. */
    const char *tls_ca, *tls_cert, *tls_key;
    const char *tls_name;    /* what the servers' certificates must be for; NULL or "": the host that is dialled */
};

int crsc_client_new(uv_loop_t *loop, const struct crsc_client_options *options, struct crsc_client **ret_client,
                    struct error *e);
/* Every outstanding call ends with ERROR_CANCELED (before this returns), then, from the loop, `done` (may be NULL) is
 * called; the client is gone by then. Producers and follows that are still open are closed with it: their pointers are
 * of no use after this returns. Call it once. */
void crsc_client_close(struct crsc_client *client, void (*done)(void *user), void *user);

/* ---- appending ------------------------------------------------------------------------------------------------ */

enum crsc_kind { CRSC_REQUEST = 1, CRSC_COMPLETION = 2, CRSC_MARK = 3 }; /* = crsc.EventKind */

struct crsc_event {
    enum crsc_kind kind;
    uint64_t after;      /* highest offset whose answer had left before this one was admitted */
    uint64_t ref;        /* completion: the request's offset */
    const void *payload; /* may be NULL when size is 0 */
    uint32_t size;       /* bytes, at most CRSC_PAYLOAD_MAX */
    /* set by the log, ignored when appending: */
    uint64_t offset, epoch, sequence, time_us;
};
enum { CRSC_PAYLOAD_MAX = 8 << 20 };

typedef void crsc_opened_cb(void *user, const struct error *e, uint64_t epoch, uint64_t last_offset);

/* Opens `stream` for appending under a new epoch, fencing the older ones (with `shared`: those of the same producer
 * name). on_broken is called at most once, after the opening, when this producer can append no more: ERROR_FENCED (a newer epoch
 * exists) or ERROR_TIMEOUT (an append's outcome is unknown). Outstanding appends are answered with that error first. */
int crsc_producer_open(struct crsc_client *client, const char *stream, const char *producer, bool shared,
                       crsc_opened_cb *opened, void (*on_broken)(void *user, const struct error *e), void *user,
                       struct crsc_producer **ret_producer, struct error *e);
/* Outstanding appends are answered ERROR_CANCELED. No callback comes after this returns. */
void crsc_producer_close(struct crsc_producer *producer);

typedef void crsc_appended_cb(void *user, const struct error *e, uint64_t offset);

/* Appends one event behind all earlier ones of this producer; answers come in order. Events appended while others are on
 * their way travel together in one frame. -ERROR_BUSY when the window is full (nothing was taken; try again after an
 * answer), -ERROR_TOO_LARGE, -ERROR_INVALID before `opened`, or the error that broke the producer. */
int crsc_append(struct crsc_producer *producer, const struct crsc_event *event, crsc_appended_cb *done, void *user);

/* ---- reading -------------------------------------------------------------------------------------------------- */

typedef void crsc_events_cb(void *user, const struct error *e, const struct crsc_event *events, size_t n,
                            uint64_t last_offset);

/* Events [from, to] (to 0: the end), at most max_bytes of payload (0: 1 MiB) at a time: the caller asks again. */
int crsc_read(struct crsc_client *client, const char *stream, uint64_t from, uint64_t to, uint32_t max_bytes,
              crsc_events_cb *done, void *user);

/* Calls `on_events` for everything from `from` on, now and in future, in order and without gap, across reconnections.
 * An error ends it (the last call; `crsc_follow_cancel` is still owed). A consumer that is full calls crsc_follow_pause(). */
int crsc_follow(struct crsc_client *client, const char *stream, uint64_t from, crsc_events_cb *on_events, void *user,
                struct crsc_follow **ret_follow);
void crsc_follow_pause(struct crsc_follow *follow);
void crsc_follow_resume(struct crsc_follow *follow);
void crsc_follow_cancel(struct crsc_follow *follow); /* no callback after this returns */

/* ---- fencing, snapshots, inspection --------------------------------------------------------------------------- */

typedef void crsc_fenced_cb(void *user, const struct error *e, uint64_t epoch);
int crsc_fence(struct crsc_client *client, const char *stream, uint64_t epoch, crsc_fenced_cb *done, void *user);

/* Events up to and including `offset` go. ERROR_CONFLICT when a valid snapshot needs some of them, or, unless `force`, when there is
 * none to restore from. first_offset: of the stream from now on. */
typedef void crsc_trimmed_cb(void *user, const struct error *e, uint64_t first_offset);
int crsc_trim(struct crsc_client *client, const char *stream, uint64_t offset, bool force, crsc_trimmed_cb *done, void *user);

/* Which events of a stream go by themselves: those that the newest keep_snapshots (at least 1) valid snapshots do not need and, where a bound is
 * set, that are older than max_age_us or have more than max_bytes of payload behind them. beyond_snapshots: the bounds bind
 * whatever snapshots need. All 0: none do. */
struct crsc_retention {
    uint32_t keep_snapshots;
    uint64_t max_age_us, max_bytes;
    bool beyond_snapshots;
};
typedef void crsc_done_cb(void *user, const struct error *e);
int crsc_set_retention(struct crsc_client *client, const char *stream, const struct crsc_retention *retention, crsc_done_cb *done, void *user);

enum crsc_snapshot_state { CRSC_TAKING = 1, CRSC_VALID = 2, CRSC_FAILED = 3, CRSC_DELETED = 4 };

struct crsc_snapshot { /* strings are never NULL in callbacks; NULL means "" in arguments */
    const char *stream, *id;
    uint64_t offset;
    enum crsc_snapshot_state state;
    const char *image, *sha256, *node, *template_hash, *reason;
    uint64_t size;
    uint64_t started_us, finished_us, recorded_us;
};
const char *crsc_snapshot_state_name(enum crsc_snapshot_state state); /* "taking", ...; never NULL */

typedef void crsc_snapshots_cb(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n);
int crsc_record_snapshot(struct crsc_client *client, const struct crsc_snapshot *snapshot, crsc_snapshots_cb *done,
                         void *user);
/* n is 1, or e is ERROR_NOT_FOUND. template_hash NULL or "": any. */
int crsc_latest_snapshot(struct crsc_client *client, const char *stream, const char *template_hash,
                         crsc_snapshots_cb *done, void *user);
int crsc_list_snapshots(struct crsc_client *client, const char *stream, crsc_snapshots_cb *done, void *user);

struct crsc_stream_info {
    const char *name, *producer;
    uint64_t first_offset, last_offset, epoch, min_epoch, bytes, last_time_us, latest_snapshot_offset;
    uint32_t snapshots_valid;
    struct crsc_retention retention;
};
typedef void crsc_streams_cb(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n);
int crsc_list_streams(struct crsc_client *client, const char *prefix, crsc_streams_cb *done, void *user);

/* The stream's last offset, linearizable: no less than any that was acknowledged, to whomever, before this was called. 0: it is empty, or
 * there is none. */
typedef void crsc_end_cb(void *user, const struct error *e, uint64_t last_offset);
int crsc_stream_end(struct crsc_client *client, const char *stream, crsc_end_cb *done, void *user);

struct crsc_member {
    uint64_t id;
    const char *address, *role; /* role: voter, standby */
    bool reachable;
    uint64_t match_index; /* from the leader: what it has for certain on its disk; else 0 */
    uint64_t instance;    /* of its data directory; 0: the leader has not met it yet */
};
struct crsc_scrub { /* of the server's disk, since its start */
    uint64_t passes, bytes, found, repaired, damaged_segments; /* damaged_segments: now; found, repaired: records */
    uint64_t last_pass_us; /* when one ended last; 0: never */
    uint64_t pass_bytes, pass_of; /* how far the one under way is; pass_of 0: none is */
};
struct crsc_status {
    uint64_t node_id, term, leader_id, commit_index, applied_index, persisted_index, durable_applied_index, first_index,
        last_index, streams, log_bytes, started_us;
    const char *cluster, *role, *leader_address, *version;
    const char *alarm; /* what keeps the server from its work; "": nothing */
    struct crsc_scrub scrub;
    const struct crsc_member *members;
    size_t n_members;
};
typedef void crsc_status_cb(void *user, const struct error *e, const struct crsc_status *status);
/* Of `server` ("host:port"), as it sees things; NULL: of the leader, linearizably. */
int crsc_status(struct crsc_client *client, const char *server, crsc_status_cb *done, void *user);

/* ---- membership ----------------------------------------------------------------------------------------------- */

enum crsc_change { CRSC_ADD_SERVER = 40, CRSC_PROMOTE_SERVER = 41, CRSC_REMOVE_SERVER = 42, CRSC_TRANSFER_LEADERSHIP = 43 };

/* Adds a standby, promotes one to voter, removes a server, hands leadership over (id 0: to the most suitable). `address` is for adding;
 * `force` removes although those that are left and reachable are no majority. What has to wait, such as a promotion of a server
 * that has not caught up, is repeated until the call's deadline. The members as they are then, and who leads. */
typedef void crsc_members_cb(void *user, const struct error *e, const struct crsc_member *members, size_t n, uint64_t leader_id);
int crsc_change_server(struct crsc_client *client, enum crsc_change change, uint64_t id, const char *address, bool force,
                       crsc_members_cb *done, void *user);

/* ---- backup --------------------------------------------------------------------------------------------------- */

/* A question of the protocol as it is (FRAME_FETCH_STATE, FRAME_FETCH_BYTES), and its answer, borrowed. What is asked must be harmless when it is asked
 * twice. All go to the same server, as long as it can be reached. */
struct frame;
typedef void crsc_answer_cb(void *user, const struct error *e, const struct frame *answer);
int crsc_ask(struct crsc_client *client, uint16_t type, const void *head, size_t head_len, crsc_answer_cb *done, void *user);

#endif
