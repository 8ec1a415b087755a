#include "operator/reconcile/roles.h"

#include "operator/reconcile/group.h"

bool roles_can_serve(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *p = &w->pods[pod];
    bool here = p->shared && p->ready && !p->terminating && !p->node_lost && !p->backing_off && !p->fenced && p->diverged == 0;
    return here && (!p->heard || (p->active && p->sound)); /* an agent that says nothing says nothing against it */
}

bool roles_somebody_serves(const struct protect_world *w)
{
    for (uint32_t i = 0; i < w->n_pods; i++)
        if (w->pods[i].role == PROTECT_SERVING && roles_can_serve(w, i)) return true;
    return false;
}

static bool is_dumped(const struct protect_world *w, uint32_t pod)
{
    for (uint32_t i = 0; i < w->n_checkpoints; i++)
        if (w->checkpoints[i].pod == (int)pod && w->checkpoints[i].phase == PROTECT_RUNNING && !w->checkpoints[i].deleting) return true;
    return false;
}

/* Of those that serve the oldest steps back first: in a rollout clients go to the new pods as soon as these can serve. */
static size_t see(const struct protect_world *w, struct group_replica *all, uint32_t *ret_pod)
{
    size_t n = 0;
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *p = &w->pods[i];
        if (!p->shared || p->terminating || p->node_lost) continue;
        bool standby = p->role == PROTECT_STANDBY, able = roles_can_serve(w, i);
        ret_pod[n] = i;
        all[n++] = (struct group_replica){.known = true, .shared = true, .reachable = true, .standby = standby, .serving = able && !standby,
                                          .caught_up = able, .busy = is_dumped(w, i), .active_us = p->created_ms};
    }
    return n;
}

static void add(struct roles_plan *p, enum protect_do what, uint32_t which)
{
    p->actions[p->n++] = (struct protect_action){.what = what, .which = which};
}

static bool somebody_chooses(const struct protect_world *w)
{
    for (uint32_t i = 0; i < w->n_services; i++)
        if (w->services[i].chooses) return true;
    return false;
}

static void clear(const struct protect_world *w, struct roles_plan *p)
{
    if (somebody_chooses(w)) return; /* it leads to all of them first */
    for (uint32_t i = 0; i < w->n_pods; i++)
        if (w->pods[i].role != PROTECT_NO_ROLE && !w->pods[i].terminating) add(p, PROTECT_CLEAR_ROLE, i);
}

void roles_plan(const struct protect_world *w, bool on, struct roles_plan *p)
{
    struct group_replica all[PROTECT_PODS_MAX];
    uint32_t pod[PROTECT_PODS_MAX];
    struct group g;
    size_t which = 0;
    p->n = 0;
    if (!on) {
        clear(w, p);
        return;
    }
    size_t n = see(w, all, pod), serve = w->replicas > w->standby ? w->replicas - w->standby : 1;
    group_init(&g, &(struct group_policy){.standbys = n > serve ? (unsigned)(n - serve) : 0, .spares = true}); /* spares: roles are looked after in any case */
    for (enum group_change change; (change = group_role(&g, all, n, &which)) != GROUP_NOTHING;) {
        all[which].standby = change == GROUP_DEMOTE;
        all[which].serving = change == GROUP_PROMOTE; /* only who is caught up is promoted */
    }
    for (size_t i = 0; i < n; i++)
        if (!all[i].standby && w->pods[pod[i]].role != PROTECT_SERVING) add(p, PROTECT_PROMOTE, pod[i]);
    for (size_t i = 0; i < n; i++)
        if (all[i].standby && w->pods[pod[i]].role != PROTECT_STANDBY) add(p, PROTECT_DEMOTE, pod[i]);
}
