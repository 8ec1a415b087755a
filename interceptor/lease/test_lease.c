/* Leases: by example, and two interceptors that take a stream from each other at random, with clocks that run apart by a tenth: never do both
 * answer, and whoever has it does answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "interceptor/lease/lease.h"

static void test_examples(void **state)
{
    struct lease l;
    (void)state;
    lease_init(&l, 0);
    assert_true(lease_live(&l, 0)); /* there are none */
    lease_end(&l);
    assert_false(lease_live(&l, 0));

    lease_init(&l, 1000);
    assert_false(lease_live(&l, 5000));
    lease_opened(&l, 1, 5000);
    assert_false(lease_live(&l, 5000));
    lease_renewed(&l, 5000); /* nobody was before us */
    assert_true(lease_live(&l, 5001) && lease_live(&l, 5999) && !lease_live(&l, 6000));
    assert_int_equal(lease_change(&l, 5001), 6000);
    assert_int_equal(lease_change(&l, 6000), UINT64_MAX);
    lease_renewed(&l, 4000); /* an old answer takes nothing away */
    assert_int_equal(l.until_us, 6000);
    lease_opened(&l, 2, 5500); /* ours again */
    assert_true(lease_live(&l, 5500));
    lease_opened(&l, 4, 5600); /* somebody was there */
    lease_renewed(&l, 6000);
    assert_false(lease_live(&l, 6699));
    assert_int_equal(lease_change(&l, 6000), 6700);
    assert_true(lease_live(&l, 6700));

    lease_init(&l, 1000);
    lease_opened(&l, 9, 0);
    lease_renewed(&l, 10);
    assert_false(lease_live(&l, 20));
    lease_free_before(&l);
    assert_true(lease_live(&l, 20));
}

struct party {
    struct lease lease;
    uint64_t asked, answer_at; /* 0: no question is on its way */
    uint64_t opens_at;
    uint64_t rate;  /* its clock: real time * rate / 1000 */
    bool yes, fenced, frozen;
};

static uint64_t clock_of(const struct party *p, uint64_t now)
{
    return now * p->rate / 1000;
}

static void test_random(void **state)
{
    uint64_t served = 0, takeovers = 0;
    (void)state;
    for (unsigned seed = 1; seed <= 400; seed++) {
        unsigned rng = seed;
        struct party parties[2];
        uint64_t epoch = 0;
        int owner = -1;
        for (int i = 0; i < 2; i++) {
            parties[i] = (struct party){.rate = 1000 + (uint64_t)rand_r(&rng) % 100, .opens_at = 1 + (uint64_t)rand_r(&rng) % 3000};
            lease_init(&parties[i].lease, 100);
        }
        for (uint64_t now = 1; now < 20000; now++) {
            for (int i = 0; i < 2; i++) {
                struct party *p = &parties[i];
                if (rand_r(&rng) % 500 == 0) p->frozen = !p->frozen;
                if (p->opens_at == now) { /* a new process; its answer comes at once or later, but it counts from then */
                    lease_init(&p->lease, 100);
                    lease_opened(&p->lease, ++epoch, clock_of(p, now));
                    p->fenced = p->frozen = false;
                    p->asked = 0;
                    owner = i;
                    takeovers++;
                    p->opens_at = now + 500 + (uint64_t)rand_r(&rng) % 5000;
                }
                if (p->lease.epoch == 0 || p->fenced) continue;
                if (!p->frozen && p->asked == 0 && rand_r(&rng) % 20 == 0) {
                    p->asked = clock_of(p, now);
                    p->yes = owner == i; /* decided at any moment between question and answer: here, the earliest */
                    p->answer_at = now + (uint64_t)rand_r(&rng) % 60;
                }
                if (!p->frozen && p->asked != 0 && now >= p->answer_at) {
                    if (p->yes) lease_renewed(&p->lease, p->asked);
                    p->fenced = !p->yes;
                    if (p->fenced) lease_end(&p->lease);
                    p->asked = 0;
                }
            }
            bool a = lease_live(&parties[0].lease, clock_of(&parties[0], now)), b = lease_live(&parties[1].lease, clock_of(&parties[1], now));
            if (a && b) fail_msg("seed %u: both answer at %llu", seed, (unsigned long long)now);
            served += a || b;
        }
    }
    assert_true(served > 1000000 && takeovers > 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples), cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
