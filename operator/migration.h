/* A move of an app from one replica to a spare one (reconcile/move.h), under way: shows the core what the two are like, sets what it aims at in the two
 * workloads, writes down where the app belongs, and tells who asked. Owned by the group (replicas.c). Thread: the loop's. */
#ifndef CRSC_OPERATOR_MIGRATION_H
#define CRSC_OPERATOR_MIGRATION_H

#include "common/error.h"
#include "operator/reconcile/move.h"

struct migration;
struct workload;

struct migration_news {
    enum move_step step; /* that has begun */
    const char *stream, *from, *to;
    const char *snapshot; /* what the target was restored from; "": a fresh start */
    uint64_t offset;      /* what that contains */
    uint64_t executed;    /* by the target */
    const char *reason;   /* FAILED: why */
    /* DONE, microseconds: until it was up and had caught up; from its promotion until the source refused clients; until they were answered */
    uint64_t start_us, switch_us, drain_us;
};
/* Not to call back into the group from inside. */
typedef void migration_cb(void *user, const struct migration_news *news);

/* -ERROR_CONFLICT: they are not as they should be; -ERROR_NOMEM. */
int migration_begin(struct workload *to, struct workload *from, uint32_t timeout_ms, migration_cb *cb, void *user, struct migration **ret_migration,
                    struct error *e);
struct workload *migration_from(const struct migration *m);
struct workload *migration_to(const struct migration *m);
const void *migration_user(const struct migration *m);

/* True: a step was taken; look again. */
bool migration_look(struct migration *m, const struct group_replica *from, const struct group_replica *to, uint64_t now_us);
bool migration_hurries(const struct migration *m); /* a checkpoint is wanted */
bool migration_over(const struct migration *m);
/* Who asked hears nothing more. */
void migration_give_up(struct migration *m);
/* NULL is nothing. Returns NULL. One that is not over is left as it is: the next operator begins where the app belongs. */
struct migration *migration_end(struct migration *m);

#endif
