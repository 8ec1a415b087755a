/* What waits for company on its way into the log, and what does not: log.c itself, over a libcrsc that this file plays (the loop's clock is the real
 * one: nothing here depends on how fast it goes). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "interceptor/log.h"

/* ---- libcrsc, played -------------------------------------------------------------------------------------------- */

enum { SENT_MAX = 4096 };

struct crsc_producer {
    int unused;
};

static struct sent {
    enum crsc_kind kind;
    uint64_t ref;
    crsc_appended_cb *done;
    void *user;
} sent[SENT_MAX];

static struct crsc_producer producer;
static unsigned n_sent, n_acked, window; /* appends handed over; answered; how many may be on their way */
static crsc_opened_cb *opened_cb;
static void (*broken_cb)(void *user, const struct error *e);
static void *producer_user;
static bool opening;

int crsc_producer_open(struct crsc_client *client, const char *stream, const char *name, bool shared, crsc_opened_cb *opened,
                       void (*on_broken)(void *user, const struct error *e), void *user, struct crsc_producer **ret_producer, struct error *e)
{
    (void)client, (void)stream, (void)name, (void)shared, (void)e;
    opened_cb = opened;
    broken_cb = on_broken;
    producer_user = user;
    opening = true;
    *ret_producer = &producer;
    return 0;
}

void crsc_producer_close(struct crsc_producer *p)
{
    assert_ptr_equal(p, &producer);
}

int crsc_append(struct crsc_producer *p, const struct crsc_event *ev, crsc_appended_cb *done, void *user)
{
    assert_ptr_equal(p, &producer);
    if (n_sent - n_acked >= window) return -ERROR_BUSY;
    assert_true(n_sent < SENT_MAX);
    sent[n_sent++] = (struct sent){ev->kind, ev->ref, done, user};
    return 0;
}

int crsc_list_streams(struct crsc_client *client, const char *prefix, crsc_streams_cb *done, void *user)
{
    (void)client, (void)prefix, (void)done, (void)user;
    return -ERROR_UNAVAILABLE; /* it is tried again, for as long as the test lasts */
}

static void acknowledge(void)
{
    assert_true(n_acked < n_sent);
    struct sent *s = &sent[n_acked++];
    s->done(s->user, NULL, n_acked);
}

/* ---- the owner -------------------------------------------------------------------------------------------------- */

static uv_loop_t loop;
static struct log *log_;
static unsigned told, unknown, lost, fenced;
static uint64_t unknown_sequences[4];
static void *contexts[SENT_MAX];

static void on_opened(void *user, uint64_t epoch, uint64_t last)
{
    (void)user, (void)epoch, (void)last;
}

static void on_appended(void *user, void *context, uint64_t offset, uint64_t sent_us)
{
    (void)user, (void)sent_us;
    assert_int_equal(offset, told + 1);
    contexts[told++] = context;
}

static void on_unknown(void *user, void *context, uint64_t epoch, uint64_t sequence)
{
    (void)user;
    assert_non_null(context); /* of completions nobody hears */
    assert_int_equal(epoch, 1);
    assert_true(unknown < 4);
    unknown_sequences[unknown++] = sequence;
}

static void on_part(void *user, void *context, uint64_t offset)
{
    (void)user, (void)context, (void)offset;
    fail();
}

static void on_part_lost(void *user, void *context)
{
    (void)user, (void)context;
    fail();
}

static void on_lost(void *user, const struct error *why)
{
    (void)user, (void)why;
    lost++;
}

static void on_fenced(void *user, const struct error *why)
{
    (void)user;
    assert_int_equal(why->code, ERROR_FENCED);
    fenced++;
}

static int begin(void **state)
{
    static const struct log_handlers handlers = {.on_opened = on_opened, .on_appended = on_appended, .on_unknown = on_unknown, .on_part = on_part,
                                                 .on_part_lost = on_part_lost, .on_lost = on_lost, .on_fenced = on_fenced};
    (void)state;
    n_sent = n_acked = told = unknown = lost = fenced = 0;
    opening = false;
    window = SENT_MAX;
    uv_loop_init(&loop);
    log_ = log_new(&loop, NULL, "a/b/c/d", "x", false, &handlers, NULL);
    assert_non_null(log_);
    while (!opening) uv_run(&loop, UV_RUN_ONCE);
    opened_cb(producer_user, NULL, 1, 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    log_free(log_, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static void add_request(void *context)
{
    struct blob *b = blob_new(1);
    assert_non_null(b);
    b->data[0] = 'x';
    assert_int_equal(log_append_request(log_, b, 0, 0, context), 0);
    blob_unref(b);
}

static void add_completion(uint64_t offset)
{
    assert_true(log_append_completion(log_, offset, "{}", 2));
}

static void expect_sent(unsigned i, enum crsc_kind kind, uint64_t ref)
{
    assert_true(i < n_sent);
    assert_int_equal(sent[i].kind, kind);
    assert_int_equal(sent[i].ref, ref);
}

/* ---- the tests -------------------------------------------------------------------------------------------------- */

/* It waits for the next request, and goes in front of it: what is appended keeps its order. */
static void test_company(void **state)
{
    (void)state;
    add_completion(7);
    add_completion(8);
    assert_int_equal(n_sent, 0);
    assert_false(log_idle(log_));
    add_request(state);
    assert_int_equal(n_sent, 3);
    expect_sent(0, CRSC_COMPLETION, 7);
    expect_sent(1, CRSC_COMPLETION, 8);
    expect_sent(2, CRSC_REQUEST, 0);
    while (n_acked < n_sent) acknowledge();
    assert_int_equal(told, 3);
    assert_null(contexts[0]);
    assert_ptr_equal(contexts[2], state);
    assert_true(log_idle(log_));
}

/* Nobody comes: it goes by itself after a while, also when one before it was taken along meanwhile. */
static void test_alone(void **state)
{
    (void)state;
    add_completion(7);
    while (n_sent == 0) uv_run(&loop, UV_RUN_ONCE);
    expect_sent(0, CRSC_COMPLETION, 7);
    add_completion(8);
    add_request(state);
    add_completion(9);
    assert_int_equal(n_sent, 3);
    while (n_sent == 3) uv_run(&loop, UV_RUN_ONCE);
    expect_sent(3, CRSC_COMPLETION, 9);
}

/* What may not wait: a mark, a vote, a large completion, too many of them, and all when the owner is in a hurry. */
static void test_at_once(void **state)
{
    char *large = calloc(1, 8 << 10);
    (void)state;
    assert_non_null(large);
    add_completion(1);
    assert_true(log_append_mark(log_, "{}", 2));
    assert_int_equal(n_sent, 2);
    add_completion(2);
    assert_true(log_append_vote(log_, 9, "{}", 2));
    assert_int_equal(n_sent, 4);
    add_completion(3);
    assert_true(log_append_completion(log_, 4, large, 8 << 10));
    assert_int_equal(n_sent, 6);
    free(large);
    add_completion(5);
    log_hurry(log_);
    assert_int_equal(n_sent, 7);
    while (n_acked < n_sent) acknowledge();
    for (uint64_t i = 10; n_sent == 7; i++) {
        assert_true(i < 1000);
        add_completion(i);
    }
    assert_true(n_sent > 100); /* together, as soon as there are that many */
    for (unsigned i = 7; i < n_sent; i++) expect_sent(i, CRSC_COMPLETION, i + 3);
}

/* A full window: what was to go goes as soon as there is room, and nothing overtakes it. */
static void test_window(void **state)
{
    (void)state;
    window = 2;
    add_completion(1);
    add_completion(2);
    add_completion(3);
    add_request(state);
    assert_int_equal(n_sent, 2);
    add_completion(4); /* behind what is pressed it does not wait */
    acknowledge();
    expect_sent(2, CRSC_COMPLETION, 3);
    acknowledge();
    expect_sent(3, CRSC_REQUEST, 0);
    acknowledge();
    expect_sent(4, CRSC_COMPLETION, 4);
    assert_int_equal(n_sent, 5);
    acknowledge();
    acknowledge();
    add_completion(5); /* and now it does again */
    assert_int_equal(n_sent, 5);
}

/* The log is lost: completions go with it, and are taken no more; each request is told of, with its sequence or 0 when it never left. */
static void test_lost(void **state)
{
    struct error e;
    (void)state;
    window = 2;
    add_completion(1);
    add_request(state);
    add_request(state);
    add_completion(2);
    assert_int_equal(n_sent, 2);
    error_set(&e, ERROR_TIMEOUT, "lost");
    broken_cb(producer_user, &e);
    assert_int_equal(lost, 1);
    assert_int_equal(unknown, 2);
    assert_int_equal(unknown_sequences[0], 2);
    assert_int_equal(unknown_sequences[1], 0);
    assert_true(log_idle(log_));
    assert_false(log_append_completion(log_, 3, "{}", 2));
    assert_int_equal(told, 0);
}

/* The owner hears of the newer epoch before the producer does: nothing that was handed over is forgotten, nor spoken of again. */
static void test_fenced_by_hearsay(void **state)
{
    struct crsc_stream_info streams[] = {{.name = "a/b/c/d", .epoch = 1}, {.name = "a/b/c/de", .epoch = 7}};
    (void)state;
    add_request(state);
    add_completion(1);
    add_request(state);
    acknowledge();
    assert_int_equal(told, 1);
    assert_false(log_overtaken(log_, streams, 2)); /* ours, and somebody else's */
    assert_int_equal(fenced, 0);
    streams[0].epoch = 2;
    assert_true(log_overtaken(log_, streams, 2));
    assert_int_equal(fenced, 1);
    assert_int_equal(unknown, 1);
    assert_int_equal(unknown_sequences[0], 3);
    assert_true(log_idle(log_));
    assert_true(log_overtaken(log_, streams, 2));
    assert_false(log_append_completion(log_, 3, "{}", 2));
    opening = false;
    uv_run(&loop, UV_RUN_NOWAIT); /* and it takes the stream from nobody */
    assert_false(opening);
    assert_int_equal(fenced, 1);
    assert_int_equal(unknown, 1);
    assert_int_equal(lost, 0);
}

/* Whatever comes, in which order, at what time, through what window: each once, and in the order in which it was appended. */
static void test_random(void **state)
{
    uint64_t added[512];
    (void)state;
    for (unsigned seed = 1; seed <= 40; seed++) {
        unsigned rng = seed, n = 0, first = n_sent;
        while (n < 300) {
            unsigned what = (unsigned)rand_r(&rng) % 16;
            if (what < 8) {
                added[n] = 1000 + n;
                add_completion(added[n++]);
            } else if (what < 11) {
                added[n++] = 0;
                add_request(state);
            } else if (what < 13) {
                if (n_acked < n_sent) acknowledge();
            } else if (what < 14) {
                uv_run(&loop, UV_RUN_NOWAIT);
            } else if (what < 15) {
                window = 1 + (unsigned)rand_r(&rng) % 64;
            } else if (rand_r(&rng) % 8 == 0) {
                log_hurry(log_);
            }
        }
        while (n_sent - first < n)
            if (n_acked < n_sent)
                acknowledge();
            else
                uv_run(&loop, UV_RUN_ONCE);
        for (unsigned i = 0; i < n; i++) expect_sent(first + i, added[i] == 0 ? CRSC_REQUEST : CRSC_COMPLETION, added[i]);
        while (n_acked < n_sent) acknowledge();
        assert_true(log_idle(log_));
        n_sent = n_acked = told = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_company, begin, end), cmocka_unit_test_setup_teardown(test_alone, begin, end),
        cmocka_unit_test_setup_teardown(test_at_once, begin, end), cmocka_unit_test_setup_teardown(test_window, begin, end),
        cmocka_unit_test_setup_teardown(test_lost, begin, end),    cmocka_unit_test_setup_teardown(test_fenced_by_hearsay, begin, end),
        cmocka_unit_test_setup_teardown(test_random, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
