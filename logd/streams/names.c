#include "logd/streams/names.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash(const char *name, size_t len)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 32;
}

void names_fini(struct names *t)
{
    free(t->slots);
    t->slots = NULL;
    t->n = t->cap = 0;
}

/* The slot that holds this name, or the free one where it belongs. cap > n. */
static size_t slot_of(const struct names *t, const char *name, size_t len)
{
    size_t i = hash(name, len) & (t->cap - 1);
    for (; t->slots[i] != 0; i = (i + 1) & (t->cap - 1)) {
        const char *other = t->name_of(t->user, t->slots[i]);
        if (strlen(other) == len && memcmp(other, name, len) == 0) break;
    }
    return i;
}

uint64_t names_find(const struct names *t, const char *name, size_t len)
{
    return t->cap == 0 ? 0 : t->slots[slot_of(t, name, len)];
}

int names_reserve(struct names *t)
{
    if (t->n + 1 <= t->cap / 4 * 3) return 0;
    struct names grown = *t;
    grown.cap = t->cap == 0 ? 16 : t->cap * 2;
    grown.n = 0;
    grown.slots = calloc(grown.cap, sizeof *grown.slots);
    if (grown.slots == NULL) return -ERROR_NOMEM;
    for (size_t i = 0; i < t->cap; i++)
        if (t->slots[i] != 0) names_add(&grown, t->slots[i]);
    free(t->slots);
    *t = grown;
    return 0;
}

void names_add(struct names *t, uint64_t id)
{
    const char *name = t->name_of(t->user, id);
    size_t i = slot_of(t, name, strlen(name));
    assert(t->slots[i] == 0 && t->n < t->cap);
    t->slots[i] = id;
    t->n++;
}
