#include "operator/kube/queue.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "common/error.h"

struct item {
    UT_hash_handle hh;
    uint64_t at_ms;   /* when it is due; UINT64_MAX: it does not wait */
    uint64_t pause_ms; /* the last one after a failure; 0: it did not fail */
    bool working;
    char key[];
};

struct queue {
    struct item *items; /* those that wait, are worked on, or failed */
};

struct queue *queue_new(void)
{
    return calloc(1, sizeof(struct queue));
}

static void forget(struct queue *q, struct item *i)
{
    HASH_DEL(q->items, i);
    free(i);
}

struct queue *queue_free(struct queue *q)
{
    struct item *i, *next;
    if (q == NULL) return NULL;
    HASH_ITER(hh, q->items, i, next) forget(q, i);
    free(q);
    return NULL;
}

int queue_add(struct queue *q, const char *key, uint64_t at_ms)
{
    struct item *i;
    HASH_FIND_STR(q->items, key, i);
    if (i == NULL) {
        if (HASH_COUNT(q->items) >= QUEUE_KEYS_MAX) return -ERROR_BUSY;
        if ((i = calloc(1, sizeof *i + strlen(key) + 1)) == NULL) return -ERROR_NOMEM;
        strcpy(i->key, key);
        i->at_ms = UINT64_MAX;
        HASH_ADD_STR(q->items, key, i);
    }
    if (at_ms < i->at_ms) i->at_ms = at_ms;
    return 0;
}

bool queue_hasten(struct queue *q, const char *key, uint64_t at_ms)
{
    struct item *i;
    HASH_FIND_STR(q->items, key, i);
    if (i != NULL && at_ms < i->at_ms) i->at_ms = at_ms;
    return i != NULL;
}

/* Few hundred keys, and a hash map keeps no order: a scan is cheap beside the work of one key. */
static struct item *first(const struct queue *q)
{
    struct item *best = NULL;
    for (struct item *i = q->items; i != NULL; i = i->hh.next)
        if (!i->working && i->at_ms != UINT64_MAX && (best == NULL || i->at_ms < best->at_ms)) best = i;
    return best;
}

const char *queue_take(struct queue *q, uint64_t now_ms)
{
    struct item *i = first(q);
    if (i == NULL || i->at_ms > now_ms) return NULL;
    i->working = true;
    i->at_ms = UINT64_MAX;
    return i->key;
}

void queue_done(struct queue *q, const char *key, bool ok, uint64_t now_ms, uint64_t random)
{
    struct item *i;
    HASH_FIND_STR(q->items, key, i);
    if (i == NULL || !i->working) return;
    i->working = false;
    if (ok) {
        i->pause_ms = 0;
        if (i->at_ms == UINT64_MAX) forget(q, i);
        return;
    }
    i->pause_ms = i->pause_ms == 0 ? QUEUE_PAUSE_MIN_MS : i->pause_ms * 2;
    if (i->pause_ms > QUEUE_PAUSE_MAX_MS) i->pause_ms = QUEUE_PAUSE_MAX_MS;
    i->at_ms = now_ms + i->pause_ms / 2 + random % (i->pause_ms / 2 + 1); /* a change meanwhile waits, too */
}

uint64_t queue_next(const struct queue *q)
{
    const struct item *i = first(q);
    return i != NULL ? i->at_ms : UINT64_MAX;
}

size_t queue_waiting(const struct queue *q)
{
    size_t n = 0;
    for (struct item *i = q->items; i != NULL; i = i->hh.next) n += !i->working && i->at_ms != UINT64_MAX;
    return n;
}
