/* What reconcile.c (the app's lane) and store.c (the store's lane) share. Internal to operator/reconcile/. */
#ifndef CRSC_OPERATOR_RECONCILE_INTERNAL_H
#define CRSC_OPERATOR_RECONCILE_INTERNAL_H

#include "operator/reconcile/reconcile.h"

enum {
    PAUSE_FIRST_US = 250 * 1000,      /* between starts: none, this, twice this, ... */
    PAUSE_MOST_US = 60 * 1000 * 1000, /* every pause's bound */
    CALL_FIRST_US = 50 * 1000,        /* after a failed call of interceptor or driver */
    CALL_MOST_US = 5 * 1000 * 1000,
    STORE_FIRST_US = 100 * 1000, /* after a failure in the store's lane */
    STORE_MOST_US = 10 * 1000 * 1000,
    CHECKPOINT_FIRST_US = 1000 * 1000, /* after a checkpoint that failed */
    STABLE_US = 1000 * 1000,           /* active for so long: a death after that is a first one */
    LOST_US = 1000 * 1000,             /* a process that the interceptor cannot reach is given so long to end */
    EARLY_DEATHS = 3,                  /* as many deaths right after a restore: the snapshot is to blame */
    RESTORE_TRIES = 2,                 /* of a snapshot whose bytes are good */
};

/* `first`, doubled with each failure after the first, at most `most`. failures >= 1. */
uint64_t pause_us(uint64_t first, uint64_t most, unsigned failures);

void wake_at(struct reconcile *r, uint64_t at);
void copy_text(char *to, size_t size, const char *from);

/* The index of a snapshot's record, or n_snapshots. */
size_t snapshot_find(const struct world *w, const char *id);

/* The valid one with the highest offset that fits and is not known to be bad; NULL: none. */
const struct world_snapshot *snapshot_newest(const struct reconcile *r, const struct world *w);

/* Notes that a snapshot is bad; it will be recorded so. When too many are noted, the first is forgotten. */
void bad_add(struct reconcile *r, const char *id, const char *reason);

/* The checkpoint under way is given up; what there is of it will be recorded as failed. */
void checkpoint_fail(struct reconcile *r, const struct world *w, const char *reason);

extern const char spoilt_reason[];

bool store_next(struct reconcile *r, const struct world *w, struct reconcile_action *a);
void store_done(struct reconcile *r, enum reconcile_act act, const struct world *w,
                const struct reconcile_result *result);

#endif
