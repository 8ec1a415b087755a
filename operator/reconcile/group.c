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
    for (size_t i = 0; i < n; i++) serving += all[i].shared && !all[i].away && all[i].serving;
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
    unsigned here = 0;
    for (size_t i = 0; i < n; i++) {
        if (all[i].shared && all[i].standby && all[i].caught_up) return true;
        here += !all[i].away;
    }
    return here > 1 && count_serving(all, n) < 2;
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
    if (g->moving) return n;
    uint64_t due = g->hurry ? now_us : g->begun_us != 0 ? g->begun_us + g->policy.interval_us : g->free_us;
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
    if (who == n || !better_wait(all, n) || now_us >= patience || g->hurry) return who;
    wake_at(g, patience);
    return n;
}

void group_began(struct group *g, struct group_replica *one, uint64_t now_us)
{
    g->begun_us = one->turn_us = now_us;
}

/* ---- roles ---------------------------------------------------------------------------------------------------- */

static bool can_serve(const struct group_replica *r)
{
    return r->shared && !r->away && r->standby && r->caught_up && r->reachable && !r->calling;
}

/* One that is being dumped answers a moment later. Of equals none. */
static bool is_better(const struct group_replica *a, const struct group_replica *than)
{
    if (a->refused != than->refused) return than->refused;
    if (a->busy != than->busy) return than->busy;
    if (a->fresh != than->fresh) return than->fresh;
    if (a->executed != than->executed) return a->executed > than->executed;
    return a->up_us != 0 && (than->up_us == 0 || a->up_us < than->up_us);
}

/* Who should be promoted; n: nobody can. */
static size_t best_standby(const struct group_replica *all, size_t n)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (can_serve(&all[i]) && (best == n || is_better(&all[i], &all[best]))) best = i;
    return best;
}

static bool is_worse(const struct group_replica *a, const struct group_replica *than)
{
    if (a->leaving != than->leaving) return a->leaving;
    if (a->serving != than->serving) return !a->serving;
    return a->active_us <= than->active_us;
}

/* Who should step back: who leaves, then one that does not serve, then the one that is active the longest, the last one of equals. */
static size_t worst_active(const struct group_replica *all, size_t n)
{
    size_t worst = n;
    for (size_t i = 0; i < n; i++) {
        if (!all[i].shared || all[i].away || all[i].standby || !all[i].reachable) continue;
        if (worst == n || is_worse(&all[i], &all[worst])) worst = i;
    }
    return worst;
}

/* One that has no app, and takes clients all the same; n: nobody. */
static size_t active_away(const struct group_replica *all, size_t n)
{
    size_t i = 0;
    while (i < n && !(all[i].away && all[i].shared && all[i].reachable && !all[i].standby && !all[i].calling && !all[i].refused)) i++;
    return i;
}

/* Who is promoted by a move is left alone until it is seen to serve, and the move goes on. */
static bool arrives(const struct group_replica *all, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (all[i].arriving) return true;
    return false;
}

struct census {
    unsigned here, active, serving, calling, promised; /* promised: told to serve, and have not said so yet */
    bool known;
};

static struct census count(const struct group_replica *all, size_t n)
{
    struct census c = {.known = true, .serving = count_serving(all, n)};
    for (size_t i = 0; i < n; i++) {
        if (all[i].away) continue;
        c.here++;
        c.known = c.known && all[i].known;
        c.calling += all[i].calling;
        c.promised += all[i].calling && all[i].standby;
        c.active += all[i].shared && all[i].reachable && !all[i].standby;
    }
    return c;
}

enum group_change group_role(const struct group *g, const struct group_replica *all, size_t n, size_t *ret_which)
{
    const struct census c = count(all, n);
    unsigned standbys = g->policy.standbys + g->moving;
    size_t promoted = best_standby(all, n), demoted = worst_active(all, n), away = active_away(all, n);
    if (away < n) {
        *ret_which = away;
        return GROUP_DEMOTE;
    }
    if ((standbys == 0 && !g->policy.spares) || standbys >= c.here || !c.known) return GROUP_NOTHING;
    unsigned wanted = c.here - standbys;
    if (c.serving + c.promised < wanted && promoted < n) { /* it waits for nobody's step back */
        *ret_which = promoted;
        return GROUP_PROMOTE;
    }
    for (size_t i = 0; i < n; i++) {
        if (!all[i].arriving || !can_serve(&all[i])) continue;
        *ret_which = i;
        return GROUP_PROMOTE;
    }
    if (c.calling == 0 && demoted < n && c.active > wanted && !arrives(all, n) && c.serving - all[demoted].serving >= wanted) {
        *ret_which = demoted;
        return GROUP_DEMOTE;
    }
    return GROUP_NOTHING;
}
