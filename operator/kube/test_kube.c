/* The decisions of watch, lease and queue, by the thousand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"
#include "operator/kube/lease.h"
#include "operator/kube/object.h"
#include "operator/kube/queue.h"
#include "operator/kube/watch_core.h"

static uint64_t next_random(uint64_t *s)
{
    uint64_t z = (*s += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- watch ---------------------------------------------------------------------------------------------------- */

static enum watch_do step(struct watch_core *w, struct watch_event e)
{
    return watch_step(w, &e);
}

static void test_watch_course(void **state)
{
    struct watch_core w;
    (void)state;
    watch_core_init(&w);
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_START}), WATCH_DO_LIST);
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_PAGE, .version = "7", .next = "more"}), WATCH_DO_LIST);
    assert_string_equal(w.next, "more");
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_PAGE, .version = "7", .next = ""}), WATCH_DO_WATCH);
    assert_string_equal(w.version, "7");
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_SEEN, .version = "9"}), WATCH_DO_NOTHING);
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_ENDED}), WATCH_DO_WATCH); /* lively: at once, from 9 */
    assert_string_equal(w.version, "9");
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_ENDED}), WATCH_DO_PAUSE); /* it brought nothing */
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_TIMER}), WATCH_DO_WATCH);
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_FAILED, .gone = true}), WATCH_DO_LIST);
    assert_string_equal(w.next, "");
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_FAILED, .gone = true}), WATCH_DO_PAUSE); /* not in a circle without a pause */
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_TIMER}), WATCH_DO_LIST);
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_FAILED, .retry_ms = 7000}), WATCH_DO_PAUSE);
    assert_true(w.pause_ms >= 7000);
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_TIMER}), WATCH_DO_LIST);
    char *huge = malloc(WATCH_CONTINUE_MAX + 2);
    memset(huge, 'x', WATCH_CONTINUE_MAX + 1);
    huge[WATCH_CONTINUE_MAX + 1] = '\0';
    assert_int_equal(step(&w, (struct watch_event){.type = WATCH_PAGE, .version = "1", .next = huge}), WATCH_DO_PAUSE); /* never a cut one */
    assert_true(w.relist);
    free(huge);
}

/* Whatever comes: no watch without a version, pauses within their bounds. */
static void test_watch_random(void **state)
{
    static const char *const versions[] = {NULL, "", "5", "12345678901234567890123456789012345678901234567890123456789012345678901234567890"};
    uint64_t random = 42, watches = 0, pauses = 0;
    struct watch_core w;
    (void)state;
    watch_core_init(&w);
    step(&w, (struct watch_event){.type = WATCH_START});
    for (int i = 0; i < 200000; i++) {
        struct watch_event e = {.type = (enum watch_event_type)(next_random(&random) % 6), .version = versions[next_random(&random) % 4],
                                .next = next_random(&random) % 4 == 0 ? "n" : "", .gone = next_random(&random) % 3 == 0, .random = next_random(&random)};
        enum watch_state before = w.state;
        enum watch_do what = step(&w, e);
        if (what == WATCH_DO_WATCH) {
            assert_true(w.version[0] != '\0');
            watches++;
        }
        if (what == WATCH_DO_PAUSE) {
            assert_true(w.pause_ms >= WATCH_PAUSE_MIN_MS / 2 && w.pause_ms <= WATCH_PAUSE_MAX_MS);
            pauses++;
        }
        if (what == WATCH_DO_NOTHING && e.type != WATCH_SEEN) assert_int_equal(w.state, before);
        assert_int_not_equal(w.state, WATCH_IDLE);
    }
    assert_true(watches > 1000 && pauses > 1000);
}

/* ---- lease ---------------------------------------------------------------------------------------------------- */

/* Three candidates with clocks of their own and an object with versions: never two that lead. */
static void test_lease_random(void **state)
{
    uint64_t terms = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t random = seed, now = 1000000, version = 1, skew[3] = {0, 77777, 5000000};
        struct lease l[3];
        struct lease_view object = {.exists = false};
        int last = -1;
        for (int i = 0; i < 3; i++) {
            char name[8];
            snprintf(name, sizeof name, "op-%d", i);
            lease_init(&l[i], name);
        }
        for (int k = 0; k < 600; k++) {
            now += next_random(&random) % 3000;
            int i = (int)(next_random(&random) % 3), leaders = 0;
            uint64_t mine = now + skew[i];
            snprintf(object.version, sizeof object.version, "%llu", (unsigned long long)version);
            struct lease_view view = object;
            enum lease_do what = next_random(&random) % 4 == 0 ? LEASE_WAIT : lease_seen(&l[i], &view, mine); /* a quarter: it was not reached */
            if (what != LEASE_WAIT) {
                uint64_t stale = next_random(&random) % 5 == 0; /* somebody wrote in between: 409 */
                bool lost = next_random(&random) % 7 == 0;      /* it was written, and the answer was lost */
                if (stale) {
                    lease_written(&l[i], false, NULL, mine);
                } else {
                    object.exists = true;
                    object.duration_ms = LEASE_DURATION_MS;
                    snprintf(object.holder, sizeof object.holder, "op-%d", i);
                    snprintf(object.version, sizeof object.version, "%llu", (unsigned long long)++version);
                    lease_written(&l[i], !lost, object.version, mine);
                }
            }
            for (int m = 0; m < 3; m++) {
                if (!lease_leads(&l[m], now + skew[m])) continue;
                leaders++;
                terms += m != last;
                last = m;
            }
            if (leaders > 1) fail_msg("seed %llu: two lead", (unsigned long long)seed);
        }
    }
    assert_true(terms > 300);
}

static void test_lease_released(void **state)
{
    struct lease l;
    struct lease_view v = {.exists = true, .holder = "other", .version = "1", .duration_ms = 15000};
    (void)state;
    lease_init(&l, "me");
    assert_int_equal(lease_seen(&l, &v, 1000), LEASE_WAIT);
    assert_int_equal(lease_seen(&l, &v, 1000 + LEASE_DURATION_MS - 1), LEASE_WAIT);
    assert_int_equal(lease_seen(&l, &v, 1000 + LEASE_DURATION_MS), LEASE_TAKE);
    v.holder[0] = '\0';
    strcpy(v.version, "2");
    assert_int_equal(lease_seen(&l, &v, 20000), LEASE_TAKE);
    lease_written(&l, true, "3", 20000);
    assert_true(lease_leads(&l, 20000 + LEASE_RENEW_MS - 1));
    assert_false(lease_leads(&l, 20000 + LEASE_RENEW_MS));
    assert_false(lease_leads(&l, 20000)); /* it does not come back by itself */
}

/* ---- queue ---------------------------------------------------------------------------------------------------- */

static void test_queue(void **state)
{
    struct queue *q = queue_new();
    const char *key;
    (void)state;
    assert_int_equal(queue_next(q), UINT64_MAX);
    queue_add(q, "a", 10);
    queue_add(q, "b", 5);
    queue_add(q, "a", 20); /* the sooner one stays */
    assert_true(!queue_hasten(q, "c", 1) && queue_hasten(q, "a", 20));
    assert_int_equal(queue_waiting(q), 2);
    assert_string_equal(key = queue_take(q, 10), "b");
    assert_string_equal(queue_take(q, 10), "a");
    assert_null(queue_take(q, 10));
    queue_add(q, "a", 11); /* it changed while it is worked on: not given twice */
    assert_null(queue_take(q, 100));
    queue_done(q, "a", true, 12, 0);
    assert_string_equal(queue_take(q, 12), "a");
    queue_done(q, "a", true, 12, 0);
    uint64_t last = 0;
    for (int i = 0; i < 20; i++) { /* failures: pauses double up to the bound */
        queue_done(q, "b", false, 1000, 0);
        uint64_t pause = queue_next(q) - 1000;
        assert_true(pause >= last && pause <= QUEUE_PAUSE_MAX_MS);
        last = pause;
        assert_string_equal(queue_take(q, 1000 + pause), "b");
    }
    assert_true(last >= QUEUE_PAUSE_MAX_MS / 2);
    queue_done(q, "b", true, 1000, 0);
    queue_add(q, "b", 1000);
    queue_take(q, 1000);
    queue_done(q, "b", false, 1000, 0);
    assert_true(queue_next(q) <= 1000 + QUEUE_PAUSE_MIN_MS); /* a success forgets the failures */
    assert_null(queue_free(q));
}

/* ---- objects -------------------------------------------------------------------------------------------------- */

static void test_time(void **state)
{
    char text[OBJECT_TIME_MAX];
    (void)state;
    assert_int_equal(object_time_ms("1970-01-01T00:00:01Z"), 1000);
    assert_int_equal(object_time_ms("2026-11-26T22:36:50.250Z"), object_time_ms("2026-11-26T22:36:50Z") + 250);
    assert_int_equal(object_time_ms("yesterday"), 0);
    assert_int_equal(object_time_ms("2026-11-26T22:36:50"), 0);
    object_time_text(1000, text);
    assert_string_equal(text, "1970-01-01T00:00:01Z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_watch_course), cmocka_unit_test(test_watch_random), cmocka_unit_test(test_lease_random),
                                       cmocka_unit_test(test_lease_released), cmocka_unit_test(test_queue), cmocka_unit_test(test_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
