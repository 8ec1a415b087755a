#include "interceptor/repeat/records.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h> /* without memory for its table it ends the process; nothing that was promised is lost by that */

struct item {
    struct record record; /* first */
    UT_hash_handle by_key, by_offset;
    TAILQ_ENTRY(item) entry; /* in open or settled */
    size_t bytes;
    uint8_t *answer;
    size_t key_len;
    char key[];
};

struct records {
    uint64_t ttl_us;
    size_t bytes_max, bytes;
    struct item *by_key, *by_offset;
    TAILQ_HEAD(item_list, item) open, settled; /* in order of coming; of settling */
};

static struct item *of(struct record *r)
{
    return (struct item *)r;
}

static struct item_list *list_of(struct records *t, const struct item *i)
{
    return i->record.state == RECORD_OPEN ? &t->open : &t->settled;
}

static void forget(struct records *t, struct item *i)
{
    TAILQ_REMOVE(list_of(t, i), i, entry);
    HASH_DELETE(by_key, t->by_key, i);
    if (i->record.offset > 0) HASH_DELETE(by_offset, t->by_offset, i);
    t->bytes -= i->bytes;
    free(i->answer);
    free(i);
}

static bool is_old(const struct records *t, const struct item *i, uint64_t now_us)
{
    return i->record.state != RECORD_OPEN && now_us > i->record.time_us && now_us - i->record.time_us > t->ttl_us;
}

static void make_room(struct records *t, uint64_t now_us)
{
    struct item *i;
    while ((i = TAILQ_FIRST(&t->settled)) != NULL && (t->bytes > t->bytes_max || is_old(t, i, now_us))) forget(t, i);
}

struct records *records_new(uint64_t ttl_us, size_t bytes_max)
{
    struct records *t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->ttl_us = ttl_us;
    t->bytes_max = bytes_max;
    TAILQ_INIT(&t->open);
    TAILQ_INIT(&t->settled);
    return t;
}

struct records *records_free(struct records *t)
{
    struct item *i;
    if (t == NULL) return NULL;
    while ((i = TAILQ_FIRST(&t->open)) != NULL) forget(t, i);
    while ((i = TAILQ_FIRST(&t->settled)) != NULL) forget(t, i);
    free(t);
    return NULL;
}

struct record *records_find(struct records *t, const void *key, size_t len, uint64_t now_us)
{
    struct item *i;
    HASH_FIND(by_key, t->by_key, key, len, i);
    if (i == NULL) return NULL;
    if (!is_old(t, i, now_us)) return &i->record;
    forget(t, i);
    return NULL;
}

struct record *records_at(struct records *t, uint64_t offset)
{
    struct item *i;
    HASH_FIND(by_offset, t->by_offset, &offset, sizeof offset, i);
    return i != NULL ? &i->record : NULL;
}

struct record *records_add(struct records *t, const void *key, size_t len, const uint8_t print[RECORDS_PRINT],
                           uint64_t time_us)
{
    assert(len > 0 && len <= RECORDS_KEY_MAX);
    struct item *i = calloc(1, sizeof *i + len);
    if (i == NULL) return NULL;
    i->key_len = len;
    memcpy(i->key, key, len);
    memcpy(i->record.print, print, RECORDS_PRINT);
    i->record.time_us = time_us;
    TAILQ_INIT(&i->record.waiters);
    HASH_ADD_KEYPTR(by_key, t->by_key, i->key, len, i);
    i->bytes = sizeof *i + len;
    t->bytes += i->bytes;
    TAILQ_INSERT_TAIL(&t->open, i, entry);
    make_room(t, time_us);
    return &i->record;
}

void records_place(struct records *t, struct record *r, uint64_t offset)
{
    struct item *i = of(r);
    assert(r->offset == 0 && offset > 0);
    r->offset = offset;
    HASH_ADD(by_offset, t->by_offset, record.offset, sizeof r->offset, i);
}

void records_settle(struct records *t, struct record *r, const void *answer, size_t len, uint64_t now_us)
{
    struct item *i = of(r);
    assert(r->state == RECORD_OPEN && TAILQ_EMPTY(&r->waiters));
    uint8_t *copy = answer != NULL && len > 0 ? malloc(len) : NULL;
    TAILQ_REMOVE(&t->open, i, entry);
    r->state = copy != NULL ? RECORD_ANSWERED : RECORD_LOST;
    TAILQ_INSERT_TAIL(&t->settled, i, entry);
    if (copy != NULL) {
        memcpy(copy, answer, len);
        r->answer = i->answer = copy;
        r->answer_len = len;
        i->bytes += len;
        t->bytes += len;
    }
    make_room(t, now_us);
}

void records_drop(struct records *t, struct record *r)
{
    assert(TAILQ_EMPTY(&r->waiters));
    forget(t, of(r));
}

struct record *records_open_before(struct records *t, uint64_t offset)
{
    struct item *i;
    TAILQ_FOREACH(i, &t->open, entry)
    if (i->record.offset > 0 && i->record.offset <= offset) return &i->record;
    return NULL;
}

struct record *records_open(struct records *t)
{
    struct item *i = TAILQ_FIRST(&t->open);
    return i != NULL ? &i->record : NULL;
}

size_t records_bytes(const struct records *t)
{
    return t->bytes;
}

unsigned records_count(const struct records *t)
{
    return HASH_CNT(by_key, t->by_key);
}
