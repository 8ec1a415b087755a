#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/outbox.h"

static void nobody(void *user, const struct error *e, uint64_t offset)
{
    (void)user, (void)e, (void)offset;
}

static uint8_t bytes[CRSC_PAYLOAD_MAX + 1];

static int push(struct outbox *o, uint32_t size, uintptr_t tag)
{
    struct crsc_event e = {.kind = CRSC_REQUEST, .payload = bytes, .size = size};
    return outbox_push(o, &e, (struct outbox_ticket){nobody, (void *)tag}, tag);
}

static struct outbox_batch *launch(struct outbox *o, uint64_t id)
{
    struct outbox_batch *b = outbox_due(o);
    if (b != NULL) outbox_sent(o, b, id);
    return b;
}

static void gathers_until_it_is_sent_or_full(void **state)
{
    (void)state;
    struct outbox *o = outbox_new(64 << 20);
    for (uintptr_t i = 1; i <= 3; i++) assert_int_equal(push(o, 10, i), 0);
    struct outbox_batch *b = launch(o, 1);
    assert_int_equal(b->n, 3);
    assert_int_equal(b->sequence, 1);
    assert_int_equal(b->body.len, 30);
    assert_int_equal(push(o, 10, 4), 0); /* into the next one: the first has left */
    assert_int_equal(b->n, 3);
    struct outbox_batch *second = launch(o, 2);
    assert_int_equal(second->sequence, 4);
    for (uintptr_t i = 0; i < OUTBOX_BATCH_EVENTS + 1; i++) assert_int_equal(push(o, 1, i), 0);
    assert_int_equal(launch(o, 3)->n, OUTBOX_BATCH_EVENTS);
    assert_int_equal(launch(o, 4)->n, 1);
    /* by bytes; and an event beyond that travels alone */
    assert_int_equal(push(o, OUTBOX_BATCH_BYTES - 1, 1), 0);
    assert_int_equal(push(o, 2, 1), 0);
    assert_int_equal(push(o, CRSC_PAYLOAD_MAX, 1), 0);
    assert_int_equal(push(o, 0, 1), 0);
    assert_int_equal(launch(o, 5)->n, 1);
    assert_int_equal(launch(o, 6)->n, 1);
    assert_int_equal(launch(o, 7)->body.len, CRSC_PAYLOAD_MAX);
    assert_int_equal(launch(o, 8)->body.len, 0);
    assert_null(launch(o, 9));
    outbox_free(o);
}

static void is_bounded(void **state)
{
    (void)state;
    struct outbox *o = outbox_new(1000);
    assert_int_equal(push(o, CRSC_PAYLOAD_MAX + 1, 1), -ERROR_TOO_LARGE);
    assert_int_equal(push(o, 5000, 1), 0); /* an empty one takes any: a small window must not stop a large event */
    assert_int_equal(push(o, 0, 2), -ERROR_BUSY);
    struct outbox_ticket t;
    assert_true(outbox_abandon(o, &t));
    assert_int_equal(push(o, 1000 - OUTBOX_EVENT_COST - OUTBOX_EVENT_COST, 1), 0);
    assert_int_equal(push(o, 0, 2), 0);
    assert_int_equal(push(o, 0, 3), -ERROR_BUSY);
    struct crsc_event bad = {.kind = 0};
    assert_int_equal(outbox_push(o, &bad, t, 0), -ERROR_INVALID);
    bad.kind = 4;
    assert_int_equal(outbox_push(o, &bad, t, 0), -ERROR_INVALID);
    outbox_free(o);
}

static void only_so_many_are_on_their_way(void **state)
{
    (void)state;
    struct outbox *o = outbox_new(1 << 20);
    for (uint64_t i = 1; i <= OUTBOX_FLIGHT; i++) {
        push(o, 1, 1);
        assert_non_null(launch(o, i));
    }
    push(o, 1, 1);
    push(o, 1, 1);
    assert_null(outbox_due(o));
    outbox_acked(o, outbox_find(o, 3), 33); /* any order; still not to be taken */
    struct outbox_ticket t;
    uint64_t offset;
    assert_false(outbox_take(o, &t, &offset));
    assert_int_equal(outbox_due(o)->n, 2);
    outbox_free(o);
}

static void repeats_the_same_batches(void **state)
{
    (void)state;
    struct outbox *o = outbox_new(1 << 20);
    push(o, 1, 1), push(o, 2, 2);
    launch(o, 11);
    push(o, 3, 3);
    launch(o, 12);
    push(o, 4, 4);
    launch(o, 13);
    assert_int_equal(outbox_rewind(o, 2), -ERROR_SEQUENCE); /* inside a batch */
    assert_int_equal(outbox_rewind(o, 9), -ERROR_SEQUENCE);
    assert_int_equal(outbox_rewind(o, 3), 0);
    assert_non_null(outbox_find(o, 11));
    assert_null(outbox_find(o, 12)); /* an answer to what was given up is nobody's */
    assert_null(outbox_find(o, 13));
    assert_null(outbox_find(o, 0));
    push(o, 5, 5); /* must not join a batch that was sent once */
    struct outbox_batch *b = launch(o, 14);
    assert_true(b->sequence == 3 && b->n == 1 && b->body.len == 3);
    b = launch(o, 15);
    assert_true(b->sequence == 4 && b->n == 1 && b->body.len == 4);
    b = launch(o, 16);
    assert_true(b->sequence == 5 && b->n == 1 && b->body.len == 5);
    outbox_rewind_all(o);
    b = launch(o, 17);
    assert_true(b->sequence == 1 && b->n == 2 && b->body.len == 3);
    outbox_acked(o, b, 100);
    assert_int_equal(outbox_rewind(o, 1), -ERROR_SEQUENCE); /* acknowledged: never again */
    struct outbox_ticket t;
    uint64_t offset;
    assert_true(outbox_take(o, &t, &offset) && offset == 100 && t.user == (void *)1);
    assert_true(outbox_take(o, &t, &offset) && offset == 101 && t.user == (void *)2);
    assert_false(outbox_take(o, &t, &offset));
    assert_int_equal(outbox_oldest_ms(o), 3);
    assert_int_equal(outbox_next_sequence(o), 6);
    outbox_free(o);
}

/* A model: whatever is sent, rewound and acknowledged in whatever order, tickets come out in order, once, with the
 * offsets their sequences got. */
static void any_course_of_things(void **state)
{
    (void)state;
    uint64_t seed = 0x5eed, everything = 0;
    for (unsigned round = 0; round < 300; round++) {
        uint64_t random = seed + round, id = 0, out = 0, in = 0;
        struct outbox *o = outbox_new(4000);
        uint64_t flying[OUTBOX_FLIGHT + 1] = {0};
        for (unsigned step = 0; step < 400; step++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            uint64_t r = random >> 20;
            if (r % 8 < 4) {
                if (push(o, (uint32_t)(r % 300), (uintptr_t)(in + 1)) == 0) in++;
            } else if (r % 8 < 6) {
                struct outbox_batch *b = launch(o, id + 1);
                if (b != NULL) {
                    id++;
                    uint64_t last = b->sequence + b->n - 1;
                    if (last > in || b->sequence <= out)
                        fail_msg("seed %llx round %u: sent %llu", (unsigned long long)seed, round,
                                 (unsigned long long)b->sequence);
                    flying[id % (OUTBOX_FLIGHT + 1)] = id;
                }
            } else if (r % 8 == 6) {
                struct outbox_batch *b = outbox_find(o, flying[r / 8 % (OUTBOX_FLIGHT + 1)]);
                if (b != NULL && r % 64 < 16)
                    outbox_rewind(o, b->sequence);
                else if (b != NULL)
                    outbox_acked(o, b, 1000 + b->sequence);
            } else if (r % 256 < 8) {
                outbox_rewind_all(o);
            }
            struct outbox_ticket t;
            uint64_t offset;
            while (outbox_take(o, &t, &offset)) {
                out++;
                if (offset != 1000 + out || t.user != (void *)(uintptr_t)out)
                    fail_msg("seed %llx round %u: %llu came out for %llu", (unsigned long long)seed, round,
                             (unsigned long long)offset, (unsigned long long)out);
            }
            assert_int_equal(outbox_events(o), in - out);
        }
        everything += out;
        outbox_free(o);
    }
    if (everything < 3000) fail_msg("only %llu came out", (unsigned long long)everything);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gathers_until_it_is_sent_or_full),
        cmocka_unit_test(is_bounded),
        cmocka_unit_test(only_so_many_are_on_their_way),
        cmocka_unit_test(repeats_the_same_batches),
        cmocka_unit_test(any_course_of_things),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
