/* Votes on whose app is different: by cases, and from seeds: replicas of one version of an app or two that read the same log of votes, each at its own pace, some of
 * them wrong, some not told before late how many they are. All of a version come to the same verdict, whatever the other one answered, and exactly those that are
 * not of its majority are told that they have diverged. */
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
    struct verdicts *v = verdicts_new("one", "", 3);
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
    struct verdicts *v = verdicts_new("a", "", 2);
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
    struct verdicts *v = verdicts_new("c", "", 3);
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

/* While nobody is judged a majority means nothing; from when there are so many again, what is undecided is judged with what was read. */
static void test_count(void **state)
{
    (void)state;
    struct verdicts *v = verdicts_new("c", "", 0);
    struct answer_digest wrong = answer(9);
    struct verdict_vote a = vote("a", 1), b = vote("b", 1), d = vote("d", 1), ours = vote("c", 9);
    enum verdict came;
    uint64_t at = 0;
    bool cast = false;
    verdicts_own(v, 10, &wrong, &cast);
    verdicts_own(v, 20, &wrong, &cast);
    assert_int_equal(verdicts_read(v, 20, &a, &cast), VERDICT_NOTHING); /* disputes are judged in the order of their offsets, whichever was read first */
    assert_int_equal(verdicts_read(v, 10, &a, &cast), VERDICT_NOTHING);
    assert_int_equal(verdicts_read(v, 10, &b, &cast), VERDICT_NOTHING); /* two of one opinion, and nobody of another yet */
    assert_int_equal(verdicts_read(v, 10, &ours, &cast), VERDICT_NOTHING);
    assert_true(verdicts_again(v, &at, &came) && at == 10 && came == VERDICT_NOTHING);
    verdicts_count(v, 5);
    at = 0;
    assert_true(verdicts_again(v, &at, &came) && at == 10 && came == VERDICT_DISAGREEMENT); /* 2 of 5 */
    assert_true(verdicts_again(v, &at, &came) && at == 20 && came == VERDICT_NOTHING);      /* one vote */
    assert_false(verdicts_again(v, &at, &came));
    verdicts_count(v, 3);
    at = 0;
    assert_true(verdicts_again(v, &at, &came) && at == 10 && came == VERDICT_DIVERGED); /* 2 of 3 */
    verdicts_count(v, 5);
    at = 0;
    assert_true(verdicts_again(v, &at, &came) && at == 20); /* that of 10 is decided */
    assert_int_equal(verdicts_read(v, 10, &d, &cast), VERDICT_NOTHING); /* 3 of 5: it was told */
    verdicts_free(v);
}

/* What apps of another version answered, or those of nobody says which, is nothing to us: it decides nothing, and asks for no vote. */
static void test_version(void **state)
{
    (void)state;
    char text[VERDICT_TEXT_MAX], name[VERDICT_NAME_MAX + 1], version[VERDICT_VERSION_MAX + 1];
    struct verdicts *v = verdicts_new("c", "v2", 3);
    struct answer_digest ours = answer(9);
    struct verdict_vote a = vote("a", 1), b = vote("b", 1), back;
    bool cast = false;
    verdicts_own(v, 10, &ours, &cast);
    for (int old = 0; old < 2; old++) {
        snprintf(a.version, sizeof a.version, "%s", old ? "" : "v1");
        memcpy(b.version, a.version, sizeof b.version);
        assert_int_equal(verdicts_read(v, 10, &a, &cast), VERDICT_NOTHING);
        assert_int_equal(verdicts_read(v, 10, &b, &cast), VERDICT_NOTHING);
        assert_false(cast);
    }
    assert_int_equal(verdicts_differs(v, 10), VERDICT_CAST); /* from an old version's record: ours is told to those who are of ours */
    size_t len = verdict_print(v, 10, text);
    assert_int_equal(verdict_parse(text, len, &back), 0);
    assert_string_equal(back.version, "v2");
    assert_string_equal(back.replica, "c");
    assert_memory_equal(&back.digest, &ours, sizeof ours);
    assert_null(memmem(text, len, "\nvote ", 6)); /* what interceptors without versions look for, and would count */
    for (size_t n = 0; n < len; n++) assert_int_equal(verdict_parse(text, n, &back), -ERROR_CORRUPT);
    snprintf(a.version, sizeof a.version, "v2");
    memcpy(b.version, a.version, sizeof b.version);
    assert_int_equal(verdicts_read(v, 10, &a, &cast), VERDICT_NOTHING);
    assert_int_equal(verdicts_read(v, 10, &b, &cast), VERDICT_DIVERGED);
    verdicts_free(v);
    memset(name, 'n', sizeof name - 1); /* the longest fit */
    memset(version, 'v', sizeof version - 1);
    name[sizeof name - 1] = version[sizeof version - 1] = '\0';
    v = verdicts_new(name, version, 3);
    verdicts_own(v, 10, &ours, &cast);
    assert_int_equal(verdict_parse(text, verdict_print(v, 10, text), &back), 0);
    assert_string_equal(back.replica, name);
    assert_string_equal(back.version, version);
    verdicts_free(v);
}

struct replica {
    struct verdicts *verdicts;
    unsigned kind, version, counted; /* counted: how many of its version there are, once it was told */
    unsigned read;
    bool executed;
    enum verdict last;
};

static unsigned siblings(const struct replica *all, unsigned n, unsigned version)
{
    unsigned of = 0;
    for (unsigned i = 0; i < n; i++) of += all[i].version == version;
    return of >= 2 ? of : 0; /* one alone is compared with nobody */
}

static void tell_count(struct replica *r, unsigned count)
{
    enum verdict came;
    uint64_t at = 0;
    r->counted = count;
    verdicts_count(r->verdicts, count);
    while (verdicts_again(r->verdicts, &at, &came))
        if (came != VERDICT_NOTHING) r->last = came;
}

/* What is right for replica i: only answers of its own version count, and only if one of them differs from what the log has. */
static enum verdict wanted(const struct replica *all, unsigned n, unsigned i, unsigned owner)
{
    unsigned count[6] = {0}, of = siblings(all, n, all[i].version);
    bool any = false;
    for (unsigned k = 0; k < n; k++) {
        if (all[k].version != all[i].version) continue;
        count[all[k].kind]++;
        any = any || all[k].kind != all[owner].kind;
    }
    if (!any || of == 0) return VERDICT_NOTHING;
    for (unsigned kind = 0; kind < 6; kind++)
        if (count[kind] > of / 2) return all[i].kind == kind ? VERDICT_SETTLED : VERDICT_DIVERGED;
    return VERDICT_DISAGREEMENT;
}

static void run(uint64_t seed)
{
    static const char *const names[] = {"r0", "r1", "r2", "r3", "r4"}, *const versions[] = {"", "v2"};
    struct replica all[MOST];
    struct verdict_vote log[VOTES];
    unsigned n = 2, n_log = 0;
    random_state = seed;
    n += dice(MOST - 1);
    bool rollout = dice(2) == 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned version = rollout ? dice(2) : 0;
        all[i] = (struct replica){.verdicts = verdicts_new(names[i], versions[version], 0), .version = version};
        all[i].kind = (dice(3) == 0 ? 1 + dice(2) : 0) + (dice(4) > 0 ? 3 * version : 0); /* versions answer differently, mostly */
    }
    unsigned owner = dice(n);
    for (int step = 0; step < 4000; step++) {
        unsigned i = dice(n);
        struct replica *r = &all[i];
        enum verdict came = VERDICT_NOTHING;
        bool cast = false;
        if (r->counted == 0 && (dice(20) == 0 || step > 2000)) tell_count(r, siblings(all, n, r->version));
        if (!r->executed && dice(3) == 0) {
            struct answer_digest d = answer(r->kind);
            r->executed = true;
            came = verdicts_own(r->verdicts, 77, &d, &cast);
            if (!cast && i != owner && r->kind != all[owner].kind) cast = verdicts_differs(r->verdicts, 77) == VERDICT_CAST;
        } else if (r->read < n_log && (r->executed || dice(4) == 0)) {
            came = verdicts_read(r->verdicts, 77, &log[r->read], &cast);
            r->read++;
        }
        if (came != VERDICT_NOTHING) r->last = came;
        if (cast) {
            char text[VERDICT_TEXT_MAX];
            size_t len = verdict_print(r->verdicts, 77, text);
            assert_true(n_log < VOTES);
            assert_int_equal(verdict_parse(text, len, &log[n_log++]), 0);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        enum verdict want = wanted(all, n, i, owner);
        if (all[i].last != want) fail_msg("seed %" PRIu64 ": replica %u of %u was told %d, not %d", seed, i, n, all[i].last, want);
        verdicts_free(all[i].verdicts);
    }
}

static void test_random(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) run(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_two), cmocka_unit_test(test_late_and_often), cmocka_unit_test(test_count), cmocka_unit_test(test_version),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
