/* What the log proves of an app that outlived its interceptor: by example, and against a model at random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/replay/proof.h"

enum { OURS = 9 }; /* our epoch */

static struct proof p;
static uint64_t next, epoch;

static void begin(uint64_t from, uint64_t to)
{
    proof_begin(&p, from, to, OURS);
    next = from;
}

static uint64_t event(enum crsc_kind kind, uint64_t ref, const void *payload, size_t size)
{
    struct crsc_event ev = {.kind = kind, .ref = ref, .payload = payload, .size = (uint32_t)size, .offset = next, .epoch = epoch};
    proof_event(&p, &ev);
    return next++;
}

static uint64_t request(void)
{
    return event(CRSC_REQUEST, 0, "x", 1);
}

static void completion(uint64_t ref)
{
    event(CRSC_COMPLETION, ref, "{}", 2);
}

static void mark(const char *app, uint64_t executed)
{
    struct buf text = BUF_INIT;
    assert_int_equal(proof_mark(&text, app, executed), 0);
    event(CRSC_MARK, 0, text.data, text.len);
    buf_fini(&text);
}

static void expect(enum proof_verdict verdict, uint64_t offset)
{
    assert_int_equal(p.verdict, PROOF_PENDING);
    proof_end(&p);
    assert_string_equal(proof_verdict_name(p.verdict), proof_verdict_name(verdict));
    assert_int_equal(p.offset, offset);
}

static void test_examples(void **state)
{
    (void)state;
    begin(1, 0);
    assert_int_equal(p.verdict, PROOF_NONE); /* an empty stream */

    begin(1, 2); /* no mark: whatever was served before, it is not named */
    completion(request());
    expect(PROOF_NONE, 0);

    begin(1, 3);
    request(); /* its completion never came, and the mark says that it was executed */
    mark("a \"quoted\" one", 1);
    request();
    expect(PROOF_UNCERTAIN, 3);
    assert_string_equal(p.identity, "a \"quoted\" one");
    assert_int_equal(p.outstanding, 1);

    begin(1, 4);
    mark("one", 0);
    uint64_t first = request();
    completion(first);
    mark("two", first); /* another app came */
    expect(PROOF_KNOWN, 4);
    assert_string_equal(p.identity, "two");

    begin(11, 14); /* older events were trimmed, and the mark says no more than they did */
    mark("one", 9);
    completion(request());
    completion(7);
    expect(PROOF_UNCERTAIN, 0);

    begin(11, 14); /* what is behind the mark is all there */
    mark("one", 10);
    completion(request());
    completion(7); /* of one that was trimmed */
    expect(PROOF_KNOWN, 14);

    struct buf release = BUF_INIT; /* only as the last word */
    assert_int_equal(proof_release(&release, 7), 0);
    begin(1, 2);
    mark("one", 0);
    event(CRSC_MARK, 0, release.data, release.len);
    assert_true(p.released);
    expect(PROOF_KNOWN, 2);
    begin(1, 3);
    mark("one", 0);
    event(CRSC_MARK, 0, release.data, release.len);
    request();
    assert_false(p.released);
    expect(PROOF_UNCERTAIN, 3);
    buf_fini(&release);

    begin(1, 2); /* a mark of the future is none of ours */
    mark("one", 3);
    completion(1);
    expect(PROOF_UNCERTAIN, 0);

    begin(1, 4); /* garbage says nothing; nor does a completion before its request undo it */
    completion(3);
    event(CRSC_MARK, 0, "{\"app\":7}", 9);
    event(CRSC_MARK, 5, "{\"app\":\"forged\",\"executed\":3}", 29); /* bytes of a client: a part of a body */
    request();
    expect(PROOF_NONE, 0);
}

static void rest(const char *app, uint64_t executed)
{
    struct buf text = BUF_INIT;
    assert_int_equal(proof_rest(&text, app, executed), 0);
    event(CRSC_MARK, 0, text.data, text.len);
    buf_fini(&text);
}

/* A clean end, in whose mark only the next interceptor may believe. */
static void test_rests(void **state)
{
    struct buf release = BUF_INIT;
    (void)state;
    assert_int_equal(proof_release(&release, OURS - 1), 0);
    epoch = OURS - 1;
    begin(1, 5); /* in the middle of a replay: requests that it has not, with and without an answer by the one before */
    mark("one", 0);
    completion(request());
    rest("two", 0);
    event(CRSC_MARK, 0, release.data, release.len);
    expect(PROOF_KNOWN, 0);
    assert_string_equal(p.identity, "two");
    assert_true(p.released);

    begin(1, 4);
    mark("one", 0);
    request();
    request();
    rest("one", 2);
    expect(PROOF_KNOWN, 2);

    begin(5001, 5001); /* far behind what is looked at, and all the same known: nobody gave it anything since */
    rest("one", 12);
    expect(PROOF_KNOWN, 12);

    begin(1, 2); /* of the future: none of ours */
    request();
    rest("one", 3);
    expect(PROOF_UNCERTAIN, 0);

    epoch = OURS - 2; /* somebody came between: he may have given it more and died, as the completions behind may be those of "zero" */
    begin(1, 6);
    mark("zero", 0);
    completion(request());
    rest("one", 0);
    epoch = OURS - 1;
    completion(2);
    event(CRSC_MARK, 0, release.data, release.len);
    expect(PROOF_UNCERTAIN, 0);
    assert_string_equal(p.identity, "one");

    epoch = OURS - 2; /* whoever came between served it, and says more */
    begin(1, 4);
    rest("one", 0);
    epoch = OURS - 1;
    mark("one", 0);
    completion(request());
    expect(PROOF_KNOWN, 4);
    assert_false(p.rests);

    epoch = OURS - 1; /* garbage */
    begin(1, 2);
    event(CRSC_MARK, 0, "{\"rests\":7,\"app\":\"x\",\"executed\":0}", 34);
    event(CRSC_MARK, 0, "{\"rests\":\"x\"}", 13);
    expect(PROOF_NONE, 0);
    buf_fini(&release);
    epoch = 0;
}

/* An interceptor that serves one app, several requests at a time, and dies anywhere: when the state is called known, the app has
 * executed all requests of the log, and it has none that is not answered. */
static void test_random(void **state)
{
    unsigned known = 0, uncertain = 0;
    (void)state;
    for (unsigned seed = 1; seed <= 3000; seed++) {
        uint64_t open[8], n_open = 0, executed, last = (uint64_t)(rand_r(&(unsigned){seed}) % 6000);
        unsigned rng = seed;
        bool finishing = seed % 2 == 0;
        begin(last > PROOF_LOOKBACK ? last - PROOF_LOOKBACK + 1 : 1, last);
        uint64_t from = next, highest = 0, marked = 0;
        next = 1;
        while (next <= last) {
            bool rest = finishing && next + 10 > last;
            unsigned what = (unsigned)rand_r(&rng) % 10;
            if (marked == 0 || next > marked + PROOF_MARK_EVERY / 4 * 3) {
                executed = highest;
                for (uint64_t i = 0; i < n_open; i++)
                    if (open[i] <= executed) executed = open[i] - 1;
                marked = next;
                mark("app", executed);
            } else if (n_open > 0 && (rest || n_open == 8 || what < 5)) {
                uint64_t i = (uint64_t)rand_r(&rng) % n_open;
                completion(open[i]);
                open[i] = open[--n_open];
            } else if (rest) {
                completion(1); /* a late one, of something long ago */
            } else {
                highest = open[n_open++] = request();
            }
        }
        if (last == 0) continue;
        proof_end(&p);
        assert_true(p.from == from && p.verdict != PROOF_NONE);
        assert_int_equal(p.verdict == PROOF_KNOWN, n_open == 0);
        if (p.verdict == PROOF_KNOWN) assert_int_equal(p.offset, last);
        known += p.verdict == PROOF_KNOWN;
        uncertain += p.verdict == PROOF_UNCERTAIN;
    }
    assert_true(known > 500 && uncertain > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples), cmocka_unit_test(test_rests), cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
