/* Bytes nobody should have made: random ones, and good ones with damage. Whatever they are, the answer is an outcome or
 * an error, never a crash, a leak or a state that cannot go on (run it under the sanitizers to see all of that). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "logd/streams/entry.h"
#include "logd/streams/records.h"
#include "logd/streams/run_reader.h"
#include "logd/streams/streams.h"
#include "logd/streams/testing.h"

static struct testing_random rnd;

/* A block of its own, so that a sanitizer sees every byte read beyond it. */
static uint8_t *copy_of(const void *data, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (len > 0) memcpy(copy, data, len);
    return copy;
}

static void damage(uint8_t *data, size_t *len)
{
    for (uint64_t n = 1 + testing_below(&rnd, 4); n > 0 && *len > 0; n--) {
        switch (testing_below(&rnd, 4)) {
        case 0: data[testing_below(&rnd, *len)] ^= (uint8_t)(1 << testing_below(&rnd, 8)); break;
        case 1: data[testing_below(&rnd, *len)] = (uint8_t)testing_next(&rnd); break;
        case 2: data[testing_below(&rnd, *len)] = 0xff; break;
        default: *len = testing_below(&rnd, *len + 1); break;
        }
    }
}

static void random_bytes(uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) data[i] = (uint8_t)testing_next(&rnd);
}

static void good_frame(struct buf *out, uint64_t epoch, uint64_t sequence)
{
    switch (testing_below(&rnd, 5)) {
    case 0: testing_open(out, "c/n/k/a", "producer", testing_chance(&rnd, 50)); break;
    case 1: testing_fence(out, "c/n/k/a", testing_below(&rnd, 3)); break;
    case 2:
        testing_snapshot(out, &(struct testing_snapshot){.stream = "c/n/k/a", .id = "one", .state = 1 + (int)testing_below(&rnd, 4),
                                                         .image = "i", .node = "n", .template_hash = "t", .reason = "r"});
        break;
    default:
        testing_append(out, &(struct testing_append){.stream = "c/n/k/a", .epoch = epoch, .sequence = sequence,
                                                     .n = 1 + (uint32_t)testing_below(&rnd, 4)});
    }
}

/* A frame with a right checksum over a damaged head and body. */
static void strange_frame(struct buf *out, uint64_t epoch, uint64_t sequence)
{
    struct buf good = BUF_INIT;
    struct frame f;
    good_frame(&good, epoch, sequence);
    assert_true(frame_decode(good.data, good.len, &f, NULL) > 0);
    size_t len = f.head_len;
    uint8_t *head = copy_of(f.head, len);
    if (testing_chance(&rnd, 20))
        random_bytes(head, len);
    else
        damage(head, &len);
    testing_raw(out, testing_chance(&rnd, 5) ? (uint16_t)testing_next(&rnd) : f.type, head, len, f.body, f.body_len);
    free(head);
    buf_fini(&good);
}

static void test_commands(void **state)
{
    (void)state;
    struct streams *s = streams_new();
    struct streams_update update = STREAMS_UPDATE_INIT;
    struct streams_info info = {0};
    for (int i = 0; i < 60000; i++) {
        struct buf frames = BUF_INIT, entry = BUF_INIT;
        struct frame f;
        uint64_t sequence = 1 + testing_below(&rnd, info.last_offset + 2);
        if (testing_chance(&rnd, 50))
            strange_frame(&frames, info.epoch, sequence);
        else
            good_frame(&frames, info.epoch, sequence);
        assert_true(frame_decode(frames.data, frames.len, &f, NULL) > 0);
        int checked = streams_check(&f, NULL);
        testing_entry(&entry, 1, &frames);
        uint8_t *copy = copy_of(entry.data, entry.len);
        uint64_t index = streams_applied(s) + 1;
        assert_int_equal(streams_apply(s, index, copy, entry.len, (struct wal_location){1, 1}, &update, NULL), 0);
        assert_int_equal(update.n_outcomes, 1);
        if (checked != 0) assert_int_equal(update.outcomes[0].code, -checked); /* what the leader refuses, replicas refuse */
        assert_non_null(memchr(update.outcomes[0].text, '\0', sizeof update.outcomes[0].text));
        free(copy);
        streams_info(s, 1, &info);
        if (i % 64 == 0) streams_index_durable(s, index);
        buf_fini(&frames);
        buf_fini(&entry);
    }
    streams_update_fini(&update);
    streams_free(s);
}

static void test_entries(void **state)
{
    (void)state;
    struct streams *s = streams_new();
    struct streams_update update = STREAMS_UPDATE_INIT;
    for (int i = 0; i < 30000; i++) {
        struct buf frames = BUF_INIT, entry = BUF_INIT;
        for (uint64_t n = testing_below(&rnd, 4); n > 0; n--) good_frame(&frames, 1, 1);
        testing_entry(&entry, 1, &frames);
        size_t len = entry.len;
        uint8_t *copy = copy_of(entry.data, len);
        if (testing_chance(&rnd, 20))
            random_bytes(copy, len);
        else
            damage(copy, &len);
        uint8_t *cut = copy_of(copy, len);
        struct error e = {0};
        int rv = streams_apply(s, streams_applied(s) + 1, cut, len, (struct wal_location){1, 1}, &update, &e);
        assert_true(rv == 0 || (rv == -ERROR_CORRUPT && e.text[0] != '\0'));
        free(cut);
        free(copy);
        buf_fini(&frames);
        buf_fini(&entry);
    }
    streams_update_fini(&update);
    streams_free(s);
}

/* Writes of a lively stream, to be loaded with damage. */
static void make_records(struct streams_update *update)
{
    struct streams *s = streams_new();
    struct buf frames = BUF_INIT, entry = BUF_INIT;
    testing_open(&frames, "c/n/k/a", "p", true);
    testing_open(&frames, "c/n/k/a", "q", true);
    for (uint64_t i = 1; i < 6; i++)
        for (uint64_t epoch = 1; epoch <= 2; epoch++)
            testing_append(&frames, &(struct testing_append){.stream = "c/n/k/a", .epoch = epoch, .sequence = i, .n = 1});
    for (int i = 0; i < 3; i++) {
        char id[2] = {(char)('a' + i), 0};
        testing_snapshot(&frames, &(struct testing_snapshot){.stream = "c/n/k/a", .id = id, .state = 2, .offset = 3, .image = "i"});
    }
    testing_entry(&entry, 1, &frames);
    assert_int_equal(streams_apply(s, 1, entry.data, entry.len, (struct wal_location){1, 1}, update, NULL), 0);
    buf_fini(&frames);
    buf_fini(&entry);
    streams_free(s);
}

static void test_records(void **state)
{
    (void)state;
    struct streams_update records = STREAMS_UPDATE_INIT, update = STREAMS_UPDATE_INIT;
    unsigned loaded = 0, refused = 0;
    make_records(&records);
    for (int i = 0; i < 20000; i++) {
        struct streams *s = streams_new();
        struct error e = {0};
        int rv = 0;
        unsigned bad = (unsigned)testing_below(&rnd, records.n_puts * 2); /* half of the time none */
        for (unsigned k = 0; rv == 0 && k < records.n_puts; k++) {
            const struct streams_put *p = &records.puts[k];
            if (p->table == STREAMS_TABLE_EVENT) continue;
            size_t key_len = p->key_len, value_len = p->value_len;
            uint8_t *key = copy_of(records.bytes.data + p->key_at, key_len);
            uint8_t *value = copy_of(records.bytes.data + p->value_at, value_len);
            if (k == bad && testing_chance(&rnd, 30))
                damage(key, &key_len);
            else if (k == bad)
                damage(value, &value_len);
            uint8_t *cut = copy_of(value, value_len);
            if (k == bad && value_len >= RECORDS_SEAL && testing_chance(&rnd, 70)) /* what even a right seal must not let in */
                records_seal(key, key_len, cut, value_len - RECORDS_SEAL, cut + value_len - RECORDS_SEAL);
            rv = streams_load(s, p->table, key, key_len, cut, value_len, &e);
            assert_true(rv == 0 || (rv == -ERROR_CORRUPT && e.text[0] != '\0'));
            free(cut);
            free(key);
            free(value);
        }
        if (rv == 0) rv = streams_loaded(s, 1, &e);
        assert_true(rv == 0 || rv == -ERROR_CORRUPT);
        if (rv == 0) { /* damage that makes sense, such as another letter of a name: it must go on from there */
            struct buf frames = BUF_INIT, entry = BUF_INIT;
            for (int n = 0; n < 4; n++) good_frame(&frames, 1 + testing_below(&rnd, 2), 6);
            testing_entry(&entry, 2, &frames);
            assert_int_equal(streams_apply(s, 2, entry.data, entry.len, (struct wal_location){1, 1}, &update, &e), 0);
            buf_fini(&frames);
            buf_fini(&entry);
            loaded++;
        } else {
            refused++;
        }
        streams_free(s);
    }
    assert_true(loaded > 1000 && refused > 1000);
    streams_update_fini(&records);
    streams_update_fini(&update);
}

static void test_runs(void **state)
{
    (void)state;
    struct buf frame = BUF_INIT;
    testing_append(&frame, &(struct testing_append){.stream = "c/n/k/a", .epoch = 1, .sequence = 9, .n = 4});
    const struct streams_run good = {.first_offset = 9, .count = 4, .frame_len = (uint32_t)frame.len, .epoch = 1, .sequence = 9};
    for (int i = 0; i < 30000; i++) {
        struct streams_run run = good;
        size_t len = frame.len;
        uint8_t *bytes = copy_of(frame.data, len);
        if (testing_chance(&rnd, 20)) run.count = (uint32_t)testing_below(&rnd, 6);
        if (testing_chance(&rnd, 20)) run.sequence = testing_below(&rnd, 12);
        if (testing_chance(&rnd, 50)) damage(bytes, &len);
        uint8_t *cut = copy_of(bytes, len);
        struct run_reader r;
        struct run_event event;
        int rv = run_open(&r, &run, cut, len, testing_below(&rnd, 15), NULL);
        assert_true(rv == 0 || rv == -ERROR_CORRUPT);
        if (rv == 0) {
            while (run_next(&r, &event))
                for (uint32_t at = 0; at < event.size; at++)
                    assert_int_equal(event.payload[at], testing_payload("c/n/k/a", 1, event.sequence, at));
            run_close(&r);
        }
        free(cut);
        free(bytes);

        uint8_t key[STREAMS_EVENT_KEY], value[RECORDS_EVENT_VALUE + RECORDS_SEAL];
        uint64_t id;
        random_bytes(key, sizeof key);
        random_bytes(value, sizeof value);
        size_t value_len = testing_chance(&rnd, 50) ? sizeof value : testing_below(&rnd, sizeof value + 1);
        if (value_len >= RECORDS_SEAL)
            records_seal(key, sizeof key, value, value_len - RECORDS_SEAL, value + value_len - RECORDS_SEAL);
        rv = streams_event_decode(key, sizeof key, value, value_len, &id, &run);
        assert_true(rv == 0 || rv == -ERROR_CORRUPT);
    }
    buf_fini(&frame);
}

int main(void)
{
    rnd = testing_seed("streams-fuzz");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_commands), cmocka_unit_test(test_entries),
                                       cmocka_unit_test(test_records), cmocka_unit_test(test_runs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
