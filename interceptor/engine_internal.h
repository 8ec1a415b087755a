/* What the engine's files share: engine.c (requests), answers.c (what the app answers) and control.c (attach, drain, status). */
#ifndef CRSC_INTERCEPTOR_ENGINE_INTERNAL_H
#define CRSC_INTERCEPTOR_ENGINE_INTERNAL_H

#include <stddef.h>

#include "common/buf.h"
#include "interceptor/engine.h"
#include "interceptor/lease/lease.h"
#include "interceptor/log.h"
#include "interceptor/parts/body.h"
#include "interceptor/repeat/records.h"
#include "interceptor/replay/digests.h"
#include "interceptor/replay/lookback.h"
#include "interceptor/replay/progress.h"
#include "interceptor/replay/proof.h"
#include "interceptor/replay/reader.h"
#include "interceptor/replica/end.h"
#include "interceptor/replica/verdict.h"
#include "interceptor/replica/vigil.h"
#include "interceptor/upstream/upstream.h"

enum { ENGINE_SCRATCH = 64 << 10 }; /* of memory that is kept from one request to the next */
enum { DRAINS_KEPT = 16 }; /* ended drains whose token is still known */

struct drain {
    char token[ENGINE_TOKEN_MAX + 1];
    uint64_t number, offset, lease_ms;
    bool running, drained, unbroken;
    engine_drained_cb *done; /* NULL: told, or nobody asks any more */
    void *waiter;
};

/* What a change is made of: compared after each turn. */
struct face {
    enum order_state state;
    enum order_app app;
    enum order_drain drain;
    enum proof_verdict proof;
    bool fenced, log_open, lapsed, hold, standby, leaving;
    uint64_t attaches, drains, diverged, disagreement;
};

struct request {
    struct engine *engine;
    struct order_entry entry;
    struct exchange exchange;
    struct session *session; /* NULL: nobody waits */
    void *sha;               /* EVP_MD_CTX, of an answer in parts */
    struct buf kept;         /* an answer that has to wait, as HTTP; empty: not one that can be given */
    struct answer_digest digest;
    uint64_t begun_us;
    uint64_t need;               /* while corked: what must be durable first */
    TAILQ_ENTRY(request) corked; /* in engine->corked */
    struct record *record;       /* it is the first with its Idempotency-Key */
    struct record_waiter wait;   /* it is not: .record is that of the first */
    TAILQ_ENTRY(request) early;  /* in engine->early */
    /* Its body is in the log in parts: */
    struct manifest manifest;
    struct blob *stored;          /* as it is in the log: the head, which is exchange.message, and the manifest; NULL: it is whole */
    struct body *body;            /* on its way to the app */
    TAILQ_ENTRY(request) sending; /* in engine->sending while that is so */
    bool is_early, keep_answer, is_corked;
    bool streaming; /* the client has had the first part */
    bool paused;
};

static inline struct request *of_entry(struct order_entry *entry)
{
    return (struct request *)((char *)entry - offsetof(struct request, entry));
}

static inline struct request *of_exchange(struct exchange *x)
{
    return (struct request *)((char *)x - offsetof(struct request, exchange));
}

enum { ENGINE_AGREEMENTS = 1024 };

struct engine {
    uv_loop_t *loop;
    const struct settings *settings;
    struct order order;
    struct log *log;
    struct reader *reader;
    struct end *end;
    struct vigil *vigil; /* NULL: none */
    bool standby;        /* clients are refused */
    bool leaving;        /* the process is about to end */
    struct verdicts *verdicts;
    unsigned replicas; /* of which more than half decide which app is wrong; 0: nobody does */
    uint64_t agreements[ENGINE_AGREEMENTS], n_agreements; /* offsets of answers that were like the recorded ones, the newest of them; how many there were */
    uint64_t diverged, agreed, disagreement, held_for; /* offsets; 0: not */
    uint64_t divergences, disagreements;
    struct upstream *upstream;
    struct digests *digests;
    void *sha, *sha256; /* EVP_MD_CTX, EVP_MD */
    struct buf text, extra; /* of the request that is being taken; kept for the next one */
    bool pumping;
    /* the answer that order_step(ANSWERED) is about, while that goes on */
    const struct http_message *answer;
    const struct request *answering;
    struct http_limits answer_limits;
    struct crsc_client *client;
    /* repeats.c */
    struct records *records;
    struct lookback *past;       /* reads keys and answers back from the log */
    uint64_t past_attached, repeated;
    bool past_known;
    TAILQ_HEAD(, request) early; /* with a key, before past_known */
    unsigned n_early;
    /* uploads.c, bodies.c */
    TAILQ_HEAD(, upload) uploads;
    TAILQ_HEAD(, request) sending;
    unsigned n_uploads;
    size_t upload_flight;  /* bytes on their way to the log */
    uint64_t upload_ids;   /* given so far */
    uint64_t drained;      /* the highest offset of a drain: what is up to there may be trimmed */
    TAILQ_HEAD(, tunnel) tunnels; /* tunnels.c */
    unsigned n_tunnels;
    bool uploads_wait;     /* one or more, for the end of a drain */
    TAILQ_HEAD(, request) corked; /* streaming to a client who may not see it yet */
    /* marks.c */
    struct lookback *marks; /* reads the newest marks back from the log */
    struct proof proof;
    uint64_t marked_attach, marked_at; /* `attaches` and the log's end when the last mark was left */
    uint64_t first_epoch, last_epoch;  /* under which we opened the stream, first and last */
    bool interrupted;                  /* another one had it in between */
    bool mark_due;                     /* a completion was not recorded: what is behind the last mark proves nothing */
    /* tenure.c */
    struct lease lease;
    uv_timer_t tenure_ask, tenure_change, tenure_rest;
    uint64_t rest_by_ms; /* at the end: until then what the app has is waited for */
    uint64_t asked_us; /* when the question that is on its way, or the last one, was asked */
    struct ask *ask;   /* that question; NULL: none */
    bool releasing;
    void (*released)(void *user);
    void *released_user;
    /* the app */
    char identity[ENGINE_IDENTITY_MAX + 1], address[ENGINE_UPSTREAM_MAX + 1];
    char detail[ERROR_TEXT_MAX]; /* why the log, the app or the replay is not well */
    uint64_t attaches;
    struct progress progress; /* of the replay */
    /* drains */
    struct drain drains[DRAINS_KEPT];
    unsigned n_drains; /* ever; the last is drains[(n_drains - 1) % DRAINS_KEPT] */
    uv_timer_t drain_timer;
    /* status */
    char instance[24];
    struct face face;
    uint64_t version, mismatches, compared, lost_us, attached_us, active_us;
    struct histogram append, total;
    uint64_t refused[ENGINE_STATUSES];
    void (*on_change)(void *user);
    void *user;
    unsigned closing;
    void (*done)(void *user);
    void *done_user;
};

/* One event, then all that follows from it. As order_step(). */
int engine_step(struct engine *engine, const struct order_event *ev, struct error *e);

/* Does what the core wants done after an order_step(). */
void engine_pump(struct engine *engine);

/* engine.c */
void request_free(struct request *r);
/* Its session, which is no longer its own: an answer follows, in this call. NULL: nobody waits. */
struct session *request_let_go(struct request *r);

/* answers.c: upstream's handlers; the core's FINISH; the replay's comparison. */
void answers_on_part(void *user, struct exchange *x, const struct http_message *head, const void *data, size_t len);
void answers_on_answer(void *user, struct exchange *x, const struct http_message *m);
void answers_on_dropped(void *user, struct exchange *x);
void answers_on_cut(void *user, struct exchange *x);
void answers_on_slow(void *user, struct exchange *x, bool begun);
void answers_finish(struct engine *engine, struct request *r); /* frees it */
void answers_forget(struct request *r);                        /* what was kept of an answer */
void answers_uncork(struct engine *engine, struct request *r);
void answers_durable(struct engine *engine); /* something became durable */
void answers_compared(struct engine *engine, uint64_t offset, enum digests_verdict verdict);

void answers_give_stored(const struct engine *engine, struct session *s, const uint8_t *bytes, size_t len, bool head, uint64_t offset);
enum { ANSWERS_EXTRA = 48, ANSWERS_TRACE = 33 };
/* Header lines for an answer to the request at this offset (0: it is not logged). */
const char *answers_extra(const struct engine *engine, uint64_t offset, char text[static ANSWERS_EXTRA]);
/* The trace id of the request's traceparent into `trace`, zeroed before; it stays empty without one. */
const char *answers_trace(const struct request *r, char trace[static ANSWERS_TRACE]);

/* engine.c: an HTTP/1.1 message as it is stored and forwarded; NULL: it is none, or no memory. */
struct request *request_new(const struct engine *engine, const void *bytes, size_t len);
void engine_part_closed(void *user);
void engine_admit(struct engine *engine, struct request *r); /* with a session that waits */

/* repeats.c: Idempotency-Key. */
int repeats_new(struct engine *engine);
void repeats_free(struct engine *engine);
void repeats_begin(struct engine *engine, uint64_t last); /* the log is open */
bool repeats_concerns(const struct engine *engine, const struct request *r);
bool repeats_take(struct engine *engine, struct request *r); /* true: seen to. false: it is the first, or has no key */
bool repeats_gone(struct engine *engine, struct request *r); /* its client; true: it was a waiting one, and is freed */
void repeats_finished(struct engine *engine, struct request *r);
void repeats_undone(struct engine *engine, struct request *r, bool abandoned);
void repeats_attached(struct engine *engine, uint64_t offset);

/* marks.c: what a later interceptor can know of this app from the log, and what we know of one from an earlier interceptor. */
int marks_new(struct engine *engine);
void marks_begin(struct engine *engine, uint64_t last); /* the log is open */
void marks_leave(struct engine *engine);                /* if one is due; after each turn */
void marks_rest(struct engine *engine);                 /* at the end: the app's state, if it is known */
/* 0, or -ERROR_CONFLICT: the process' state is another, or is not proven. */
int marks_check(const struct engine *engine, const char *identity, uint64_t offset, bool proven, struct error *e);

/* uploads.c: requests in parts on their way into the log. */
void uploads_on_body(void *user, struct session *s, const struct http_message *head, const void *data, size_t len);
bool uploads_on_request(struct engine *engine, struct session *s, const struct http_message *m);
bool uploads_gone(struct engine *engine, struct session *s); /* true: its client is the one of an upload, which is forgotten */
void uploads_on_part(void *user, void *context, uint64_t offset);
void uploads_on_part_lost(void *user, void *context);
void uploads_opened(struct engine *engine);       /* the log */
void uploads_fenced(struct engine *engine);
bool uploads_moving(const struct engine *engine); /* a drain would come at a bad time */
void uploads_look(struct engine *engine);         /* the end of a drain */
void uploads_free(struct engine *engine);
/* As it is logged and forwarded. */
int engine_write_message(struct engine *engine, const struct session *s, const struct http_message *m, struct buf *out);
int engine_write_head(struct engine *engine, const struct session *s, const struct http_message *m, struct buf *out);

/* bodies.c: and out of it. */
int request_in_parts(struct request *r); /* what request_new() made is one of these. 0, -ERROR_CORRUPT, -ERROR_NOMEM: it is as before */
void bodies_on_wants(void *user, struct exchange *x);
void bodies_stop(struct request *r);
void bodies_stop_all(struct engine *engine);

/* tunnels.c: upgrades that pass. */
void tunnels_on_request(struct engine *engine, struct session *s, const struct http_message *m);
void tunnels_on_bytes(void *user, struct session *s, const void *data, size_t len);
bool tunnels_gone(struct engine *engine, struct session *s);    /* true: it was the client of one */
bool tunnels_drained(struct engine *engine, struct session *s); /* the same */
void tunnels_end_all(struct engine *engine, bool sessions);     /* the sessions too; the app's sides are gone when this returns */

/* disputes.c: replicas whose answers differ. */
int disputes_new(struct engine *engine);
void disputes_answered(struct engine *engine, uint64_t offset, const struct answer_digest *digest); /* a logged request, by our app */
void disputes_agreed(struct engine *engine, uint64_t offset);                                       /* with what the log has */
void disputes_differs(struct engine *engine, uint64_t offset);                                      /* from what the log has */
void disputes_event(struct engine *engine, const struct crsc_event *event);                         /* that was read */
void disputes_attached(struct engine *engine);
void disputes_count(struct engine *engine, unsigned replicas); /* so many are there of this version of the app */

/* tenure.c: the lease. */
void tenure_new(struct engine *engine);
void tenure_free(struct engine *engine, uv_close_cb on_closed); /* three handles */
void tenure_opened(struct engine *engine, uint64_t epoch); /* before the core hears of it */
void tenure_proof(struct engine *engine);                  /* what the log says of whoever was before us is known */
void tenure_appended(struct engine *engine, uint64_t asked_us);
void tenure_look(struct engine *engine); /* has it run out? Before anything the app says is passed on */
void tenure_end(struct engine *engine);  /* fenced */
void tenure_note(struct engine *engine); /* something became durable */

/* control.c: what the core says of drains, and whether something changed. */
void control_drained(struct engine *engine, uint64_t number, uint64_t offset);
void control_broken(struct engine *engine, uint64_t number);
void control_look(struct engine *engine);

#endif
