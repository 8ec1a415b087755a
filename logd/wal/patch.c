#include "logd/wal/patch.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/wal/raw_file.h"
#include "logd/wal/writer.h"

struct patch {
    const struct disk *disk;
    char dir[PATH_MAX], path[PATH_MAX], beside[PATH_MAX + 16];
    struct raw_file from;
    int fd;
    uint64_t bytes, at;
    const struct patch_piece *pieces;
    size_t n;
    uint8_t chunk[PATCH_STEP];
};

static void name_beside(const char *dir, size_t size, char *ret_path)
{
    snprintf(ret_path, size, "%s/repair.tmp", dir);
}

void patch_clean(const struct disk *disk, const char *dir)
{
    char path[PATH_MAX + 16];
    name_beside(dir, sizeof path, path);
    disk->unlink(disk, path);
}

void patch_free(struct patch *p)
{
    if (p == NULL) return;
    if (p->fd >= 0) {
        p->disk->close(p->disk, p->fd);
        p->disk->unlink(p->disk, p->beside);
    }
    raw_file_fini(&p->from);
    free(p);
}

static int failed(const struct patch *p, int rv, struct error *e)
{
    return error_errno(e, disk_error_code(rv), -rv, "cannot write %s", p->beside);
}

int patch_begin(const struct disk *disk, const char *dir, uint64_t id, uint64_t bytes, const struct patch_piece *pieces, size_t n, struct patch **ret_patch,
                struct error *e)
{
    struct patch *p = calloc(1, sizeof *p);
    if (p == NULL) return error_set(e, ERROR_NOMEM, "no memory to repair a segment");
    p->disk = disk;
    p->fd = -1;
    p->bytes = bytes;
    p->pieces = pieces;
    p->n = n;
    snprintf(p->dir, sizeof p->dir, "%s", dir);
    name_beside(dir, sizeof p->beside, p->beside);
    int rv = writer_segment_path(p->path, sizeof p->path, dir, id);
    if (rv != 0) error_set(e, ERROR_INVALID, "the log's path is too long");
    else if ((rv = raw_file_open(&p->from, disk, p->path, bytes)) != 0) error_set(e, ERROR_NOMEM, "no memory to repair a segment");
    else if ((p->fd = disk->open(disk, p->beside, O_RDWR | O_CREAT | O_TRUNC)) < 0) rv = failed(p, p->fd, e);
    if (rv == 0) *ret_patch = p;
    else patch_free(p);
    return rv;
}

/* What cannot be read is zeros; if it was of any use, a piece takes its place, or the next look finds it. */
static void fill_chunk(struct patch *p, size_t len)
{
    for (size_t done = 0; done < len; done += RAW_PAGE) {
        size_t part = len - done < RAW_PAGE ? len - done : RAW_PAGE;
        const uint8_t *bytes = raw_file_read(&p->from, p->at + done, part);
        if (bytes != NULL) memcpy(p->chunk + done, bytes, part);
        else memset(p->chunk + done, 0, part);
    }
    for (size_t i = 0; i < p->n; i++) {
        const struct patch_piece *x = &p->pieces[i];
        uint64_t from = x->at > p->at ? x->at : p->at, to = x->at + x->len < p->at + len ? x->at + x->len : p->at + len;
        if (from < to) memcpy(p->chunk + (from - p->at), x->bytes + (from - x->at), (size_t)(to - from));
    }
}

static int finish(struct patch *p)
{
    int rv = p->disk->datasync(p->disk, p->fd);
    if (rv == 0) rv = p->disk->rename(p->disk, p->beside, p->path);
    if (rv != 0) return rv;
    p->disk->close(p->disk, p->fd);
    p->fd = -1;
    return p->disk->syncdir(p->disk, p->dir);
}

int patch_step(struct patch *p, struct error *e)
{
    size_t len = p->bytes - p->at < PATCH_STEP ? (size_t)(p->bytes - p->at) : PATCH_STEP;
    int rv = 0;
    if (len > 0) {
        fill_chunk(p, len);
        rv = disk_write_all(p->disk, p->fd, p->chunk, len, p->at);
        p->at += len;
    }
    if (rv == 0 && p->at < p->bytes) return 1;
    if (rv == 0) rv = finish(p);
    return rv == 0 ? 0 : failed(p, rv, e);
}
