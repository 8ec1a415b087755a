/* Founding, with thousands of random histories: messages that are lost, doubled and late, servers that start anew with what was durable, and ones that
 * come back with another data directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "logd/server/roll.h"

enum { N = 5, STEPS = 400, HISTORIES = 3000 };

static uint64_t seed;

static unsigned draw(unsigned below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % below;
}

static struct server {
    uint64_t instance;
    struct roll roll;
    uint64_t noted[N];   /* durable: whom it has met, once it has met all */
    struct blob *founded; /* durable: the first entry */
} servers[N];
static unsigned n;
static uint64_t next_instance;
static const struct consensus_member members[N] = {{1, "a:1", 0}, {2, "b:1", 0}, {3, "c:1", 0}, {4, "d:1", 0}, {5, "e:1", 0}};

static void start(unsigned i)
{
    struct error e;
    roll_fini(&servers[i].roll);
    assert_int_equal(roll_init(&servers[i].roll, members, n, members[i].id, servers[i].instance, &e), 0);
    for (unsigned j = 0; j < n; j++)
        if (servers[i].noted[j] != 0) assert_true(roll_met(&servers[i].roll, members[j].id, servers[i].noted[j], &e) >= 0);
}

static void empty(unsigned i)
{
    servers[i].founded = blob_unref(servers[i].founded);
    memset(servers[i].noted, 0, sizeof servers[i].noted);
    servers[i].instance = ++next_instance;
    start(i);
}

/* As founding.c does it. */
static void found(struct server *s)
{
    if (s->founded == NULL && roll_agreed(&s->roll)) s->founded = blob_ref(s->roll.entry);
}

/* `to` hears who `from` is. */
static void hello(unsigned from, unsigned to)
{
    struct error e;
    struct server *s = &servers[to];
    if (s->founded != NULL || roll_met(&s->roll, members[from].id, servers[from].instance, &e) != 1) return;
    for (unsigned j = 0; j < n; j++) s->noted[j] = s->roll.places[j].instance;
}

/* One that has founded tells who asks with the same roll. */
static void tell(unsigned from, unsigned to)
{
    struct error e;
    const struct server *s = &servers[from];
    const struct blob *asks = servers[to].roll.entry, *entry = s->founded != NULL ? s->founded : s->roll.entry;
    if (entry == NULL || servers[to].founded != NULL) return; /* who has a log hears no roll */
    if (s->founded != NULL && (asks == NULL || !blob_equal(asks, entry->data, entry->len))) return;
    roll_told(&servers[to].roll, members[from].id, s->instance, entry->data, entry->len, s->founded != NULL, &e);
    found(&servers[to]);
}

static void step(unsigned wipes)
{
    unsigned a = draw(n), b = (a + 1 + draw(n - 1)) % n, what = draw(100);
    if (what < 45) {
        hello(a, b);
        if (draw(4) != 0) hello(b, a);
    } else if (what < 90) {
        tell(a, b);
    } else if (what < 90 + wipes) {
        empty(a);
    } else if (servers[a].founded == NULL) {
        start(a);
    }
    found(&servers[a]);
}

static void begin(uint64_t number)
{
    seed = number * 2654435761u + 1;
    n = 2 + draw(N - 1);
    next_instance = 0;
    for (unsigned i = 0; i < n; i++) empty(i);
}

static void end(void)
{
    for (unsigned i = 0; i < N; i++) {
        roll_fini(&servers[i].roll);
        blob_unref(servers[i].founded);
        servers[i] = (struct server){0};
    }
}

/* R3, for those that have a log: who was emptied since is none of them. And whoever has one would know an emptied one of it. */
static void check(uint64_t history)
{
    const struct blob *first = NULL;
    struct membership m;
    for (unsigned i = 0; i < n; i++) {
        const struct blob *is = servers[i].founded;
        if (is == NULL) continue;
        if (first != NULL && !blob_equal(is, first->data, first->len)) fail_msg("history %llu: two first entries", (unsigned long long)history);
        first = is;
        assert_int_equal(membership_decode(is->data, is->len, &m), 0);
        assert_int_equal(m.n, n);
        for (unsigned j = 0; j < m.n; j++) assert_true(m.servers[j].instance != 0 && m.servers[j].voter);
        assert_int_equal(membership_find(&m, members[i].id)->instance, servers[i].instance);
    }
}

/* Nobody is emptied: whatever is lost, in the end all have founded. */
static void test_founds(void **state)
{
    (void)state;
    for (uint64_t history = 0; history < HISTORIES; history++) {
        begin(history);
        for (unsigned i = 0; i < STEPS; i++) {
            step(0);
            check(history);
        }
        unsigned founded = 0;
        for (unsigned round = 0; round < 3; round++)
            for (unsigned a = 0; a < n; a++)
                for (unsigned b = 0; b < n; b++)
                    if (a != b) hello(a, b), hello(b, a), tell(a, b);
        for (unsigned i = 0; i < n; i++) founded += servers[i].founded != NULL;
        if (founded < n) fail_msg("history %llu: %u of %u have founded", (unsigned long long)history, founded, n);
        end();
    }
}

/* One server after the other may be emptied, also all of them: never two clusters that share a member who remembers. */
static void test_emptied(void **state)
{
    (void)state;
    unsigned founded = 0;
    for (uint64_t history = 0; history < HISTORIES; history++) {
        begin(history);
        for (unsigned i = 0; i < STEPS; i++) {
            step(2);
            struct membership m;
            const struct blob *is = NULL;
            /* Two that both have a log and have each other's instance in it have the same one; who was emptied is in neither. */
            for (unsigned a = 0; a < n; a++) {
                if ((is = servers[a].founded) == NULL) continue;
                assert_int_equal(membership_decode(is->data, is->len, &m), 0);
                assert_int_equal(membership_find(&m, members[a].id)->instance, servers[a].instance);
                for (unsigned b = 0; b < n; b++) {
                    const struct blob *other = servers[b].founded;
                    if (other == NULL || membership_find(&m, members[b].id)->instance != servers[b].instance) continue;
                    if (!blob_equal(other, is->data, is->len)) fail_msg("history %llu: two first entries", (unsigned long long)history);
                }
            }
        }
        for (unsigned i = 0; i < n; i++) founded += servers[i].founded != NULL;
        end();
    }
    assert_true(founded > HISTORIES / 10);
}

static void begin_three(void)
{
    begin(1);
    n = 3;
    for (unsigned i = 0; i < n; i++) empty(i);
}

/* One that is emptied before all have met is another one; afterwards the others remember, and say what to do. */
static void test_remembered(void **state)
{
    (void)state;
    struct error e;
    char text[256];
    begin_three();
    hello(1, 0);
    roll_missing(&servers[0].roll, sizeof text, text);
    assert_string_equal(text, "server 2 (has not said that it has met all), server 3 (not met yet)");
    empty(1);
    assert_int_equal(roll_met(&servers[0].roll, 2, servers[1].instance, &e), 0);
    roll_left(&servers[0].roll, 2); /* not there: it does not make the roll full */
    assert_int_equal(roll_met(&servers[0].roll, 3, servers[2].instance, &e), 0);
    roll_left(&servers[0].roll, 3);
    assert_int_equal(roll_met(&servers[0].roll, 2, servers[1].instance, &e), 0);
    assert_int_equal(roll_met(&servers[0].roll, 9, 77, &e), 0); /* none of the cluster's: the others may know of it */
    assert_int_equal(roll_met(&servers[0].roll, 3, servers[2].instance, &e), 1);
    roll_left(&servers[0].roll, 2);
    empty(1);
    assert_int_equal(roll_met(&servers[0].roll, 2, servers[1].instance, &e), -ERROR_CONFLICT);
    assert_non_null(strstr(e.text, "empty the data-dir of each"));
    assert_int_not_equal(servers[0].roll.places[1].instance, servers[1].instance);
    end();
}

/* Two have founded; the third was down meanwhile, and one of the two is lost for ever: the word of the other one is enough. */
static void test_word_of_a_founder(void **state)
{
    (void)state;
    begin_three();
    for (unsigned a = 0; a < n; a++)
        for (unsigned b = 0; b < n; b++)
            if (a != b) hello(a, b);
    for (unsigned a = 0; a < n; a++) servers[a].noted[a] = servers[a].instance;
    for (unsigned a = 0; a < n; a++)
        for (unsigned b = 1; b < n; b++)
            if (a != b) tell(a, b);
    assert_true(servers[0].founded == NULL && servers[1].founded != NULL && servers[2].founded != NULL);
    start(0);
    empty(2);
    hello(2, 0);
    tell(2, 0);
    assert_null(servers[0].founded);
    tell(1, 0);
    assert_non_null(servers[0].founded);
    end();
}

/* What a person can mend is said. */
static void test_other_cluster(void **state)
{
    (void)state;
    struct error e;
    struct blob *two;
    const struct consensus_member pair[] = {{1, "a:1", 5}, {2, "b:1", 6}};
    char long_roll[2000] = "";
    begin_three();
    assert_int_equal(consensus_first_entry(pair, 2, &two, &e), 0);
    hello(1, 0);
    hello(2, 0);
    assert_int_equal(roll_told(&servers[0].roll, 2, servers[1].instance, two->data, two->len, true, &e), -ERROR_CONFLICT);
    assert_non_null(strstr(e.text, "another initial-cluster"));
    assert_int_equal(roll_told(&servers[0].roll, 3, servers[2].instance, "garbage", 7, false, &e), -ERROR_CONFLICT);
    assert_int_equal(roll_told(&servers[0].roll, 3, servers[2].instance, long_roll, sizeof long_roll, false, &e), -ERROR_CONFLICT);
    assert_int_equal(roll_told(&servers[0].roll, 9, 77, two->data, two->len, false, &e), 0);
    assert_false(roll_agreed(&servers[0].roll));
    blob_unref(two);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_founds),
        cmocka_unit_test(test_emptied),
        cmocka_unit_test(test_remembered),
        cmocka_unit_test(test_word_of_a_founder),
        cmocka_unit_test(test_other_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
