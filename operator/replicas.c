#include "operator/replicas.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/migration.h"
#include "operator/reconcile/group.h"
#include "operator/workload_internal.h"

enum {
    MEMBERS_MAX = 16,
    KNOWN_US = 2000 * 1000, /* an interceptor that has not answered for so long since the start is away */
    ROLE_AGAIN_MS = 200,
    MOVE_LOOK_MS = 20, /* while one is under way */
    SETTLE_US = 5000 * 1000, /* who is caught up for so long is no crash loop */
};

struct replicas {
    struct group core;
    struct workload *first;
    size_t n;
    uv_timer_t timer;
    struct migration *migration; /* the one under way, or NULL */
    const struct workload *poked; /* whose turn it is, when it was last told */

    /* the account, all monotonic */
    bool serves;
    uint64_t first_served_us, down_since_us, back_us, down_us, outages;
};

/* ---- what the core sees --------------------------------------------------------------------------------------- */

static bool is_caught_up(const struct workload *w, const struct world *world)
{
    const struct world_interceptor *i = &world->interceptor;
    bool same = world->instance.state == WORLD_APP_RUNNING && world->instance.attached && strcmp(i->identity, world->instance.identity) == 0;
    return w->looked && same && (i->state == WORLD_ACTIVE || i->state == WORLD_DRAINING) && !i->leaving && !i->lost && !i->suspect && i->diverged == 0;
}

static struct group_replica see_one(struct workload *w)
{
    struct world world;
    workload_look(w, &world);
    bool up = is_caught_up(w, &world), reachable = world.interceptor.state != WORLD_UNREACHABLE;
    if (!reachable || world.interceptor.standby) w->active_us = 0;
    else if (w->active_us == 0) w->active_us = world.now_us;
    if (!up) w->up_us = 0;
    else if (w->up_us == 0) w->up_us = world.now_us;
    w->heard = w->heard || reachable;
    return (struct group_replica){.known = w->looked && (w->heard || world.now_us - w->begun_us > KNOWN_US),
                                  .shared = interceptor_client_extra(w->interceptor)->shared && !w->foreign,
                                  .standby = world.interceptor.standby,
                                  .reachable = reachable,
                                  .serving = up && !world.interceptor.standby,
                                  .caught_up = up,
                                  .ready = w->looked && reconcile_ready(&w->core, &world),
                                  .busy = w->core.stage != RECONCILE_IDLE,
                                  .calling = w->calling,
                                  .refused = w->role_failed,
                                  .fresh = world.now_us - w->up_us < SETTLE_US,
                                  .executed = world.interceptor.executed,
                                  .up_us = w->up_us,
                                  .away = w->away,
                                  .arriving = w->arriving,
                                  .leaving = w->leaving,
                                  .not_before_us = w->core.next_checkpoint_us,
                                  .turn_us = w->turn_us,
                                  .active_us = w->active_us};
}

static void see_all(const struct replicas *g, struct group_replica *all)
{
    size_t i = 0;
    for (struct workload *w = g->first; w != NULL; w = w->next) all[i++] = see_one(w);
}

static size_t place_of(const struct replicas *g, const struct workload *of)
{
    size_t i = 0;
    for (const struct workload *w = g->first; w != of; w = w->next) i++;
    return i;
}

static struct workload *member(const struct replicas *g, size_t i)
{
    struct workload *w = g->first;
    while (w != NULL && i-- > 0) w = w->next;
    return w;
}

/* ---- turns ---------------------------------------------------------------------------------------------------- */

bool replicas_is_first(const struct workload *w)
{
    return w->replicas->first == w;
}

const struct workload *replicas_first(const struct workload *w)
{
    return w->replicas->first;
}

bool replicas_several(const struct replicas *g)
{
    return g->n > 1;
}

bool replicas_turn(const struct workload *w)
{
    struct replicas *g = w->replicas;
    struct group_replica all[MEMBERS_MAX];
    if (g->n == 1) return true;
    see_all(g, all);
    return member(g, group_turn(&g->core, all, g->n, loop_monotonic_us())) == w;
}

/* Notes when one has begun, and tells the next one. */
static void hand_out_turn(struct replicas *g, struct group_replica *all, uint64_t now)
{
    size_t i = 0;
    for (struct workload *w = g->first; w != NULL; w = w->next, i++) {
        if (all[i].busy && !w->was_busy) {
            group_began(&g->core, &all[i], now);
            w->turn_us = all[i].turn_us;
            g->poked = NULL;
        }
        w->was_busy = all[i].busy;
    }
    struct workload *next = member(g, group_turn(&g->core, all, g->n, now));
    if (next != NULL && next != g->poked && !next->was_busy) workload_poke(next);
    g->poked = next;
}

/* ---- roles ---------------------------------------------------------------------------------------------------- */

static void on_role(void *user, const struct interceptor_answer *answer)
{
    struct workload *w = user;
    w->calling = false;
    if (w->closing) return;
    bool standby = interceptor_client_world(w->interceptor)->standby;
    uint64_t took = loop_monotonic_us() - w->role_us;
    w->role_failed = answer->status != 0;
    w->counts.promotions += answer->status == 0 && !standby;
    if (answer->status != 0) log_warn("its role cannot be changed", "workload=%s reason=%s", w->name, answer->error.text);
    else log_info(standby ? "a standby now" : "promoted", "workload=%s stream=%s took_ms=%.1f", w->name, w->parts.words->stream, (double)took / 1000);
    workload_poke(w);
}

/* The first thing that is done about whoever is gone. */
static void note_reaction(struct replicas *g, uint64_t now)
{
    for (struct workload *w = g->first; w != NULL; w = w->next)
        if (w->gone_us != 0 && w->reacted_us == 0) w->reacted_us = now;
}

static void change_roles(struct replicas *g, struct group_replica *all, uint64_t now)
{
    size_t which;
    for (;;) {
        enum group_change change = group_role(&g->core, all, g->n, &which);
        if (change == GROUP_NOTHING) return;
        struct workload *w = member(g, which);
        struct error e;
        if (w->role_failed) return; /* once in a while: the timer forgets it */
        if (interceptor_role(w->interceptor, change == GROUP_DEMOTE, on_role, w, &e) != 0) return;
        if (change == GROUP_PROMOTE) note_reaction(g, now);
        w->calling = all[which].calling = true;
        w->role_us = now;
    }
}

static const char *loss_of(const struct workload *w)
{
    const struct world_interceptor *i = interceptor_client_world(w->interceptor);
    if (w->driver->ops->instance(w->driver)->state == WORLD_APP_EXITED) return "its process ended";
    if (i->state == WORLD_UNREACHABLE) return "its interceptor does not answer";
    if (i->lost) return "its interceptor cannot reach it";
    if (i->diverged != 0) return "it has diverged";
    return i->suspect ? "nobody knows what it executed" : "its interceptor was started again";
}

/* Its interceptor may be gone before its process is known to be, or alone: then it is back without a restore. */
static void note_losses(struct replicas *g, const struct group_replica *all)
{
    size_t i = 0;
    for (struct workload *w = g->first; w != NULL; w = w->next, i++) {
        if (w->served && !all[i].serving && !all[i].standby) workload_gone(w, loss_of(w));
        else if (all[i].caught_up && w->announced == w->driver->ops->instance(w->driver)->generation + 1) workload_back(w);
        w->served = all[i].serving;
    }
}

/* ---- the account ---------------------------------------------------------------------------------------------- */

static void keep_account(struct replicas *g, const struct group_replica *all, uint64_t now)
{
    bool serves = false;
    for (size_t i = 0; i < g->n; i++) serves = serves || all[i].serving;
    if (serves == g->serves) return;
    g->serves = serves;
    if (serves && g->first_served_us == 0) g->first_served_us = now;
    if (serves && g->down_since_us != 0) {
        g->down_us += now - g->down_since_us;
        g->down_since_us = 0;
        g->back_us = now;
    }
    if (serves || g->first_served_us == 0) return;
    g->down_since_us = now;
    g->outages++;
    for (const struct workload *w = g->first; w != NULL; w = w->next)
        if (w->gone_us > g->back_us && w->gone_us < g->down_since_us) g->down_since_us = w->gone_us; /* noticed a moment ago */
}

void replicas_account(const struct replicas *g, uint64_t gone_us, struct replicas_account *ret_account)
{
    uint64_t now = loop_monotonic_us(), all = g->first_served_us != 0 ? now - g->first_served_us : 0;
    uint64_t down = g->down_us + (g->down_since_us != 0 ? now - g->down_since_us : 0);
    *ret_account = (struct replicas_account){.availability = all > 0 ? 1 - (double)down / (double)all : 1, .outages = g->outages, .down_us = down};
    if (gone_us != 0 && g->back_us > gone_us) ret_account->outage_us = g->back_us - gone_us;
}

/* ---- moves ---------------------------------------------------------------------------------------------------- */

int replicas_migrate(struct workload *to, struct workload *from, uint32_t timeout_ms, migration_cb *cb, void *user, struct error *e)
{
    struct replicas *g = to->replicas;
    if (g->migration != NULL) return error_set(e, ERROR_BUSY, "another move of this stream's app is under way");
    int rv = migration_begin(to, from, timeout_ms, cb, user, &g->migration, e);
    if (rv == 0) workload_poke(to);
    return rv;
}

void replicas_migrate_end(struct workload *to, const void *user)
{
    struct replicas *g = to->replicas;
    if (g->migration == NULL || migration_user(g->migration) != user) return;
    migration_give_up(g->migration);
    workload_poke(to);
}

/* One step after the other, each with what the one before it changed. */
static void move_on(struct replicas *g, struct group_replica *all, uint64_t now)
{
    while (g->migration != NULL) {
        struct migration *m = g->migration;
        bool more = migration_look(m, &all[place_of(g, migration_from(m))], &all[place_of(g, migration_to(m))], now);
        g->core.hurry = migration_hurries(m);
        g->core.moving = !migration_from(m)->away && !migration_to(m)->away;
        if (migration_over(m)) g->migration = migration_end(m); /* tells; nothing is asked of us meanwhile */
        if (g->migration == NULL) g->core.hurry = g->core.moving = false;
        see_all(g, all);
        if (!more) return;
    }
}

/* ---- whenever something changes ------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
    struct replicas *g = timer->data;
    for (struct workload *w = g->first; w != NULL; w = w->next) w->role_failed = false;
    g->poked = NULL;
    replicas_look(g);
}

void replicas_look(struct replicas *g)
{
    struct group_replica all[MEMBERS_MAX];
    uint64_t now = loop_monotonic_us(), wake = UINT64_MAX;
    bool failed = false, unknown = false;
    see_all(g, all);
    note_losses(g, all);
    keep_account(g, all, now);
    if (g->n == 1) return;
    move_on(g, all, now);
    change_roles(g, all, now);
    hand_out_turn(g, all, now);
    for (struct workload *w = g->first; w != NULL; w = w->next) failed = failed || w->role_failed;
    for (size_t i = 0; i < g->n; i++) unknown = unknown || (!all[i].known && !all[i].away);
    if (g->core.wake_us != UINT64_MAX) wake = g->core.wake_us > now ? (g->core.wake_us - now + 999) / 1000 : 0;
    if ((failed || unknown) && wake > ROLE_AGAIN_MS) wake = ROLE_AGAIN_MS;
    if (g->migration != NULL && wake > MOVE_LOOK_MS) wake = MOVE_LOOK_MS;
    if (wake == UINT64_MAX) uv_timer_stop(&g->timer);
    else uv_timer_start(&g->timer, on_timer, wake, 0);
}

/* ---- checkpoints of all of them ------------------------------------------------------------------------------- */

const struct driver *replicas_holder(const struct workload *w, const char *snapshot)
{
    if (w->driver->ops->has(w->driver, snapshot)) return w->driver;
    for (const struct workload *o = w->replicas->first; o != NULL; o = o->next)
        if (o->driver->ops->has(o->driver, snapshot)) return o->driver;
    return w->driver;
}

/* Each replica looks after what is on its own shelf; what is on nobody's is the first one's. */
void replicas_judge(const struct workload *w, struct world_snapshot *s)
{
    const struct driver *holder = replicas_holder(w, s->id);
    bool nobodys = !holder->ops->has(holder, s->id);
    s->ours = s->ours && holder == w->driver && (!nobodys || w == w->replicas->first);
    for (const struct workload *o = w->replicas->first; o != NULL; o = o->next) {
        if (o == w) continue;
        s->held = s->held || reconcile_holds(&o->core, o->driver->ops->instance(o->driver), s->id);
        if (reconcile_knows_bad(&o->core, s->id) && holder == o->driver) s->fits = false; /* it will be recorded so */
    }
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static int make(struct workload *w)
{
    const struct group_policy policy = {.interval_us = w->parts.words->checkpoint_interval * 1000};
    struct replicas *g = calloc(1, sizeof *g);
    if (g == NULL) return -ERROR_NOMEM;
    group_init(&g->core, &policy);
    uv_timer_init(w->parts.loop, &g->timer);
    g->timer.data = g;
    w->replicas = g;
    return 0;
}

int replicas_join(struct workload *w, struct workload *sibling)
{
    if (sibling == NULL && make(w) != 0) return -ERROR_NOMEM;
    if (sibling != NULL && sibling->replicas->n == MEMBERS_MAX) return -ERROR_NOSPACE;
    struct replicas *g = sibling != NULL ? sibling->replicas : w->replicas;
    struct workload **end = &g->first;
    while (*end != NULL) end = &(*end)->next;
    *end = w;
    w->replicas = g;
    g->n++;
    if (w->parts.words->standby) g->core.policy.standbys++;
    if (w->parts.words->spare) g->core.policy.spares = true;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void replicas_leave(struct workload *w)
{
    struct replicas *g = w->replicas;
    struct workload **at = &g->first;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    g->n--;
    g->core.policy.standbys = 0; /* it all ends: nobody changes roles any more */
    g->core.policy.spares = g->core.moving = false;
    g->migration = migration_end(g->migration);
    if (g->poked == w) g->poked = NULL;
    if (g->n == 0) uv_close((uv_handle_t *)&g->timer, on_closed);
}
