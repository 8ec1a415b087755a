/* The operator's core: what is seen of a workload in, the next thing to do out.
 *
 * Two lanes, one action at a time in each: the app's lane (containers and interceptor) and the store's lane (records in
 * the log, images on disk), so that a recovery never waits for packing and hashing. The shell calls reconcile_next()
 * until it says no, starts each action, and tells each outcome by reconcile_done(), with a world that shows it.
 *
 *                 app's lane                                          store's lane
 *   no container  RESTORE newest valid snapshot that fits             RECORD failed: what could not be restored
 *                 | START_FRESH when there is none                    RECORD failed: `taking` of an earlier life
 *   running       ATTACH once, with the offset it began with          RECORD deleted: beyond the newest `retain`
 *                 KILL when nobody knows what it executed             DISCARD what failed or deleted ones left on disk
 *   away          KILL what there is; nothing else
 *   checkpoint                                                        RECORD taking
 *                 (PRECOPY), DRAIN, DUMP, RESUME                      PACK, RECORD valid | RECORD failed
 *
 * What always holds (the property test checks it on a model):
 *   C1 An instance is attached once, and with the offset of its origin; if the interceptor forgets it (it was started again),
 *      it is attached with the offset that the new one proves from the log, or else killed.
 *   C2 A snapshot is valid only if the interceptor confirmed, after the dump had ended, that the drain was never broken.
 *   C3 Only a valid snapshot of the same specification is restored.
 *   C4 The newest `retain` valid ones, and the one that the running instance came from, are never deleted.
 *   C5 struct reconcile can be lost at any moment: a new one goes on from what is seen.
 *   C6 Failures are answered with growing pauses, so that nothing is done in a storm.
 *   C7 What a replica took that has diverged since is not restored from, if it was after its last agreement (as `agreed` tells).
 *   C8 While it is `away` nothing is started, and what runs is killed.
 *
 * Pure: no I/O, no clock, no allocation. Thread: one. */
#ifndef CRSC_OPERATOR_RECONCILE_RECONCILE_H
#define CRSC_OPERATOR_RECONCILE_RECONCILE_H

#include "operator/reconcile/world.h"

enum {
    RECONCILE_BAD_MAX = 64, /* snapshots known to be bad and not yet recorded so */
    RECONCILE_RETAIN_MAX = 32,
};

struct reconcile_policy {
    bool precopy;         /* memory is copied ahead of the drain */
    bool checkpoints;     /* CRIU is used; else every recovery is a fresh start and a full replay */
    uint64_t interval_us; /* between checkpoints */
    uint32_t retain;      /* valid snapshots that are kept, 1..RECONCILE_RETAIN_MAX */
    uint32_t drain_ms;    /* bound of the wait for requests in flight */
    uint32_t lease_ms;    /* bound of drain and dump together */
};

enum reconcile_lane { RECONCILE_LANE_APP, RECONCILE_LANE_STORE, RECONCILE_LANES };

enum reconcile_act {
    RECONCILE_NOTHING,
    RECONCILE_START_FRESH, /* remove every older container, then start one with an origin of offset 0 */
    RECONCILE_RESTORE,     /* the same from `snapshot`, verified first; origin: `offset` */
    RECONCILE_ADOPT,       /* write an origin of offset 0 for the instance, which ran before we did */
    RECONCILE_KILL,        /* and remove the instance `generation` */
    RECONCILE_ATTACH,      /* mark the instance attached, then tell the interceptor `identity` and `offset` */
    RECONCILE_PRECOPY,     /* what the instance has in memory, ahead of the dump for `snapshot`, while it serves */
    RECONCILE_DRAIN,       /* the interceptor, token `snapshot`, within drain_ms, for lease_ms */
    RECONCILE_DUMP,        /* the instance, for `snapshot`, and let it run on */
    RECONCILE_RESUME,      /* end the drain of token `snapshot` */
    RECONCILE_PACK,        /* the dump of `snapshot` as an image with `offset` */
    RECONCILE_RECORD,      /* `snapshot` in the log: `state`, `offset`, `reason` */
    RECONCILE_DISCARD,     /* what is on disk of `snapshot` */
};

struct reconcile_action {
    enum reconcile_act act;
    enum reconcile_lane lane;
    uint64_t generation;
    char identity[WORLD_IDENTITY_MAX];
    char snapshot[WORLD_ID_MAX];
    uint64_t offset;
    bool again; /* ATTACH: it was attached before, and `offset` is proven: the interceptor is to check that, and it stays marked whatever it says */
    enum world_snapshot_state state;
    char reason[WORLD_REASON_MAX]; /* why it is done; of RECORD failed: what goes into the record */
    uint32_t drain_ms, lease_ms;
};

enum reconcile_outcome {
    RECONCILE_OK,
    RECONCILE_FAILED,  /* it was not done, or nobody knows */
    RECONCILE_CORRUPT, /* RESTORE: the snapshot itself is bad, trying again is useless */
};

struct reconcile_result {
    enum reconcile_outcome outcome;
    uint64_t offset;               /* DRAIN, RESUME */
    bool unbroken;                 /* RESUME */
    bool refused;                  /* RESUME: there is no such drain; RECORD: the log says no, for good; ATTACH: it said no */
    bool lost;                     /* DUMP, PRECOPY: the instance may be harmed and must go */
    bool tried;                    /* RESTORE failed: CRIU itself tried this image, so that it may be to blame */
    char reason[WORLD_REASON_MAX]; /* of a failure */
};

enum reconcile_stage {
    RECONCILE_IDLE,
    RECONCILE_TAKING,  /* to be recorded as `taking` */
    RECONCILE_COPIED,  /* to be copied ahead */
    RECONCILE_DRAINED, /* to be drained */
    RECONCILE_DUMPED,  /* drained; to be dumped */
    RECONCILE_RESUMED, /* to be resumed */
    RECONCILE_PACKED,  /* confirmed; to be packed */
    RECONCILE_VALID,   /* to be recorded as valid */
    RECONCILE_BROKEN,  /* to be recorded as failed */
};

struct reconcile_bad {
    char id[WORLD_ID_MAX];
    char reason[WORLD_REASON_MAX];
};

struct reconcile {
    struct reconcile_policy policy;
    enum reconcile_act pending[RECONCILE_LANES]; /* handed out, outcome not told yet */
    char restoring[WORLD_ID_MAX];                /* of a pending RESTORE */

    /* revival */
    bool counted;                      /* the present absence of the app was counted as a death */
    unsigned deaths;                   /* in a row, none of them after a stable time */
    uint64_t next_start_us;            /* not before */
    uint64_t delay_us;                 /* the pause before the last start */
    uint64_t active_since_us;          /* this instance answers requests since then; 0: not yet */
    unsigned start_failures;           /* in a row, whatever was started */
    unsigned restore_failures;         /* in a row, of the snapshot `restoring`, by CRIU itself */
    char early_snapshot[WORLD_ID_MAX]; /* instances restored from it died before they were active ... */
    unsigned early_deaths;             /* ... so often in a row */
    bool killing;                      /* the last instance was killed by us: no fault of its snapshot */

    /* the running instance */
    bool condemned; /* `condemned_generation` must go */
    uint64_t condemned_generation;
    char condemned_reason[WORLD_REASON_MAX];
    bool attaching_again;           /* a pending ATTACH is such a one, of `again_generation` */
    uint64_t again_generation;
    uint64_t lost_since_us;         /* the interceptor says so and the process lives; 0: no */
    unsigned call_failures;         /* of ATTACH, RESUME, KILL, ADOPT, in a row */
    uint64_t next_call_us;          /* not before */
    char ended_token[WORLD_ID_MAX]; /* of a drain that the interceptor has said is none */

    /* the checkpoint */
    enum reconcile_stage stage;
    char checkpoint[WORLD_ID_MAX];
    uint64_t checkpoint_generation, checkpoint_offset;
    bool dump_complete;
    bool spoilt;      /* the app turned out to have diverged meanwhile */
    bool distrusting; /* checkpoints of one that diverged are still recorded as valid */
    char checkpoint_reason[WORLD_REASON_MAX];
    unsigned checkpoint_failures;
    uint64_t next_checkpoint_us;

    /* the store */
    struct reconcile_bad bad[RECONCILE_BAD_MAX];
    unsigned n_bad;
    char recording[WORLD_ID_MAX]; /* of the last RECORD */
    unsigned store_failures;
    uint64_t next_store_us;

    uint64_t wake_us;              /* call reconcile_next() again at that time; UINT64_MAX: only after a change */
    char reason[WORLD_REASON_MAX]; /* why the app is not served right now, "" when it is */
};

void reconcile_init(struct reconcile *r, const struct reconcile_policy *policy);

/* The next action to start, or false: then wake_us and reason tell how things are. */
bool reconcile_next(struct reconcile *r, const struct world *w, struct reconcile_action *ret_action);

/* Could a checkpoint begin now, but for the interval and the turn? */
bool reconcile_ready(const struct reconcile *r, const struct world *w);

/* Does this replica take, restore, or run from that snapshot? Then no other one may touch it. */
bool reconcile_holds(const struct reconcile *r, const struct world_instance *instance, const char *id);

/* Is it known here to be bad, though perhaps not recorded so yet? */
bool reconcile_knows_bad(const struct reconcile *r, const char *id);

/* An action has ended. `w` shows what it did. */
void reconcile_done(struct reconcile *r, enum reconcile_lane lane, const struct world *w,
                    const struct reconcile_result *result);

const char *reconcile_act_name(enum reconcile_act act); /* "start", "restore", ...; never NULL */

#endif
