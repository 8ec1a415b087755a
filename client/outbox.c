#include "client/outbox.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/queue.h>

struct batch {
    struct outbox_batch shown; /* first: the shown one is turned back into this */
    TAILQ_ENTRY(batch) next;
    struct crsc_event *events;
    struct outbox_ticket *tickets;
    uint32_t cap, taken; /* events allocated; handed out already */
    bool sealed;         /* sent at least once */
    bool acked;
    uint64_t first_offset;
};

struct outbox {
    TAILQ_HEAD(batches, batch) batches;
    uint64_t next_sequence;
    uint64_t events, bytes;
    uint32_t window;
    unsigned flight;
};

static struct batch *of(struct outbox_batch *shown)
{
    return (struct batch *)shown;
}

static void batch_free(struct batch *b)
{
    buf_fini(&b->shown.body);
    free(b->events);
    free(b->tickets);
    free(b);
}

struct outbox *outbox_new(uint32_t window_bytes)
{
    struct outbox *o = calloc(1, sizeof *o);
    if (o == NULL) return NULL;
    TAILQ_INIT(&o->batches);
    o->next_sequence = 1;
    o->window = window_bytes;
    return o;
}

struct outbox *outbox_free(struct outbox *o)
{
    if (o == NULL) return NULL;
    struct batch *b;
    while ((b = TAILQ_FIRST(&o->batches)) != NULL) {
        TAILQ_REMOVE(&o->batches, b, next);
        batch_free(b);
    }
    free(o);
    return NULL;
}

static bool takes(const struct batch *b, uint32_t size)
{
    return b != NULL && !b->sealed && b->shown.n < OUTBOX_BATCH_EVENTS &&
           b->shown.body.len + size <= OUTBOX_BATCH_BYTES;
}

/* Room for one more event in the batch; on failure the batch is as it was. */
static int grow(struct batch *b, uint32_t size)
{
    if (b->shown.n == b->cap) {
        uint32_t cap = b->cap > 0 ? b->cap * 2 : 4;
        struct crsc_event *events = realloc(b->events, cap * sizeof *events);
        if (events == NULL) return -ERROR_NOMEM;
        b->events = events;
        b->shown.events = events;
        struct outbox_ticket *tickets = realloc(b->tickets, cap * sizeof *tickets);
        if (tickets == NULL) return -ERROR_NOMEM;
        b->tickets = tickets;
        b->cap = cap;
    }
    return buf_reserve(&b->shown.body, size);
}

int outbox_push(struct outbox *o, const struct crsc_event *event, struct outbox_ticket ticket, uint64_t now_ms)
{
    if (event->size > CRSC_PAYLOAD_MAX) return -ERROR_TOO_LARGE;
    if (event->kind < CRSC_REQUEST || event->kind > CRSC_MARK) return -ERROR_INVALID;
    uint64_t cost = (uint64_t)event->size + OUTBOX_EVENT_COST;
    if (o->events > 0 && o->bytes + cost > o->window) return -ERROR_BUSY;

    struct batch *last = TAILQ_LAST(&o->batches, batches), *b = last;
    if (!takes(last, event->size)) {
        b = calloc(1, sizeof *b);
        if (b == NULL) return -ERROR_NOMEM;
        b->shown.sequence = o->next_sequence;
        b->shown.made_ms = now_ms;
    }
    if (grow(b, event->size) != 0) {
        if (b != last) batch_free(b);
        return -ERROR_NOMEM;
    }
    buf_add(&b->shown.body, event->payload, event->size); /* reserved */
    b->events[b->shown.n] = *event;
    b->events[b->shown.n].payload = NULL;
    b->tickets[b->shown.n] = ticket;
    b->shown.n++;
    if (b != last) TAILQ_INSERT_TAIL(&o->batches, b, next);
    o->next_sequence++;
    o->events++;
    o->bytes += cost;
    return 0;
}

struct outbox_batch *outbox_due(struct outbox *o)
{
    struct batch *b;
    if (o->flight >= OUTBOX_FLIGHT) return NULL;
    TAILQ_FOREACH(b, &o->batches, next)
    if (!b->acked && b->shown.id == 0) return &b->shown;
    return NULL;
}

void outbox_sent(struct outbox *o, struct outbox_batch *batch, uint64_t id)
{
    assert(id != 0 && batch->id == 0);
    batch->id = id;
    of(batch)->sealed = true;
    o->flight++;
}

struct outbox_batch *outbox_find(struct outbox *o, uint64_t id)
{
    struct batch *b;
    TAILQ_FOREACH(b, &o->batches, next)
    if (b->shown.id == id && id != 0) return &b->shown;
    return NULL;
}

static void landed(struct outbox *o, struct batch *b)
{
    if (b->shown.id == 0) return;
    b->shown.id = 0;
    o->flight--;
}

void outbox_acked(struct outbox *o, struct outbox_batch *batch, uint64_t first_offset)
{
    struct batch *b = of(batch);
    landed(o, b);
    b->acked = true;
    b->first_offset = first_offset;
}

int outbox_rewind(struct outbox *o, uint64_t sequence)
{
    struct batch *b;
    TAILQ_FOREACH(b, &o->batches, next)
    if (!b->acked && b->shown.sequence == sequence) break;
    if (b == NULL) return -ERROR_SEQUENCE;
    for (; b != NULL; b = TAILQ_NEXT(b, next)) landed(o, b);
    return 0;
}

void outbox_rewind_all(struct outbox *o)
{
    struct batch *b;
    TAILQ_FOREACH(b, &o->batches, next) landed(o, b);
}

static struct outbox_ticket take_front(struct outbox *o, struct batch *b)
{
    struct outbox_ticket ticket = b->tickets[b->taken];
    o->events--;
    o->bytes -= (uint64_t)b->events[b->taken].size + OUTBOX_EVENT_COST;
    if (++b->taken == b->shown.n) {
        landed(o, b);
        TAILQ_REMOVE(&o->batches, b, next);
        batch_free(b);
    }
    return ticket;
}

bool outbox_take(struct outbox *o, struct outbox_ticket *ret_ticket, uint64_t *ret_offset)
{
    struct batch *b = TAILQ_FIRST(&o->batches);
    if (b == NULL || !b->acked) return false;
    *ret_offset = b->first_offset + b->taken;
    *ret_ticket = take_front(o, b);
    return true;
}

bool outbox_abandon(struct outbox *o, struct outbox_ticket *ret_ticket)
{
    struct batch *b = TAILQ_FIRST(&o->batches);
    if (b == NULL) return false;
    *ret_ticket = take_front(o, b);
    return true;
}

uint64_t outbox_events(const struct outbox *o)
{
    return o->events;
}

uint64_t outbox_oldest_ms(const struct outbox *o)
{
    const struct batch *b;
    TAILQ_FOREACH(b, &o->batches, next)
    if (!b->acked) return b->shown.made_ms;
    return UINT64_MAX;
}

uint64_t outbox_next_sequence(const struct outbox *o)
{
    return o->next_sequence;
}
