/* Random moves of an app between replicas, one of which is a spare: apps and interceptors die, changes of roles are lost on their way, the operator is
 * started anew in the middle, who asked gives up. What is checked is in move.h, M1 and M2, and of group.h what concerns roles. Seeds: argv[1] is the
 * first (default 1), argv[2] how many. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "operator/reconcile/move.h"
#include "operator/reconcile/test_random.h"

enum { REPLICAS = 4, SECOND = 1000000, MOVES = 12 };

struct replica {
    bool app, interceptor, word, standby, away;
    uint64_t back_at; /* the app has caught up then */
    uint64_t call_at; /* of its role; 0: none */
    bool call_standby, call_lost;
    uint64_t active_us;
};

struct sim {
    uint64_t rng, seed, now;
    struct group group;
    struct replica r[REPLICAS];
    struct group_replica seen[REPLICAS];
    size_t n, from, to;
    unsigned standbys;
    bool moving, calm; /* calm: nobody dies */
    struct move move;
    bool placed; /* as it is written down: the target is where the app belongs */
    uint64_t tail, done, failed, hits;
};

static uint64_t first_seed = 1, n_seeds = 400;

static bool caught_up(const struct sim *s, const struct replica *r)
{
    return r->app && r->interceptor && r->back_at <= s->now;
}

static void see(struct sim *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct replica *r = &s->r[i];
        bool up = caught_up(s, r);
        s->seen[i] = (struct group_replica){.known = true,
                                            .shared = true,
                                            .standby = r->standby,
                                            .reachable = r->interceptor,
                                            .serving = up && !r->standby,
                                            .caught_up = up,
                                            .calling = r->call_at != 0,
                                            .away = r->away,
                                            .arriving = s->moving && i == s->to && s->move.step == MOVE_SWITCH,
                                            .leaving = s->moving && ((i == s->from && (s->move.step == MOVE_YIELD || s->move.step == MOVE_DRAIN)) ||
                                                                     (i == s->to && s->move.step == MOVE_BACK)),
                                            .active_us = r->active_us};
    }
    s->group.moving = s->moving && !s->r[s->to].away && !s->r[s->from].away;
}

static unsigned serving(const struct sim *s)
{
    unsigned n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->seen[i].serving && !s->r[i].away;
    return n;
}

/* ---- what the shell would do ---------------------------------------------------------------------------------- */

static void go(struct sim *s, size_t i, bool away)
{
    struct replica *r = &s->r[i];
    if (r->away == away) return;
    r->away = away;
    r->app = false; /* killed, or not there yet */
}

static void aim(struct sim *s)
{
    enum move_step step = s->move.step;
    if (step == MOVE_DONE) hold(s, s->seen[s->to].serving, "the source goes, and the target does not serve");
    go(s, s->to, step == MOVE_CHECKPOINT || step == MOVE_FAILED);
    go(s, s->from, step == MOVE_DONE);
    s->placed = move_moved(&s->move);
    if (!move_over(&s->move)) return;
    hold(s, s->placed == (step == MOVE_DONE), "what is written down is not what became of it");
    s->done += step == MOVE_DONE;
    s->failed += step == MOVE_FAILED;
    s->moving = false;
}

static void moves(struct sim *s)
{
    for (int k = 0; s->moving; k++) {
        see(s);
        struct move_seen seen = {.from = &s->seen[s->from], .to = &s->seen[s->to], .fresh = chance(s, 0.1), .tail = s->tail, .held = chance(s, 0.9) ? 1 : 0};
        hold(s, k < 8, "it goes round and round in %s", move_step_name(s->move.step));
        if (!move_look(&s->move, &seen, s->now)) return;
        aim(s);
    }
}

static void roles(struct sim *s)
{
    size_t which;
    for (unsigned k = 0;; k++) {
        see(s);
        enum group_change change = group_role(&s->group, s->seen, s->n, &which);
        if (change == GROUP_NOTHING) return;
        struct replica *r = &s->r[which];
        hold(s, k < REPLICAS, "roles go round and round");
        hold(s, r->call_at == 0 && r->interceptor, "%zu cannot be told", which);
        hold(s, change == GROUP_DEMOTE || (r->standby && caught_up(s, r) && !r->away), "%zu cannot serve", which);
        if (change == GROUP_DEMOTE && !r->away)
            hold(s, serving(s) - s->seen[which].serving >= 1, "%zu steps back, and nobody is left", which);
        r->call_standby = change == GROUP_DEMOTE;
        r->call_at = s->now + 1 + draw(s, chance(s, 0.05) ? 5 * SECOND : 5000);
        r->call_lost = chance(s, 0.1);
    }
}

/* ---- what happens --------------------------------------------------------------------------------------------- */

static void ends(struct sim *s)
{
    for (size_t i = 0; i < s->n; i++) {
        struct replica *r = &s->r[i];
        if (r->call_at != 0 && r->call_at <= s->now) {
            r->call_at = 0;
            if (r->interceptor && !(r->call_lost && !s->calm)) {
                r->active_us = r->call_standby ? 0 : r->standby ? s->now : r->active_us;
                r->standby = r->call_standby;
            }
        }
        if (!r->app && !r->away && chance(s, 0.1)) {
            r->app = true;
            r->back_at = s->now + draw(s, 2 * SECOND);
        }
        if (!r->interceptor && chance(s, 0.1)) {
            r->interceptor = true;
            r->standby = r->word; /* as it is always started */
            r->active_us = r->standby ? 0 : s->now;
            r->back_at = s->now + draw(s, SECOND);
        }
    }
    s->tail = chance(s, 0.3) ? 0 : draw(s, 200);
}

static void mischief(struct sim *s)
{
    struct replica *r = &s->r[chance(s, 0.5) && s->moving ? (chance(s, 0.5) ? s->to : s->from) : draw(s, s->n)];
    if (chance(s, 0.02)) r->app = false, s->hits++;
    if (chance(s, 0.01)) r->interceptor = r->app = false;
    if (s->moving && chance(s, 0.003)) move_give_up(&s->move, s->now, "who asked has gone");
    if (!chance(s, 0.005)) return;
    group_init(&s->group, &s->group.policy); /* another operator: it goes by what is written down */
    if (!s->moving) return;
    s->moving = false;
    go(s, s->to, !s->placed);
    go(s, s->from, s->placed);
}

static size_t pick(struct sim *s, bool away)
{
    size_t at = draw(s, s->n);
    while (s->r[at].away != away) at = (at + 1) % s->n;
    return at;
}

static void begin(struct sim *s)
{
    s->to = pick(s, true);
    s->from = pick(s, false);
    s->moving = true;
    s->placed = false;
    move_begin(&s->move, s->now, (1 + draw(s, 30)) * (uint64_t)SECOND);
}

static void step(struct sim *s)
{
    s->now += 1 + draw(s, 20000);
    if (!s->calm) mischief(s);
    ends(s);
    moves(s);
    roles(s);
    see(s);
    if (s->calm) hold(s, serving(s) >= s->n - 1 - s->standbys, "%u serve, and nobody died (%s)", serving(s), move_step_name(s->move.step));
}

static void rest(struct sim *s)
{
    bool calm = s->calm;
    s->calm = false;
    for (unsigned k = 0; k < 3000; k++) { /* about 30 s in which nobody dies */
        s->now += 1 + draw(s, 20000);
        ends(s);
        moves(s);
        roles(s);
    }
    see(s);
    unsigned standby = 0, away = 0;
    for (size_t i = 0; i < s->n; i++) {
        standby += s->r[i].standby && !s->r[i].away;
        away += s->r[i].away;
        hold(s, !s->r[i].away || s->r[i].standby, "%zu is away and takes clients", i);
    }
    hold(s, away == 1 && standby == s->standbys, "%u away, %u standbys", away, standby);
    hold(s, serving(s) == s->n - 1 - s->standbys, "%u serve", serving(s));
    s->calm = calm;
}

static void run(struct sim *s)
{
    *s = (struct sim){.seed = s->seed, .rng = s->seed * 0x9e3779b97f4a7c15u + 1, .now = SECOND};
    for (int k = 0; k < 8; k++) draw(s, 2);
    s->n = 2 + draw(s, REPLICAS - 1);
    s->standbys = s->n > 2 ? (unsigned)draw(s, s->n - 1) : 0;
    s->calm = chance(s, 0.3);
    group_init(&s->group, &(struct group_policy){.standbys = s->standbys, .spares = true, .interval_us = SECOND});
    for (size_t i = 0; i < s->n; i++) {
        bool word = i <= s->standbys;
        s->r[i] = (struct replica){.word = word, .standby = word, .interceptor = true, .app = i > 0, .away = i == 0, .active_us = word ? 0 : 1};
    }
    for (unsigned m = 0; m < MOVES; m++) {
        rest(s);
        begin(s);
        uint64_t most = s->move.until_us + 60 * (uint64_t)SECOND;
        while (s->moving) {
            step(s);
            hold(s, s->now < most, "the move does not end: %s", move_step_name(s->move.step));
        }
    }
    rest(s);
}

static void test_random(void **state)
{
    struct sim *s = calloc(1, sizeof *s);
    uint64_t done = 0, failed = 0, hits = 0;
    (void)state;
    print_message("seeds %" PRIu64 " to %" PRIu64 "\n", first_seed, first_seed + n_seeds - 1);
    for (uint64_t k = 0; k < n_seeds; k++) {
        s->seed = first_seed + k;
        run(s);
        done += s->done;
        failed += s->failed;
        hits += s->hits;
    }
    print_message("%" PRIu64 " moved, %" PRIu64 " given up, %" PRIu64 " apps killed\n", done, failed, hits);
    if (n_seeds >= 100) assert_true(done > n_seeds && failed > n_seeds / 4 && hits > n_seeds);
    free(s);
}

int main(int argc, char **argv)
{
    if (argc > 1) first_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) n_seeds = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
