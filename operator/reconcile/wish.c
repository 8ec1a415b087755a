#include "operator/reconcile/wish.h"

static struct wish_plan plan(enum wish_do what, const char *why)
{
    return (struct wish_plan){.what = what, .why = why};
}

static bool is_late(const struct wish_world *w, uint64_t bound_ms)
{
    return w->now_ms > w->begun_ms && w->now_ms - w->begun_ms > bound_ms;
}

static struct wish_plan begin(const struct wish_world *w)
{
    if (!w->remade) return plan(WISH_SAY_FAILED, "a pod that belongs to nobody is made again by nobody");
    if (!w->pod || w->terminating) return is_late(w, WISH_PENDING_MS) ? plan(WISH_SAY_FAILED, "the workload has no pod that is protected") : plan(WISH_WAIT, "no pod yet");
    if (w->kind == WISH_MIGRATION) {
        if (w->there_already) return plan(WISH_SAY_DONE, "it is there already");
        return w->node ? plan(WISH_TAKE, "") : plan(WISH_SAY_FAILED, "that node is not there, not ready, or takes no pods");
    }
    switch (w->checkpoint) {
    case WISH_NONE: return plan(WISH_SAY_FAILED, "there is no such checkpoint of this workload");
    case WISH_SPOILT: return plan(WISH_SAY_FAILED, "that checkpoint failed");
    case WISH_UNDER_WAY: return is_late(w, WISH_LOST_MS) ? plan(WISH_SAY_FAILED, "that checkpoint does not become valid") : plan(WISH_WAIT, "");
    case WISH_VALID: break;
    }
    return w->fits ? plan(WISH_MOVE, "") : plan(WISH_SAY_FAILED, "that checkpoint is of another pod template");
}

/* A migration whose pod dies by itself meanwhile goes on: its successor is moved instead, if that has to be. */
static struct wish_plan take(const struct wish_world *w)
{
    if (w->checkpoint == WISH_VALID) return w->node ? plan(WISH_MOVE, "") : plan(WISH_SAY_FAILED, "that node is not there, not ready, or takes no pods");
    if (w->checkpoint == WISH_SPOILT) return plan(WISH_SAY_FAILED, "the checkpoint for it failed");
    if (is_late(w, WISH_LOST_MS)) return plan(WISH_SAY_FAILED, "the checkpoint for it does not become valid");
    return w->checkpoint == WISH_NONE && w->pod ? plan(WISH_TAKE, "") : plan(WISH_WAIT, "");
}

static struct wish_plan move(const struct wish_world *w)
{
    if (w->next && w->next_active && w->next_told) return w->next_as_wished ? plan(WISH_SAY_DONE, "") : plan(WISH_SAY_FAILED, "the new pod did not begin as wished: its container says why");
    if (is_late(w, WISH_LOST_MS)) return plan(WISH_SAY_FAILED, "no new pod serves");
    if (w->checkpoint != WISH_VALID) return plan(WISH_SAY_FAILED, "the checkpoint is gone");
    if (w->pod && !w->terminating) return plan(WISH_DELETE_POD, "");
    if (w->next && !w->next_told) return plan(WISH_DELETE_NEXT, "");
    return plan(WISH_WAIT, "");
}

struct wish_plan wish_plan(const struct wish_world *w)
{
    if (w->phase == WISH_DONE || w->phase == WISH_FAILED) return plan(WISH_WAIT, "");
    if (!w->protects) return plan(WISH_SAY_FAILED, "the workload is not protected");
    if (w->replicated) return plan(WISH_SAY_FAILED, "not for replicas (crsc.io/replication: log), which all have one state: delete a pod, and its successor begins with the newest checkpoint");
    if (w->phase == WISH_MOVING) return move(w);
    return w->phase == WISH_TAKING && w->kind == WISH_MIGRATION ? take(w) : begin(w);
}

const char *wish_do_name(enum wish_do what)
{
    static const char *const names[] = {"wait", "take", "move", "delete-pod", "delete-next", "say-done", "say-failed"};
    return (unsigned)what < sizeof names / sizeof *names ? names[what] : "unknown";
}
