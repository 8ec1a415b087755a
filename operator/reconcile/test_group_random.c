/* Random groups of replicas: apps die, interceptors go away and come back with the role that they were started with, checkpoints fail, changes of
 * roles are lost on their way, the operator is started anew. What is checked is in group.h, G1 to G6. Seeds: argv[1] is the first (default 1),
 * argv[2] how many. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/reconcile/group.h"
#include "operator/reconcile/test_random.h"

enum { REPLICAS = 5, SECOND = 1000000, STEPS = 4000, CALM_STEPS = 3000 };

struct replica {
    bool app, interceptor, word, standby, shared, diverged, grown;
    uint64_t back_at;       /* the app has caught up then */
    uint64_t checkpoint_at; /* its end; 0: none under way */
    uint64_t call_at;       /* of its role; 0: none */
    bool call_standby, call_lost;
    uint64_t not_before_us, turn_us, refused_until, executed;
};

struct sim {
    uint64_t rng, seed, now;
    struct group group;
    struct replica r[REPLICAS];
    struct group_replica seen[REPLICAS];
    size_t n;
    unsigned standbys;
    uint64_t free_since; /* no checkpoint was under way */
    uint64_t known_at; /* the operator has seen all of them then */
    uint64_t ready_since; /* one and the same replica was ready all the time; for G3 */
    size_t ready_who;
    uint64_t taken, promoted, demoted, of_serving, waited; /* counted */
};

static uint64_t first_seed = 1, n_seeds = 400;

static bool caught_up(const struct sim *s, const struct replica *r)
{
    return r->app && r->interceptor && r->shared && !r->diverged && r->back_at <= s->now;
}

static void see(struct sim *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct replica *r = &s->r[i];
        bool up = caught_up(s, r);
        s->seen[i] = (struct group_replica){.known = s->now >= s->known_at,
                                            .shared = r->shared,
                                            .standby = r->standby,
                                            .reachable = r->interceptor,
                                            .serving = up && !r->standby,
                                            .caught_up = up,
                                            .ready = up && r->grown && r->checkpoint_at == 0,
                                            .busy = r->checkpoint_at != 0,
                                            .calling = r->call_at != 0,
                                            .refused = r->refused_until > s->now,
                                            .fresh = s->now - r->back_at < SECOND,
                                            .executed = r->executed,
                                            .up_us = r->back_at,
                                            .not_before_us = r->not_before_us,
                                            .turn_us = r->turn_us};
    }
}

static unsigned serving(const struct sim *s)
{
    unsigned n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->seen[i].serving;
    return n;
}

/* ---- what the shell would do ---------------------------------------------------------------------------------- */

static void check_turn(struct sim *s, size_t who)
{
    const struct group_replica *g = &s->seen[who];
    for (size_t i = 0; i < s->n; i++) {
        hold(s, !s->seen[i].busy, "two checkpoints at once");
        hold(s, g->standby || !(s->seen[i].standby && s->seen[i].ready), "%zu serves and is dumped, and standby %zu is ready", who, i);
        hold(s, g->standby || !(s->seen[i].standby && s->seen[i].caught_up) || s->now >= s->free_since + GROUP_PATIENCE * s->group.policy.interval_us,
             "%zu serves and is dumped too soon, and standby %zu is caught up", who, i);
    }
    hold(s, caught_up(s, &s->r[who]) && s->r[who].grown, "%zu is not ready", who);
}

static void turns(struct sim *s)
{
    see(s);
    for (size_t i = 0; i < s->n; i++)
        if (s->seen[i].busy) s->free_since = s->now;
    size_t who = group_turn(&s->group, s->seen, s->n, s->now);
    if (who == s->n || s->r[who].checkpoint_at != 0 || !s->seen[who].ready) return;
    check_turn(s, who);
    s->of_serving += s->seen[who].serving;
    group_began(&s->group, &s->seen[who], s->now);
    s->r[who].turn_us = s->seen[who].turn_us;
    s->r[who].checkpoint_at = s->now + 1 + draw(s, SECOND / 2);
    s->taken++;
    s->ready_since = 0;
}

/* G6, in the order of words. */
static void check_best(const struct sim *s, size_t who)
{
    const struct group_replica *a = &s->seen[who];
    for (size_t i = 0; i < s->n; i++) {
        const struct group_replica *b = &s->seen[i];
        if (i == who || !b->shared || !b->standby || !b->caught_up || !b->reachable || b->calling) continue;
        int64_t of_a[] = {a->refused, a->busy, a->fresh, -(int64_t)a->executed, (int64_t)a->up_us}, of_b[] = {b->refused, b->busy, b->fresh, -(int64_t)b->executed, (int64_t)b->up_us};
        size_t k = 0;
        while (k < 5 && of_a[k] == of_b[k]) k++;
        hold(s, k == 5 ? who < i : of_a[k] < of_b[k], "%zu is promoted, and %zu is better (%zu)", who, i, k);
    }
}

static void roles(struct sim *s)
{
    size_t which;
    for (unsigned k = 0;; k++) {
        see(s);
        enum group_change change = group_role(&s->group, s->seen, s->n, &which);
        if (change == GROUP_NOTHING) return;
        hold(s, k < REPLICAS, "roles go round and round");
        struct replica *r = &s->r[which];
        hold(s, r->call_at == 0 && r->interceptor, "%zu cannot be told", which);
        if (change == GROUP_PROMOTE) {
            hold(s, r->standby && caught_up(s, r), "%zu cannot serve", which);
            check_best(s, which);
            s->promoted++;
        } else {
            hold(s, !r->standby, "%zu has stepped back already", which);
            hold(s, serving(s) - s->seen[which].serving >= s->n - s->standbys, "%zu steps back, and too few are left", which);
            s->demoted++;
        }
        r->call_standby = change == GROUP_DEMOTE;
        r->call_at = s->now + 1 + draw(s, chance(s, 0.05) ? 5 * SECOND : 5000);
        r->call_lost = chance(s, 0.1);
    }
}

/* G5: whoever could serve in the place of one that does not is told so. */
static void check_promoted(struct sim *s)
{
    unsigned promised = 0, idle = 0;
    see(s);
    for (size_t i = 0; i < s->n; i++) {
        if (!s->seen[i].known) return;
        promised += s->seen[i].calling && s->seen[i].standby;
        idle += s->seen[i].standby && s->seen[i].caught_up && !s->seen[i].calling;
    }
    hold(s, s->standbys == 0 || idle == 0 || serving(s) + promised >= s->n - s->standbys, "%u standbys wait, and %u serve", idle, serving(s));
}

/* ---- what happens --------------------------------------------------------------------------------------------- */

static void ends(struct sim *s, bool chaos)
{
    for (size_t i = 0; i < s->n; i++) {
        struct replica *r = &s->r[i];
        if (r->checkpoint_at != 0 && (r->checkpoint_at <= s->now || !caught_up(s, r))) {
            r->checkpoint_at = 0;
            if (!caught_up(s, r) || (chaos && chance(s, 0.2))) r->not_before_us = s->now + SECOND;
            else for (size_t k = 0; k < s->n; k++) s->r[k].grown = false;
        }
        if (r->call_at != 0 && r->call_at <= s->now) {
            r->call_at = 0;
            if (r->interceptor && !(chaos && r->call_lost)) r->standby = r->call_standby;
            else r->refused_until = s->now + 200000;
        }
        if (!r->grown && chance(s, 0.2)) r->grown = true;
        if (caught_up(s, r) && chance(s, 0.1)) r->executed++;
        if (r->diverged && chance(s, 0.2)) r->app = false; /* killed by its core */
        if (!r->app && chance(s, 0.05)) {
            r->app = true;
            r->diverged = false;
            r->back_at = s->now + draw(s, 2 * SECOND);
        }
        if (!r->interceptor && chance(s, 0.05)) {
            r->interceptor = true;
            r->standby = r->word; /* as it is always started */
            r->back_at = s->now + draw(s, SECOND);
        }
    }
}

static void mischief(struct sim *s)
{
    struct replica *r = &s->r[draw(s, s->n)];
    if (chance(s, 0.01)) r->app = false;
    if (chance(s, 0.005)) r->interceptor = r->app = false;
    if (chance(s, 0.005)) r->diverged = true, r->app = chance(s, 0.5);
    if (chance(s, 0.003)) r->standby = chance(s, 0.5); /* a person */
    if (!chance(s, 0.005)) return;
    group_init(&s->group, &s->group.policy); /* another operator: calls and checkpoints of the one before go on */
    s->known_at = s->now + draw(s, SECOND);
    for (size_t i = 0; i < s->n; i++) s->r[i].turn_us = 0;
}

/* G3: while the same one is ready, a checkpoint is begun when the interval and the patience are over. */
static void watch_progress(struct sim *s)
{
    size_t who = s->n;
    see(s);
    for (size_t i = 0; i < s->n; i++) {
        if (s->seen[i].busy) s->ready_since = 0;
        if (s->seen[i].ready && s->seen[i].not_before_us <= s->now && (who == s->n || i == s->ready_who)) who = i;
    }
    for (size_t i = 0; i < s->n; i++) /* a standby that has to wait after a failure may be waited for */
        if (s->seen[i].standby && s->seen[i].ready && s->seen[i].not_before_us > s->now) who = s->n;
    if (who == s->n || who != s->ready_who || s->ready_since == 0) {
        s->ready_who = who;
        s->ready_since = who == s->n ? 0 : s->now;
        return;
    }
    uint64_t since = s->group.free_us > s->ready_since ? s->group.free_us : s->ready_since;
    bool alone = s->n == 1 || s->seen[who].standby;
    hold(s, s->now - since <= (alone ? 1 : 1 + GROUP_PATIENCE) * s->group.policy.interval_us + SECOND, "%zu is ready, and no checkpoint is begun", who);
}

static void step(struct sim *s, bool chaos)
{
    s->now += 1 + draw(s, 20000);
    if (chaos) mischief(s);
    ends(s, chaos);
    roles(s);
    check_promoted(s);
    turns(s);
    watch_progress(s);
}

static void check_calm(struct sim *s)
{
    size_t which;
    see(s);
    hold(s, group_role(&s->group, s->seen, s->n, &which) == GROUP_NOTHING, "roles do not come to rest");
    if (s->standbys == 0) return;
    unsigned standby = 0;
    for (size_t i = 0; i < s->n; i++) standby += s->r[i].standby;
    hold(s, standby == s->standbys, "%u standbys, wanted are %u", standby, s->standbys);
    hold(s, serving(s) == s->n - s->standbys, "%u serve", serving(s));
}

static void run(struct sim *s)
{
    *s = (struct sim){.seed = s->seed, .rng = s->seed * 0x9e3779b97f4a7c15u + 1, .now = SECOND};
    for (int k = 0; k < 8; k++) draw(s, 2);
    s->n = 1 + draw(s, REPLICAS);
    s->standbys = s->n > 1 ? (unsigned)draw(s, s->n) : 0;
    const struct group_policy policy = {.standbys = s->standbys, .interval_us = SECOND / 10 + draw(s, 2 * SECOND)};
    group_init(&s->group, &policy);
    for (size_t i = 0; i < s->n; i++) {
        bool word = i < s->standbys;
        s->r[i] = (struct replica){.word = word, .standby = chance(s, 0.9) ? word : !word, .interceptor = chance(s, 0.7), .shared = true};
    }
    for (unsigned k = 0; k < STEPS; k++) step(s, true);
    uint64_t before = s->taken;
    for (unsigned k = 0; k < CALM_STEPS; k++) step(s, false); /* about 30 s */
    check_calm(s);
    hold(s, s->taken > before, "no checkpoint is taken any more");
}

static void test_random(void **state)
{
    struct sim *s = calloc(1, sizeof *s);
    uint64_t taken = 0, promoted = 0, demoted = 0, of_serving = 0;
    (void)state;
    print_message("seeds %" PRIu64 " to %" PRIu64 "\n", first_seed, first_seed + n_seeds - 1);
    for (uint64_t k = 0; k < n_seeds; k++) {
        s->seed = first_seed + k;
        run(s);
        taken += s->taken;
        promoted += s->promoted;
        demoted += s->demoted;
        of_serving += s->of_serving;
    }
    print_message("%" PRIu64 " checkpoints, %" PRIu64 " of one that serves, %" PRIu64 " promoted, %" PRIu64 " stepped back\n", taken,
                  of_serving, promoted, demoted);
    if (n_seeds >= 100) assert_true(taken > n_seeds && promoted > n_seeds && demoted > n_seeds && of_serving > 0 && of_serving < taken);
    free(s);
}

/* Without a standby: round and round, one at a time; with one, nobody else. */
static void test_order(void **state)
{
    struct group g;
    struct group_replica all[3];
    unsigned turns_of[3] = {0};
    (void)state;
    group_init(&g, &(struct group_policy){.interval_us = SECOND});
    for (int i = 0; i < 3; i++) all[i] = (struct group_replica){.known = true, .shared = true, .reachable = true, .serving = true, .caught_up = true, .ready = true};
    for (uint64_t now = SECOND; now < 31 * (uint64_t)SECOND; now += SECOND / 10) {
        size_t who = group_turn(&g, all, 3, now);
        if (who == 3) continue;
        turns_of[who]++;
        group_began(&g, &all[who], now);
        assert_int_equal(group_turn(&g, all, 3, now), 3);
        assert_true(g.wake_us == now + SECOND);
    }
    for (int i = 0; i < 3; i++) assert_in_range(turns_of[i], 9, 11);
    all[1].standby = true;
    all[1].serving = false;
    assert_int_equal(group_turn(&g, all, 3, 100 * (uint64_t)SECOND), 1);
    all[1].ready = false;
    all[2].serving = all[2].ready = false; /* only one is left that serves */
    const uint64_t patience = g.begun_us + (1 + GROUP_PATIENCE) * (uint64_t)SECOND;
    assert_int_equal(group_turn(&g, all, 3, g.begun_us + SECOND), 3);
    assert_true(g.wake_us == patience);
    assert_int_equal(group_turn(&g, all, 3, patience), 0);
    all[0].shared = false;
    assert_int_equal(group_turn(&g, all, 3, patience), 3);
}

/* A spare is nobody to wait for: the one app is dumped at each interval, as if there were no place to move it to. */
static void test_spare(void **state)
{
    struct group g;
    (void)state;
    group_init(&g, &(struct group_policy){.spares = true, .interval_us = SECOND});
    struct group_replica all[2] = {{.known = true, .shared = true, .reachable = true, .serving = true, .caught_up = true, .ready = true},
                                   {.known = true, .shared = true, .reachable = true, .standby = true, .away = true}};
    for (uint64_t now = SECOND; now < 5 * (uint64_t)SECOND; now += SECOND) {
        assert_int_equal(group_turn(&g, all, 2, now), 0);
        group_began(&g, &all[0], now);
    }
    all[1].away = false; /* it is begun, and follows soon: now it is worth the wait */
    assert_int_equal(group_turn(&g, all, 2, 5 * (uint64_t)SECOND), 2);
}

/* A promotion waits for no step back that is on its way, and one that is being dumped comes last. */
static void test_promotion(void **state)
{
    struct group g;
    struct group_replica all[4];
    size_t which = 9;
    (void)state;
    group_init(&g, &(struct group_policy){.standbys = 2, .interval_us = SECOND});
    for (int i = 0; i < 4; i++)
        all[i] = (struct group_replica){.known = true, .shared = true, .reachable = true, .standby = i >= 2, .serving = i < 2, .caught_up = true, .ready = true};
    assert_int_equal(group_role(&g, all, 4, &which), GROUP_NOTHING);
    all[0].serving = all[0].caught_up = false;
    all[2].busy = true;
    assert_int_equal(group_role(&g, all, 4, &which), GROUP_PROMOTE);
    assert_int_equal(which, 3);
    all[3].calling = true;
    assert_int_equal(group_role(&g, all, 4, &which), GROUP_NOTHING);
    all[3].standby = all[3].calling = false;
    all[3].serving = true;
    assert_int_equal(group_role(&g, all, 4, &which), GROUP_DEMOTE);
    assert_int_equal(which, 0);
    all[0].calling = true; /* its interceptor takes its time, and now the next one falls */
    all[1].serving = all[1].caught_up = false;
    assert_int_equal(group_role(&g, all, 4, &which), GROUP_PROMOTE);
    assert_int_equal(which, 2);
}

static size_t promoted(const struct group *g, const struct group_replica *all, size_t n)
{
    size_t which = 9;
    assert_int_equal(group_role(g, all, n, &which), GROUP_PROMOTE);
    return which;
}

/* Of several standbys the one that clients wait for the least, and are the likeliest to keep. */
static void test_best(void **state)
{
    struct group g;
    struct group_replica all[4];
    (void)state;
    group_init(&g, &(struct group_policy){.standbys = 3, .interval_us = SECOND});
    for (int i = 0; i < 4; i++)
        all[i] = (struct group_replica){.known = true, .shared = true, .reachable = true, .standby = i > 0, .caught_up = i > 0, .executed = 7, .up_us = 5};
    assert_int_equal(promoted(&g, all, 4), 1);
    all[3].up_us = 4;
    assert_int_equal(promoted(&g, all, 4), 3);
    all[3].up_us = 0; /* nobody knows since when */
    assert_int_equal(promoted(&g, all, 4), 1);
    all[2].executed = 8;
    assert_int_equal(promoted(&g, all, 4), 2);
    all[2].fresh = true; /* it has read it all, and died a moment ago */
    assert_int_equal(promoted(&g, all, 4), 1);
    all[1].busy = true;
    assert_int_equal(promoted(&g, all, 4), 3);
    all[3].refused = true;
    assert_int_equal(promoted(&g, all, 4), 2);
    all[2].refused = all[1].refused = true; /* all of them: it is tried again */
    assert_int_equal(promoted(&g, all, 4), 3);
    all[0].away = true; /* it takes clients and has no app: first it is told that it does not; but when it refuses that, nobody waits for it */
    size_t which = 9;
    assert_int_equal(group_role(&g, all, 4, &which), GROUP_DEMOTE);
    assert_int_equal(which, 0);
    all[0].refused = true;
    g.policy.standbys = 2;
    assert_int_equal(promoted(&g, all, 4), 3);
}

int main(int argc, char **argv)
{
    if (argc > 1) first_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) n_seeds = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_order), cmocka_unit_test(test_spare), cmocka_unit_test(test_promotion), cmocka_unit_test(test_best)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
