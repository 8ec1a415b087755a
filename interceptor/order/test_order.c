/* The ordering core, example by example: what each state does with what comes, and who is refused why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "interceptor/order/order.h"

static struct order o;
static struct order_action last;

static int step(struct order_event ev)
{
    struct error e = {0};
    int rv = order_step(&o, &ev, &e);
    if (rv != 0) assert_true(e.text[0] != '\0');
    return rv;
}
#define STEP(...) step((struct order_event){__VA_ARGS__})

/* The next action is of this kind (and, if given, about this entry). */
static void expect(enum order_action_kind kind, const struct order_entry *entry)
{
    assert_true(order_next(&o, &last));
    assert_int_equal(last.kind, kind);
    if (entry != NULL) assert_ptr_equal(last.entry, entry);
}

static void expect_nothing(void)
{
    assert_false(order_next(&o, &last));
}

static void start(uint32_t hold)
{
    struct order_limits limits = {.hold_requests = hold, .hold_bytes = 1000, .reads = 2};
    order_init(&o, &limits);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 1, .offset = 0);
    expect_nothing();
}

static void attach(uint64_t offset)
{
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = offset), 0);
    expect(ORDER_DO_DROP, NULL);
    expect(ORDER_DO_CONNECT, NULL);
    STEP(.kind = ORDER_EV_CONNECTED);
}

static void arrive(struct order_entry *r)
{
    r->bytes = 10;
    STEP(.kind = ORDER_EV_ARRIVED, .entry = r);
}

static void arrive_logged(struct order_entry *r, uint64_t offset)
{
    arrive(r);
    expect(ORDER_DO_APPEND, r);
    STEP(.kind = ORDER_EV_LOGGED, .entry = r, .offset = offset);
}

static void test_serial(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0};
    start(10);
    attach(0);
    assert_int_equal(order_state(&o), ORDER_ACTIVE);
    arrive(&a);
    arrive(&b);
    expect(ORDER_DO_APPEND, &a);
    expect(ORDER_DO_APPEND, &b); /* the next append overlaps */
    expect_nothing();            /* nothing reaches the app before it is durable */
    STEP(.kind = ORDER_EV_LOGGED, .entry = &a, .offset = 1);
    STEP(.kind = ORDER_EV_LOGGED, .entry = &b, .offset = 2);
    expect(ORDER_DO_SEND, &a);
    expect_nothing(); /* one at a time */
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_SEND, &b);
    expect(ORDER_DO_FINISH, &a);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &b);
    expect(ORDER_DO_FINISH, &b);
    expect_nothing();
    assert_int_equal(o.executed, 2);
    assert_int_equal(o.n_held, 0);
}

/* Several in the app's connection, in order; one that comes later is behind them. */
static void test_following(void **state)
{
    (void)state;
    struct order_entry r[5] = {0}, copies[5] = {0};
    struct order_limits limits = {.hold_requests = 10, .hold_bytes = 1000, .reads = 2, .following = 3};
    order_init(&o, &limits);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 1, .offset = 0);
    attach(0);
    for (int i = 0; i < 5; i++) {
        arrive_logged(&r[i], (uint64_t)i + 1);
        if (i < 3) expect(ORDER_DO_SEND, &r[i]);
        expect_nothing();
    }
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[0]);
    assert_int_equal(o.executed, 1);
    expect(ORDER_DO_SEND, &r[3]);
    expect(ORDER_DO_FINISH, &r[0]);
    expect_nothing();
    STEP(.kind = ORDER_EV_LOST); /* with three: the next app, which has the first, gets them all again */
    expect(ORDER_DO_DROP, NULL);
    expect_nothing();
    assert_true(o.unsettled);
    attach(1);
    expect(ORDER_DO_READ, NULL);
    for (int i = 1; i < 5; i++) {
        STEP(.kind = ORDER_EV_READ, .entry = &copies[i], .offset = (uint64_t)i + 1);
        if (i < 4) expect(ORDER_DO_SEND, &r[i]);
        expect(ORDER_DO_FREE, &copies[i]);
    }
    expect(ORDER_DO_STOP, NULL);
    expect_nothing();
}

/* Appends wait for each other while the app has durable requests to go on with, and for nothing else. */
static void test_gathers(void **state)
{
    (void)state;
    struct order_entry r[7] = {0};
    start(10);
    attach(0);
    arrive_logged(&r[0], 1);
    expect(ORDER_DO_SEND, &r[0]);
    for (int i = 1; i <= 2; i++) {
        arrive(&r[i]);
        expect(ORDER_DO_APPEND, &r[i]); /* nothing durable waits for the app */
    }
    STEP(.kind = ORDER_EV_LOGGED, .entry = &r[1], .offset = 2);
    STEP(.kind = ORDER_EV_LOGGED, .entry = &r[2], .offset = 3);
    arrive(&r[3]);
    expect_nothing();
    arrive(&r[4]); /* as many as the app has left */
    expect(ORDER_DO_APPEND, &r[3]);
    expect(ORDER_DO_APPEND, &r[4]);
    arrive(&r[5]);
    expect_nothing();
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[0]);
    expect(ORDER_DO_SEND, &r[1]);
    expect(ORDER_DO_FINISH, &r[0]);
    expect_nothing(); /* an append is on its way, and one is durable */
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[1]);
    expect(ORDER_DO_SEND, &r[2]);
    expect(ORDER_DO_FINISH, &r[1]);
    expect(ORDER_DO_APPEND, &r[5]); /* the app would be without */
    STEP(.kind = ORDER_EV_LOGGED, .entry = &r[3], .offset = 4);
    STEP(.kind = ORDER_EV_LOGGED, .entry = &r[4], .offset = 5);
    arrive(&r[6]);
    expect_nothing();
    STEP(.kind = ORDER_EV_LOST); /* it will not go on by itself */
    expect(ORDER_DO_DROP, NULL);
    expect(ORDER_DO_APPEND, &r[6]);
    expect_nothing();
}

/* One that needs what is before it in the log is executed before a drain is done; what is behind it waits. */
static void test_drain_behind_anchored(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {.anchored = true}, c = {0};
    start(10);
    attach(0);
    arrive_logged(&a, 1);
    expect(ORDER_DO_SEND, &a);
    arrive_logged(&b, 5);
    arrive_logged(&c, 6);
    assert_int_equal(STEP(.kind = ORDER_EV_DRAIN), 0);
    expect_nothing();
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_SEND, &b);
    expect(ORDER_DO_FINISH, &a);
    expect_nothing();
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &b);
    expect(ORDER_DO_FINISH, &b);
    expect(ORDER_DO_CLOSE, NULL);
    STEP(.kind = ORDER_EV_CLOSED, .number = last.number);
    expect(ORDER_DO_DRAINED, NULL);
    assert_int_equal(last.offset, 5);
    expect_nothing();
    STEP(.kind = ORDER_EV_RESUME);
    expect(ORDER_DO_REOPEN, NULL);
    expect(ORDER_DO_SEND, &c);
}

static void test_waits_until_told(void **state)
{
    (void)state;
    struct order_entry a = {0}, get = {.read = true};
    start(10);
    arrive_logged(&a, 1);
    arrive(&get);
    expect_nothing(); /* it never guesses which state the app has */
    assert_int_equal(order_state(&o), ORDER_WAITING);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 2), -ERROR_INVALID);
    assert_int_equal(STEP(.kind = ORDER_EV_RELEASE), -ERROR_CONFLICT);
    assert_int_equal(STEP(.kind = ORDER_EV_DRAIN), -ERROR_CONFLICT);
    assert_int_equal(STEP(.kind = ORDER_EV_RESUME), -ERROR_CONFLICT);
}

/* The one that was with the app when it died is replayed in its place, and its client gets that answer. */
static void test_death_and_replay(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, get = {.read = true}, ra = {0}, rb = {0};
    start(10);
    attach(0);
    arrive_logged(&a, 1);
    expect(ORDER_DO_SEND, &a);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_FINISH, &a);
    STEP(.kind = ORDER_EV_LOGGED, .offset = 2); /* a's completion */
    arrive_logged(&b, 3);
    expect(ORDER_DO_SEND, &b);
    arrive(&get);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_LOST);
    expect(ORDER_DO_DROP, NULL);
    expect_nothing();
    assert_int_equal(order_state(&o), ORDER_WAITING);
    attach(0);
    expect(ORDER_DO_READ, NULL);
    assert_int_equal(last.offset, 1);
    assert_int_equal(last.to, 3);
    expect_nothing();
    assert_int_equal(STEP(.kind = ORDER_EV_READ, .offset = 2), -ERROR_PROTOCOL); /* a gap */
    assert_int_equal(STEP(.kind = ORDER_EV_READ, .entry = &ra, .offset = 1), 0);
    expect(ORDER_DO_SEND, &ra);
    assert_int_equal(order_state(&o), ORDER_REPLAYING);
    STEP(.kind = ORDER_EV_READ, .offset = 2);
    STEP(.kind = ORDER_EV_READ, .entry = &rb, .offset = 3);
    expect(ORDER_DO_FREE, &rb); /* b itself waits at its place */
    expect(ORDER_DO_STOP, NULL);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &ra);
    expect(ORDER_DO_SEND, &b);
    expect(ORDER_DO_FINISH, &ra);
    expect_nothing(); /* the read sees no state older than what was seen before */
    assert_int_equal(o.counters.replayed, 2);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &b);
    expect(ORDER_DO_FINISH, &b);
    assert_true(b.waiting && !b.from_log);
    expect(ORDER_DO_SEND, &get);
    assert_int_equal(order_state(&o), ORDER_ACTIVE);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &get);
    expect(ORDER_DO_FINISH, &get);
}

static void test_drain(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0};
    start(10);
    attach(0);
    arrive_logged(&a, 1);
    expect(ORDER_DO_SEND, &a);
    assert_int_equal(STEP(.kind = ORDER_EV_DRAIN), 0);
    arrive_logged(&b, 2); /* appended, and waits */
    expect_nothing();
    assert_int_equal(STEP(.kind = ORDER_EV_DRAIN), -ERROR_CONFLICT);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0), -ERROR_CONFLICT);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_FINISH, &a);
    expect(ORDER_DO_CLOSE, NULL);
    expect_nothing();
    STEP(.kind = ORDER_EV_CLOSED, .number = last.number + 7); /* another drain's */
    expect_nothing();
    STEP(.kind = ORDER_EV_CLOSED, .number = o.drain_number);
    expect(ORDER_DO_DRAINED, NULL);
    assert_int_equal(last.offset, 1);
    expect_nothing();
    assert_int_equal(order_state(&o), ORDER_DRAINING);
    assert_int_equal(STEP(.kind = ORDER_EV_RESUME), 0);
    expect(ORDER_DO_REOPEN, NULL);
    expect(ORDER_DO_SEND, &b);
}

static void test_broken_drains(void **state)
{
    (void)state;
    start(10);
    attach(0);
    STEP(.kind = ORDER_EV_DRAIN);
    expect(ORDER_DO_CLOSE, NULL);
    STEP(.kind = ORDER_EV_EXPIRED);
    expect(ORDER_DO_BROKEN, NULL);
    expect(ORDER_DO_REOPEN, NULL);
    STEP(.kind = ORDER_EV_CLOSED, .number = o.drain_number); /* too late */
    expect_nothing();
    assert_int_equal(STEP(.kind = ORDER_EV_RESUME), -ERROR_CONFLICT);
    assert_int_equal(order_state(&o), ORDER_ACTIVE);
    STEP(.kind = ORDER_EV_DRAIN);
    expect(ORDER_DO_CLOSE, NULL);
    STEP(.kind = ORDER_EV_LOST);
    expect(ORDER_DO_DROP, NULL);
    expect(ORDER_DO_BROKEN, NULL);
    assert_int_equal(order_state(&o), ORDER_WAITING);
}

static void test_hold_bound(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, c = {0}, big = {0};
    start(2);
    arrive_logged(&a, 1);
    big.bytes = 991;
    STEP(.kind = ORDER_EV_ARRIVED, .entry = &big);
    expect(ORDER_DO_REJECT, &big);
    arrive_logged(&b, 2);
    arrive(&c);
    expect(ORDER_DO_REJECT, &c);
    assert_int_equal(o.counters.rejected, 2);
}

/* The log is lost while two appends are under way; one of them is in it. */
static void test_unknown_appends(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, c = {0}, ra = {0};
    start(10);
    attach(0);
    arrive(&a);
    arrive(&b);
    expect(ORDER_DO_APPEND, &a);
    expect(ORDER_DO_APPEND, &b);
    STEP(.kind = ORDER_EV_UNKNOWN, .entry = &a, .epoch = 1, .sequence = 1);
    STEP(.kind = ORDER_EV_UNKNOWN, .entry = &b, .epoch = 1, .sequence = 2);
    STEP(.kind = ORDER_EV_LOG_LOST);
    arrive(&c);
    expect_nothing();
    assert_int_equal(order_state(&o), ORDER_WAITING);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 2, .offset = 1);
    expect(ORDER_DO_READ, NULL);
    assert_int_equal(last.offset, 1);
    expect_nothing(); /* c must not overtake b */
    STEP(.kind = ORDER_EV_READ, .entry = &ra, .offset = 1, .epoch = 1, .sequence = 1);
    expect(ORDER_DO_SEND, &a);
    expect(ORDER_DO_FREE, &ra);
    expect(ORDER_DO_STOP, NULL);
    expect(ORDER_DO_APPEND, &b);
    expect(ORDER_DO_APPEND, &c);
}

static void test_fenced(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, get = {.read = true}, late = {0};
    start(10);
    arrive_logged(&a, 1);
    arrive(&get);
    STEP(.kind = ORDER_EV_GONE, .entry = &a);
    arrive_logged(&b, 2);
    STEP(.kind = ORDER_EV_FENCED);
    expect(ORDER_DO_FREE, &a);
    expect(ORDER_DO_ABANDON, &b);
    expect(ORDER_DO_REJECT, &get);
    expect_nothing();
    arrive(&late);
    expect(ORDER_DO_REJECT, &late);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 2), -ERROR_CONFLICT);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 9, .offset = 2); /* for good */
    assert_int_equal(order_state(&o), ORDER_WAITING);
}

static void test_same_process_again(void **state)
{
    (void)state;
    struct order_entry a = {0};
    start(10);
    attach(0);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0, .same = true), 0); /* nothing new */
    expect_nothing();
    arrive_logged(&a, 1);
    expect(ORDER_DO_SEND, &a);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 1, .same = true), -ERROR_CONFLICT);
    STEP(.kind = ORDER_EV_SUSPECT);
    expect(ORDER_DO_DROP, NULL);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0, .same = true),
                     -ERROR_CONFLICT); /* it may have executed a */
    STEP(.kind = ORDER_EV_LOST);
    expect(ORDER_DO_DROP, NULL);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0, .same = true), -ERROR_CONFLICT);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0), 0);
}

static void test_hold_and_release(void **state)
{
    (void)state;
    struct order_entry a = {0}, get = {.read = true};
    start(10);
    attach(0);
    STEP(.kind = ORDER_EV_HOLD);
    arrive_logged(&a, 1);
    arrive(&get);
    expect_nothing();
    assert_int_equal(order_state(&o), ORDER_WAITING);
    assert_int_equal(STEP(.kind = ORDER_EV_RELEASE), 0);
    expect(ORDER_DO_SEND, &a);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_READ_DROPPED, .entry = &get);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_READ_DROPPED, .entry = &get);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_READ_DROPPED, .entry = &get);
    expect(ORDER_DO_FAIL, &get); /* not for ever */
}

/* Attached before the log is open: read as soon as it is; an offset that the log does not have is found out then. */
static void test_attached_first(void **state)
{
    (void)state;
    struct order_limits limits = {.hold_requests = 10, .hold_bytes = 1000, .reads = 2};
    order_init(&o, &limits);
    attach(5);
    assert_int_equal(order_state(&o), ORDER_WAITING);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 3, .offset = 7);
    expect(ORDER_DO_READ, NULL);
    assert_int_equal(last.offset, 6);
    assert_int_equal(last.to, 7);
    assert_int_equal(order_state(&o), ORDER_REPLAYING);
    STEP(.kind = ORDER_EV_READ_FAILED);
    assert_int_equal(o.app, ORDER_APP_SUSPECT);
    order_init(&o, &limits);
    attach(8);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 3, .offset = 7);
    assert_int_equal(o.app, ORDER_APP_SUSPECT);
}

static void start_mode(struct order_limits limits)
{
    limits.hold_requests = 10;
    limits.hold_bytes = 1000;
    limits.reads = 2;
    order_init(&o, &limits);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 1, .offset = 0);
    attach(0);
}

static void test_keyed(void **state)
{
    (void)state;
    struct order_entry a1 = {.key = 1}, b1 = {.key = 2}, a2 = {.key = 1}, c1 = {.key = 3}, all = {0};
    start_mode((struct order_limits){.mode = ORDER_KEYED, .executing = 2});
    arrive_logged(&a1, 1);
    expect(ORDER_DO_SEND, &a1);
    arrive_logged(&a2, 2);
    arrive_logged(&b1, 3);
    expect(ORDER_DO_SEND, &b1); /* past a2, which waits for a1 */
    arrive_logged(&c1, 4);
    expect_nothing(); /* two at a time */
    arrive_logged(&all, 5);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &b1);
    assert_int_equal(o.executed, 0); /* the app has 3 and not 1: its state is that of no prefix */
    assert_int_equal(STEP(.kind = ORDER_EV_DRAIN), 0);
    expect(ORDER_DO_FINISH, &b1);
    expect_nothing(); /* c1 is behind all that was sent */
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a1);
    expect(ORDER_DO_SEND, &a2); /* it was overtaken: the state must become that of 1..3 */
    expect(ORDER_DO_FINISH, &a1);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a2);
    expect(ORDER_DO_FINISH, &a2);
    expect(ORDER_DO_CLOSE, NULL);
    STEP(.kind = ORDER_EV_CLOSED, .number = o.drain_number);
    expect(ORDER_DO_DRAINED, NULL);
    assert_int_equal(last.offset, 3);
    assert_int_equal(STEP(.kind = ORDER_EV_RESUME), 0);
    expect(ORDER_DO_REOPEN, NULL);
    expect(ORDER_DO_SEND, &c1);
    expect_nothing(); /* without a key: alone */
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &c1);
    expect(ORDER_DO_SEND, &all);
    expect(ORDER_DO_FINISH, &c1);
}

/* In the replay a request waits for what could be seen when it arrived, and for nothing else. */
static void test_concurrent_replay(void **state)
{
    (void)state;
    struct order_entry r[5] = {0};
    start_mode((struct order_limits){.mode = ORDER_CONCURRENT, .executing = 4});
    STEP(.kind = ORDER_EV_LOGGED, .offset = 5);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0), 0);
    expect(ORDER_DO_DROP, NULL);
    expect(ORDER_DO_CONNECT, NULL);
    STEP(.kind = ORDER_EV_CONNECTED);
    expect(ORDER_DO_READ, NULL);
    const uint64_t after[] = {0, 0, 1, 3, 3};
    for (uint64_t k = 0; k < 5; k++)
        STEP(.kind = ORDER_EV_READ, .entry = &r[k], .offset = k + 1, .after = after[k], .ordered = k == 4);
    expect(ORDER_DO_STOP, NULL);
    expect(ORDER_DO_SEND, &r[0]);
    expect(ORDER_DO_SEND, &r[1]);
    expect_nothing();
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[1]);
    expect(ORDER_DO_FINISH, &r[1]);
    expect_nothing();
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[0]);
    expect(ORDER_DO_SEND, &r[2]);
    expect(ORDER_DO_FINISH, &r[0]);
    expect_nothing();
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[2]);
    expect(ORDER_DO_SEND, &r[3]);
    expect(ORDER_DO_FINISH, &r[2]);
    expect_nothing(); /* the last one was logged in serial order */
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &r[3]);
    expect(ORDER_DO_SEND, &r[4]);
    expect(ORDER_DO_FINISH, &r[3]);
}

/* What arrives behind an answer says so in the log, and behind a read's answer too. */
static void test_after(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, c = {0}, d = {0}, get = {.read = true};
    start_mode((struct order_limits){.mode = ORDER_CONCURRENT, .executing = 4});
    arrive_logged(&a, 1);
    expect(ORDER_DO_SEND, &a);
    arrive_logged(&b, 2);
    assert_int_equal(b.after, 0);
    expect(ORDER_DO_SEND, &b);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_FINISH, &a);
    arrive_logged(&c, 3);
    assert_int_equal(c.after, 1);
    expect(ORDER_DO_SEND, &c);
    arrive(&get);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &get); /* it may have shown what b and c did */
    expect(ORDER_DO_FINISH, &get);
    arrive_logged(&d, 4);
    assert_int_equal(d.after, 3);
    assert_false(d.ordered);
}

static void test_optimistic(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, get = {.read = true};
    start_mode((struct order_limits){.optimistic = true});
    arrive(&a);
    expect(ORDER_DO_APPEND, &a);
    expect(ORDER_DO_SEND, &a);
    arrive(&b);
    expect(ORDER_DO_APPEND, &b);
    expect_nothing(); /* still one at a time */
    assert_true(order_must_keep(&o, &a));
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_SEND, &b); /* and a's answer is kept */
    arrive(&get);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &get);
    expect_nothing(); /* it may show b */
    STEP(.kind = ORDER_EV_LOGGED, .entry = &a, .offset = 1);
    expect(ORDER_DO_FINISH, &a);
    expect_nothing();
    STEP(.kind = ORDER_EV_LOGGED, .entry = &b, .offset = 2);
    expect(ORDER_DO_FINISH, &get);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &b);
    expect(ORDER_DO_FINISH, &b);
    assert_int_equal(o.executed, 2);
}

/* The app is ahead of a log that was lost: nothing it said counts, and both requests are executed by the next one. */
static void test_tainted(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, get = {.read = true};
    start_mode((struct order_limits){.optimistic = true});
    arrive(&a);
    expect(ORDER_DO_APPEND, &a);
    expect(ORDER_DO_SEND, &a);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    arrive(&b);
    expect(ORDER_DO_APPEND, &b);
    expect(ORDER_DO_SEND, &b);
    arrive(&get);
    expect(ORDER_DO_SEND, &get);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &get);
    STEP(.kind = ORDER_EV_UNKNOWN, .entry = &a, .epoch = 1, .sequence = 1);
    STEP(.kind = ORDER_EV_UNKNOWN, .entry = &b, .epoch = 1, .sequence = 0);
    STEP(.kind = ORDER_EV_LOG_LOST);
    expect(ORDER_DO_DROP, NULL);
    expect_nothing();
    assert_int_equal(o.app, ORDER_APP_SUSPECT);
    assert_int_equal(STEP(.kind = ORDER_EV_ATTACH, .offset = 0, .same = true), -ERROR_CONFLICT);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 2, .offset = 0);
    attach(0);
    expect(ORDER_DO_APPEND, &a);
    expect(ORDER_DO_APPEND, &b);
    expect(ORDER_DO_SEND, &a);
    expect(ORDER_DO_SEND, &get);
}

/* A clean end in the middle of a replay: what the app has is waited for, nothing follows it, and its state is known. */
static void test_stop(void **state)
{
    (void)state;
    struct order_entry a = {0}, b = {0}, c = {0};
    uint64_t offset = 7;
    start(10);
    STEP(.kind = ORDER_EV_LOG_OPENED, .epoch = 2, .offset = 3);
    attach(0);
    expect(ORDER_DO_READ, NULL);
    STEP(.kind = ORDER_EV_READ, .entry = &a, .offset = 1);
    STEP(.kind = ORDER_EV_READ, .entry = &b, .offset = 2);
    STEP(.kind = ORDER_EV_READ, .offset = 3);
    expect(ORDER_DO_STOP, NULL);
    expect(ORDER_DO_SEND, &a);
    arrive(&c);
    expect(ORDER_DO_APPEND, &c); /* logged, and executed by whoever comes next */
    STEP(.kind = ORDER_EV_LOGGED, .entry = &c, .offset = 4);
    assert_false(order_rests(&o, &offset)); /* not told to */
    STEP(.kind = ORDER_EV_STOP);
    assert_string_equal(order_reason(&o), "stopping");
    assert_false(order_rests(&o, &offset)); /* it has one */
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_FINISH, &a);
    expect_nothing();
    assert_int_equal(STEP(.kind = ORDER_EV_RELEASE), 0); /* of a person's hold: changes nothing */
    expect_nothing();
    assert_true(order_rests(&o, &offset));
    assert_int_equal(offset, 1);
    STEP(.kind = ORDER_EV_SUSPECT);
    assert_false(order_rests(&o, &offset));

    start(10); /* one overtook another that the app does not have: that is the state of no offset */
    o.limits.mode = ORDER_CONCURRENT;
    o.limits.executing = 2;
    attach(0);
    arrive_logged(&a, 1);
    arrive_logged(&b, 2);
    expect(ORDER_DO_SEND, &a);
    expect(ORDER_DO_SEND, &b);
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &b);
    expect(ORDER_DO_FINISH, &b);
    STEP(.kind = ORDER_EV_STOP);
    assert_false(order_rests(&o, &offset));
    STEP(.kind = ORDER_EV_ANSWERED, .entry = &a);
    expect(ORDER_DO_FINISH, &a);
    assert_true(order_rests(&o, &offset));
    assert_int_equal(offset, 2);

    start(10); /* a drain ends with it */
    attach(0);
    assert_int_equal(STEP(.kind = ORDER_EV_DRAIN), 0);
    STEP(.kind = ORDER_EV_STOP);
    expect(ORDER_DO_BROKEN, NULL);
    expect(ORDER_DO_REOPEN, NULL);
    expect_nothing();
    assert_int_equal(order_state(&o), ORDER_WAITING);
    assert_true(order_rests(&o, &offset));
    assert_int_equal(offset, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_serial), cmocka_unit_test(test_gathers), cmocka_unit_test(test_following),
        cmocka_unit_test(test_drain_behind_anchored),
        cmocka_unit_test(test_waits_until_told),
        cmocka_unit_test(test_death_and_replay),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_broken_drains),
        cmocka_unit_test(test_hold_bound),
        cmocka_unit_test(test_unknown_appends),
        cmocka_unit_test(test_fenced),
        cmocka_unit_test(test_same_process_again),
        cmocka_unit_test(test_hold_and_release),
        cmocka_unit_test(test_attached_first),
        cmocka_unit_test(test_keyed),
        cmocka_unit_test(test_concurrent_replay),
        cmocka_unit_test(test_after),
        cmocka_unit_test(test_optimistic),
        cmocka_unit_test(test_tainted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
