/* wish.h's promises against every world there is: its facts are few enough to try them all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "operator/reconcile/wish.h"

enum { FACTS = 10 };

static struct wish_world make(unsigned n)
{
    static const uint64_t ages[] = {1000, WISH_PENDING_MS + 1, WISH_LOST_MS + 1};
    struct wish_world w = {.now_ms = 1000000};
    bool *const facts[FACTS] = {&w.protects, &w.remade, &w.pod, &w.terminating, &w.there_already, &w.node, &w.fits, &w.next, &w.next_told, &w.next_active};
    for (unsigned i = 0; i < FACTS; i++, n >>= 1) *facts[i] = n & 1;
    w.next_as_wished = n & 1;
    n >>= 1;
    w.kind = n & 1 ? WISH_MIGRATION : WISH_RESTORE;
    n >>= 1;
    w.replicated = n & 1;
    n >>= 1;
    w.phase = (enum wish_phase)(n % 5);
    n /= 5;
    w.checkpoint = (enum wish_checkpoint)(n % 4);
    n /= 4;
    w.begun_ms = w.now_ms - ages[n % 3];
    return w;
}

enum { WORLDS = (1 << 13) * 5 * 4 * 3 };

static void test_promises(void **state)
{
    unsigned seen[WISH_SAY_FAILED + 1] = {0};
    (void)state;
    for (unsigned n = 0; n < WORLDS; n++) {
        struct wish_world w = make(n);
        struct wish_plan p = wish_plan(&w);
        bool ended = w.phase == WISH_DONE || w.phase == WISH_FAILED;
        seen[p.what]++;
        if (p.what == WISH_DELETE_POD || p.what == WISH_DELETE_NEXT) assert_true(w.phase == WISH_MOVING && w.checkpoint == WISH_VALID && w.protects);
        if (p.what == WISH_DELETE_POD) assert_true(w.pod && !w.terminating);
        if (p.what == WISH_DELETE_NEXT) assert_true(w.next && !w.next_told);
        if (p.what == WISH_SAY_DONE && w.phase != WISH_NEW) assert_true(w.next && w.next_told && w.next_active && w.next_as_wished);
        if (p.what == WISH_SAY_DONE && w.phase == WISH_NEW) assert_true(w.kind == WISH_MIGRATION && w.there_already && w.pod);
        if (p.what == WISH_SAY_FAILED) assert_true(p.why[0] != '\0');
        if (p.what == WISH_MOVE) assert_true(w.checkpoint == WISH_VALID && (w.kind == WISH_MIGRATION || w.fits));
        if (p.what == WISH_TAKE) assert_true(w.kind == WISH_MIGRATION && w.pod);
        if (!ended && w.now_ms - w.begun_ms > WISH_LOST_MS) assert_true(p.what != WISH_WAIT); /* W3 */
        if (ended || !w.protects || w.replicated) assert_int_equal(p.what, ended ? WISH_WAIT : WISH_SAY_FAILED);
    }
    for (unsigned i = 0; i <= WISH_SAY_FAILED; i++) {
        assert_true(seen[i] > 0);
        assert_string_not_equal(wish_do_name((enum wish_do)i), "unknown");
    }
}

/* The way of each, step by step. */
static void test_ways(void **state)
{
    (void)state;
    struct wish_world w = {.kind = WISH_MIGRATION, .now_ms = 10, .begun_ms = 1, .protects = true, .remade = true, .pod = true, .node = true};
    assert_int_equal(wish_plan(&w).what, WISH_TAKE);
    w.phase = WISH_TAKING;
    w.checkpoint = WISH_UNDER_WAY;
    assert_int_equal(wish_plan(&w).what, WISH_WAIT);
    w.checkpoint = WISH_VALID;
    assert_int_equal(wish_plan(&w).what, WISH_MOVE);
    w.phase = WISH_MOVING;
    assert_int_equal(wish_plan(&w).what, WISH_DELETE_POD);
    w.terminating = true;
    assert_int_equal(wish_plan(&w).what, WISH_WAIT);
    w.next = true; /* the webhook was away */
    assert_int_equal(wish_plan(&w).what, WISH_DELETE_NEXT);
    w.next_told = true;
    assert_int_equal(wish_plan(&w).what, WISH_WAIT);
    w.pod = false;
    w.next_active = w.next_as_wished = true;
    assert_int_equal(wish_plan(&w).what, WISH_SAY_DONE);
    w.next_as_wished = false;
    assert_int_equal(wish_plan(&w).what, WISH_SAY_FAILED);
    w = (struct wish_world){.kind = WISH_RESTORE, .now_ms = 10, .begun_ms = 1, .protects = true, .remade = true, .pod = true, .checkpoint = WISH_VALID, .fits = true};
    assert_int_equal(wish_plan(&w).what, WISH_MOVE);
    w.fits = false;
    assert_int_equal(wish_plan(&w).what, WISH_SAY_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_promises), cmocka_unit_test(test_ways)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
