/* The operator's side of one interceptor's admin interface (docs/INTERCEPTOR.md): what it says of itself, kept up to date by
 * GET /watch, and the calls that the operator makes.
 *
 * It reconnects by itself, with pauses of 20 ms growing to 1 s; while it has no watch, or heard nothing for INTERCEPTOR_CLIENT_SILENCE_MS,
 * the state is WORLD_UNREACHABLE. Answers of calls are seen in interceptor_client_world() before their callback comes; an older
 * line of the watch never undoes a newer answer (`version`).
 *
 * One call at a time, and one of interceptor_role() besides: a second gets -ERROR_BUSY. A call calls back once, from the loop, never from inside the call.
 * Shell over libcurl's multi interface on the libuv loop. Thread: the loop's. Strings are copied. */
#ifndef CRSC_OPERATOR_INTERCEPTOR_CLIENT_H
#define CRSC_OPERATOR_INTERCEPTOR_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "operator/reconcile/world.h"

enum {
    INTERCEPTOR_CLIENT_SILENCE_MS = 5000, /* the watch says something every half second */
    INTERCEPTOR_CLIENT_CALL_MS = 5000,     /* bound of a call; of drain: its drain_ms more */
    INTERCEPTOR_CLIENT_ANSWER_MAX = 1 << 20,
};

struct interceptor_client;

struct interceptor_answer {
    int status;         /* 0; -ERROR_INVALID, -ERROR_NOT_FOUND, -ERROR_CONFLICT, -ERROR_TIMEOUT as it answered (400, 404, 409, 504);
                           -ERROR_UNAVAILABLE when it did not answer: the outcome is unknown; -ERROR_PROTOCOL: not an answer of ours */
    struct error error; /* when status is not 0: what it said */
    uint64_t offset;    /* drain, resume */
    bool unbroken;      /* resume */
};
typedef void interceptor_cb(void *user, const struct interceptor_answer *answer);

/* What /status also tells and only people want: of the attached app, as of the last line. */
struct interceptor_extra {
    uint64_t replay_done;                      /* requests of the last replay */
    uint64_t lost_us, attached_us, active_us; /* wall time; 0: never */
    char stream[512];
    bool shared; /* --replication log: several may serve this stream */
    uint64_t held; /* clients' requests that wait */
};

/* `address` is "host:port", numeric. `on_change`: the world changed (not called for lines that change nothing in it). */
int interceptor_client_new(uv_loop_t *loop, const char *address, void (*on_change)(void *user), void *user,
                           struct interceptor_client **ret_client, struct error *e);
/* A call under way calls back with -ERROR_CANCELED before this returns. `done` (may be NULL) from the loop; it is gone by then. */
void interceptor_client_close(struct interceptor_client *c, void (*done)(void *user), void *user);

const struct world_interceptor *interceptor_client_world(const struct interceptor_client *c); /* until the loop goes on */
const struct interceptor_extra *interceptor_client_extra(const struct interceptor_client *c);

/* `proven`: only if the interceptor itself has proven that offset of that process from the log. */
int interceptor_attach(struct interceptor_client *c, const char *identity, uint64_t offset, const char *upstream, bool proven,
                       interceptor_cb *cb, void *user, struct error *e);
int interceptor_drain(struct interceptor_client *c, const char *token, uint32_t lease_ms, uint32_t drain_ms, interceptor_cb *cb,
                      void *user, struct error *e);
int interceptor_resume(struct interceptor_client *c, const char *token, interceptor_cb *cb, void *user, struct error *e);
/* It takes clients, or refuses them from now on. Waits for no other call: a promotion is urgent. */
int interceptor_role(struct interceptor_client *c, bool standby, interceptor_cb *cb, void *user, struct error *e);

#endif
