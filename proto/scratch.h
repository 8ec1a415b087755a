/* Memory for a protobuf-c message that is decoded, looked at and dropped within a function: most of them fit on the stack. What does not comes from
 * malloc() as always. Only *_codec.c see protobuf types, so only they include this. Thread: any; a scratch is its function's own. */
#ifndef CRSC_PROTO_SCRATCH_H
#define CRSC_PROTO_SCRATCH_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct scratch {
    ProtobufCAllocator allocator; /* for unpack and free_unpacked */
    size_t used;
    _Alignas(max_align_t) unsigned char bytes[1536];
};

static inline void *scratch_alloc(void *user, size_t size)
{
    struct scratch *s = (struct scratch *)user;
    if (size == 0) size = 1;
    size_t room = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (room < size || room > sizeof s->bytes - s->used) return malloc(size);
    void *p = s->bytes + s->used;
    s->used += room;
    return p;
}

static inline void scratch_free(void *user, void *p)
{
    struct scratch *s = (struct scratch *)user;
    uintptr_t at = (uintptr_t)p, first = (uintptr_t)s->bytes;
    if (at < first || at >= first + sizeof s->bytes) free(p);
}

/* Its bytes need no clearing: they are given out once. */
static inline ProtobufCAllocator *scratch_begin(struct scratch *s)
{
    s->allocator = (ProtobufCAllocator){scratch_alloc, scratch_free, s};
    s->used = 0;
    return &s->allocator;
}

#endif
