#include "logd/wal/raw_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

int raw_file_open(struct raw_file *f, const struct disk *disk, const char *path, uint64_t bytes)
{
    if (f->window != NULL) raw_file_close(f);
    else if ((f->window = aligned_alloc(RAW_PAGE, RAW_WINDOW)) == NULL) return -ERROR_NOMEM;
    f->disk = disk;
    f->bytes = bytes;
    f->len = 0;
    f->loaded = 0;
    f->fd = disk->open(disk, path, O_RDONLY);
    if (f->fd >= 0) disk->direct(disk, f->fd); /* not to be had: as everybody reads it */
    return 0;
}

void raw_file_close(struct raw_file *f)
{
    if (f->window != NULL && f->fd >= 0) f->disk->close(f->disk, f->fd);
    f->fd = -1;
    f->len = 0;
}

void raw_file_fini(struct raw_file *f)
{
    raw_file_close(f);
    free(f->window);
    f->window = NULL;
}

/* Whole pages are asked for, the last one of a file may be cut off: `wanted` bytes must be there. */
static bool read_pages(const struct raw_file *f, uint8_t *to, uint64_t at, size_t len, uint64_t wanted)
{
    ssize_t n = disk_read_pages(f->disk, f->fd, to, len, at);
    return n >= 0 && (uint64_t)n >= wanted;
}

static uint64_t part_of(const struct raw_file *f, uint64_t at, uint64_t len)
{
    return at >= f->bytes ? 0 : f->bytes - at < len ? f->bytes - at : len;
}

static void load(struct raw_file *f, uint64_t at)
{
    f->at = at - at % RAW_PAGE;
    f->len = RAW_WINDOW;
    memset(f->bad, 0, sizeof f->bad);
    f->loaded += part_of(f, f->at, RAW_WINDOW);
    if (read_pages(f, f->window, f->at, RAW_WINDOW, part_of(f, f->at, RAW_WINDOW))) return;
    for (size_t i = 0; i < RAW_WINDOW / RAW_PAGE; i++) {
        uint64_t page = f->at + i * RAW_PAGE;
        f->bad[i] = !read_pages(f, f->window + i * RAW_PAGE, page, RAW_PAGE, part_of(f, page, RAW_PAGE));
    }
}

const uint8_t *raw_file_read(struct raw_file *f, uint64_t at, size_t len)
{
    if (f->fd < 0 || at > f->bytes || len > f->bytes - at || len > RAW_WINDOW / 2) return NULL;
    if (f->len == 0 || at < f->at || at + len > f->at + f->len) load(f, at);
    for (uint64_t page = (at - f->at) / RAW_PAGE; page * RAW_PAGE < at - f->at + len; page++)
        if (f->bad[page]) return NULL;
    return f->window + (at - f->at);
}
