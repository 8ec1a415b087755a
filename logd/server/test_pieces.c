/* The plan of a fetch, by the thousand runs: whatever is lost, in whatever order it comes, and whenever it all ends and begins again, each byte is
 * written, no more is in flight than the window, and what was noted or is whole is never asked for again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "logd/server/pieces.h"

enum { FILES = 5, RUNS = 2000 };

/* What the disk has of each file: a flag for each piece, and what was made durable. */
struct world {
    struct state_manifest manifest;
    struct state_file files[FILES];
    uint8_t written[FILES][64];
    uint64_t durable[FILES];
    size_t noting;
    uint64_t note, asked, lost; /* bytes */
    size_t finishing[FILES], n_finishing;
    uint64_t frame;
    unsigned seed;
};

static unsigned roll(struct world *w, unsigned n)
{
    return (unsigned)rand_r(&w->seed) % n;
}

static void make(struct world *w, unsigned seed)
{
    *w = (struct world){.seed = seed};
    w->manifest = (struct state_manifest){.id = 7, .files = w->files, .n_files = 1 + roll(w, FILES)};
    for (size_t i = 0; i < w->manifest.n_files; i++)
        w->files[i].size = roll(w, 5) == 0 ? 0 : (uint64_t)roll(w, 50) * STATE_PIECE_MAX + 1 + roll(w, STATE_PIECE_MAX);
}

/* A life of the process, at its begin: only what is durable is there. */
static void begin(struct world *w, struct pieces *p)
{
    assert_int_equal(pieces_init(p, &w->manifest), 0);
    for (size_t i = 0; i < w->manifest.n_files; i++) {
        pieces_have(p, i, w->durable[i]);
        if (w->durable[i] < w->files[i].size) memset(w->written[i] + w->durable[i] / STATE_PIECE_MAX, 0, sizeof w->written[i] - w->durable[i] / STATE_PIECE_MAX);
    }
    w->n_finishing = 0;
}

static void check_written(const struct world *w, size_t file, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += STATE_PIECE_MAX) assert_int_equal(w->written[file][at / STATE_PIECE_MAX], 1);
}

static void ask(struct world *w, struct pieces *p)
{
    struct pieces_slot *s = pieces_next(p, ++w->frame);
    if (s == NULL) return;
    assert_true(s->what.length > 0 && s->what.length <= STATE_PIECE_MAX && s->what.offset + s->what.length <= w->files[s->what.file].size);
    assert_true(s->what.offset >= w->durable[s->what.file]);
    assert_int_equal(s->what.offset % STATE_PIECE_MAX, 0);
    w->asked += s->what.length;
}

static struct pieces_slot *some(struct world *w, struct pieces *p, int state)
{
    size_t from = roll(w, PIECES_WINDOW);
    for (size_t i = 0; i < PIECES_WINDOW; i++)
        if ((int)p->slots[(from + i) % PIECES_WINDOW].state == state) return &p->slots[(from + i) % PIECES_WINDOW];
    return NULL;
}

static void finish_one(struct world *w, struct pieces *p)
{
    if (w->n_finishing == 0) return;
    size_t k = roll(w, (unsigned)w->n_finishing), file = w->finishing[k];
    w->finishing[k] = w->finishing[--w->n_finishing];
    w->durable[file] = w->files[file].size;
    pieces_finished(p, file);
}

static void step(struct world *w, struct pieces *p)
{
    struct pieces_slot *s;
    size_t file;
    uint64_t bytes;
    switch (roll(w, 8)) {
    case 0:
    case 1: ask(w, p); break;
    case 2:
        if ((s = some(w, p, PIECES_ASKED)) != NULL) assert_ptr_equal(pieces_came(p, s->frame), s);
        assert_null(pieces_came(p, w->frame + 1));
        break;
    case 3:
        if ((s = some(w, p, PIECES_WRITING)) == NULL) break;
        w->written[s->what.file][s->what.offset / STATE_PIECE_MAX] = 1;
        pieces_written(p, s);
        break;
    case 4:
        if (!pieces_finish(p, &file)) break;
        check_written(w, file, w->files[file].size);
        w->finishing[w->n_finishing++] = file;
        break;
    case 5: finish_one(w, p); break;
    case 6:
        if (p->noting) {
            w->durable[w->noting] = w->note;
            pieces_noted(p);
        } else if (pieces_note(p, &file, &bytes)) {
            check_written(w, file, bytes);
            w->noting = file;
            w->note = bytes;
        }
        break;
    default:
        if (roll(w, 40) != 0) break;
        for (size_t i = 0; i < PIECES_WINDOW; i++) w->lost += p->slots[i].state == PIECES_ASKED ? p->slots[i].what.length : 0;
        pieces_lost(p);
    }
}

static void test_everything_comes(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= RUNS; seed++) {
        struct world w;
        struct pieces p;
        make(&w, seed);
        begin(&w, &p);
        uint64_t ends = 0;
        while (!pieces_done(&p)) {
            step(&w, &p);
            if (roll(&w, 2000) != 0 || ends == 5) continue;
            ends++; /* killed */
            pieces_fini(&p);
            begin(&w, &p);
        }
        for (size_t i = 0; i < w.manifest.n_files; i++) {
            check_written(&w, i, w.files[i].size);
            assert_int_equal(w.durable[i], w.files[i].size);
        }
        assert_int_equal(p.there, p.total);
        assert_true(w.asked >= p.total || ends > 0);
        if (ends == 0) assert_int_equal(w.asked, p.total + w.lost);
        pieces_fini(&p);
    }
}

static void test_a_kill_costs_little(void **state)
{
    (void)state;
    struct world w = {.seed = 1};
    struct pieces p;
    w.manifest = (struct state_manifest){.id = 7, .files = w.files, .n_files = 1};
    w.files[0].size = 60 * STATE_PIECE_MAX;
    begin(&w, &p);
    size_t file;
    uint64_t bytes;
    for (unsigned i = 0; i < 40; i++) {
        struct pieces_slot *s = pieces_next(&p, i + 1);
        assert_ptr_equal(pieces_came(&p, i + 1), s);
        pieces_written(&p, s);
        if (!pieces_note(&p, &file, &bytes)) continue;
        w.durable[file] = bytes;
        pieces_noted(&p);
    }
    assert_int_equal(w.durable[0], 2 * PIECES_SYNC);
    pieces_fini(&p);
    begin(&w, &p);
    assert_int_equal(pieces_next(&p, 1)->what.offset, 2 * PIECES_SYNC);
    pieces_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything_comes), cmocka_unit_test(test_a_kill_costs_little)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
