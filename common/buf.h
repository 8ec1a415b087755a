/* A growable run of bytes, and a shared immutable one.
 *
 * `struct buf` is embedded and owned by one place; `struct blob` is counted and never changes once shared. Counts are
 * not atomic: references to one blob are taken and given back on one thread (the loop's). Another thread may read its
 * bytes while the loop's thread keeps a reference for it. */
#ifndef CRSC_COMMON_BUF_H
#define CRSC_COMMON_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
    uint8_t *data; /* NULL while empty and never grown */
    size_t len;    /* bytes in use */
    size_t cap;    /* bytes allocated */
};

#define BUF_INIT {NULL, 0, 0}

int buf_grow(struct buf *b, size_t more); /* the two below, where there is no room yet */

/* Makes room for `more` bytes behind `len`. 0 or -ERROR_NOMEM. */
static inline int buf_reserve(struct buf *b, size_t more)
{
    return b->cap - b->len >= more ? 0 : buf_grow(b, more);
}

/* Appends a copy of the bytes. `data` may be NULL when `len` is 0. 0 or -ERROR_NOMEM. */
static inline int buf_add(struct buf *b, const void *data, size_t len)
{
    if (len == 0) return 0;
    int rv = buf_reserve(b, len);
    if (rv != 0) return rv;
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

/* Removes the first `len` bytes; the rest moves to the front. */
void buf_consume(struct buf *b, size_t len);

/* Frees the bytes and leaves an empty buf that can be used again. */
void buf_fini(struct buf *b);

struct blob {
    uint32_t refs;
    uint32_t unused;
    size_t len;
    uint8_t data[];
};

/* A blob of `len` uninitialised bytes with one reference, or NULL without memory. Fill it before sharing it. */
struct blob *blob_new(size_t len);

/* Are its bytes just these? */
static inline bool blob_equal(const struct blob *b, const void *bytes, size_t len)
{
    return b->len == len && memcmp(b->data, bytes, len) == 0;
}

/* Takes one more reference; returns its argument. */
struct blob *blob_ref(struct blob *b);

/* Gives one reference back, freeing with the last; takes NULL; returns NULL. */
struct blob *blob_unref(struct blob *b);

/* Little-endian fixed-width access at any alignment: every on-disk and on-wire integer goes through these. */
static inline void put_u16(uint8_t *p, uint16_t v)
{
    for (int i = 0; i < 2; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static inline void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static inline void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static inline uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t get_u64(const uint8_t *p)
{
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

#endif
