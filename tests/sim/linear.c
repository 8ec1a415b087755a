#include "tests/sim/linear.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/check.h"
#include "tests/sim/world.h"

enum { WORDS = LINEAR_OPS / 64, VISITED = 1 << 13, STEPS_MAX = 100000 };

struct op {
    enum linear_kind kind;
    uint64_t argument, result, invoked, responded; /* responded UINT64_MAX: no answer */
    bool void_;
};

struct object {
    uint64_t min_epoch, epoch, snapshot;
};

struct visited {
    uint64_t done[WORDS];
    struct object object;
    bool used;
};

static struct history {
    struct op ops[LINEAR_OPS];
    int n;
} histories[CHECK_STREAMS];
static struct visited visited[VISITED];
static unsigned n_visited, steps, deepest;
static int stuck;

void linear_begin(void)
{
    for (unsigned i = 0; i < CHECK_STREAMS; i++) histories[i].n = 0;
}

int linear_invoke(unsigned stream, enum linear_kind kind, uint64_t argument)
{
    struct history *h = &histories[stream];
    if (h->n == LINEAR_OPS) return -1;
    h->ops[h->n] = (struct op){.kind = kind, .argument = argument, .invoked = world_now(), .responded = UINT64_MAX};
    return h->n++;
}

void linear_respond(unsigned stream, int op, uint64_t result)
{
    if (op < 0) return;
    histories[stream].ops[op].result = result;
    histories[stream].ops[op].responded = world_now();
}

void linear_void(unsigned stream, int op)
{
    if (op >= 0) histories[stream].ops[op].void_ = true;
}

unsigned linear_count(unsigned stream)
{
    return (unsigned)histories[stream].n;
}

/* What the object does; false: it would have answered otherwise. */
static bool apply(struct object *x, const struct op *o)
{
    bool answered = o->responded != UINT64_MAX;
    switch (o->kind) {
    case LINEAR_OPEN: /* libcrsc repeats it, and each time may have given an epoch: it grows by one at least */
        if (!answered) return true;
        if (o->result <= x->epoch || o->result < x->min_epoch) return false;
        x->epoch = x->min_epoch = o->result;
        return true;
    case LINEAR_FENCE:
        if (o->argument > x->min_epoch) x->min_epoch = o->argument;
        if (!answered) return true;
        if (o->result < x->min_epoch) return false;
        x->min_epoch = o->result; /* more: by an opening that was never answered */
        return true;
    case LINEAR_RECORD:
        if (o->argument > x->snapshot) x->snapshot = o->argument;
        return true;
    default:
        return !answered || o->result == x->snapshot;
    }
}

static bool is_done(const uint64_t *done, int i)
{
    return (done[i / 64] >> (i % 64) & 1) != 0;
}

static bool seen_before(const uint64_t *done, const struct object *x)
{
    uint64_t h = x->epoch * 3 + x->min_epoch * 5 + x->snapshot * 7;
    for (int i = 0; i < WORDS; i++) h = (h ^ done[i]) * UINT64_C(0x9e3779b97f4a7c15), h ^= h >> 31;
    for (unsigned i = (unsigned)h % VISITED;; i = (i + 1) % VISITED) {
        struct visited *v = &visited[i];
        if (!v->used) {
            if (n_visited >= VISITED / 2) return false; /* no room: search on without remembering */
            memcpy(v->done, done, sizeof v->done);
            v->object = *x;
            v->used = true;
            n_visited++;
            return false;
        }
        if (memcmp(v->done, done, sizeof v->done) == 0 && memcmp(&v->object, x, sizeof *x) == 0) return true;
    }
}

/* All before `from` is done. */
static bool search(const struct history *h, uint64_t *done, struct object x, unsigned depth, int from)
{
    uint64_t first_end = UINT64_MAX;
    int last = -1;
    if (++steps > STEPS_MAX || seen_before(done, &x)) return steps > STEPS_MAX;
    while (from < h->n && (is_done(done, from) || h->ops[from].void_)) from++;
    for (int i = from; i < h->n && h->ops[i].invoked <= first_end; i++) { /* an operation that had ended comes before those that began later */
        if (is_done(done, i) || h->ops[i].void_) continue;
        if (h->ops[i].responded < first_end) first_end = h->ops[i].responded, last = i;
    }
    if (last < 0) return true; /* what is left was never answered, and need not have happened */
    if (depth >= deepest) deepest = depth, stuck = last;
    for (int i = from; i < h->n && h->ops[i].invoked <= first_end; i++) {
        struct object next = x;
        if (is_done(done, i) || h->ops[i].void_ || !apply(&next, &h->ops[i])) continue;
        done[i / 64] |= UINT64_C(1) << (i % 64);
        if (search(h, done, next, depth + 1, from)) return true;
        done[i / 64] &= ~(UINT64_C(1) << (i % 64));
    }
    return false;
}

bool linear_check(unsigned stream, char *ret_text, unsigned size)
{
    static const char *const names[] = {"open", "fence", "record a snapshot", "latest snapshot"};
    const struct history *h = &histories[stream];
    uint64_t done[WORDS] = {0};
    for (unsigned i = 0; i < VISITED && n_visited > 0; i++)
        if (visited[i].used) visited[i].used = false, n_visited--;
    n_visited = steps = deepest = 0;
    stuck = -1;
    if (search(h, done, (struct object){0}, 0, 0)) return true;
    const struct op *o = &h->ops[stuck];
    snprintf(ret_text, size, "not linearizable: stream %u: \"%s %" PRIu64 "\", begun at %.6f s, answered %" PRIu64 " at %.6f s: after %u operations no order explains it",
             stream, names[o->kind], o->argument, (double)o->invoked / 1e9, o->result, (double)o->responded / 1e9, deepest);
    return false;
}
