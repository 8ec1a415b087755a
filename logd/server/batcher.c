#include "logd/server/batcher.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "logd/server/session.h"
#include "logd/streams/entry.h"

struct draft {
    struct draft *next;
    struct buf bytes;
    uint64_t born_us;
    struct batcher_waiter *waiters;
    size_t n, cap;
    uint64_t index, term; /* once proposed */
    size_t len;           /* bytes proposed */
};

struct queue {
    struct draft *first, *last;
};

struct batcher {
    size_t max_entry, in_flight_max;
    uint64_t linger_us;
    struct queue drafts, cutting, flying; /* cutting: at most one, between batcher_cut() and batcher_proposed() */
    size_t pending_bytes, flight_bytes, n_flying, n_waiters;
    struct batcher_waiter *taken; /* what the last take returned */
    size_t cut_last;       /* commands in the last entry; 0 also: it was large */
    uint64_t gather_until; /* us; 0: nothing is gathered now */
};

struct batcher *batcher_new(size_t max_entry, uint64_t linger_us, unsigned in_flight)
{
    struct batcher *b = calloc(1, sizeof *b);
    if (b == NULL) return NULL;
    b->max_entry = max_entry;
    b->linger_us = linger_us;
    b->in_flight_max = in_flight;
    return b;
}

struct batcher *batcher_free(struct batcher *b)
{
    if (b == NULL) return NULL;
    assert(batcher_idle(b));
    free(b->taken);
    free(b);
    return NULL;
}

static void queue_put(struct queue *q, struct draft *d)
{
    d->next = NULL;
    if (q->last != NULL) q->last->next = d;
    else q->first = d;
    q->last = d;
}

static struct draft *queue_get(struct queue *q)
{
    struct draft *d = q->first;
    if (d == NULL) return NULL;
    q->first = d->next;
    if (q->first == NULL) q->last = NULL;
    return d;
}

static void draft_free(struct draft *d)
{
    buf_fini(&d->bytes);
    free(d->waiters);
    free(d);
}

static struct draft *draft_open(struct batcher *b, size_t len, uint64_t now_us, uint64_t wall_us)
{
    struct draft *d = b->drafts.last;
    if (d != NULL && d->bytes.len + len <= b->max_entry) return d;
    if ((d = calloc(1, sizeof *d)) == NULL) return NULL;
    if (entry_begin(&d->bytes, wall_us) != 0) {
        draft_free(d);
        return NULL;
    }
    d->born_us = now_us;
    queue_put(&b->drafts, d);
    return d;
}

int batcher_add(struct batcher *b, const struct frame *f, struct session *session, uint64_t now_us, uint64_t wall_us,
                struct error *e)
{
    size_t len = frame_length(f);
    if (len + ENTRY_HEADER > FRAME_BODY_MAX) /* an entry must fit into one message between servers */
        return error_set(e, ERROR_TOO_LARGE, "a command of %zu bytes is over the limit of %d", len, FRAME_BODY_MAX - ENTRY_HEADER);
    if (b->pending_bytes + len > BATCHER_PENDING_BYTES || b->n_waiters >= BATCHER_WAITERS_MAX)
        return error_set(e, ERROR_BUSY, "too many commands wait to be written: retry a little later");
    struct draft *d = draft_open(b, len, now_us, wall_us);
    if (d == NULL) return error_set(e, ERROR_NOMEM, "no memory for a command");
    if (d->n == d->cap) {
        size_t cap = d->cap == 0 ? 8 : d->cap * 2;
        struct batcher_waiter *grown = realloc(d->waiters, sizeof *grown * cap);
        if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory for a command");
        d->waiters = grown;
        d->cap = cap;
    }
    /* A frame is decoded in place: its bytes begin FRAME_HEADER before its head. */
    int rv = entry_add(&d->bytes, f->head - FRAME_HEADER, len);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "no memory for a command");
    d->waiters[d->n++] = (struct batcher_waiter){session == NULL ? NULL : session_ref(session), f->id, f->type, (uint32_t)len, now_us};
    b->pending_bytes += len;
    b->n_waiters++;
    return 0;
}

/* Nothing keeps the draft from being written: but were there more commands in the entry before it? Then their clients have been answered by
 * now, or are just about to be, and in a moment ask for the next: better one write with all of them than two with a half each. */
static bool gathered(struct batcher *b, const struct draft *d, uint64_t now_us)
{
    if (d->n >= b->cut_last || b->cut_last < BATCHER_GATHER_FROM) return true;
    if (b->gather_until == 0) b->gather_until = now_us + b->linger_us;
    return now_us >= b->gather_until;
}

struct blob *batcher_cut(struct batcher *b, uint64_t now_us, bool disk_idle)
{
    struct draft *d = b->drafts.first;
    assert(b->cutting.first == NULL);
    /* A draft without waiters is one whose first command could not be stored: it waits for the next. */
    if (d == NULL || d->n == 0 || b->n_flying >= b->in_flight_max || b->flight_bytes >= BATCHER_FLIGHT_BYTES) return NULL;
    bool full = d->next != NULL || d->bytes.len >= b->max_entry;
    if (!disk_idle) b->gather_until = 0;
    if (!full && !(disk_idle ? gathered(b, d, now_us) : now_us - d->born_us >= b->linger_us)) return NULL;
    struct blob *blob = blob_new(d->bytes.len);
    if (blob == NULL) return NULL;
    memcpy(blob->data, d->bytes.data, d->bytes.len);
    b->cut_last = d->bytes.len < BATCHER_GATHER_BYTES ? d->n : 0;
    b->gather_until = 0;
    queue_put(&b->cutting, queue_get(&b->drafts));
    return blob;
}

void batcher_proposed(struct batcher *b, uint64_t index, uint64_t term)
{
    struct draft *d = queue_get(&b->cutting);
    assert(d != NULL);
    d->index = index;
    d->term = term;
    d->len = d->bytes.len;
    b->pending_bytes -= d->len - ENTRY_HEADER;
    b->flight_bytes += d->len;
    b->n_flying++;
    buf_fini(&d->bytes);
    queue_put(&b->flying, d);
}

size_t batcher_take(struct batcher *b, uint64_t index, uint64_t term, const struct batcher_waiter **ret_waiters)
{
    struct draft *d = b->flying.first;
    if (d == NULL || d->index != index || (d->term != term && !MUTANT(answer_strangers))) return 0;
    queue_get(&b->flying);
    b->n_flying--;
    b->flight_bytes -= d->len;
    b->n_waiters -= d->n;
    size_t n = d->n;
    free(b->taken);
    *ret_waiters = b->taken = d->waiters;
    d->waiters = NULL;
    draft_free(d);
    return n;
}

size_t batcher_take_all(struct batcher *b, const struct batcher_waiter **ret_waiters)
{
    struct queue *queues[] = {&b->flying, &b->cutting, &b->drafts};
    struct batcher_waiter *all = malloc(sizeof *all * (b->n_waiters + 1));
    struct draft *d;
    size_t n = 0;
    if (all == NULL) abort(); /* who waits would wait for ever */
    for (int i = 0; i < 3; i++)
        while ((d = queue_get(queues[i])) != NULL) {
            memcpy(all + n, d->waiters, sizeof *all * d->n);
            n += d->n;
            draft_free(d);
        }
    assert(n == b->n_waiters);
    b->n_waiters = b->n_flying = b->pending_bytes = b->flight_bytes = 0;
    b->cut_last = b->gather_until = 0;
    free(b->taken);
    *ret_waiters = b->taken = all;
    return n;
}

bool batcher_gathers(const struct batcher *b)
{
    return b->gather_until != 0;
}

size_t batcher_waiters(const struct batcher *b)
{
    return b->n_waiters;
}

bool batcher_idle(const struct batcher *b)
{
    return b->n_waiters == 0;
}
