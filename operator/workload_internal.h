/* What the files of a workload share: workload.c (the wheel, begin and end), workload_act.c (actions and their outcomes), workload_tell.c (what people
 * are told), replicas.c (several of one stream). Internal to operator/. Thread: the loop's. */
#ifndef CRSC_OPERATOR_WORKLOAD_INTERNAL_H
#define CRSC_OPERATOR_WORKLOAD_INTERNAL_H

#include "operator/drivers/local.h"
#include "operator/interceptor_client.h"
#include "operator/reconcile/reconcile.h"
#include "operator/records.h"
#include "operator/replicas.h"
#include "operator/restores.h"
#include "operator/workload.h"

enum { WORKLOAD_REFUSALS_MAX = 3 /* of attaching an instance: then it goes, another one is started */ };

/* An action of a lane, from the core's word to its outcome. */
struct flight {
    struct workload *workload;
    struct reconcile_action action;
    struct reconcile_result result; /* while the driver looks again after a failure */
    uint64_t begun_us;
};

/* For people who look at /metrics: since the operator started. */
enum { WORKLOAD_REACTION, WORKLOAD_REPAIR, WORKLOAD_RECOVERY, WORKLOAD_OUTAGE, WORKLOAD_TIMES };
struct workload_counts {
    uint64_t recoveries, promotions, valid, failed; /* checkpoints */
    uint64_t rounds, round_bytes; /* of pre-copy, and what they wrote */
    uint64_t last_us[WORKLOAD_TIMES], sum_us[WORKLOAD_TIMES];
};

struct workload {
    struct workload_parts parts;
    const char *name;
    struct reconcile core;
    struct driver *driver;
    struct interceptor_client *interceptor;
    struct records *records;
    struct restores *restores;
    struct flight flights[RECONCILE_LANES];
    uv_timer_t timer;
    bool looked;
    bool poked; /* since its last turn began */
    bool foreign; /* the interceptor's stream is not ours, or it cannot serve beside others */
    bool heard;   /* the interceptor has answered since the start */
    uint64_t begun_us;

    /* replicas.c: of several, or alone */
    struct replicas *replicas;
    struct workload *next; /* of the same stream */
    uint64_t turn_us;      /* when its last checkpoint began; 0: never */
    bool was_busy;         /* a checkpoint of it was seen under way */
    bool calling;          /* a change of its role is under way */
    bool role_failed;      /* the last one; it is tried again when something changes, or soon */
    uint64_t role_us;      /* when it was decided */
    uint64_t disagreement; /* told about already */
    bool spare;            /* as it is written down (placement.h) */
    bool away;             /* nothing of it is to run here: a spare, but for one that the app is being moved to */
    bool arriving, leaving; /* of a move (reconcile/move.h) */
    uint64_t active_us;    /* its interceptor takes clients since then; 0: it does not */
    uint64_t up_us;        /* it could since then; 0: it could not */
    unsigned refusals; /* of attaching, in a row */
    char said[WORLD_REASON_MAX]; /* the core's reason, when it was last logged */

    /* for people: of the last death, and of the checkpoint under way */
    uint64_t gone_us, reacted_us; /* monotonic: it was noticed, the first thing was done about it; 0: it is not gone */
    uint64_t gone_wall_us;        /* the first of them, as a time of the day */
    char cause[WORLD_REASON_MAX]; /* why it is gone, or was killed; "": it is not, or nobody saw */
    struct workload_counts counts;
    bool served;                  /* clients, when it was last looked at */
    uint64_t restore_us, announced; /* duration, generation */
    uint64_t recovered_us;        /* when an instance was announced last, as a time of the day */
    bool revived;
    uint64_t drain_us, pause_us, dump_us, pack_us, size, round_bytes;
    unsigned rounds;
    char digest[DRIVER_DIGEST_MAX], image[1024];

    bool stopping, stop_containers, closing;
    unsigned open; /* parts that are not closed yet */
    void (*done)(void *user);
    void *done_user;
};

/* --- workload.c */

/* The world but for whose turn it is. */
void workload_look(struct workload *w, struct world *ret_world);
void workload_see(struct workload *w, struct world *ret_world);
void workload_pump(struct workload *w);
/* The same on the loop's next turn: from inside somebody else's callback. */
void workload_poke(struct workload *w);

/* It is gone, as is noticed now: notes when and why, unless that was noted already. */
void workload_gone(struct workload *w, const char *cause);
/* It is back. */
void workload_back(struct workload *w);

/* From now on nothing of it runs here, or (again) something does: why is for people. */
void workload_set_away(struct workload *w, bool away, const char *why);

/* --- workload_act.c */

void workload_start(struct workload *w, const struct reconcile_action *a);

/* --- workload_tell.c */

void workload_tell_reason(struct workload *w);
void workload_tell_state(struct workload *w, const struct world *world);
void workload_tell_failed(const struct flight *f, const char *detail);
void workload_tell_done(struct workload *w, const struct flight *f);

#endif
