#include "logd/streams/session.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/mutant.h"
#include "logd/streams/streams.h"

struct session *session_new(uint64_t epoch, const char *producer, size_t producer_len)
{
    assert(producer_len <= STREAMS_NAME_MAX);
    struct session *s = calloc(1, sizeof *s + producer_len + 1);
    if (s == NULL) return NULL;
    s->epoch = epoch;
    s->producer_len = (uint8_t)producer_len;
    memcpy(s->producer, producer, producer_len);
    return s;
}

struct session *session_free(struct session *s)
{
    if (s == NULL) return NULL;
    free(s->runs);
    free(s);
    return NULL;
}

/* One past the last sequence of run i. */
static uint64_t run_end(const struct session *s, uint32_t i)
{
    return i + 1 < s->n_runs ? s->runs[i + 1].sequence : s->last + 1;
}

/* Lowest sequence whose place is remembered; last + 1 if none is. */
static uint64_t oldest(const struct session *s)
{
    if (s->n_runs == 0) return s->last + 1;
    uint64_t bound = s->last > STREAMS_DEDUP_MAX ? s->last - STREAMS_DEDUP_MAX + 1 : 1;
    return s->runs[0].sequence > bound ? s->runs[0].sequence : bound;
}

enum session_verdict session_judge(const struct session *s, uint64_t sequence, uint32_t count, uint64_t *ret_offset)
{
    assert(sequence >= 1 && count >= 1);
    if (sequence == s->last + 1) return SESSION_NEXT;
    if (MUTANT(apply_twice)) return SESSION_NEXT;
    if (sequence > s->last) return SESSION_GAP;
    if (sequence + count - 1 > s->last) return SESSION_OVERLAP;
    if (sequence < oldest(s)) return SESSION_FORGOTTEN;

    uint32_t lo = 0, hi = s->n_runs; /* runs[lo] begins at or before `sequence`, runs[hi] behind it */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (s->runs[mid].sequence <= sequence)
            lo = mid;
        else
            hi = mid;
    }
    if (sequence + count > run_end(s, lo)) return SESSION_SPLIT;
    *ret_offset = s->runs[lo].offset + (sequence - s->runs[lo].sequence);
    return SESSION_DUPLICATE;
}

static void drop_first_run(struct session *s)
{
    s->n_runs--;
    memmove(s->runs, s->runs + 1, s->n_runs * sizeof *s->runs);
}

static int make_room(struct session *s)
{
    if (s->n_runs < s->cap_runs) return 0;
    uint32_t cap = s->cap_runs == 0 ? 1 : s->cap_runs * 2;
    if (cap > SESSION_RUNS_MAX) cap = SESSION_RUNS_MAX;
    struct session_run *runs = realloc(s->runs, cap * sizeof *runs);
    if (runs == NULL) return -ERROR_NOMEM;
    s->runs = runs;
    s->cap_runs = cap;
    return 0;
}

int session_applied(struct session *s, uint32_t count, uint64_t offset)
{
    const struct session_run *newest = s->n_runs > 0 ? &s->runs[s->n_runs - 1] : NULL;
    if (newest == NULL || newest->offset + (s->last + 1 - newest->sequence) != offset) {
        if (s->n_runs == SESSION_RUNS_MAX) drop_first_run(s);
        int rv = make_room(s);
        if (rv != 0) return rv;
        s->runs[s->n_runs++] = (struct session_run){s->last + 1, offset};
    }
    s->last += count;
    s->used_offset = offset + count - 1;
    while (s->n_runs > 1 && run_end(s, 0) <= oldest(s)) drop_first_run(s);
    return 0;
}
