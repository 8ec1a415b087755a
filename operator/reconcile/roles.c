#include "operator/reconcile/roles.h"

#include "operator/reconcile/group.h"

bool roles_can_serve(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *p = &w->pods[pod];
    bool here = p->shared && p->ready && !p->terminating && !p->node_lost && !p->silent && !p->backing_off && !p->fenced && p->diverged == 0;
    return here && (!p->heard || (p->active && p->sound)); /* an agent that answers and does not know it says nothing against it */
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

/* Of which ReplicaSet the newest pod is: the one that a rollout goes to. */
static uint32_t newest_revision(const struct protect_world *w, const uint32_t *pod, size_t n)
{
    size_t newest = 0;
    for (size_t i = 1; i < n; i++)
        if (w->pods[pod[i]].created_ms > w->pods[pod[newest]].created_ms) newest = i;
    return n > 0 ? w->pods[pod[newest]].revision : 0;
}

/* The one of them that is the longest there, of this revision or not; n: none. A standby counts when it could serve at once and is not being dumped. */
static size_t oldest(const struct protect_world *w, const struct group_replica *all, const uint32_t *pod, size_t n, bool standby, bool newest)
{
    uint32_t revision = newest_revision(w, pod, n);
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        if (all[i].standby != standby || (w->pods[pod[i]].revision == revision) != newest || (standby && (!all[i].caught_up || all[i].busy))) continue;
        if (best == n || w->pods[pod[i]].created_ms < w->pods[pod[best]].created_ms) best = i;
    }
    return best;
}

static void change(struct group_replica *one, bool standby)
{
    one->standby = standby;
    one->serving = !standby; /* only who is caught up is promoted */
}

/* One for one: those of before a rollout give their role to those that came with it. */
static void prefer_new(const struct protect_world *w, struct group_replica *all, const uint32_t *pod, size_t n)
{
    size_t old, new;
    while ((old = oldest(w, all, pod, n, false, false)) < n && (new = oldest(w, all, pod, n, true, true)) < n) {
        change(&all[new], false);
        change(&all[old], true);
    }
}

void roles_plan(const struct protect_world *w, struct roles_plan *p)
{
    struct group_replica all[PROTECT_PODS_MAX];
    uint32_t pod[PROTECT_PODS_MAX];
    struct group g;
    size_t which = 0;
    p->n = 0;
    size_t n = see(w, all, pod), serve = w->replicas > w->standby ? w->replicas - w->standby : 1;
    group_init(&g, &(struct group_policy){.standbys = n > serve ? (unsigned)(n - serve) : 0, .spares = true}); /* spares: roles are looked after in any case */
    for (enum group_change due; (due = group_role(&g, all, n, &which)) != GROUP_NOTHING;) change(&all[which], due == GROUP_DEMOTE);
    prefer_new(w, all, pod, n);
    for (size_t i = 0; i < n; i++)
        if (!all[i].standby && w->pods[pod[i]].role != PROTECT_SERVING) add(p, PROTECT_PROMOTE, pod[i]);
    for (size_t i = 0; i < n; i++)
        if (all[i].standby && w->pods[pod[i]].role != PROTECT_STANDBY) add(p, PROTECT_DEMOTE, pod[i]);
}
