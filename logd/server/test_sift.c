/* The look at the index: each row that is not what the disk has, that leads nowhere, or that is missing, is told, and no other. And the look at a whole state
 * (verification.h), which is made of the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "logd/index/index.h"
#include "logd/server/sift.h"
#include "logd/server/verification.h"
#include "logd/streams/entry.h"
#include "logd/streams/testing.h"
#include "logd/wal/disk.h"
#include "logd/wal/segment.h"

enum { STREAMS = 3, APPENDS = 3000, SEGMENTS = 2, BYTES = 16 << 20 };

static const char *const names[STREAMS] = {"c/n/k/a", "c/n/k/b", "c/n/k/c"};

struct append {
    uint64_t stream, first_offset, at;
    uint32_t len; /* of its frame */
    unsigned segment;
};

struct fixture {
    char dir[64];
    uv_loop_t loop;
    struct index *index;
    struct streams *streams;
    struct streams_update update;
    struct sift sift;
    int fds[SEGMENTS];
    uint64_t at[SEGMENTS], sequence[STREAMS];
    struct append appends[APPENDS];
    unsigned n;
    struct testing_random random;
    bool closed;
};

static void on_durable(void *user, uint64_t applied)
{
    struct fixture *f = user;
    streams_index_durable(f->streams, applied);
}

static void on_failed(void *user, const struct error *e)
{
    (void)user;
    fail_msg("%s", e->text);
}

static void path_of(const struct fixture *f, const char *file, char ret[static 128])
{
    snprintf(ret, 128, "%s/%s", f->dir, file);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct error e = {0};
    char path[128];
    snprintf(f->dir, sizeof f->dir, "/tmp/crsc-sift-XXXXXX");
    if (mkdtemp(f->dir) == NULL) return -1;
    uv_loop_init(&f->loop);
    f->random = testing_seed("sift");
    path_of(f, "index", path);
    struct index_options options = {.dir = path, .user = f, .on_durable = on_durable, .on_failed = on_failed};
    if (index_open(&f->loop, &options, &f->index, &e) != 0) fail_msg("%s", e.text);
    f->streams = streams_new();
    if (index_load(f->index, f->streams, &e) != 0) fail_msg("%s", e.text);
    for (unsigned i = 0; i < SEGMENTS; i++) {
        char name[40];
        snprintf(name, sizeof name, "%020u.seg", i + 1);
        path_of(f, name, path);
        f->fds[i] = open(path, O_RDWR | O_CREAT, 0600);
        f->at[i] = SEGMENT_HEADER;
        if (ftruncate(f->fds[i], BYTES) != 0) return -1;
    }
    assert_int_equal(sift_init(&f->sift, f->index, f->dir), 0);
    *state = f;
    return 0;
}

static void on_closed(void *user)
{
    struct fixture *f = user;
    f->closed = true;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    static const char *const files[] = {"index/data.mdb", "index/lock.mdb", "00000000000000000001.seg", "00000000000000000002.seg"};
    char path[128];
    sift_fini(&f->sift);
    index_close(f->index, on_closed, f);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    streams_free(f->streams);
    streams_update_fini(&f->update);
    for (unsigned i = 0; i < SEGMENTS; i++) close(f->fds[i]);
    for (unsigned i = 0; i < 4; i++) {
        path_of(f, files[i], path);
        unlink(path);
    }
    path_of(f, "index", path);
    rmdir(path);
    int left = uv_loop_close(&f->loop), gone = rmdir(f->dir);
    free(f);
    return left != 0 || gone != 0 ? -1 : 0;
}

/* An entry of one command: its bytes are in the segment, as a server has them; `hidden`: the index does not hear of it. */
static struct append put(struct fixture *f, unsigned segment, struct buf *frames, bool hidden)
{
    struct buf entry = BUF_INIT;
    struct error e = {0};
    uint64_t index = streams_applied(f->streams) + 1;
    struct append a = {.segment = segment, .at = f->at[segment] + ENTRY_HEADER, .len = (uint32_t)frames->len};
    testing_entry(&entry, index, frames);
    assert_int_equal(disk_write_all(disk_system(), f->fds[segment], entry.data, entry.len, f->at[segment]), 0); /* a kernel may write a part */
    struct wal_location where = {segment + 1, f->at[segment]};
    f->at[segment] += entry.len + RECORD_HEADER;
    if (streams_apply(f->streams, index, entry.data, entry.len, where, &f->update, &e) != 0) fail_msg("%s", e.text);
    assert_int_equal(f->update.n_outcomes, 1);
    assert_int_equal(f->update.outcomes[0].code, 0);
    a.stream = f->update.outcomes[0].stream_id;
    a.first_offset = f->update.outcomes[0].offset;
    if (!hidden && index_put(f->index, index, &f->update, &e) != 0) fail_msg("%s", e.text);
    buf_fini(&entry);
    buf_fini(frames);
    return a;
}

static struct append append(struct fixture *f, unsigned segment, unsigned stream, uint32_t n, const struct testing_event *events, bool hidden)
{
    struct buf frames = BUF_INIT;
    if (f->sequence[stream] == 0) {
        testing_open(&frames, names[stream], "p", false);
        put(f, segment, &frames, false);
    }
    testing_append(&frames, &(struct testing_append){.stream = names[stream], .epoch = 1, .sequence = f->sequence[stream] + 1, .n = n, .events = events});
    f->sequence[stream] += n;
    return put(f, segment, &frames, hidden);
}

static void settle(struct fixture *f)
{
    index_sync(f->index);
    while (index_queued_bytes(f->index) > 0) uv_run(&f->loop, UV_RUN_ONCE);
    for (unsigned i = 0; i < SEGMENTS; i++) assert_int_equal(fsync(f->fds[i]), 0); /* the look is past the page cache */
}

/* Appends of all three streams in any order, of one event or many, small and large ones, each with a body. */
static void fill(struct fixture *f)
{
    for (f->n = 0; f->n < APPENDS; f->n++) {
        struct testing_event one = {1, 1 + (uint32_t)testing_below(&f->random, testing_chance(&f->random, 2) ? 60000 : 1500), 0, 0};
        bool many = testing_chance(&f->random, 20);
        unsigned segment = f->n >= APPENDS / 2, stream = (unsigned)testing_below(&f->random, STREAMS);
        f->appends[f->n] = append(f, segment, stream, many ? 1 + (uint32_t)testing_below(&f->random, 100) : 1, many ? NULL : &one, false);
    }
    settle(f);
}

/* What is wrong, all of it: the strays of all steps. */
static unsigned look(struct fixture *f, uint64_t second_bytes, struct sift_stray *ret, unsigned most)
{
    static const uint64_t ids[SEGMENTS] = {1, 2};
    const uint64_t sizes[SEGMENTS] = {BYTES, second_bytes};
    struct error e = {0};
    unsigned n = 0;
    int rv = 1;
    sift_index(&f->sift);
    while (rv == 1) {
        sift_segments(&f->sift, ids, sizes, SEGMENTS);
        rv = sift_index_step(&f->sift, &e);
        if (rv < 0) fail_msg("%s", e.text);
        for (unsigned i = 0; i < f->sift.n_strays; i++, n++)
            if (n < most) ret[n] = f->sift.strays[i];
    }
    return n;
}

static bool told(const struct sift_stray *list, unsigned n, enum sift_doubt doubt, const struct append *a)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i].doubt == doubt && list[i].stream == a->stream && list[i].run.first_offset == a->first_offset) return true;
    return false;
}

static void whole(void **state)
{
    struct fixture *f = *state;
    struct sift_stray strays[4];
    fill(f);
    assert_int_equal(look(f, BYTES, strays, 4), 0);
    assert_true(f->sift.cost > 0);
}

/* Two appends of the same length have changed places: each frame is right in itself, and neither is the one that its row means. */
static void exchanged(void **state)
{
    struct fixture *f = *state;
    struct sift_stray strays[4];
    unsigned a = 0, b = 0;
    fill(f);
    for (a = 100; b == 0; a++)
        for (unsigned i = a + 1; i < f->n && b == 0; i++)
            if (f->appends[i].len == f->appends[a].len && f->appends[i].segment == f->appends[a].segment && f->appends[i].first_offset != f->appends[a].first_offset)
                b = i; /* offsets are sequences here: of two streams they could be the same */
    const struct append *x = &f->appends[a - 1], *y = &f->appends[b];
    uint8_t *one = malloc(x->len), *other = malloc(x->len);
    int fd = f->fds[x->segment];
    assert_int_equal(pread(fd, one, x->len, (off_t)x->at), x->len);
    assert_int_equal(pread(fd, other, x->len, (off_t)y->at), x->len);
    assert_int_equal(pwrite(fd, other, x->len, (off_t)x->at), x->len);
    assert_int_equal(pwrite(fd, one, x->len, (off_t)y->at), x->len);
    free(one);
    free(other);
    settle(f);
    assert_int_equal(look(f, BYTES, strays, 4), 2);
    assert_true(told(strays, 2, SIFT_DIFFERS, x));
    assert_true(told(strays, 2, SIFT_DIFFERS, y));
}

static void damaged(void **state)
{
    struct fixture *f = *state;
    struct sift_stray strays[8];
    fill(f);
    const struct append *x = &f->appends[700], *y = &f->appends[2900], *z = &f->appends[1200];
    static const uint8_t zeros[FRAME_HEADER];
    assert_int_equal(pwrite(f->fds[x->segment], zeros, sizeof zeros, (off_t)x->at), sizeof zeros);
    assert_int_equal(pwrite(f->fds[y->segment], zeros, 8, (off_t)y->at + FRAME_HEADER), 8); /* its head */
    assert_int_equal(pwrite(f->fds[z->segment], zeros, 1, (off_t)z->at + z->len - 1), 1); /* its body: that is for the look at the segment */
    settle(f);
    assert_int_equal(look(f, BYTES, strays, 8), 2);
    assert_true(told(strays, 2, SIFT_DIFFERS, x));
    assert_true(told(strays, 2, SIFT_DIFFERS, y));
}

static void missing(void **state)
{
    struct fixture *f = *state;
    struct sift_stray strays[8];
    fill(f);
    struct append hidden = append(f, 1, 1, 7, NULL, true);
    append(f, 1, 1, 1, NULL, false);
    settle(f);
    assert_int_equal(look(f, BYTES, strays, 8), 1);
    assert_true(told(strays, 1, SIFT_GAP, &hidden));
}

/* A place beyond the file's end; a file that is gone. */
static void nowhere(void **state)
{
    struct fixture *f = *state;
    static struct sift_stray strays[APPENDS];
    unsigned in_second = 0;
    char path[128];
    fill(f);
    const struct append *last = &f->appends[APPENDS - 1];
    assert_int_equal(look(f, last->at + last->len - 1, strays, APPENDS), 1);
    assert_true(told(strays, 1, SIFT_NOWHERE, last));
    path_of(f, "00000000000000000002.seg", path);
    unlink(path);
    unsigned n = look(f, BYTES, strays, APPENDS);
    for (unsigned i = 0; i < f->n; i++) in_second += f->appends[i].segment == 1;
    assert_int_equal(n, in_second);
    for (unsigned i = 0; i < n; i++) assert_int_equal(strays[i].doubt, SIFT_DIFFERS);
}

/* Heads that are longer than a page, and than all that is read at once. */
static void long_heads(void **state)
{
    struct fixture *f = *state;
    struct sift_stray strays[8];
    for (uint32_t n = 500; n <= STREAMS_BATCH_MAX; n *= 2) append(f, 0, 0, n, NULL, false);
    append(f, 0, 0, STREAMS_BATCH_MAX, NULL, false);
    settle(f);
    assert_int_equal(look(f, BYTES, strays, 8), 0);
}

/* ---- a whole state -------------------------------------------------------------------------------------------- */

struct told {
    unsigned damages;
    char texts[16][256];
};

static void on_damage(void *user, const struct error *e)
{
    struct told *t = user;
    assert_in_range(t->damages, 0, 15);
    snprintf(t->texts[t->damages++], sizeof t->texts[0], "%s", e->text);
}

/* Of a copy of the index, beside the same segments. */
static int verify(struct fixture *f, size_t rows, bool all, struct told *t, struct verification *ret)
{
    struct error e = {0};
    char state[128], wal[128], index[128];
    *t = (struct told){0};
    *ret = (struct verification){.rows = rows, .all = all, .on_damage = on_damage, .user = t};
    path_of(f, "state", state);
    path_of(f, "state/wal", wal);
    path_of(f, "state/index", index);
    assert_int_equal(mkdir(state, 0700), 0);
    assert_int_equal(mkdir(index, 0700), 0);
    assert_int_equal(symlink(f->dir, wal), 0);
    if (index_copy(f->index, index, &e) != 0) fail_msg("%s", e.text);
    int rv = verification_run(ret, state, &e);
    if (rv != 0 && t->damages == 0) on_damage(t, &e);
    unlink(wal);
    for (unsigned i = 0; i < 2; i++) {
        path_of(f, i == 0 ? "state/index/data.mdb" : "state/index/lock.mdb", wal);
        unlink(wal);
    }
    rmdir(index);
    rmdir(state);
    return rv;
}

static bool says(const struct told *t, const struct append *a)
{
    char wanted[128];
    snprintf(wanted, sizeof wanted, "segment %u, byte %llu: ", a->segment + 1, (unsigned long long)a->at);
    for (unsigned i = 0; i < t->damages; i++)
        if (strncmp(t->texts[i], wanted, strlen(wanted)) == 0) return true;
    return false;
}

/* However few rows are kept at a time, each append is looked at once, and each that is damaged is told once. */
static void verified(void **state)
{
    struct fixture *f = *state;
    static const size_t rows[] = {0, 1, 3, 64, APPENDS / 2, APPENDS};
    static struct told t;
    struct verification v;
    fill(f);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(verify(f, rows[i], true, &t, &v), 0);
        assert_int_equal(v.runs, APPENDS);
    }
    struct append large = append(f, 0, 0, 1, &(struct testing_event){1, 900000, 0, 0}, false); /* more than half a window, and in a segment before those of its stream's others */
    const struct append *bad[] = {&f->appends[0], &f->appends[700], &f->appends[701], &f->appends[APPENDS - 1], &large};
    enum { BAD = sizeof bad / sizeof *bad };
    static const uint8_t one = 0x5a;
    for (size_t i = 0; i < BAD; i++) { /* a byte of the body, of the head, of the header in turn */
        uint64_t at = bad[i]->at + (i % 3 == 0 ? bad[i]->len - 1 : i % 3 == 1 ? FRAME_HEADER + 2 : 4);
        uint8_t was, is;
        assert_int_equal(pread(f->fds[bad[i]->segment], &was, 1, (off_t)at), 1);
        is = was ^ one;
        assert_int_equal(pwrite(f->fds[bad[i]->segment], &is, 1, (off_t)at), 1);
    }
    settle(f);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(verify(f, rows[i], true, &t, &v), -ERROR_CORRUPT);
        assert_int_equal(v.runs, APPENDS + 1);
        assert_int_equal(t.damages, BAD);
        for (size_t k = 0; k < BAD; k++) assert_true(says(&t, bad[k]));
        assert_int_equal(verify(f, rows[i], false, &t, &v), -ERROR_CORRUPT);
        assert_int_equal(v.damaged_segment, 1);
        assert_true(says(&t, bad[0]));
    }
}

/* A row that means another append than the one there, which is whole: the segment is not to blame. */
static void a_wrong_row(void **state)
{
    struct fixture *f = *state;
    static struct told t;
    struct verification v;
    struct append first = append(f, 0, 0, 1, &(struct testing_event){1, 5000, 0, 0}, false), second = append(f, 0, 0, 1, &(struct testing_event){1, 5000, 0, 0}, false);
    uint8_t *frame = malloc(first.len);
    assert_int_equal(first.len, second.len);
    assert_int_equal(pread(f->fds[0], frame, first.len, (off_t)first.at), first.len);
    assert_int_equal(pwrite(f->fds[0], frame, first.len, (off_t)second.at), first.len);
    free(frame);
    settle(f);
    assert_int_equal(verify(f, 0, true, &t, &v), -ERROR_CORRUPT);
    assert_int_equal(t.damages, 1);
    assert_true(says(&t, &second));
    assert_non_null(strstr(t.texts[0], "not there, but others"));
    assert_int_equal(v.damaged_segment, 0);
}

static void without_a_segment(void **state)
{
    struct fixture *f = *state;
    static struct told t;
    struct verification v;
    char path[128];
    fill(f);
    path_of(f, "00000000000000000002.seg", path);
    unlink(path);
    assert_int_equal(verify(f, 100, false, &t, &v), -ERROR_CORRUPT);
    assert_int_equal(v.damaged_segment, 2);
    assert_non_null(strstr(t.texts[0], "the index points to segment 2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(whole, setup, teardown),      cmocka_unit_test_setup_teardown(exchanged, setup, teardown),
                                       cmocka_unit_test_setup_teardown(damaged, setup, teardown),    cmocka_unit_test_setup_teardown(missing, setup, teardown),
                                       cmocka_unit_test_setup_teardown(nowhere, setup, teardown),    cmocka_unit_test_setup_teardown(long_heads, setup, teardown),
                                       cmocka_unit_test_setup_teardown(verified, setup, teardown),   cmocka_unit_test_setup_teardown(without_a_segment, setup, teardown),
                                       cmocka_unit_test_setup_teardown(a_wrong_row, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
