#include "logd/streams/arena.h"

#include <stdlib.h>

enum { ALIGN = 16, GROW_FIRST = 64 << 10, GROW_MAX = 4 << 20 };

struct arena_chunk {
    struct arena_chunk *older;
    size_t unused; /* keeps data[] aligned */
    _Alignas(ALIGN) uint8_t data[];
};

void arena_init(struct arena *a)
{
    a->next = a->first;
    a->left = sizeof a->first;
    a->grow = GROW_FIRST;
    a->chunks = NULL;
    a->failed = false;
}

void arena_fini(struct arena *a)
{
    while (a->chunks != NULL) {
        struct arena_chunk *older = a->chunks->older;
        free(a->chunks);
        a->chunks = older;
    }
}

void *arena_alloc(struct arena *a, size_t size)
{
    if (size > SIZE_MAX / 4) {
        a->failed = true;
        return NULL;
    }
    size = (size + ALIGN - 1) / ALIGN * ALIGN;
    if (size > a->left) {
        size_t bytes = size > a->grow ? size : a->grow;
        struct arena_chunk *chunk = malloc(sizeof *chunk + bytes);
        if (chunk == NULL) {
            a->failed = true;
            return NULL;
        }
        chunk->older = a->chunks;
        a->chunks = chunk;
        a->next = chunk->data;
        a->left = bytes;
        if (a->grow < GROW_MAX) a->grow *= 2;
    }
    void *p = a->next;
    a->next += size;
    a->left -= size;
    return p;
}
