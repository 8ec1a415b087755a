#include "common/buf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

int buf_grow(struct buf *b, size_t more)
{
    if (more > SIZE_MAX / 2 - b->len) return -ERROR_NOMEM;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->len + more) cap *= 2;
    uint8_t *data = realloc(b->data, cap);
    if (data == NULL) return -ERROR_NOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

void buf_consume(struct buf *b, size_t len)
{
    assert(len <= b->len);
    b->len -= len;
    if (b->len > 0 && len > 0) memmove(b->data, b->data + len, b->len);
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf)BUF_INIT;
}

struct blob *blob_new(size_t len)
{
    if (len > SIZE_MAX - sizeof(struct blob)) return NULL;
    struct blob *b = malloc(sizeof *b + len);
    if (b == NULL) return NULL;
    b->refs = 1;
    b->unused = 0;
    b->len = len;
    return b;
}

struct blob *blob_ref(struct blob *b)
{
    assert(b->refs > 0);
    b->refs++;
    return b;
}

struct blob *blob_unref(struct blob *b)
{
    if (b == NULL) return NULL;
    assert(b->refs > 0);
    if (--b->refs == 0) free(b);
    return NULL;
}
