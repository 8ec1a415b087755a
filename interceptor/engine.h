/* The interceptor's shell: turns what happens (clients, log, app, operator, time) into events of the ordering core, and
 * does what the core says. It decides nothing about order itself.
 *
 * Thread: the loop's. Ownership: the engine owns requests, the log's producer, the reader and the connections to the
 * app; the servers in front of it belong to main. */
#ifndef CRSC_INTERCEPTOR_ENGINE_H
#define CRSC_INTERCEPTOR_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "client/crsc.h"
#include "common/error.h"
#include "interceptor/metrics.h"
#include "interceptor/order/order.h"
#include "interceptor/proxy/server.h"
#include "interceptor/replay/progress.h"
#include "interceptor/replay/proof.h"
#include "interceptor/settings.h"

struct engine;

enum {
    ENGINE_IDENTITY_MAX = 255, /* bytes of an app's identity */
    ENGINE_TOKEN_MAX = 127,    /* of a drain's token */
    ENGINE_UPSTREAM_MAX = 127, /* of an app's address */
    ENGINE_STATUSES = 200,     /* 400 to 599 */
};

/* `on_change`: engine_status() would tell something new of state, app or drain. */
int engine_new(uv_loop_t *loop, const struct settings *settings, struct crsc_client *client,
               void (*on_change)(void *user), void *user, struct engine **ret_engine, struct error *e);
/* Nothing is answered or logged any more, and the log says so, if it can: who comes next need not wait for our lease. `done` from the loop. */
void engine_release(struct engine *engine, void (*done)(void *user), void *user);
/* Unanswered sessions are aborted before; `done` from the loop. The servers in front are closed before this is called.
 */
void engine_free(struct engine *engine, void (*done)(void *user), void *user);

/* For the data port's server; `user` is the engine. */
extern const struct server_handlers engine_server_handlers;

/* ---- the admin interface's side: 0, -ERROR_INVALID (400), -ERROR_CONFLICT (409), -ERROR_NOT_FOUND (404) ------- */

/* `proven`: only if this is what we have proven ourselves from the log (replay/proof.h). */
int engine_attach(struct engine *engine, const char *identity, uint64_t offset, const char *upstream, bool proven, struct error *e);
int engine_detach(struct engine *engine, const char *identity, struct error *e);
/* Shared only. A standby refuses new clients; who is here already is answered. */
int engine_role(struct engine *engine, bool standby, struct error *e);
/* The process is about to end: not ready any more, and who watches hears of it while who is here is still answered. */
void engine_leave(struct engine *engine);
/* So many replicas are there from now on (replica/verdict.h): 0, or 2 to VERDICT_REPLICAS_MAX. -ERROR_CONFLICT without --replication log, -ERROR_INVALID. */
int engine_replicas(struct engine *engine, unsigned replicas, struct error *e);
int engine_hold(struct engine *engine, bool hold, struct error *e);

/* e NULL: drained, at `offset`. Else the drain is over: -ERROR_TIMEOUT (not within drain_ms), -ERROR_CONFLICT
 * (something broke it). */
typedef void engine_drained_cb(void *waiter, const struct error *e, uint64_t offset);
/* 0: `done` follows, once, unless engine_forget() is called. */
int engine_checkpoint(struct engine *engine, const char *token, uint64_t lease_ms, uint64_t drain_ms,
                      engine_drained_cb *done, void *waiter, struct error *e);
/* Nobody waits for this drain any more: it ends. */
void engine_forget(struct engine *engine, void *waiter);
int engine_resume(struct engine *engine, const char *token, uint64_t *ret_offset, bool *ret_unbroken, struct error *e);

struct engine_status {
    const char *instance; /* of this process: another one counts versions anew */
    uint64_t version;     /* one more at each change of state, app or drain */
    enum order_state state;
    const char *reason; /* a sentence; with `detail` ("" for none) where more is known */
    const char *detail;
    bool ready;                               /* it can log and forward, and takes clients */
    bool shared, standby, leaving;
    unsigned replicas;     /* shared: how many there are, of this version of the app; 0: nobody is judged */
    const char *app_version; /* shared: "": nobody said */
    uint64_t diverged, disagreement; /* the request's offset; 0: no */
    uint64_t agreed; /* when it has diverged: the newest offset before that whose answer was like the recorded one; 0: none since it was attached */
    uint64_t divergences, disagreements; /* ever */
    const char *stream, *identity, *upstream; /* identity NULL: nothing was attached */
    const struct proof *proof; /* of an app that an earlier interceptor served; NULL: one was attached to this one */
    uint64_t epoch, last, executed;
    bool fenced; /* a newer epoch owns the stream; for good */
    enum order_app app;
    struct order_counters counters;
    uint64_t held, digest_mismatches, digests_compared, repeated;
    uint64_t replay_from, replay_to; /* offsets */
    struct progress_view replay;
    const char *token;                            /* of the last drain; NULL: none yet */
    uint64_t drain_offset;
    bool unbroken;
    uint64_t tunnels;
    const uint64_t *refused;                  /* answers of our own, by status: of 400 + i */
    uint64_t lost_us, attached_us, active_us; /* wall time; 0: never */
    const struct histogram *append, *total;
};
/* Pointers are borrowed until the loop goes on. */
void engine_status(const struct engine *engine, struct engine_status *ret_status);

#endif
