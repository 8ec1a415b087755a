#include "operator/reconcile/roles.h"

#include "operator/reconcile/group.h"

/* Nothing says that it cannot answer clients. Who serves keeps its role then: an agent that answers and does not know it says nothing against it. */
static bool may_stay(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *p = &w->pods[pod];
    bool here = p->shared && p->ready && !p->terminating && !p->node_lost && !p->backing_off && !p->fenced && p->diverged == 0;
    return here && (!p->heard || (p->active && p->sound));
}

/* Its agent says so now. Who is promoted must be such: the container of one that died leaves its agent's list a second before the API server says that it is not ready. */
static bool is_well(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *p = &w->pods[pod];
    return may_stay(w, pod) && p->running && p->agent && !p->silent && p->heard;
}

/* There is nobody to ask about it, and the API server says that it is ready: better than nobody. */
static bool may_be_well(const struct protect_world *w, uint32_t pod)
{
    const struct protect_pod *p = &w->pods[pod];
    return may_stay(w, pod) && p->running && (!p->agent || p->silent);
}

bool roles_can_serve(const struct protect_world *w, uint32_t pod)
{
    return may_stay(w, pod) && !w->pods[pod].silent;
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

/* ---- what there is -------------------------------------------------------------------------------------------- */

/* Those that could have a role. */
struct scene {
    const struct protect_world *w;
    size_t n;
    struct group_replica all[PROTECT_PODS_MAX];
    uint32_t pod[PROTECT_PODS_MAX];
    uint32_t newest; /* of which ReplicaSet the newest pod is: the one that a rollout goes to */
};

static bool is_steady(const struct protect_world *w, uint32_t pod)
{
    return w->pods[pod].steady_ms + w->settle_ms <= w->now_ms;
}

/* Of those that serve, too many, the one with the least steps back: of whom nothing is known; who is ready since just now; in a rollout who was there before it,
 * but after one of its pods that died before; of equals the oldest. What prefer_new() promotes is more than what it is to replace. */
static uint64_t merit(const struct scene *s, uint32_t pod)
{
    const struct protect_pod *p = &s->w->pods[pod];
    uint64_t merit = !is_well(s->w, pod) ? 0 : !is_steady(s->w, pod) ? 1 : p->revision != s->newest ? 3 : p->restarted ? 2 : 4;
    return merit << 56 | (p->created_ms & ((UINT64_C(1) << 56) - 1));
}

static void see(const struct protect_world *w, struct scene *s)
{
    uint64_t newest_ms = 0;
    *s = (struct scene){.w = w};
    for (uint32_t i = 0; i < w->n_pods; i++) {
        const struct protect_pod *p = &w->pods[i];
        if (!p->shared || p->terminating || p->node_lost) continue;
        if (s->n == 0 || p->created_ms > newest_ms) {
            newest_ms = p->created_ms;
            s->newest = p->revision;
        }
        s->pod[s->n++] = i;
    }
    for (size_t i = 0; i < s->n; i++) {
        uint32_t pod = s->pod[i];
        bool standby = w->pods[pod].role == PROTECT_STANDBY;
        s->all[i] = (struct group_replica){.known = true, .shared = true, .reachable = true, .standby = standby, .serving = !standby && roles_can_serve(w, pod),
                                           .caught_up = is_well(w, pod), .busy = is_dumped(w, pod), .active_us = merit(s, pod), .refused = w->pods[pod].role_failed,
                                           .fresh = !is_steady(w, pod), .executed = w->pods[pod].executed, .up_us = w->pods[pod].steady_ms * 1000};
    }
}

static void change(struct group_replica *one, bool standby)
{
    one->standby = standby;
    one->serving = !standby; /* only who can serve is promoted */
}

/* ---- what is to change ----------------------------------------------------------------------------------------- */

/* As many serve as should, of those that are known to be well; who is silent is replaced by such a one, too. */
static void fill(struct scene *s, const struct group *g)
{
    size_t which = 0;
    for (enum group_change due; (due = group_role(g, s->all, s->n, &which)) != GROUP_NOTHING;) change(&s->all[which], due == GROUP_DEMOTE);
}

/* Where these are too few, those of whom nothing is known but that they are ready, for those that are certainly gone: they displace nobody who may serve. */
static void fill_in_doubt(struct scene *s, const struct group *g)
{
    size_t which = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct group_replica *one = &s->all[i];
        one->serving = !one->standby && (one->serving || may_stay(s->w, s->pod[i]));
        one->caught_up = one->caught_up || may_be_well(s->w, s->pod[i]);
    }
    for (enum group_change due; (due = group_role(g, s->all, s->n, &which)) != GROUP_NOTHING;) {
        if (due == GROUP_DEMOTE && s->all[which].serving) return;
        change(&s->all[which], due == GROUP_DEMOTE);
    }
}

/* Clients are handed over to a pod that came with a rollout when it is known to be well, for a while, and never died. */
static bool may_take_over(const struct scene *s, size_t i)
{
    const struct protect_pod *p = &s->w->pods[s->pod[i]];
    return s->all[i].standby && !s->all[i].busy && p->revision == s->newest && !p->restarted && !p->role_failed && is_well(s->w, s->pod[i]);
}

/* The one of them that is the longest there; n: none. */
static size_t oldest(const struct scene *s, bool new)
{
    size_t best = s->n;
    for (size_t i = 0; i < s->n; i++) {
        const struct protect_pod *p = &s->w->pods[s->pod[i]];
        if (new ? !may_take_over(s, i) || !is_steady(s->w, s->pod[i]) : s->all[i].standby || p->revision == s->newest) continue;
        if (best == s->n || p->created_ms < s->w->pods[s->pod[best]].created_ms) best = i;
    }
    return best;
}

/* One for one: those of before a rollout give their role to those that came with it. When the next one can: at *ret_look_ms. */
static void prefer_new(struct scene *s, uint64_t *ret_look_ms)
{
    size_t old, new;
    while ((old = oldest(s, false)) < s->n && (new = oldest(s, true)) < s->n) {
        change(&s->all[new], false);
        change(&s->all[old], true);
    }
    for (size_t i = 0; i < s->n && old < s->n; i++) {
        uint64_t at = s->w->pods[s->pod[i]].steady_ms + s->w->settle_ms;
        if (may_take_over(s, i) && at < *ret_look_ms) *ret_look_ms = at;
    }
}

static void add(struct roles_plan *p, enum protect_do what, uint32_t which)
{
    p->actions[p->n++] = (struct protect_action){.what = what, .which = which};
}

static bool steps_back(const struct scene *s, size_t i, bool may_serve)
{
    return s->all[i].standby && s->w->pods[s->pod[i]].role != PROTECT_STANDBY && may_stay(s->w, s->pod[i]) == may_serve;
}

/* Of those that may serve one at a time, and first: who stays is looked at just before; and only when so many that are known to be well stay as should serve, and have
 * the role already: whose promotion fails does not count. */
static void demote(const struct scene *s, size_t serve, struct roles_plan *p)
{
    size_t least = s->n, well = 0, may = 0;
    for (size_t i = 0; i < s->n; i++) {
        bool stays = !s->all[i].standby && s->w->pods[s->pod[i]].role == PROTECT_SERVING;
        well += stays && is_well(s->w, s->pod[i]);
        may += stays && may_stay(s->w, s->pod[i]);
    }
    for (size_t i = 0; i < s->n && well >= serve; i++)
        if (steps_back(s, i, true) && (least == s->n || s->all[i].active_us < s->all[least].active_us)) least = i;
    if (least < s->n) add(p, PROTECT_DEMOTE, s->pod[least]);
    for (size_t i = 0; i < s->n && may >= serve; i++)
        if (steps_back(s, i, false)) add(p, PROTECT_DEMOTE, s->pod[i]);
}

static bool is_promoted(const struct scene *s, size_t i)
{
    return !s->all[i].standby && s->w->pods[s->pod[i]].role != PROTECT_SERVING;
}

void roles_plan(const struct protect_world *w, struct roles_plan *p)
{
    struct scene s;
    struct group g;
    see(w, &s);
    size_t serve = w->replicas > w->standby ? w->replicas - w->standby : 1;
    group_init(&g, &(struct group_policy){.standbys = s.n > serve ? (unsigned)(s.n - serve) : 0, .spares = true}); /* spares: roles are looked after in any case */
    *p = (struct roles_plan){.look_ms = UINT64_MAX};
    fill(&s, &g);
    fill_in_doubt(&s, &g);
    prefer_new(&s, &p->look_ms);
    bool others = false; /* to be promoted, but those of which it failed */
    for (size_t i = 0; i < s.n; i++) others = others || (is_promoted(&s, i) && !w->pods[s.pod[i]].role_failed);
    if (!others) demote(&s, serve, p);
    for (size_t i = 0; i < s.n; i++)
        if (is_promoted(&s, i)) add(p, PROTECT_PROMOTE, s.pod[i]);
}
