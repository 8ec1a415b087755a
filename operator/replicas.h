/* The replicas of one stream on this machine: the shell around the group core (reconcile/group.h). It shows the core all of them, hands out the turn
 * for checkpoints, changes roles, keeps the account of outages, and knows which replica has a checkpoint's image. A single workload is a group of one,
 * of which only the account is kept.
 *
 * It is made with its first member and goes with its last. Thread: the loop's. */
#ifndef CRSC_OPERATOR_REPLICAS_H
#define CRSC_OPERATOR_REPLICAS_H

#include <uv.h>

#include "operator/driver.h"
#include "operator/migration.h"
#include "operator/reconcile/world.h"

struct replicas;
struct workload;

/* `sibling`: a member of the same stream's group, or NULL: the first. -ERROR_NOMEM. */
int replicas_join(struct workload *w, struct workload *sibling);
/* Before its parts are closed. */
void replicas_leave(struct workload *w);

/* Something about a member has changed: roles and turn are decided anew. */
void replicas_look(struct replicas *group);

bool replicas_is_first(const struct workload *w); /* of its group */
const struct workload *replicas_first(const struct workload *w); /* of its group; the others by `next` */
bool replicas_several(const struct replicas *group);
/* May its checkpoint begin? */
bool replicas_turn(const struct workload *w);
/* Whose the snapshot is to look after, who holds it, whether it may be restored: of one of our node. */
void replicas_judge(const struct workload *w, struct world_snapshot *s);
/* Which driver has the image; its own if nobody has. */
const struct driver *replicas_holder(const struct workload *w, const char *snapshot);

/* Moves the app of `from` to `to`, a spare of the same stream. `cb` with each step, the last one included. -ERROR_BUSY, -ERROR_CONFLICT. */
int replicas_migrate(struct workload *to, struct workload *from, uint32_t timeout_ms, migration_cb *cb, void *user, struct error *e);
/* Who asked has gone: a move of `user` is given up if it can be, and tells nobody. */
void replicas_migrate_end(struct workload *to, const void *user);

/* The account: of the service, that is of any replica that takes clients. Planned pauses of a checkpoint are no outage. */
struct replicas_account {
    uint64_t outage_us;       /* of the last failure, since `gone_us`: until clients were served again; 0: they always were */
    double availability;      /* since it first served; 1: always */
    uint64_t outages, down_us; /* ever, and how long they were together */
};
void replicas_account(const struct replicas *group, uint64_t gone_us, struct replicas_account *ret_account);

#endif
