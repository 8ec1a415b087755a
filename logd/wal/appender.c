#include "logd/wal/appender.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 1 << 20, ALIGN_MAX = 4096 };

struct appender {
    const struct disk *disk;
    int fd;
    size_t align;  /* of places and lengths; 1: any */
    uint64_t at;   /* of buffer[0] in the file; a multiple of align */
    size_t len;    /* bytes in the buffer; those before the last block border are not written yet */
    uint8_t *buffer;
};

struct appender *appender_new(const struct disk *disk)
{
    struct appender *a = calloc(1, sizeof *a);
    if (a == NULL) return NULL;
    *a = (struct appender){.disk = disk, .fd = -1, .align = 1, .buffer = aligned_alloc(ALIGN_MAX, BUFFER)};
    if (a->buffer != NULL) return a;
    free(a);
    return NULL;
}

void appender_free(struct appender *a)
{
    if (a == NULL) return;
    free(a->buffer);
    free(a);
}

int appender_begin(struct appender *a, int fd, uint64_t position)
{
    int align = a->disk->direct(a->disk, fd);
    if (align < 0) return align;
    assert(align <= ALIGN_MAX);
    a->fd = fd;
    a->align = align == 0 ? 1 : (size_t)align;
    a->at = position - position % a->align;
    a->len = (size_t)(position - a->at);
    if (a->len == 0) return 0;
    int rv = disk_read_all(a->disk, fd, a->buffer, a->align, a->at); /* whole: a direct read must be, too */
    return rv;
}

/* Writes what is in the buffer and `extra` bytes behind it, up to a block border. */
static int write_blocks(struct appender *a, size_t extra)
{
    size_t end = a->len + extra, whole = (end + a->align - 1) / a->align * a->align;
    memset(a->buffer + end, 0, whole - end);
    return disk_write_all(a->disk, a->fd, a->buffer, whole, a->at);
}

int appender_flush(struct appender *a)
{
    size_t kept = a->len % a->align, written = a->len - kept;
    int rv = write_blocks(a, 0);
    if (rv != 0) return rv;
    memmove(a->buffer, a->buffer + written, kept);
    a->at += written;
    a->len = kept;
    return 0;
}

int appender_put(struct appender *a, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    while (len > 0) {
        size_t part = len < BUFFER - a->len ? len : BUFFER - a->len;
        memcpy(a->buffer + a->len, from, part);
        a->len += part;
        from += part;
        len -= part;
        int rv = a->len == BUFFER ? appender_flush(a) : 0;
        if (rv != 0) return rv;
    }
    return 0;
}

int appender_aside(struct appender *a, const void *bytes, size_t len)
{
    assert(a->len < a->align && len <= ALIGN_MAX);
    memcpy(a->buffer + a->len, bytes, len);
    return write_blocks(a, len);
}
