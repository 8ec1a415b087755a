/* Votes on whose app is different: by cases, and from seeds: replicas that read the same log of votes, each at its own pace, some of
 * them wrong. All come to the same verdict, and exactly those that are not of the majority are told that they have diverged. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"
#include "interceptor/replica/verdict.h"

enum { MOST = 5, VOTES = 64 };

static uint64_t random_state;

static unsigned dice(unsigned n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % n;
}

static struct answer_digest answer(unsigned kind)
{
    struct answer_digest d = {.status = 200};
    memset(d.sha256, (int)kind, sizeof d.sha256);
    return d;
}

static struct verdict_vote vote(const char *name, unsigned kind)
{
    struct verdict_vote v = {.digest = answer(kind)};
    snprintf(v.replica, sizeof v.replica, "%s", name);
    return v;
}

static void test_text(void **state)
{
    (void)state;
    struct verdicts *v = verdicts_new("one", 3);
    struct answer_digest d = answer(7);
    struct verdict_vote back;
    char text[VERDICT_TEXT_MAX];
    bool cast;
    assert_int_equal(verdict_print(v, 5, text), 0);
    verdicts_own(v, 5, &d, &cast);
    size_t len = verdict_print(v, 5, text);
    assert_int_equal(verdict_parse(text, len, &back), 0);
    assert_string_equal(back.replica, "one");
    assert_memory_equal(&back.digest, &d, sizeof d);
    for (size_t n = 0; n < len - 2; n++) assert_int_equal(verdict_parse(text, n, &back), -ERROR_CORRUPT);
    assert_int_equal(verdict_parse("{\"executed\":5}", 14, &back), -ERROR_CORRUPT);
    verdicts_free(v);
}

static void test_two(void **state)
{
    (void)state;
    struct verdicts *v = verdicts_new("a", 2);
    struct answer_digest d = answer(1);
    struct verdict_vote a = vote("a", 1), b = vote("b", 2);
    bool cast = false;
    verdicts_own(v, 10, &d, &cast);
    assert_int_equal(verdicts_read(v, 10, &b, &cast), VERDICT_NOTHING);
    assert_true(cast);
    assert_int_equal(verdicts_read(v, 10, &a, &cast), VERDICT_DISAGREEMENT);
    assert_false(cast);
    assert_int_equal(verdicts_read(v, 10, &a, &cast), VERDICT_NOTHING); /* told once */
    verdicts_free(v);
}

/* Votes that were read before our app came to that request, as in a replay; and an app that answers otherwise all the time. */
static void test_late_and_often(void **state)
{
    (void)state;
    struct verdicts *v = verdicts_new("c", 3);
    struct answer_digest wrong = answer(9), right = answer(1);
    struct verdict_vote old = vote("c", 9), a = vote("a", 1), b = vote("b", 1);
    bool cast = false;
    assert_int_equal(verdicts_read(v, 10, &old, &cast), VERDICT_NOTHING);
    assert_int_equal(verdicts_read(v, 10, &a, &cast), VERDICT_DISAGREEMENT);
    assert_int_equal(verdicts_read(v, 10, &b, &cast), VERDICT_SETTLED); /* we have no answer: what an earlier app voted is its own affair */
    assert_int_equal(verdicts_own(v, 10, &right, &cast), VERDICT_NOTHING);
    assert_int_equal(verdicts_own(v, 10, &wrong, &cast), VERDICT_DIVERGED);
    verdicts_attached(v);
    unsigned begun = 0;
    for (uint64_t offset = 1; offset <= 10 * VERDICT_EVERY; offset++) {
        verdicts_own(v, offset, &wrong, &cast);
        begun += verdicts_differs(v, offset) == VERDICT_CAST;
    }
    assert_int_equal(begun, 10);
    verdicts_free(v);
}

static void run(uint64_t seed)
{
    static const char *const names[] = {"r0", "r1", "r2", "r3", "r4"};
    struct verdicts *all[MOST];
    struct verdict_vote log[VOTES];
    enum verdict last[MOST] = {0};
    unsigned kinds[MOST], count[3] = {0}, n = 2, n_log = 0, read[MOST] = {0};
    bool executed[MOST] = {false};
    random_state = seed;
    n += dice(MOST - 1);
    for (unsigned i = 0; i < n; i++) {
        all[i] = verdicts_new(names[i], n);
        count[kinds[i] = dice(3) == 0 ? 1 + dice(2) : 0]++;
    }
    unsigned owner = dice(n);
    for (int step = 0; step < 4000; step++) {
        unsigned i = dice(n);
        enum verdict came = VERDICT_NOTHING;
        bool cast = false;
        if (!executed[i] && dice(3) == 0) {
            struct answer_digest d = answer(kinds[i]);
            executed[i] = true;
            came = verdicts_own(all[i], 77, &d, &cast);
            if (!cast && i != owner && kinds[i] != kinds[owner]) cast = verdicts_differs(all[i], 77) == VERDICT_CAST;
        } else if (read[i] < n_log && (executed[i] || dice(4) == 0)) {
            came = verdicts_read(all[i], 77, &log[read[i]], &cast);
            read[i]++;
        }
        if (came != VERDICT_NOTHING) last[i] = came;
        if (cast) {
            char text[VERDICT_TEXT_MAX];
            size_t len = verdict_print(all[i], 77, text);
            assert_true(n_log < VOTES);
            assert_int_equal(verdict_parse(text, len, &log[n_log++]), 0);
        }
    }
    bool any = count[kinds[owner]] < n;
    for (unsigned i = 0; i < n; i++) {
        int major = -1;
        for (int k = 0; k < 3; k++)
            if (count[k] > n / 2) major = k;
        enum verdict want = !any ? VERDICT_NOTHING : major < 0 ? VERDICT_DISAGREEMENT : kinds[i] == (unsigned)major ? VERDICT_SETTLED : VERDICT_DIVERGED;
        if (last[i] != want) fail_msg("seed %" PRIu64 ": replica %u of %u was told %d, not %d", seed, i, n, last[i], want);
        verdicts_free(all[i]);
    }
}

static void test_random(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) run(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_two), cmocka_unit_test(test_late_and_often),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
