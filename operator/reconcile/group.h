/* Several replicas of one app on this machine, behind one stream: whose turn it is to be checkpointed, and who takes clients.
 *
 * Each replica has a reconcile core of its own (reconcile.h), which brings its app back and takes its checkpoints; this one decides what they
 * may not decide alone. All of it is seen anew at each call, but for when checkpoints began: a lost struct group costs at most one interval.
 *
 *   turn   one replica at a time may begin a checkpoint: the one whose last turn is the longest ago, of those that are `ready`. While another
 *          one serves (or it is a standby itself) that is at once when the interval is over. One that serves is not taken while a standby is
 *          caught up, or if its dump would leave nobody to serve while there are others here: only after GROUP_PATIENCE intervals in which no other one could be taken, as a
 *          standby that is gone for long must not mean that there are no checkpoints.
 *   roles  with `standbys` > 0: so many take no clients. When fewer than the others serve, a ready standby is promoted at once, of several the one that
 *          clients wait for the least, and are the likeliest to keep: see group_replica.refused to .up_us; when there are
 *          more, one that does not serve steps back first (the one that was lost: when it is back, it is the standby), then the one that has been
 *          active the longest (who was promoted by hand, as by `crsc-logctl migrate`, stays).
 *   moves  one that is `away` has no app and no part in any of this; its interceptor is told to refuse clients. While source and
 *          target of a move (move.h) are both here there is one more that takes no clients, no checkpoint begins, `arriving` is promoted beside
 *          those that serve, and `leaving` steps back before all others.
 *
 * What always holds (test_group_random.c):
 *   G1 never two checkpoints at once; none of a replica that is not ready (not caught up, diverged, suspect, of another specification);
 *   G2 never one of a replica that serves while a standby is ready, nor within GROUP_PATIENCE intervals while one is caught up;
 *   G3 while any replica stays ready, one is taken, at the latest when the patience is over;
 *   G4 a step back never leaves fewer that serve than there should be;
 *   G5 roles come to rest: then as many are active as should be, and a ready standby never waits beside one that is missing; no one that is
 *      away takes clients;
 *   G6 of standbys that could be promoted the best one is.
 * Pure: no I/O, no clock, no allocation. Thread: one. */
#ifndef CRSC_OPERATOR_RECONCILE_GROUP_H
#define CRSC_OPERATOR_RECONCILE_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GROUP_PATIENCE = 10 };

struct group_replica {
    bool known;     /* it was looked at and heard since the operator started; until all were, roles stay as they are */
    bool shared;    /* its interceptor follows the log: else it has no part in anything here */
    bool standby;   /* its interceptor refuses clients */
    bool reachable; /* its interceptor answers */
    bool serving;   /* it takes clients and answers them; so does one that is being dumped, a moment later */
    bool caught_up; /* as `serving`, whatever its role: it could take clients at once */
    bool ready;     /* its checkpoint may begin: caught up, sound, checkpoints are wanted, the log has grown since the newest */
    bool busy;      /* a checkpoint of it is under way, from its decision to its record */
    bool calling;   /* a change of its role is under way */
    bool refused;   /* it did not take its last one, a moment ago: others first */
    bool fresh;     /* it is caught up since just now: it may fall again */
    uint64_t executed; /* offset */
    uint64_t up_us; /* it is caught up since then; 0: nobody knows */
    bool away;      /* its app runs elsewhere */
    bool arriving, leaving; /* of a move */
    uint64_t not_before_us; /* a checkpoint of it failed: not again before */
    uint64_t turn_us;       /* when its last checkpoint began; 0: never */
    uint64_t active_us;     /* its interceptor takes clients since then, as far as we know; 0: it does not */
};

struct group_policy {
    unsigned standbys; /* how many of them shall take no clients; not counting who is away */
    bool spares;       /* some are away: roles are looked after without standbys, too */
    uint64_t interval_us;
};

struct group {
    struct group_policy policy;
    bool moving;       /* source and target of a move are both here */
    bool hurry;        /* a checkpoint is wanted at once, of anybody */
    uint64_t begun_us; /* the last checkpoint of any; 0: none yet */
    uint64_t free_us;  /* since then none is under way; 0: not asked yet */
    uint64_t wake_us;  /* after group_turn(): ask again then; UINT64_MAX: after a change */
};

void group_init(struct group *g, const struct group_policy *policy);

/* Whose checkpoint may begin now (or goes on); n: nobody's. When it begins: group_began(). */
size_t group_turn(struct group *g, const struct group_replica *all, size_t n, uint64_t now_us);
void group_began(struct group *g, struct group_replica *one, uint64_t now_us);

enum group_change { GROUP_NOTHING, GROUP_PROMOTE, GROUP_DEMOTE };
/* The next change of a role, of replica *ret_which. To be asked again after each. */
enum group_change group_role(const struct group *g, const struct group_replica *all, size_t n, size_t *ret_which);

#endif
