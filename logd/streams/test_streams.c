/* Every outcome of every command, one by one. The rules are those of proto/rpc.proto. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/streams/records.h"
#include "logd/streams/run_reader.h"
#include "logd/streams/streams.h"
#include "logd/streams/testing.h"

static const char name[] = "c/n/k/a";

struct fixture {
    struct streams *streams;
    struct streams_update update;
    struct buf frames; /* of the next entry */
    struct buf entry;  /* the last one */
    uint64_t time_us;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->streams = streams_new();
    f->time_us = 1000;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    streams_free(f->streams);
    streams_update_fini(&f->update);
    buf_fini(&f->frames);
    buf_fini(&f->entry);
    free(f);
    return 0;
}

/* Applies what is in `frames` as one entry, at position 1000 of the segment that has the entry's index as its id. */
static const struct streams_outcome *apply(struct fixture *f)
{
    f->entry.len = 0;
    testing_entry(&f->entry, ++f->time_us, &f->frames);
    f->frames.len = 0;
    uint64_t index = streams_applied(f->streams) + 1;
    struct error e = {0};
    assert_int_equal(streams_apply(f->streams, index, f->entry.data, f->entry.len,
                                   (struct wal_location){index, 1000}, &f->update, &e), 0);
    assert_int_equal(streams_applied(f->streams), index);
    return f->update.outcomes;
}

static const struct streams_outcome *open_producer(struct fixture *f, const char *producer, bool shared)
{
    testing_open(&f->frames, name, producer, shared);
    return apply(f);
}

static const struct streams_outcome *append(struct fixture *f, uint64_t epoch, uint64_t sequence, uint32_t n)
{
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = epoch, .sequence = sequence, .n = n});
    return apply(f);
}

static const struct streams_outcome *append_as(struct fixture *f, struct testing_append a)
{
    if (a.stream == NULL) a.stream = name;
    testing_append(&f->frames, &a);
    return apply(f);
}

static const struct streams_outcome *fence(struct fixture *f, uint64_t epoch)
{
    testing_fence(&f->frames, name, epoch);
    return apply(f);
}

static const struct streams_outcome *record(struct fixture *f, const char *id, int state, uint64_t offset)
{
    testing_snapshot(&f->frames, &(struct testing_snapshot){.stream = name, .id = id, .state = state, .offset = offset});
    return apply(f);
}

static struct streams_info info(struct fixture *f)
{
    struct streams_info i;
    assert_int_equal(streams_info(f->streams, streams_id(f->streams, name, strlen(name)), &i), 0);
    return i;
}

static unsigned puts_in(const struct fixture *f, enum streams_table table, bool deletes)
{
    unsigned n = 0;
    for (unsigned i = 0; i < f->update.n_puts; i++)
        if (f->update.puts[i].table == table && (f->update.puts[i].value_len == 0) == deletes) n++;
    return n;
}

static void assert_refused(const struct streams_outcome *o, enum error_code code, const struct fixture *f)
{
    assert_int_equal(o->code, code);
    assert_true(strlen(o->text) > 0);
    assert_int_equal(f->update.n_puts, 0);
}

static void test_open(void **state)
{
    struct fixture *f = *state;
    const struct streams_outcome *o = open_producer(f, "p", false);
    assert_int_equal(o->code, ERROR_NONE);
    assert_int_equal(o->type, FRAME_OPEN_PRODUCER);
    assert_int_equal(o->stream_id, 1);
    assert_int_equal(o->epoch, 1);
    assert_int_equal(o->offset, 0);
    assert_int_equal(puts_in(f, STREAMS_TABLE_STREAM, false), 1);
    assert_int_equal(puts_in(f, STREAMS_TABLE_SESSION, false), 1);
    assert_int_equal(streams_count(f->streams), 1);
    append(f, 1, 1, 3);
    o = open_producer(f, "q", false);
    assert_int_equal(o->epoch, 2);
    assert_int_equal(o->offset, 3);
    assert_int_equal(puts_in(f, STREAMS_TABLE_SESSION, true), 1); /* the fenced one costs nothing any more */
    assert_string_equal(info(f).producer, "q");
    assert_int_equal(info(f).min_epoch, 2);
    assert_refused(append(f, 1, 4, 1), ERROR_FENCED, f);
    assert_int_equal(f->update.outcomes[0].epoch, 2);
    assert_refused(append(f, 1, 1, 3), ERROR_FENCED, f); /* not even of what is there (L4) */
    assert_refused(append(f, 3, 1, 1), ERROR_INVALID, f); /* never given */
    assert_int_equal(append(f, 2, 1, 1)->offset, 4);
}

static void test_open_shared(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_producer(f, "a", true)->epoch, 1);
    assert_int_equal(open_producer(f, "b", true)->epoch, 2);
    assert_int_equal(append(f, 1, 1, 2)->offset, 1);
    assert_int_equal(append(f, 2, 1, 2)->offset, 3);
    assert_int_equal(append(f, 1, 3, 1)->offset, 5);
    assert_int_equal(open_producer(f, "a", true)->epoch, 3);
    assert_refused(append(f, 1, 4, 1), ERROR_FENCED, f);
    assert_int_equal(append(f, 2, 3, 1)->offset, 6); /* the other name goes on */
    assert_int_equal(append(f, 3, 1, 1)->offset, 7);
    assert_int_equal(info(f).min_epoch, 1);
    assert_int_equal(open_producer(f, "c", false)->epoch, 4); /* exclusive: all of them */
    assert_int_equal(puts_in(f, STREAMS_TABLE_SESSION, true), 2);
    assert_refused(append(f, 2, 4, 1), ERROR_FENCED, f);
    assert_refused(append(f, 3, 2, 1), ERROR_FENCED, f);
    assert_int_equal(append(f, 4, 1, 1)->offset, 8);
}

static void test_append(void **state)
{
    struct fixture *f = *state;
    assert_refused(append(f, 1, 1, 1), ERROR_NOT_FOUND, f);
    assert_int_equal(streams_count(f->streams), 0); /* streams are made by opening only */
    open_producer(f, "p", false);
    const struct streams_outcome *o = append(f, 1, 1, 3);
    assert_int_equal(o->code, ERROR_NONE);
    assert_int_equal(o->offset, 1);
    assert_int_equal(o->count, 3);
    assert_false(o->duplicate);
    assert_int_equal(info(f).last_offset, 3);
    assert_int_equal(info(f).bytes, 15);
    assert_int_equal(info(f).last_time_us, f->time_us);

    o = append(f, 1, 1, 3); /* again */
    assert_int_equal(o->code, ERROR_NONE);
    assert_int_equal(o->offset, 1);
    assert_int_equal(o->count, 3);
    assert_true(o->duplicate);
    assert_int_equal(f->update.n_puts, 0);
    o = append(f, 1, 2, 1); /* a part of it, all there */
    assert_int_equal(o->offset, 2);
    assert_true(o->duplicate);

    assert_refused(append(f, 1, 5, 1), ERROR_SEQUENCE, f); /* a gap */
    assert_int_equal(f->update.outcomes[0].expected, 4);
    assert_refused(append(f, 1, 3, 2), ERROR_SEQUENCE, f); /* half of it there */
    assert_int_equal(f->update.outcomes[0].expected, 4);
    assert_int_equal(info(f).last_offset, 3);
}

static void test_if_last(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "p", false);
    append(f, 1, 1, 3);
    struct testing_append a = {.epoch = 1, .sequence = 4, .n = 1, .if_last = true, .last_offset = 2};
    assert_refused(append_as(f, a), ERROR_CONFLICT, f);
    assert_int_equal(f->update.outcomes[0].expected, 3);
    a.last_offset = 3;
    assert_int_equal(append_as(f, a)->offset, 4);
    append(f, 1, 5, 1);
    const struct streams_outcome *o = append_as(f, a); /* the stream has moved on, but this was in it already */
    assert_int_equal(o->code, ERROR_NONE);
    assert_true(o->duplicate);
    assert_int_equal(o->offset, 4);
    a.if_last = false;
    a.sequence = 6;
    assert_int_equal(append_as(f, a)->offset, 6); /* last_offset counts only with if_last */
}

static void test_references(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "p", false);
    append(f, 1, 1, 2);
    struct testing_event event = {.kind = 2, .size = 1, .ref = 3};
    struct testing_append a = {.epoch = 1, .sequence = 3, .n = 1, .events = &event};
    assert_refused(append_as(f, a), ERROR_INVALID, f);
    event.ref = 0;
    assert_refused(append_as(f, a), ERROR_INVALID, f);
    event.ref = 2;
    event.after = 3;
    assert_refused(append_as(f, a), ERROR_INVALID, f);
    event.after = 2;
    assert_int_equal(append_as(f, a)->offset, 3);
    assert_int_equal(info(f).last_offset, 3);
}

static void assert_invalid(struct fixture *f, enum error_code code)
{
    struct frame frame;
    assert_true(frame_decode(f->frames.data, f->frames.len, &frame, NULL) > 0);
    assert_int_equal(streams_check(&frame, NULL), -(int)code);
    assert_refused(apply(f), code, f);
}

static void test_append_invalid(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "p", false);
    struct testing_event events[] = {{.kind = 1, .size = 4}, {.kind = 4, .size = 4}, {.kind = 0, .size = 4}};
    const struct testing_append bad[] = {
        {.stream = name, .epoch = 1, .sequence = 0, .n = 1},
        {.stream = name, .epoch = 0, .sequence = 1, .n = 1},
        {.stream = name, .epoch = 1, .sequence = UINT64_MAX, .n = 1},
        {.stream = name, .epoch = UINT64_MAX, .sequence = 1, .n = 1},
        {.stream = name, .epoch = 1, .sequence = 1, .n = 0},
        {.stream = name, .epoch = 1, .sequence = 1, .n = 2, .body_extra = 1},
        {.stream = name, .epoch = 1, .sequence = 1, .n = 2, .body_extra = -1},
        {.stream = name, .epoch = 1, .sequence = 1, .n = 2, .events = events},
        {.stream = name, .epoch = 1, .sequence = 1, .n = 1, .events = events + 2},
        {.stream = "", .epoch = 1, .sequence = 1, .n = 1},
        {.stream = "a b", .epoch = 1, .sequence = 1, .n = 1},
        {.stream = "a\n", .epoch = 1, .sequence = 1, .n = 1},
        {.stream = "\xc3\xa4", .epoch = 1, .sequence = 1, .n = 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        testing_append(&f->frames, &bad[i]);
        assert_invalid(f, ERROR_INVALID);
    }
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 1, .n = 4097});
    assert_invalid(f, ERROR_TOO_LARGE);
    assert_int_equal(append(f, 1, 1, 4096)->code, ERROR_NONE);
}

static void test_names(void **state)
{
    struct fixture *f = *state;
    char max[STREAMS_NAME_MAX + 2];
    memset(max, 'n', sizeof max);
    max[sizeof max - 1] = '\0';
    testing_open(&f->frames, max, "p", false);
    assert_invalid(f, ERROR_TOO_LARGE);
    testing_open(&f->frames, "s", max, false);
    assert_invalid(f, ERROR_TOO_LARGE);
    testing_open(&f->frames, "s", "", false);
    assert_invalid(f, ERROR_INVALID);
    max[sizeof max - 2] = '\0';
    testing_open(&f->frames, max, max, false);
    assert_int_equal(apply(f)->code, ERROR_NONE);
    testing_open(&f->frames, "A-z_0.9/", "any bytes \xff", false);
    assert_int_equal(apply(f)->stream_id, 2);
    assert_int_equal(streams_id(f->streams, max, STREAMS_NAME_MAX), 1);
    assert_int_equal(streams_id(f->streams, max, STREAMS_NAME_MAX - 1), 0);
}

static void test_malformed(void **state)
{
    struct fixture *f = *state;
    const uint16_t types[] = {FRAME_OPEN_PRODUCER, FRAME_APPEND, FRAME_FENCE, FRAME_RECORD_SNAPSHOT, FRAME_TRIM, FRAME_SET_RETENTION, FRAME_RETAIN};
    for (size_t i = 0; i < 4; i++) {
        testing_raw(&f->frames, types[i], "\xff\xff\xff\xff", 4, NULL, 0);
        assert_invalid(f, ERROR_INVALID);
        testing_raw(&f->frames, types[i], NULL, 0, NULL, 0);
        assert_invalid(f, ERROR_INVALID);
    }
    testing_raw(&f->frames, FRAME_READ, NULL, 0, NULL, 0);
    assert_invalid(f, ERROR_INVALID);
    testing_raw(&f->frames, FRAME_APPEND | FRAME_REPLY, NULL, 0, NULL, 0);
    assert_invalid(f, ERROR_INVALID);
    /* Half a million empty events, which would take a hundred times their bytes to decode. */
    uint8_t *bomb = malloc(FRAME_HEAD_MAX);
    for (size_t i = 0; i < FRAME_HEAD_MAX; i += 2) memcpy(bomb + i, "\x22\x00", 2);
    testing_raw(&f->frames, FRAME_APPEND, bomb, FRAME_HEAD_MAX, NULL, 0);
    assert_invalid(f, ERROR_TOO_LARGE);
    free(bomb);
    assert_int_equal(streams_count(f->streams), 0);
}

static void test_fence(void **state)
{
    struct fixture *f = *state;
    assert_refused(fence(f, 5), ERROR_NOT_FOUND, f);
    open_producer(f, "p", false);
    append(f, 1, 1, 1);
    assert_int_equal(fence(f, 1)->epoch, 1); /* nothing to do */
    assert_int_equal(f->update.n_puts, 0);
    assert_int_equal(append(f, 1, 2, 1)->code, ERROR_NONE);
    assert_int_equal(fence(f, 0)->epoch, 2);
    assert_refused(append(f, 1, 3, 1), ERROR_FENCED, f);
    assert_int_equal(fence(f, 0)->epoch, 2); /* repeated: the same */
    assert_refused(append(f, 2, 1, 1), ERROR_INVALID, f); /* epoch 2 is nobody's yet */
    assert_int_equal(open_producer(f, "p", false)->epoch, 2);
    assert_int_equal(append(f, 2, 1, 1)->offset, 3);
    assert_int_equal(fence(f, 10)->epoch, 10);
    assert_refused(append(f, 5, 1, 1), ERROR_FENCED, f);
    assert_int_equal(f->update.outcomes[0].epoch, 10);
    assert_int_equal(open_producer(f, "p", true)->epoch, 10);
    assert_int_equal(append(f, 10, 1, 1)->offset, 4);
    assert_int_equal(fence(f, 3)->epoch, 10); /* never back */
    testing_fence(&f->frames, name, UINT64_MAX);
    assert_invalid(f, ERROR_INVALID);
}

static const struct streams_outcome *trim(struct fixture *f, uint64_t offset, bool force)
{
    testing_trim(&f->frames, name, offset, force);
    return apply(f);
}

static void test_trim(void **state)
{
    struct fixture *f = *state;
    struct streams_run run;
    bool in_index;
    assert_refused(trim(f, 1, false), ERROR_NOT_FOUND, f);
    open_producer(f, "p", false);
    append(f, 1, 1, 9);
    append(f, 1, 10, 11);
    assert_int_equal(trim(f, 0, false)->offset, 1); /* nothing to do */
    assert_refused(trim(f, 3, false), ERROR_CONFLICT, f); /* nothing to restore from */
    assert_refused(trim(f, 21, true), ERROR_CONFLICT, f);
    assert_int_equal(f->update.outcomes[0].expected, 20);
    record(f, "s1", 2, 12);
    record(f, "s2", 2, 15);
    assert_refused(trim(f, 13, false), ERROR_CONFLICT, f); /* s1 needs event 13 */
    assert_refused(trim(f, 13, true), ERROR_CONFLICT, f);
    assert_int_equal(f->update.outcomes[0].expected, 12);
    assert_int_equal(trim(f, 4, false)->offset, 5);
    assert_int_equal(puts_in(f, STREAMS_TABLE_EVENT, true), 1);
    assert_int_equal(puts_in(f, STREAMS_TABLE_STREAM, false), 1);
    assert_int_equal(info(f).first_offset, 5);
    assert_int_equal(info(f).last_offset, 20);
    assert_int_equal(trim(f, 2, false)->offset, 5); /* never back */
    assert_int_equal(streams_find(f->streams, 1, 4, &run, &in_index), -ERROR_NOT_FOUND);
    assert_false(in_index);
    assert_int_equal(streams_find(f->streams, 1, 5, &run, &in_index), 0);
    assert_int_equal(run.first_offset, 1);
    record(f, "s1", 4, 12);
    assert_int_equal(trim(f, 15, false)->offset, 16);
    assert_refused(record(f, "s3", 2, 14), ERROR_CONFLICT, f); /* what follows it is gone */
    assert_int_equal(record(f, "s4", 2, 15)->code, ERROR_NONE);
    const struct testing_event late = {.kind = 2, .ref = 3}; /* of a request that is gone */
    assert_int_equal(append_as(f, (struct testing_append){.epoch = 1, .sequence = 21, .n = 1, .events = &late})->offset, 21);
    record(f, "s2", 3, 15);
    record(f, "s4", 3, 15);
    assert_refused(trim(f, 21, false), ERROR_CONFLICT, f);
    assert_int_equal(trim(f, 21, true)->offset, 22);
    assert_int_equal(append(f, 1, 22, 1)->offset, 22);
}

static const struct streams_outcome *set_retention(struct fixture *f, struct streams_policy policy)
{
    testing_set_retention(&f->frames, name, &policy);
    return apply(f);
}

static const struct streams_outcome *retain(struct fixture *f, uint64_t offset, struct streams_policy policy)
{
    testing_retain(&f->frames, name, offset, &policy);
    return apply(f);
}

static uint64_t bound(struct fixture *f)
{
    uint64_t offset;
    return streams_policy_bound(f->streams, 1, &offset) ? offset : UINT64_MAX;
}

static void test_retention(void **state)
{
    struct fixture *f = *state;
    const struct streams_policy two = {.keep_snapshots = 2}, aged = {.max_age_us = 5}, beyond = {.max_bytes = 7, .beyond_snapshots = true};
    assert_refused(set_retention(f, two), ERROR_NOT_FOUND, f);
    open_producer(f, "p", false);
    append(f, 1, 1, 20);
    assert_int_equal(bound(f), UINT64_MAX); /* without a policy nothing goes */
    assert_refused(retain(f, 3, (struct streams_policy){0}), ERROR_CONFLICT, f);
    assert_int_equal(set_retention(f, two)->code, ERROR_NONE);
    assert_int_equal(puts_in(f, STREAMS_TABLE_STREAM, false), 1);
    assert_int_equal(info(f).policy.keep_snapshots, 2);
    record(f, "s1", 2, 8);
    assert_int_equal(bound(f), UINT64_MAX); /* there are not two yet */
    record(f, "s2", 2, 12);
    record(f, "s3", 2, 10);
    record(f, "s4", 1, 15); /* not valid yet */
    assert_int_equal(bound(f), 10);
    assert_refused(retain(f, 11, two), ERROR_CONFLICT, f); /* s3 needs event 11 */
    assert_int_equal(f->update.outcomes[0].expected, 10);
    assert_refused(retain(f, 9, aged), ERROR_CONFLICT, f); /* decided by another policy */
    assert_int_equal(retain(f, 10, two)->offset, 11); /* beyond what s1 needs: the policy keeps two */
    assert_int_equal(info(f).first_offset, 11);
    assert_int_equal(info(f).snapshots_valid, 2); /* s1 is of no use any more */
    assert_int_equal(retain(f, 9, two)->offset, 11); /* never back */
    assert_int_equal(trim(f, 10, false)->offset, 11); /* s1 holds nothing back */
    record(f, "s2", 3, 12);
    assert_refused(retain(f, 11, two), ERROR_CONFLICT, f); /* one is left, which is less than two */
    assert_int_equal(set_retention(f, aged)->code, ERROR_NONE);
    assert_int_equal(bound(f), 10); /* the newest valid one */
    record(f, "s3", 3, 10);
    struct streams_snapshot latest;
    assert_int_equal(streams_latest_snapshot(f->streams, 1, "", &latest), -ERROR_NOT_FOUND); /* s1 is valid, what follows it is gone */
    assert_int_equal(bound(f), UINT64_MAX);
    assert_int_equal(set_retention(f, beyond)->code, ERROR_NONE);
    assert_int_equal(bound(f), 20);
    assert_int_equal(retain(f, 20, beyond)->offset, 21);
    assert_int_equal(append(f, 1, 21, 1)->offset, 21);
    assert_int_equal(set_retention(f, (struct streams_policy){0})->code, ERROR_NONE);
    assert_int_equal(bound(f), UINT64_MAX);
}

static void test_retention_invalid(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "p", false);
    testing_set_retention(&f->frames, name, &(struct streams_policy){.keep_snapshots = STREAMS_SNAPSHOTS_MAX + 1});
    assert_invalid(f, ERROR_INVALID);
    testing_set_retention(&f->frames, name, &(struct streams_policy){.beyond_snapshots = true});
    assert_invalid(f, ERROR_INVALID);
    testing_set_retention(&f->frames, name, &(struct streams_policy){.keep_snapshots = 1, .max_bytes = 9, .beyond_snapshots = true});
    assert_invalid(f, ERROR_INVALID);
    testing_set_retention(&f->frames, name, &(struct streams_policy){.max_age_us = UINT64_MAX});
    assert_invalid(f, ERROR_INVALID);
}

static void test_snapshots(void **state)
{
    struct fixture *f = *state;
    assert_refused(record(f, "s1", 1, 0), ERROR_NOT_FOUND, f);
    open_producer(f, "p", false);
    append(f, 1, 1, 9);
    assert_refused(record(f, "s1", 4, 0), ERROR_CONFLICT, f); /* new -> deleted */
    assert_refused(record(f, "s1", 2, 10), ERROR_CONFLICT, f); /* beyond the end */
    assert_int_equal(f->update.outcomes[0].expected, 9);
    assert_int_equal(record(f, "s1", 1, 5)->code, ERROR_NONE);
    struct streams_snapshot s;
    assert_int_equal(streams_latest_snapshot(f->streams, 1, "", &s), -ERROR_NOT_FOUND);
    testing_snapshot(&f->frames, &(struct testing_snapshot){.stream = name, .id = "s1", .state = 2, .offset = 5,
        .image = "dir:/x", .sha256 = "sha256:00", .node = "n1", .template_hash = "h", .reason = "r", .size = 77,
        .started_us = 3, .finished_us = 4});
    assert_int_equal(apply(f)->code, ERROR_NONE);
    assert_int_equal(streams_latest_snapshot(f->streams, 1, "h", &s), 0);
    assert_string_equal(s.id, "s1");
    assert_int_equal(s.offset, 5);
    assert_int_equal(s.state, 2);
    assert_string_equal(s.image, "dir:/x");
    assert_string_equal(s.sha256, "sha256:00");
    assert_string_equal(s.node, "n1");
    assert_string_equal(s.reason, "r");
    assert_int_equal(s.size, 77);
    assert_int_equal(s.started_us, 3);
    assert_int_equal(s.finished_us, 4);
    assert_int_equal(s.recorded_us, f->time_us);
    assert_int_equal(streams_latest_snapshot(f->streams, 1, "other", &s), -ERROR_NOT_FOUND);

    record(f, "s2", 2, 8);
    record(f, "s3", 2, 7);
    assert_int_equal(streams_latest_snapshot(f->streams, 1, "", &s), 0);
    assert_string_equal(s.id, "s2");
    assert_int_equal(info(f).snapshots_valid, 3);
    assert_int_equal(info(f).latest_snapshot_offset, 8);
    assert_refused(record(f, "s2", 1, 8), ERROR_CONFLICT, f); /* valid -> taking */
    assert_int_equal(record(f, "s2", 3, 8)->code, ERROR_NONE);
    assert_int_equal(info(f).latest_snapshot_offset, 7);
    assert_int_equal(streams_snapshots(f->streams, 1), 3);
    assert_int_equal(streams_snapshot(f->streams, 1, 1, &s), 0); /* still in its place */
    assert_string_equal(s.id, "s2");
    assert_int_equal(streams_snapshot(f->streams, 1, 3, &s), -ERROR_NOT_FOUND);
}

/* Every move between states, against the sentence in proto/rpc.proto. */
static void test_snapshot_moves(void **state)
{
    struct fixture *f = *state;
    static const char *const allowed[] = {"12", "13", "14", "23", "24", "34", "11", "22", "33", "44"};
    static const char *const ways[] = {"", "1", "2", "3", "14"}; /* how to get from new into each state */
    open_producer(f, "p", false);
    for (int from = 1; from <= 4; from++)
        for (int to = 1; to <= 4; to++) {
            char id[16];
            bool expected = false;
            snprintf(id, sizeof id, "m%d%d", from, to);
            for (const char *way = ways[from]; *way != '\0'; way++)
                assert_int_equal(record(f, id, *way - '0', 0)->code, ERROR_NONE);
            for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
                if (allowed[i][0] - '0' == from && allowed[i][1] - '0' == to) expected = true;
            assert_int_equal(record(f, id, to, 0)->code, expected ? ERROR_NONE : ERROR_CONFLICT);
        }
}

static void test_snapshot_invalid(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "p", false);
    char text[1200];
    memset(text, 'x', sizeof text);
    text[STREAMS_IMAGE_MAX + 1] = '\0';
    const struct testing_snapshot large[] = {
        {.stream = name, .id = "i", .state = 1, .image = text}, {.stream = name, .id = "i", .state = 1, .sha256 = text},
        {.stream = name, .id = "i", .state = 1, .node = text},  {.stream = name, .id = "i", .state = 1, .reason = text},
        {.stream = name, .id = text, .state = 1}, {.stream = name, .id = "i", .state = 1, .template_hash = text}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        testing_snapshot(&f->frames, &large[i]);
        assert_invalid(f, ERROR_TOO_LARGE);
    }
    const struct testing_snapshot bad[] = {{.stream = name, .id = "", .state = 1}, {.stream = name, .id = "a/b", .state = 1},
                                           {.stream = name, .id = "i", .state = 0}, {.stream = name, .id = "i", .state = 5},
                                           {.stream = name, .id = "i", .state = -1}, {.stream = "", .id = "i", .state = 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        testing_snapshot(&f->frames, &bad[i]);
        assert_invalid(f, ERROR_INVALID);
    }
}

static void test_snapshots_bounded(void **state)
{
    struct fixture *f = *state;
    char id[16];
    open_producer(f, "p", false);
    for (int i = 0; i < STREAMS_SNAPSHOTS_MAX; i++) {
        snprintf(id, sizeof id, "s%d", i);
        assert_int_equal(record(f, id, 2, 0)->code, ERROR_NONE);
    }
    assert_refused(record(f, "more", 1, 0), ERROR_TOO_LARGE, f);
    record(f, "s3", 3, 0);
    record(f, "s7", 4, 0);
    record(f, "s9", 4, 0);
    assert_int_equal(record(f, "more", 1, 0)->code, ERROR_NONE); /* the oldest deleted one goes first */
    assert_int_equal(puts_in(f, STREAMS_TABLE_SNAPSHOT, true), 1);
    assert_int_equal(streams_snapshots(f->streams, 1), STREAMS_SNAPSHOTS_MAX);
    assert_int_equal(record(f, "s7", 2, 0)->code, ERROR_NONE); /* forgotten, so it is new; s9 makes room */
    assert_int_equal(record(f, "n1", 1, 0)->code, ERROR_NONE); /* s3, failed */
    assert_refused(record(f, "n2", 1, 0), ERROR_TOO_LARGE, f);
}

static void test_sessions_bounded(void **state)
{
    struct fixture *f = *state;
    char producer[16];
    for (int i = 1; i <= STREAMS_SESSIONS_MAX; i++) {
        snprintf(producer, sizeof producer, "p%d", i);
        assert_int_equal(open_producer(f, producer, true)->epoch, i);
    }
    for (uint64_t epoch = 1; epoch <= STREAMS_SESSIONS_MAX; epoch++)
        if (epoch != 5) assert_int_equal(append(f, epoch, 1, 1)->code, ERROR_NONE);
    assert_int_equal(open_producer(f, "one more", true)->code, ERROR_NONE);
    assert_refused(append(f, 5, 1, 1), ERROR_FENCED, f); /* who was idle longest */
    assert_int_equal(append(f, 1, 2, 1)->code, ERROR_NONE);
}

/* To have opened counts as well: who came last without having appended yet is not the one who is idle. */
static void test_idle_session(void **state)
{
    struct fixture *f = *state;
    char producer[16];
    open_producer(f, "p1", true);
    append(f, 1, 1, 1);
    for (int i = 2; i <= STREAMS_SESSIONS_MAX + 1; i++) {
        snprintf(producer, sizeof producer, "p%d", i);
        assert_int_equal(open_producer(f, producer, true)->epoch, i);
    }
    assert_refused(append(f, 1, 2, 1), ERROR_FENCED, f);
    assert_int_equal(append(f, 2, 1, 1)->code, ERROR_NONE);
}

static void test_dedup_bounds(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "p", false);
    uint64_t last = 0;
    for (; last < STREAMS_DEDUP_MAX + 8192; last += 4096) append(f, 1, last + 1, 4096);
    assert_refused(append(f, 1, 1, 1), ERROR_SEQUENCE, f);
    assert_non_null(strstr(f->update.outcomes[0].text, "unknown"));
    assert_int_equal(f->update.outcomes[0].expected, last + 1);
    assert_refused(append(f, 1, last - STREAMS_DEDUP_MAX, 1), ERROR_SEQUENCE, f);
    assert_true(append(f, 1, last - STREAMS_DEDUP_MAX + 1, 1)->duplicate);
    assert_int_equal(f->update.outcomes[0].offset, last - STREAMS_DEDUP_MAX + 1);
}

/* Two producers in turn: each batch is a run of its own. The index' record stays within its bound. */
static void test_runs_bounded(void **state)
{
    struct fixture *f = *state;
    open_producer(f, "a", true);
    open_producer(f, "b", true);
    const uint64_t rounds = SESSION_RUNS_MAX + 10;
    for (uint64_t i = 0; i < rounds; i++) {
        append(f, 1, 2 * i + 1, 2);
        for (unsigned k = 0; k < f->update.n_puts; k++) assert_true(f->update.puts[k].value_len <= RECORDS_VALUE_MAX);
        append(f, 2, i + 1, 1);
    }
    assert_refused(append(f, 1, 1, 2), ERROR_SEQUENCE, f);
    assert_non_null(strstr(f->update.outcomes[0].text, "unknown"));
    uint64_t oldest = 2 * (rounds - SESSION_RUNS_MAX) + 1;
    assert_refused(append(f, 1, oldest - 2, 2), ERROR_SEQUENCE, f);
    assert_true(append(f, 1, oldest, 2)->duplicate);
    assert_int_equal(f->update.outcomes[0].offset, (rounds - SESSION_RUNS_MAX) * 3 + 1);
    assert_refused(append(f, 1, oldest, 4), ERROR_SEQUENCE, f); /* two batches as one: not side by side */
    assert_refused(append(f, 1, oldest + 1, 2), ERROR_SEQUENCE, f);
}

static void test_one_entry(void **state)
{
    struct fixture *f = *state;
    testing_open(&f->frames, name, "p", false);
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 1, .n = 1});
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 2, .n = 2});
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 1, .n = 1});
    testing_append(&f->frames, &(struct testing_append){.stream = "other", .epoch = 1, .sequence = 1, .n = 1});
    testing_raw(&f->frames, 999, "x", 1, "y", 1);
    testing_open(&f->frames, name, "q", false);
    const struct streams_outcome *o = apply(f);
    assert_int_equal(f->update.n_outcomes, 7);
    const enum error_code codes[] = {0, 0, 0, 0, ERROR_NOT_FOUND, ERROR_INVALID, 0};
    for (int i = 0; i < 7; i++) assert_int_equal(o[i].code, codes[i]);
    assert_int_equal(o[2].offset, 2);
    assert_true(o[3].duplicate);
    assert_int_equal(o[6].epoch, 2);
    assert_int_equal(puts_in(f, STREAMS_TABLE_STREAM, false), 1); /* once, however many commands touched it */
    assert_int_equal(puts_in(f, STREAMS_TABLE_SESSION, false), 1); /* of q; p's is gone */
    assert_int_equal(puts_in(f, STREAMS_TABLE_EVENT, false), 2);
    uint64_t index = streams_applied(f->streams) + 1;
    assert_int_equal(streams_apply(f->streams, index, NULL, 0, (struct wal_location){0}, &f->update, NULL), 0);
    assert_int_equal(f->update.n_outcomes + f->update.n_puts, 0);
    assert_int_equal(streams_applied(f->streams), index);
}

static void test_not_an_entry(void **state)
{
    struct fixture *f = *state;
    struct error e = {0};
    open_producer(f, "p", false);
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 1, .n = 1});
    testing_append(&f->frames, &(struct testing_append){.stream = name, .epoch = 1, .sequence = 2, .n = 1});
    f->entry.len = 0;
    testing_entry(&f->entry, 1, &f->frames);
    f->entry.data[f->entry.len - 1] ^= 1; /* in the second command */
    assert_int_equal(streams_apply(f->streams, 2, f->entry.data, f->entry.len, (struct wal_location){0}, &f->update, &e),
                     -ERROR_CORRUPT);
    assert_true(strlen(e.text) > 0);
    assert_int_equal(streams_applied(f->streams), 1);
    assert_int_equal(info(f).last_offset, 0); /* nor did the first have an effect */
}

static void test_find_and_read(void **state)
{
    struct fixture *f = *state;
    struct streams_run run;
    bool in_index;
    struct testing_event events[] = {{.kind = 1, .size = 3, .after = 1}, {.kind = 2, .size = 0, .ref = 1},
                                     {.kind = 3, .size = 300, .after = 3}};
    open_producer(f, "p", false);
    append(f, 1, 1, 1);
    testing_fence(&f->frames, name, 1); /* so that the append is not the entry's first frame */
    append_as(f, (struct testing_append){.epoch = 1, .sequence = 2, .n = 3, .events = events});
    assert_int_equal(streams_find(f->streams, 1, 0, &run, &in_index), -ERROR_NOT_FOUND);
    assert_false(in_index);
    assert_int_equal(streams_find(f->streams, 1, 5, &run, &in_index), -ERROR_NOT_FOUND);
    assert_false(in_index);
    assert_int_equal(streams_find(f->streams, 2, 1, &run, &in_index), -ERROR_NOT_FOUND);
    assert_false(in_index);
    assert_int_equal(streams_find(f->streams, 1, 3, &run, &in_index), 0);
    assert_int_equal(run.first_offset, 2);
    assert_int_equal(run.count, 3);
    assert_int_equal(run.where.segment, 3);
    assert_int_equal(run.time_us, f->time_us);

    const uint8_t *bytes = f->entry.data + (run.where.position - 1000);
    struct run_reader r;
    struct run_event event;
    assert_int_equal(run_open(&r, &run, bytes, run.frame_len, 3, NULL), 0);
    assert_true(run_next(&r, &event));
    assert_int_equal(event.offset, 3);
    assert_int_equal(event.kind, 2);
    assert_int_equal(event.ref, 1);
    assert_int_equal(event.sequence, 3);
    assert_int_equal(event.epoch, 1);
    assert_int_equal(event.time_us, f->time_us);
    assert_int_equal(event.size, 0);
    assert_true(run_next(&r, &event));
    assert_int_equal(event.offset, 4);
    assert_int_equal(event.after, 3);
    assert_int_equal(event.size, 300);
    for (uint32_t at = 0; at < event.size; at++) assert_int_equal(event.payload[at], testing_payload(name, 1, 4, at));
    assert_false(run_next(&r, &event));
    run_close(&r);

    struct streams_run other = run; /* a place that holds another append than it should */
    other.sequence++;
    assert_int_equal(run_open(&r, &other, bytes, run.frame_len, 2, NULL), -ERROR_CORRUPT);
    assert_int_equal(run_open(&r, &run, bytes, run.frame_len - 1, 2, NULL), -ERROR_CORRUPT);
    f->entry.data[run.where.position - 1000 + 40] ^= 1;
    assert_int_equal(run_open(&r, &run, bytes, run.frame_len, 2, NULL), -ERROR_CORRUPT);

    streams_index_durable(f->streams, 2);
    assert_int_equal(streams_find(f->streams, 1, 1, &run, &in_index), -ERROR_NOT_FOUND);
    assert_true(in_index);
    assert_int_equal(streams_find(f->streams, 1, 2, &run, &in_index), 0);
    streams_index_durable(f->streams, 3);
    assert_int_equal(streams_find(f->streams, 1, 2, &run, &in_index), -ERROR_NOT_FOUND);
    assert_true(in_index);
    append(f, 1, 5, 1);
    assert_int_equal(streams_find(f->streams, 1, 5, &run, &in_index), 0);
}

static void test_event_record(void **state)
{
    (void)state;
    uint8_t key[STREAMS_EVENT_KEY], next[STREAMS_EVENT_KEY], value[RECORDS_EVENT_VALUE + RECORDS_SEAL];
    struct streams_run run = {256, 7, 99, 1234, {3, 4}, 5, 6, 8}, back;
    uint64_t id;
    streams_event_key(1, 255, key);
    streams_event_key(1, 256, next);
    assert_true(memcmp(key, next, sizeof key) < 0);
    streams_event_key(2, 1, key);
    assert_true(memcmp(next, key, sizeof key) < 0);
    assert_int_equal(records_encode_event(&run, value), RECORDS_EVENT_VALUE);
    records_seal(next, sizeof next, value, RECORDS_EVENT_VALUE, value + RECORDS_EVENT_VALUE);
    assert_int_equal(streams_event_decode(next, sizeof next, value, sizeof value, &id, &back), 0);
    assert_int_equal(id, 1);
    assert_memory_equal(&run, &back, sizeof run);
    for (size_t bit = 0; bit < sizeof value * 8; bit++) {
        value[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(streams_event_decode(next, sizeof next, value, sizeof value, &id, &back), -ERROR_CORRUPT);
        value[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(streams_event_decode(key, sizeof key, value, sizeof value, &id, &back), -ERROR_CORRUPT); /* not its key */
    assert_int_equal(streams_event_decode(next, 15, value, sizeof value, &id, &back), -ERROR_CORRUPT);
    assert_int_equal(streams_event_decode(next, sizeof next, value, sizeof value - 1, &id, &back), -ERROR_CORRUPT);
    records_seal(next, sizeof next, value, RECORDS_EVENT_VALUE_EARLY, value + RECORDS_EVENT_VALUE_EARLY); /* as version 0.1.0 wrote it at first */
    assert_int_equal(streams_event_decode(next, sizeof next, value, RECORDS_EVENT_VALUE_EARLY + RECORDS_SEAL, &id, &back), 0);
    run.before = 0;
    assert_memory_equal(&run, &back, sizeof run);
}

#define unit(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        unit(test_open), unit(test_open_shared), unit(test_append), unit(test_if_last), unit(test_references),
        unit(test_append_invalid), unit(test_names), unit(test_malformed), unit(test_fence), unit(test_trim), unit(test_retention), unit(test_retention_invalid), unit(test_snapshots),
        unit(test_snapshot_moves), unit(test_snapshot_invalid), unit(test_snapshots_bounded),
        unit(test_sessions_bounded), unit(test_idle_session), unit(test_dedup_bounds), unit(test_runs_bounded), unit(test_one_entry),
        unit(test_not_an_entry), unit(test_find_and_read), unit(test_event_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
