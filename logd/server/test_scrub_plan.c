/* What the scrub looks at, when, and what it says of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "logd/server/scrub_plan.h"

static struct scrub_segment list[] = {{.id = 3, .sealed = true}, {.id = 4, .sealed = true}, {.id = 5, .sealed = true, .held = true}, {.id = 7, .sealed = true}, {.id = 8}};
enum { N = sizeof list / sizeof *list };

static uint64_t next(struct scrub_plan *p, uint64_t now, enum scrub_step wanted)
{
    uint64_t segment = 0;
    assert_int_equal(scrub_plan_next(p, now, list, N, &segment), wanted);
    return segment;
}

/* Every sealed segment that may be looked at, once, in order; then the index; then not before the interval is over. */
static void passes(void **state)
{
    struct scrub_plan p = {.interval_ms = 1000, .due_ms = 500};
    (void)state;
    next(&p, 499, SCRUB_NOTHING);
    static const uint64_t order[] = {3, 4, 7};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(next(&p, 500 + i, SCRUB_LOOK), order[i]);
        assert_false(scrub_plan_whole(&p, order[i], 510));
    }
    next(&p, 600, SCRUB_INDEX);
    next(&p, 601, SCRUB_NOTHING); /* it is under way */
    scrub_plan_index(&p, false, 700);
    assert_int_equal(p.passes, 1);
    next(&p, 1499, SCRUB_NOTHING);
    assert_int_equal(next(&p, 1500, SCRUB_LOOK), 3); /* from one beginning to the next */
    list[4].settled = true; /* what of it is not written to any more */
    p.at = 7;
    assert_int_equal(next(&p, 1501, SCRUB_LOOK), 8);
    next(&p, 1502, SCRUB_INDEX);
    list[4].settled = false;
    struct scrub_plan never = {0};
    next(&never, UINT64_MAX / 2, SCRUB_NOTHING);
    assert_false(scrub_plan_alarm(&p));
}

/* A suspect comes first, and again until it is whole, with growing pauses; the pass goes on meanwhile. */
static void suspects(void **state)
{
    struct scrub_plan p = {.interval_ms = 1000000, .due_ms = 0};
    char text[128];
    (void)state;
    assert_int_equal(next(&p, 1, SCRUB_LOOK), 3);
    assert_true(scrub_plan_suspect(&p, 7, 2));
    assert_false(scrub_plan_suspect(&p, 7, 3));
    assert_true(scrub_plan_alarm(&p));
    scrub_plan_text(&p, sizeof text, text);
    assert_string_equal(text, "data damaged: something in segment 7, which is being looked at");
    assert_int_equal(next(&p, 4, SCRUB_LOOK), 7);
    scrub_plan_damaged(&p, 7, 3, 5);
    scrub_plan_text(&p, sizeof text, text);
    assert_string_equal(text, "data damaged: 3 records in segment 7, being repaired from the other servers");
    uint64_t now = 5, pause = SCRUB_RETRY_MS;
    for (unsigned i = 0; i < 10; i++) {
        scrub_plan_stuck(&p, 7, SCRUB_LOST, now);
        if (i == 0) assert_int_equal(next(&p, now + 1, SCRUB_LOOK), 4); /* the pass */
        if (i == 0) next(&p, now + 1, SCRUB_INDEX);
        if (i == 0) scrub_plan_index(&p, false, now + 1);
        assert_true(scrub_plan_alarm(&p));
        next(&p, now + pause - 1, SCRUB_NOTHING);
        now += pause;
        assert_int_equal(next(&p, now, SCRUB_LOOK), 7);
        pause = pause * 2 < SCRUB_RETRY_MOST_MS ? pause * 2 : SCRUB_RETRY_MOST_MS;
    }
    scrub_plan_text(&p, sizeof text, text);
    assert_string_equal(text, "data damaged: 3 records in segment 7, which no other server can give: OPERATIONS.md");
    scrub_plan_repaired(&p, 7, 2, now);
    assert_int_equal(next(&p, now, SCRUB_LOOK), 7);
    scrub_plan_damaged(&p, 7, 1, now);
    assert_int_equal(p.found, 3); /* the same ones */
    scrub_plan_repaired(&p, 7, 1, now);
    assert_int_equal(next(&p, now, SCRUB_LOOK), 7);
    assert_true(scrub_plan_whole(&p, 7, now));
    assert_false(scrub_plan_alarm(&p));
    assert_true(p.found == 3 && p.repaired == 3);
    scrub_plan_text(&p, sizeof text, text);
    assert_string_equal(text, "");
}

/* What is written to must be sealed first; what is held waits; what is gone is no loss. */
static void not_now(void **state)
{
    struct scrub_plan p = {0};
    (void)state;
    scrub_plan_suspect(&p, 8, 10);
    scrub_plan_suspect(&p, 5, 10);
    scrub_plan_suspect(&p, 6, 10);
    assert_int_equal(next(&p, 10, SCRUB_ROLL), 8);
    next(&p, 11, SCRUB_NOTHING);
    assert_int_equal(p.n, 2); /* 6 is not there */
    list[4].sealed = true;
    assert_int_equal(next(&p, 10 + SCRUB_SEAL_MS, SCRUB_LOOK), 8);
    list[4].sealed = false;
    assert_true(scrub_plan_whole(&p, 8, 500));
    list[2].held = false;
    assert_int_equal(next(&p, 1000, SCRUB_LOOK), 5);
    list[2].held = true;
    assert_true(scrub_plan_whole(&p, 5, 1001));
    for (unsigned i = 0; i < SCRUB_SUSPECTS; i++) assert_true(scrub_plan_suspect(&p, 100 + i, 1));
    assert_false(scrub_plan_suspect(&p, 99, 1));
    scrub_plan_damaged(&p, 99, 5, 1); /* known again in the next pass */
    assert_true(scrub_plan_find(&p, 99) == NULL && p.found == 0);
    next(&p, 2, SCRUB_NOTHING);
    assert_false(scrub_plan_alarm(&p));
}

/* A disk that gives back other bytes than it got is not written to for ever. */
static void a_disk_that_forgets(void **state)
{
    struct scrub_plan p = {0};
    unsigned looks = 0;
    (void)state;
    scrub_plan_suspect(&p, 3, 1);
    for (uint64_t now = 1; now < 20000; now++) {
        uint64_t segment;
        if (scrub_plan_next(&p, now, list, N, &segment) != SCRUB_LOOK) continue;
        looks++;
        scrub_plan_damaged(&p, 3, 1, now);
        scrub_plan_repaired(&p, 3, 1, now);
    }
    assert_true(looks > 3 && looks < 20);
}

/* What is met again and again on a disk that is right: one look a minute, and an alarm that stays. */
static void not_the_disk(void **state)
{
    struct scrub_plan p = {0};
    char text[128];
    unsigned looks = 0, quiet = 0;
    (void)state;
    for (uint64_t now = 1; now < 10 * SCRUB_RETRY_MOST_MS; now += 50) {
        uint64_t segment;
        scrub_plan_suspect(&p, 3, now);
        if (scrub_plan_next(&p, now, list, N, &segment) != SCRUB_LOOK) continue;
        looks++;
        assert_true(scrub_plan_whole(&p, 3, now));
        quiet += !scrub_plan_alarm(&p);
    }
    assert_in_range(looks, 9, 11);
    assert_int_equal(quiet, looks); /* for as long as nobody reads it */
    scrub_plan_text(&p, sizeof text, text);
    assert_string_equal(text, "data damaged: something in segment 3, though its disk is right: OPERATIONS.md");
    scrub_plan_damaged(&p, 3, 1, 10); /* now it is */
    assert_int_equal(scrub_plan_find(&p, 3)->why, SCRUB_REPAIRS);
}

static void hands_over(void **state)
{
    struct scrub_plan p = {0};
    char text[128];
    (void)state;
    assert_false(scrub_plan_hands_over(&p, 5000));
    scrub_plan_suspect(&p, 3, 5000);
    assert_false(scrub_plan_hands_over(&p, 5000 + SCRUB_PATIENCE_MS - 1)); /* it may be repaired by then */
    assert_true(scrub_plan_hands_over(&p, 5000 + SCRUB_PATIENCE_MS));
    assert_false(scrub_plan_hands_over(&p, 5000 + SCRUB_PATIENCE_MS + SCRUB_HAND_OVER_MS - 1));
    assert_true(scrub_plan_hands_over(&p, 5000 + SCRUB_PATIENCE_MS + SCRUB_HAND_OVER_MS));
    scrub_plan_whole(&p, 3, 50000);
    assert_false(scrub_plan_hands_over(&p, 1000000));
    scrub_plan_suspect(&p, 3, 1000000);
    assert_false(scrub_plan_hands_over(&p, 1000001));
    scrub_plan_whole(&p, 3, 1000002);
    scrub_plan_index(&p, true, 2000000);
    scrub_plan_text(&p, sizeof text, text);
    assert_string_equal(text, "data damaged: the index: another server's state replaces it when all others are well (OPERATIONS.md)");
    assert_false(scrub_plan_wants_state(&p, 2000000 + SCRUB_STATE_MS - 1)); /* the others have not all heard of it */
    assert_true(scrub_plan_wants_state(&p, 2000000 + SCRUB_STATE_MS));
    scrub_plan_index(&p, true, 2000000 + SCRUB_STATE_MS); /* the next pass says the same: it is as old as it was */
    assert_true(scrub_plan_wants_state(&p, 2000000 + SCRUB_STATE_MS));
    assert_true(scrub_plan_hands_over(&p, 2000000 + SCRUB_PATIENCE_MS));
    scrub_plan_index(&p, false, 3000000);
    assert_false(scrub_plan_alarm(&p));
    assert_false(scrub_plan_wants_state(&p, 4000000));
    scrub_plan_blame_index(&p, 5000000); /* between two passes */
    assert_true(scrub_plan_alarm(&p));
    assert_true(scrub_plan_wants_state(&p, 5000000 + SCRUB_STATE_MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(passes), cmocka_unit_test(suspects), cmocka_unit_test(not_now), cmocka_unit_test(a_disk_that_forgets),
                                       cmocka_unit_test(not_the_disk),
                                       cmocka_unit_test(hands_over)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
