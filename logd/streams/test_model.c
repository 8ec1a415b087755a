/* Random histories against a naive model: a plain array of everything that was ever appended.
 *
 * Checked at every command: its whole outcome. Checked along the way: offsets are dense and keep their content (L2); a
 * repeated append has one effect and one answer (L3); nothing below a fence is applied (L4); a replica that restarts
 * from any earlier state of its index and applies the rest again gives byte for byte the same writes and outcomes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "logd/streams/command_codec.h"
#include "logd/streams/run_reader.h"
#include "logd/streams/session.h"
#include "logd/streams/streams.h"
#include "logd/streams/testing.h"

/* ---- the model ------------------------------------------------------------------------------------------------ */

enum { STREAMS = 3, EVENTS = 16384, EPOCHS = 2048, IDS = 6, ENTRIES = 1500 };

struct model_event {
    uint64_t epoch, sequence, after, ref, time_us;
    uint32_t kind, size, crc; /* of the payload */
};

struct model_epoch {
    char producer[8];
    bool given, live;
    uint64_t last; /* sequence */
};

struct model_stream {
    bool exists;
    uint64_t id, epoch, min_epoch, bytes;
    uint64_t n; /* events; event with offset o is events[o - 1] */
    struct model_event events[EVENTS];
    struct model_epoch epochs[EPOCHS];
    int snapshot_state[IDS];
    uint64_t snapshot_offset[IDS];
    uint64_t fenced_below; /* L4: the highest that a fence or exclusive opening has answered */
};

struct model {
    struct model_stream streams[STREAMS];
    uint64_t n_streams;
};

static const char *const names[STREAMS] = {"c/n/k/a", "c/n/k/b", "c/n/k/c"};

static struct model_stream *model_find(struct model *m, const char *name)
{
    for (int i = 0; i < STREAMS; i++)
        if (strcmp(names[i], name) == 0) return &m->streams[i];
    return NULL;
}

static void model_open(struct model *m, struct model_stream *s, const struct command *c, struct streams_outcome *o)
{
    if (!s->exists) {
        s->exists = true;
        s->id = ++m->n_streams;
        s->min_epoch = 1;
    }
    s->epoch = s->epoch + 1 > s->min_epoch ? s->epoch + 1 : s->min_epoch;
    for (uint64_t e = 0; e < s->epoch; e++)
        if (!c->open.shared || strcmp(s->epochs[e].producer, c->open.producer) == 0) s->epochs[e].live = false;
    if (!c->open.shared) s->min_epoch = s->epoch;
    struct model_epoch *epoch = &s->epochs[s->epoch];
    *epoch = (struct model_epoch){.given = true, .live = true};
    snprintf(epoch->producer, sizeof epoch->producer, "%s", c->open.producer);
    o->stream_id = s->id;
    o->epoch = s->epoch;
    o->offset = s->n;
}

/* Where a batch that is not the next one stands, looking at each of its events. */
static enum error_code model_repeated(const struct model_stream *s, const struct command_append *a, uint64_t last,
                                      struct streams_outcome *o)
{
    o->expected = last + 1;
    if (a->sequence + a->n - 1 > last) return ERROR_SEQUENCE;
    if (last - a->sequence >= STREAMS_DEDUP_MAX) return ERROR_SEQUENCE;
    uint64_t first = 0, breaks = 0, previous = 0;
    for (uint64_t place = 1; place <= s->n; place++) {
        const struct model_event *e = &s->events[place - 1];
        if (e->epoch != a->epoch || e->sequence < a->sequence) continue;
        if (first == 0) {
            first = place;
        } else if (place != previous + 1) {
            if (e->sequence < a->sequence + a->n) return ERROR_SEQUENCE; /* in pieces */
            breaks++;
        }
        previous = place;
    }
    if (breaks >= SESSION_RUNS_MAX) return ERROR_SEQUENCE; /* forgotten */
    o->expected = 0;
    o->offset = first;
    o->count = a->n;
    o->duplicate = true;
    return ERROR_NONE;
}

static enum error_code model_append(struct model_stream *s, const struct command_append *a, const uint8_t *body,
                                    uint64_t time_us, struct streams_outcome *o)
{
    struct model_epoch *epoch = a->epoch < EPOCHS ? &s->epochs[a->epoch] : NULL;
    if (epoch == NULL || !epoch->live || a->epoch < s->min_epoch) {
        if (a->epoch > s->epoch && a->epoch >= s->min_epoch) return ERROR_INVALID;
        o->epoch = s->epoch > s->min_epoch ? s->epoch : s->min_epoch;
        return ERROR_FENCED;
    }
    if (a->sequence > epoch->last + 1) {
        o->expected = epoch->last + 1;
        return ERROR_SEQUENCE;
    }
    if (a->sequence <= epoch->last) return model_repeated(s, a, epoch->last, o);
    if (a->if_last && a->last_offset != s->n) {
        o->expected = s->n;
        return ERROR_CONFLICT;
    }
    for (uint32_t i = 0; i < a->n; i++) {
        const struct command_event *e = &a->events[i];
        if (e->after > s->n + i) return ERROR_INVALID;
        if (e->kind == 2 && (e->ref == 0 || e->ref > s->n + i)) return ERROR_INVALID;
    }
    assert_true(s->n + a->n <= EVENTS);
    assert_true(a->epoch >= s->fenced_below); /* L4 */
    o->offset = s->n + 1;
    o->count = a->n;
    for (uint32_t i = 0; i < a->n; i++) {
        const struct command_event *e = &a->events[i];
        s->events[s->n++] = (struct model_event){a->epoch, ++epoch->last, e->after, e->ref, time_us, e->kind, e->size,
                                                crc32c(0, body, e->size)};
        s->bytes += e->size;
        body += e->size;
    }
    return ERROR_NONE;
}

static enum error_code model_snapshot(struct model_stream *s, const struct command_snapshot *c, struct streams_outcome *o)
{
    static const char *const moves[] = {"123", "1234", "234", "34", "4"};
    int id = c->id[0] - 'a';
    assert_in_range(id, 0, IDS - 1);
    if (strchr(moves[s->snapshot_state[id]], (int)('0' + c->state)) == NULL || c->offset > s->n) {
        o->expected = s->n;
        return ERROR_CONFLICT;
    }
    s->snapshot_state[id] = (int)c->state;
    s->snapshot_offset[id] = c->offset;
    return ERROR_NONE;
}

static struct streams_outcome model_apply(struct model *m, const struct frame *f, uint64_t time_us)
{
    struct streams_outcome o = {.type = f->type};
    struct arena arena;
    struct command c;
    arena_init(&arena);
    int rv = command_parse(f, &arena, &c, NULL);
    struct model_stream *s = rv == 0 ? model_find(m, c.stream) : NULL;
    if (rv != 0) {
        o.code = (enum error_code)-rv;
    } else if (s == NULL || (!s->exists && c.type != FRAME_OPEN_PRODUCER)) {
        o.code = ERROR_NOT_FOUND;
    } else {
        o.stream_id = s->id;
        switch (c.type) {
        case FRAME_OPEN_PRODUCER:
            model_open(m, s, &c, &o);
            if (!c.open.shared) s->fenced_below = o.epoch;
            break;
        case FRAME_APPEND: o.code = model_append(s, &c.append, f->body, time_us, &o); break;
        case FRAME_FENCE: {
            uint64_t epoch = c.fence != 0 ? c.fence : s->epoch + 1;
            for (uint64_t e = 0; e < epoch && e < EPOCHS; e++) s->epochs[e].live = false;
            if (epoch > s->min_epoch) s->min_epoch = epoch;
            o.epoch = s->fenced_below = s->min_epoch;
            break;
        }
        default: o.code = model_snapshot(s, &c.snapshot, &o); break;
        }
    }
    arena_fini(&arena);
    return o;
}

/* ---- an index in memory, and everything that came of every entry ---------------------------------------------- */

struct write {
    uint32_t table, key_len, value_len;
    uint8_t *bytes; /* key, then value */
};

struct fake_index {
    struct write *writes; /* sorted by table and key */
    size_t n, cap;
};

static int compare(const struct write *w, uint32_t table, const void *key, uint32_t key_len)
{
    if (w->table != table) return w->table < table ? -1 : 1;
    int order = memcmp(w->bytes, key, w->key_len < key_len ? w->key_len : key_len);
    return order != 0 ? order : (int)w->key_len - (int)key_len;
}

/* The first write at or behind this key. */
static size_t lower(const struct fake_index *x, uint32_t table, const void *key, uint32_t key_len)
{
    size_t lo = 0, hi = x->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (compare(&x->writes[mid], table, key, key_len) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void fake_put(struct fake_index *x, const struct write *w)
{
    size_t i = lower(x, w->table, w->bytes, w->key_len);
    bool there = i < x->n && compare(&x->writes[i], w->table, w->bytes, w->key_len) == 0;
    if (there) {
        free(x->writes[i].bytes);
        x->n--;
        memmove(x->writes + i, x->writes + i + 1, (x->n - i) * sizeof *x->writes);
    }
    if (w->value_len == 0) return;
    if (x->n == x->cap) {
        x->cap = x->cap == 0 ? 64 : x->cap * 2;
        x->writes = realloc(x->writes, x->cap * sizeof *x->writes);
    }
    memmove(x->writes + i + 1, x->writes + i, (x->n - i) * sizeof *x->writes);
    x->writes[i] = *w;
    x->writes[i].bytes = malloc(w->key_len + w->value_len);
    memcpy(x->writes[i].bytes, w->bytes, w->key_len + w->value_len);
    x->n++;
}

static int fake_find(const struct fake_index *x, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run)
{
    uint8_t key[STREAMS_EVENT_KEY];
    uint64_t id = 0;
    streams_event_key(stream_id, offset + 1, key);
    size_t i = lower(x, STREAMS_TABLE_EVENT, key, sizeof key);
    if (i == 0 || x->writes[i - 1].table != STREAMS_TABLE_EVENT) return -ERROR_NOT_FOUND;
    const struct write *w = &x->writes[i - 1];
    int rv = streams_event_decode(w->bytes, w->key_len, w->bytes + w->key_len, w->value_len, &id, ret_run);
    if (rv != 0) return rv;
    return id == stream_id && offset - ret_run->first_offset < ret_run->count ? 0 : -ERROR_NOT_FOUND;
}

static void fake_fini(struct fake_index *x)
{
    for (size_t i = 0; i < x->n; i++) free(x->writes[i].bytes);
    free(x->writes);
    *x = (struct fake_index){0};
}

struct past { /* one entry, and what came of it the first time */
    struct buf bytes, update;
};

struct world {
    struct testing_random random;
    struct model *model;
    struct streams *streams;
    struct streams_update update;
    struct fake_index index; /* with everything up to `durable` */
    uint64_t durable, applied;
    struct past past[ENTRIES + 1]; /* by Raft index */
    struct buf history[64];        /* frames sent before, to be sent again */
    unsigned n_history;
    unsigned opens;                /* of 1000 commands */
    unsigned n_streams;            /* in use */
    uint64_t appended, repeated, refused, restarts, forgotten; /* so that the test can be seen to test something */
};

static void add_u64(struct buf *b, uint64_t v)
{
    uint8_t bytes[8];
    put_u64(bytes, v);
    assert_int_equal(buf_add(b, bytes, sizeof bytes), 0);
}

/* All that streams_apply() answered, as bytes that can be compared. */
static void describe(const struct streams_update *u, struct buf *out)
{
    out->len = 0;
    for (unsigned i = 0; i < u->n_outcomes; i++) {
        const struct streams_outcome *o = &u->outcomes[i];
        const uint64_t numbers[] = {o->type, o->code, o->stream_id, o->offset, o->count, o->duplicate, o->epoch, o->expected};
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) add_u64(out, numbers[k]);
        assert_int_equal(buf_add(out, o->text, strlen(o->text) + 1), 0);
    }
    for (unsigned i = 0; i < u->n_puts; i++) {
        const struct streams_put *p = &u->puts[i];
        add_u64(out, p->table);
        add_u64(out, p->key_len);
        add_u64(out, p->value_len);
        assert_int_equal(buf_add(out, u->bytes.data + p->key_at, p->key_len), 0);
        assert_int_equal(buf_add(out, u->bytes.data + p->value_at, p->value_len), 0);
    }
}

/* ---- histories ------------------------------------------------------------------------------------------------ */

static void random_append(struct world *w, struct buf *out)
{
    struct testing_random *r = &w->random;
    struct testing_event events[6];
    unsigned which = (unsigned)testing_below(r, w->n_streams);
    const struct model_stream *s = &w->model->streams[which];
    struct testing_append a = {.stream = names[which], .n = 1 + (uint32_t)testing_below(r, 6), .events = events};
    a.epoch = s->epoch;
    if (testing_chance(r, 40) && s->epoch > 0) a.epoch = 1 + testing_below(r, s->epoch); /* often an old or shared one */
    for (int tries = 0; tries < 8 && a.epoch < EPOCHS && !s->epochs[a.epoch].live && s->epoch > 0; tries++)
        a.epoch = s->epoch - testing_below(r, s->epoch < 6 ? s->epoch : 6); /* but mostly one that lives */
    if (testing_chance(r, 3)) a.epoch = s->epoch + testing_below(r, 3);
    uint64_t last = a.epoch < EPOCHS ? s->epochs[a.epoch].last : 0;
    a.sequence = last + 1;
    if (testing_chance(r, 10)) a.sequence = last + testing_below(r, 4);
    if (testing_chance(r, 15) && last > 0) a.sequence = 1 + testing_below(r, last);
    if (testing_chance(r, 10)) {
        a.if_last = true;
        a.last_offset = s->n - (s->n > 0 && testing_chance(r, 30) ? 1 : 0);
    }
    for (uint32_t i = 0; i < a.n; i++) {
        events[i] = (struct testing_event){.kind = 1 + (uint32_t)testing_below(r, 3), .size = (uint32_t)testing_below(r, 40),
                                           .after = testing_below(r, s->n + 1)};
        if (events[i].kind == 2) events[i].ref = s->n > 0 && testing_chance(r, 95) ? 1 + testing_below(r, s->n) : s->n + 9;
    }
    if (testing_chance(r, 2)) events[0].kind = (uint32_t)testing_below(r, 6);
    if (testing_chance(r, 2)) a.body_extra = 1;
    if (testing_chance(r, 2)) a.stream = "c/n/k/nobody";
    testing_append(out, &a);
}

/* Flips a bit of the content and mends the checksum: bytes that a strange but honest client might send. */
static void random_damage(struct world *w, const struct buf *from, struct buf *out)
{
    struct frame f;
    assert_true(frame_decode(from->data, from->len, &f, NULL) > 0);
    size_t len = f.head_len + f.body_len;
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, f.head, len);
    if (len > 0) copy[testing_below(&w->random, len)] ^= (uint8_t)(1 << testing_below(&w->random, 8));
    uint16_t type = testing_chance(&w->random, 10) ? (uint16_t)testing_below(&w->random, 70) : f.type;
    testing_raw(out, type, copy, f.head_len, copy + f.head_len, f.body_len);
    free(copy);
}

/* The model has names for ids 'a' to 'f' and no more epochs than it has room for: a damaged frame that would go beyond
 * is left out. */
static bool fits_the_model(struct world *w, const struct buf *bytes)
{
    struct frame f;
    struct arena arena;
    struct command c;
    bool fits = true;
    assert_true(frame_decode(bytes->data, bytes->len, &f, NULL) > 0);
    arena_init(&arena);
    if (command_parse(&f, &arena, &c, NULL) == 0) {
        const struct model_stream *s = model_find(w->model, c.stream);
        if (c.type == FRAME_OPEN_PRODUCER) fits = s != NULL && c.open.producer_len < 8;
        if (c.type == FRAME_FENCE && s != NULL) fits = c.fence <= s->epoch + 3;
        if (c.type == FRAME_RECORD_SNAPSHOT) fits = strlen(c.snapshot.id) == 1 && c.snapshot.id[0] >= 'a' && c.snapshot.id[0] < 'a' + IDS;
    }
    arena_fini(&arena);
    return fits;
}

static void random_frame(struct world *w, struct buf *out)
{
    struct testing_random *r = &w->random;
    static const char *const producers[] = {"p", "q", "r"};
    const char *name = names[testing_below(r, w->n_streams)];
    const struct model_stream *s = model_find(w->model, name);
    uint64_t dice = testing_below(r, 100);
    if (testing_below(r, 1000) < w->opens || (!s->exists && dice < 50)) {
        testing_open(out, name, producers[testing_below(r, 3)], w->n_streams == 1 || testing_chance(r, 80));
    } else if (testing_below(r, 6000) < w->opens) {
        testing_fence(out, name, testing_chance(r, 30) ? 0 : testing_below(r, s->epoch + 3));
    } else if (dice < 10) {
        char id[2] = {(char)('a' + testing_below(r, IDS)), '\0'};
        testing_snapshot(out, &(struct testing_snapshot){.stream = name, .id = id, .state = (int)testing_below(r, 6),
                                                         .offset = testing_below(r, s->n + 2), .image = "image"});
    } else if (dice < 25 && w->n_history > 0) { /* once more what was sent before: a retry, perhaps much too late */
        const struct buf *old = &w->history[testing_below(r, w->n_history)];
        assert_int_equal(buf_add(out, old->data, old->len), 0);
    } else if (dice < 31 && w->n_history > 0) {
        random_damage(w, &w->history[testing_below(r, w->n_history)], out);
    } else {
        random_append(w, out);
    }
}

static void remember(struct world *w, const struct buf *frame)
{
    unsigned i = w->n_history < 64 ? w->n_history++ : (unsigned)testing_below(&w->random, 64);
    w->history[i].len = 0;
    assert_int_equal(buf_add(&w->history[i], frame->data, frame->len), 0);
}

static void assert_outcome(const struct streams_outcome *is, const struct streams_outcome *should)
{
    bool same = is->type == should->type && is->code == should->code && is->stream_id == should->stream_id &&
                is->offset == should->offset && is->count == should->count && is->duplicate == should->duplicate &&
                is->epoch == should->epoch && is->expected == should->expected && (is->code == 0) == (is->text[0] == '\0');
    if (!same)
        fail_msg("type %u: code %d/%d stream %d/%d offset %d/%d count %u/%u duplicate %d/%d epoch %d/%d expected %d/%d: %s",
                 is->type, is->code, should->code, (int)is->stream_id, (int)should->stream_id, (int)is->offset,
                 (int)should->offset, is->count, should->count, is->duplicate, should->duplicate, (int)is->epoch,
                 (int)should->epoch, (int)is->expected, (int)should->expected, is->text);
}

static struct wal_location place(uint64_t index)
{
    return (struct wal_location){1 + index / 100, index * 100000};
}

static void one_entry(struct world *w)
{
    struct buf frames = BUF_INIT, frame = BUF_INIT;
    struct streams_outcome should[5];
    unsigned n = (unsigned)testing_below(&w->random, 6);
    uint64_t index = ++w->applied, time_us = 1000000 + index;
    for (unsigned i = 0; i < n; i++) {
        struct frame f;
        do {
            frame.len = 0;
            random_frame(w, &frame);
        } while (!fits_the_model(w, &frame));
        remember(w, &frame);
        assert_true(frame_decode(frame.data, frame.len, &f, NULL) > 0);
        should[i] = model_apply(w->model, &f, time_us);
        assert_int_equal(buf_add(&frames, frame.data, frame.len), 0);
    }
    struct past *p = &w->past[index];
    testing_entry(&p->bytes, time_us, &frames);
    assert_int_equal(streams_apply(w->streams, index, p->bytes.data, p->bytes.len, place(index), &w->update, NULL), 0);
    describe(&w->update, &p->update);
    assert_int_equal(w->update.n_outcomes, n);
    for (unsigned i = 0; i < n; i++) {
        assert_outcome(&w->update.outcomes[i], &should[i]);
        w->forgotten += strstr(w->update.outcomes[i].text, "too old") != NULL;
        w->refused += should[i].code != 0;
        w->repeated += should[i].duplicate;
        w->appended += should[i].type == FRAME_APPEND && should[i].code == 0 && !should[i].duplicate;
    }
    buf_fini(&frames);
    buf_fini(&frame);
}

/* The index catches up with a part of what was applied: described again, which is what a real one was given. */
static void make_durable(struct world *w, uint64_t to)
{
    for (; w->durable < to; w->durable++) {
        const struct buf *u = &w->past[w->durable + 1].update;
        const struct past *p = &w->past[w->durable + 1];
        uint32_t outcomes = get_u32(p->bytes.data + 8);
        size_t at = 0;
        for (uint32_t i = 0; i < outcomes; i++) {
            at += 64;
            at += strlen((const char *)u->data + at) + 1;
        }
        while (at < u->len) {
            struct write write = {(uint32_t)get_u64(u->data + at), (uint32_t)get_u64(u->data + at + 8),
                                  (uint32_t)get_u64(u->data + at + 16), u->data + at + 24};
            fake_put(&w->index, &write);
            at += 24 + write.key_len + write.value_len;
        }
    }
    streams_index_durable(w->streams, w->durable);
}

static void restart(struct world *w)
{
    struct error e = {0};
    struct buf again = BUF_INIT;
    w->streams = streams_free(w->streams);
    w->streams = streams_new();
    size_t n = 0, *order = malloc((w->index.n + 1) * sizeof *order);
    for (size_t i = 0; i < w->index.n; i++)
        if (w->index.writes[i].table != STREAMS_TABLE_EVENT) order[n++] = i;
    for (size_t i = n; i > 1; i--) { /* any order will do */
        size_t k = testing_below(&w->random, i), swap = order[k];
        order[k] = order[i - 1];
        order[i - 1] = swap;
    }
    for (size_t i = 0; i < n; i++) {
        const struct write *x = &w->index.writes[order[i]];
        if (streams_load(w->streams, (enum streams_table)x->table, x->bytes, x->key_len, x->bytes + x->key_len, x->value_len,
                         &e) != 0)
            fail_msg("%s", e.text);
    }
    free(order);
    if (streams_loaded(w->streams, w->durable, &e) != 0) fail_msg("%s", e.text);
    for (uint64_t index = w->durable + 1; index <= w->applied; index++) {
        const struct past *p = &w->past[index];
        assert_int_equal(streams_apply(w->streams, index, p->bytes.data, p->bytes.len, place(index), &w->update, &e), 0);
        describe(&w->update, &again);
        assert_int_equal(again.len, p->update.len);
        assert_int_equal(memcmp(again.data != NULL ? again.data : (uint8_t *)"", p->update.data != NULL ? p->update.data : (uint8_t *)"", again.len), 0);
    }
    buf_fini(&again);
    w->restarts++;
}

/* Reads one event by the way a server does: memory first, then the index, then the segment's bytes. */
static void assert_event(struct world *w, uint64_t id, uint64_t offset, const struct model_event *should)
{
    struct streams_run run;
    bool in_index;
    struct error e = {0};
    int rv = streams_find(w->streams, id, offset, &run, &in_index);
    if (rv != 0) {
        assert_true(in_index);
        assert_int_equal(fake_find(&w->index, id, offset, &run), 0);
    }
    uint64_t index = run.time_us - 1000000;
    assert_int_equal(run.where.segment, place(index).segment);
    const uint8_t *bytes = w->past[index].bytes.data + (run.where.position - place(index).position);
    struct run_reader reader;
    struct run_event event;
    if (run_open(&reader, &run, bytes, run.frame_len, offset, &e) != 0) fail_msg("%s", e.text);
    assert_true(run_next(&reader, &event));
    assert_int_equal(event.offset, offset);
    assert_int_equal(event.epoch, should->epoch);
    assert_int_equal(event.sequence, should->sequence);
    assert_int_equal(event.kind, should->kind);
    assert_int_equal(event.size, should->size);
    assert_int_equal(event.after, should->after);
    assert_int_equal(event.ref, should->ref);
    assert_int_equal(event.time_us, should->time_us);
    assert_int_equal(crc32c(0, event.payload, event.size), should->crc);
    run_close(&reader);
}

static void assert_state(struct world *w, bool all)
{
    assert_int_equal(streams_count(w->streams), w->model->n_streams);
    for (int i = 0; i < STREAMS; i++) {
        const struct model_stream *s = &w->model->streams[i];
        struct streams_info info;
        struct streams_run run;
        bool in_index;
        assert_int_equal(streams_id(w->streams, names[i], strlen(names[i])), s->id);
        if (!s->exists) continue;
        assert_int_equal(streams_info(w->streams, s->id, &info), 0);
        assert_string_equal(info.name, names[i]);
        assert_string_equal(info.producer, s->epochs[s->epoch].producer);
        assert_int_equal(info.first_offset, 1);
        assert_int_equal(info.last_offset, s->n);
        assert_int_equal(info.epoch, s->epoch);
        assert_int_equal(info.min_epoch, s->min_epoch);
        assert_int_equal(info.bytes, s->bytes);
        unsigned valid = 0;
        uint64_t latest = 0;
        for (int k = 0; k < IDS; k++) {
            if (s->snapshot_state[k] != 2) continue;
            valid++;
            if (s->snapshot_offset[k] > latest) latest = s->snapshot_offset[k];
        }
        assert_int_equal(info.snapshots_valid, valid);
        assert_int_equal(info.latest_snapshot_offset, latest);
        assert_int_equal(streams_find(w->streams, s->id, s->n + 1, &run, &in_index), -ERROR_NOT_FOUND);
        assert_false(in_index);
        for (uint64_t o = 1; o <= s->n; o += all ? 1 : 1 + testing_below(&w->random, 50))
            assert_event(w, s->id, o, &s->events[o - 1]);
    }
}

static struct world *world_new(struct testing_random random)
{
    struct world *w = calloc(1, sizeof *w);
    w->random = random;
    w->model = calloc(1, sizeof *w->model);
    w->streams = streams_new();
    return w;
}

static void world_free(struct world *w)
{
    streams_free(w->streams);
    streams_update_fini(&w->update);
    fake_fini(&w->index);
    for (uint64_t i = 0; i <= w->applied; i++) {
        buf_fini(&w->past[i].bytes);
        buf_fini(&w->past[i].update);
    }
    for (unsigned i = 0; i < w->n_history; i++) buf_fini(&w->history[i]);
    free(w->model);
    free(w);
}

static void test_histories(void **state)
{
    (void)state;
    struct testing_random random = testing_seed("streams-model");
    uint64_t appended = 0, repeated = 0, refused = 0, restarts = 0, forgotten = 0;
    for (int history = 0; history < 12; history++) {
        struct world *w = world_new((struct testing_random){testing_next(&random)});
        bool few = history % 3 == 0; /* long sessions of many runs, beyond what is remembered */
        w->n_streams = few ? 1 : STREAMS;
        while (w->applied < ENTRIES) {
            w->opens = !few ? 60 : w->applied < 20 ? 200 : 0;
            one_entry(w);
            if (testing_chance(&w->random, 5)) make_durable(w, w->durable + testing_below(&w->random, w->applied - w->durable + 1));
            if (testing_chance(&w->random, 1)) restart(w);
            if (testing_chance(&w->random, 2)) assert_state(w, false);
        }
        assert_state(w, true);
        restart(w);
        assert_state(w, true);
        make_durable(w, w->applied);
        restart(w); /* from the index alone */
        assert_state(w, true);
        appended += w->appended;
        repeated += w->repeated;
        refused += w->refused;
        restarts += w->restarts;
        forgotten += w->forgotten;
        world_free(w);
    }
    printf("streams-model: %llu appends, %llu repeated, %llu refused commands, %llu forgotten, %llu restarts\n",
           (unsigned long long)appended, (unsigned long long)repeated, (unsigned long long)refused,
           (unsigned long long)forgotten, (unsigned long long)restarts);
    assert_true(appended > 5000 && repeated > 500 && refused > 1000 && restarts > 50 && forgotten > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_histories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
