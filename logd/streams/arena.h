/* Memory for one command: many small allocations, given back all at once.
 *
 * The first ARENA_INLINE bytes need no malloc, which is what a typical append takes. Nothing is freed alone, so what a
 * command may allocate is bounded by what command_codec lets through, not here. A failed malloc is remembered in
 * `failed`, so that a decoder that only says "no" does not turn it into a verdict about the bytes.
 *
 * Embedded: lives on the stack of whoever decodes. Do not copy. Thread: any, one at a time. */
#ifndef CRSC_LOGD_STREAMS_ARENA_H
#define CRSC_LOGD_STREAMS_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ARENA_INLINE = 4096 };

struct arena_chunk;

struct arena {
    uint8_t *next;              /* first free byte */
    size_t left;                /* free bytes behind it */
    size_t grow;                /* bytes of the next chunk */
    struct arena_chunk *chunks; /* owned, newest first */
    bool failed;                /* malloc said no at least once */
    _Alignas(16) uint8_t first[ARENA_INLINE];
};

void arena_init(struct arena *a);
void arena_fini(struct arena *a); /* everything allocated from it is gone */

/* Uninitialised bytes aligned for any type, or NULL with `failed` set. */
void *arena_alloc(struct arena *a, size_t size);

#endif
