/* A move of an app from one replica to a spare one, step by step. What runs, who takes clients and who steps back is done by the reconcile and group
 * cores; this one says what they are to aim at, and when the next step is due.
 *
 *   CHECKPOINT  there is none, or replaying what came after it would take longer than a dump: one is taken first, if it can be had soon
 *   START       the target is started, from the newest valid checkpoint
 *   FOLLOW      it replays and follows the log, as a standby, until it lacks little
 *   SWITCH      it is promoted, beside the source
 *   YIELD       it serves: the source steps back. From here on the target is where the app belongs
 *   DRAIN       those who wait at the source are answered there
 *   DONE        the source is away: its app is ended, its interceptor refuses clients
 *   BACK        given up: the target steps back
 *   FAILED      the target is away
 *
 * A target that dies goes back to START and is brought back as any replica is; a source that dies is replaced as any is, perhaps by the target, and then
 * the move goes on. When the time is over, or who asked has gone (`until_us`), it is given up, unless by then only the target serves.
 *
 * What always holds (test_move_random.c):
 *   M1 the source is away only when the target serves; the target only when it was not needed: while nobody dies, somebody serves;
 *   M2 the move ends; afterwards one of the two is away, and which one is what move_moved() says.
 * Pure: no I/O, no clock, no allocation. Thread: one. Source of the order: issue "live migration"; post-copy and pre-copy need a freeze, this does not. */
#ifndef CRSC_OPERATOR_RECONCILE_MOVE_H
#define CRSC_OPERATOR_RECONCILE_MOVE_H

#include "operator/reconcile/group.h"

enum move_step { MOVE_CHECKPOINT, MOVE_START, MOVE_FOLLOW, MOVE_SWITCH, MOVE_YIELD, MOVE_DRAIN, MOVE_DONE, MOVE_BACK, MOVE_FAILED };

enum {
    MOVE_TAIL_MAX = 64, /* offsets that the target may lack when it is promoted */
    MOVE_CHECKPOINT_US = 10 * 1000 * 1000,
    MOVE_DRAIN_US = 5 * 1000 * 1000, /* who waits longer loses the connection */
    MOVE_REASON_MAX = 120,
};

struct move_seen {
    const struct group_replica *from, *to;
    bool fresh;    /* the newest checkpoint is good enough */
    uint64_t tail; /* what the target lacks of what the source has executed */
    uint64_t held; /* requests that wait at the source */
};

struct move {
    enum move_step step;
    uint64_t step_us, until_us;
    char reason[MOVE_REASON_MAX]; /* why it was given up; "": it was not */
};

void move_begin(struct move *m, uint64_t now_us, uint64_t timeout_us);
void move_give_up(struct move *m, uint64_t now_us, const char *reason); /* at the next look */

/* One step at most; true: there was one, ask again. */
bool move_look(struct move *m, const struct move_seen *seen, uint64_t now_us);

static inline bool move_over(const struct move *m)
{
    return m->step == MOVE_DONE || m->step == MOVE_FAILED;
}
/* The target is where the app belongs, should everything begin anew. */
static inline bool move_moved(const struct move *m)
{
    return m->step == MOVE_YIELD || m->step == MOVE_DRAIN || m->step == MOVE_DONE;
}

const char *move_step_name(enum move_step step); /* "start", ...; never NULL */

#endif
