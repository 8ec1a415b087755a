#include "operator/reconcile/move.h"

#include <stdio.h>

void move_begin(struct move *m, uint64_t now_us, uint64_t timeout_us)
{
    *m = (struct move){.step = MOVE_CHECKPOINT, .step_us = now_us, .until_us = now_us + timeout_us};
}

static void note(struct move *m, const char *reason)
{
    if (m->reason[0] == '\0') snprintf(m->reason, sizeof m->reason, "%s", reason);
}

void move_give_up(struct move *m, uint64_t now_us, const char *reason)
{
    if (move_over(m) || m->until_us <= now_us) return;
    m->until_us = now_us;
    note(m, reason);
}

/* Its clients come to nobody else. */
static bool has_yielded(const struct group_replica *from)
{
    return from->standby || !from->reachable;
}

static bool only_target_serves(const struct move_seen *s)
{
    return s->to->serving && !s->from->serving;
}

static enum move_step forward(const struct move_seen *s)
{
    return has_yielded(s->from) ? MOVE_DRAIN : MOVE_YIELD;
}

static enum move_step backward(struct move *m, const struct move_seen *s, const char *reason)
{
    if (only_target_serves(s)) return forward(s);
    note(m, reason);
    return s->to->serving || s->to->calling ? MOVE_BACK : MOVE_FAILED;
}

static enum move_step next_of_drain(struct move *m, const struct move_seen *s, uint64_t now)
{
    bool late = now >= m->until_us;
    if (!s->to->serving && s->from->serving) return late ? backward(m, s, "the target was lost") : MOVE_START;
    if (!s->to->serving) return late ? backward(m, s, "the target was lost") : MOVE_DRAIN;
    if (!has_yielded(s->from)) return MOVE_YIELD;
    bool empty = s->held == 0 || !s->from->reachable;
    return empty || late || now - m->step_us >= MOVE_DRAIN_US ? MOVE_DONE : MOVE_DRAIN;
}

static enum move_step next(struct move *m, const struct move_seen *s, uint64_t now)
{
    bool late = now >= m->until_us;
    switch (m->step) {
    case MOVE_CHECKPOINT:
        if (late) return backward(m, s, "no time was left");
        return s->fresh || now - m->step_us >= MOVE_CHECKPOINT_US ? MOVE_START : MOVE_CHECKPOINT;
    case MOVE_START:
        if (late) return backward(m, s, "the target was not up in time");
        return s->to->serving ? forward(s) : s->to->caught_up ? MOVE_FOLLOW : MOVE_START;
    case MOVE_FOLLOW:
        if (late) return backward(m, s, "the target did not catch up in time");
        if (s->to->serving) return forward(s);
        if (!s->to->caught_up) return MOVE_START;
        return s->tail <= MOVE_TAIL_MAX && !s->to->busy && !s->from->busy ? MOVE_SWITCH : MOVE_FOLLOW;
    case MOVE_SWITCH:
        if (s->to->serving) return forward(s);
        if (late) return backward(m, s, "the target did not serve in time");
        return s->to->caught_up ? MOVE_SWITCH : MOVE_START;
    case MOVE_YIELD:
        if (!s->to->serving) return late ? backward(m, s, "the target was lost") : MOVE_START;
        if (late) return backward(m, s, "the source did not step back in time");
        return forward(s);
    case MOVE_DRAIN: return next_of_drain(m, s, now);
    case MOVE_BACK:
        if (only_target_serves(s)) return forward(s);
        return s->to->serving || s->to->calling ? MOVE_BACK : MOVE_FAILED;
    case MOVE_DONE:
    case MOVE_FAILED: break;
    }
    return m->step;
}

bool move_look(struct move *m, const struct move_seen *seen, uint64_t now_us)
{
    enum move_step step = next(m, seen, now_us);
    if (step == m->step) return false;
    m->step = step;
    m->step_us = now_us;
    if (step == MOVE_DONE) m->reason[0] = '\0';
    return true;
}

const char *move_step_name(enum move_step step)
{
    static const char *const names[] = {
        [MOVE_CHECKPOINT] = "checkpoint", [MOVE_START] = "start", [MOVE_FOLLOW] = "follow", [MOVE_SWITCH] = "switch", [MOVE_YIELD] = "yield",
        [MOVE_DRAIN] = "drain",           [MOVE_DONE] = "done",   [MOVE_BACK] = "back",     [MOVE_FAILED] = "failed",
    };
    return step <= MOVE_FAILED ? names[step] : "unknown";
}
