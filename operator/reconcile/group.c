#include "operator/reconcile/group.h"

void group_init(struct group *g, const struct group_policy *policy)
{
    *g = (struct group){.policy = *policy, .wake_us = UINT64_MAX};
}

static void wake_at(struct group *g, uint64_t at)
{
    if (at < g->wake_us) g->wake_us = at;
}

/* ---- turns ---------------------------------------------------------------------------------------------------- */

static unsigned count_serving(const struct group_replica *all, size_t n)
{
    unsigned serving = 0;
    for (size_t i = 0; i < n; i++) serving += all[i].shared && all[i].serving;
    return serving;
}

/* Of those that may: the one whose last turn is the longest ago. */
static size_t oldest_turn(const struct group_replica *all, size_t n, uint64_t now_us, bool standbys)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        const struct group_replica *r = &all[i];
        if (!r->shared || !r->ready || r->standby != standbys || r->not_before_us > now_us) continue;
        if (best == n || r->turn_us < all[best].turn_us) best = i;
    }
    return best;
}

/* Would a dump of one that serves be felt, where a standby's would not, or another one's later? */
static bool better_wait(const struct group_replica *all, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (all[i].shared && all[i].standby && all[i].caught_up) return true;
    return n > 1 && count_serving(all, n) < 2;
}

static bool standby_ready(const struct group_replica *all, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (all[i].shared && all[i].standby && all[i].ready) return true;
    return false;
}

size_t group_turn(struct group *g, const struct group_replica *all, size_t n, uint64_t now_us)
{
    g->wake_us = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        if (!all[i].busy) continue;
        g->free_us = now_us;
        return i;
    }
    if (g->free_us == 0) g->free_us = now_us;
    uint64_t due = g->begun_us != 0 ? g->begun_us + g->policy.interval_us : g->free_us;
    if (now_us < due) {
        wake_at(g, due);
        return n;
    }
    for (size_t i = 0; i < n; i++)
        if (all[i].ready && all[i].not_before_us > now_us) wake_at(g, all[i].not_before_us);
    size_t who = oldest_turn(all, n, now_us, true);
    if (who < n || standby_ready(all, n)) return who;
    who = oldest_turn(all, n, now_us, false);
    uint64_t patience = (g->free_us > due ? g->free_us : due) + GROUP_PATIENCE * g->policy.interval_us;
    if (who == n || !better_wait(all, n) || now_us >= patience) return who;
    wake_at(g, patience);
    return n;
}

void group_began(struct group *g, struct group_replica *one, uint64_t now_us)
{
    g->begun_us = one->turn_us = now_us;
}

/* ---- roles ---------------------------------------------------------------------------------------------------- */

/* Who should be promoted; n: nobody can. One that is being dumped answers a moment later: only if there is no other. */
static size_t best_standby(const struct group_replica *all, size_t n)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        if (!all[i].shared || !all[i].standby || !all[i].caught_up || !all[i].reachable || all[i].calling) continue;
        if (best == n || (all[best].busy && !all[i].busy)) best = i;
    }
    return best;
}

/* Who should step back: one that does not serve before one that does, the last one first. */
static size_t worst_active(const struct group_replica *all, size_t n)
{
    size_t worst = n;
    for (size_t i = 0; i < n; i++) {
        if (!all[i].shared || all[i].standby || !all[i].reachable) continue;
        if (worst == n || !all[i].serving || all[worst].serving) worst = i;
    }
    return worst;
}

enum group_change group_role(const struct group *g, const struct group_replica *all, size_t n, size_t *ret_which)
{
    unsigned active = 0, calling = 0, serving = count_serving(all, n), promised = 0;
    if (g->policy.standbys == 0 || g->policy.standbys >= n) return GROUP_NOTHING;
    unsigned wanted = (unsigned)n - g->policy.standbys;
    for (size_t i = 0; i < n; i++) {
        if (!all[i].known) return GROUP_NOTHING;
        calling += all[i].calling;
        promised += all[i].calling && all[i].standby;
        active += all[i].shared && all[i].reachable && !all[i].standby;
    }
    size_t promoted = best_standby(all, n), demoted = worst_active(all, n);
    if (serving + promised < wanted && promoted < n) { /* it waits for nobody's step back */
        *ret_which = promoted;
        return GROUP_PROMOTE;
    }
    if (calling == 0 && demoted < n && active > wanted && serving - all[demoted].serving >= wanted) {
        *ret_which = demoted;
        return GROUP_DEMOTE;
    }
    return GROUP_NOTHING;
}
