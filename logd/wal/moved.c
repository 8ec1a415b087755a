#include "logd/wal/moved.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "logd/wal/segment.h"
#include "logd/wal/writer.h"

enum { GATHER = 256 << 10 };

struct moved {
    const struct disk *disk;
    char dir[PATH_MAX];
    char temporary[PATH_MAX + 16];
    uint64_t id;
    int fd;
    uint64_t written; /* bytes handed to the disk */
    size_t n;         /* gathered behind them */
    uint8_t gathered[GATHER];
};

void moved_abandon(struct moved *m)
{
    if (m == NULL) return;
    if (m->fd >= 0) m->disk->close(m->disk, m->fd);
    m->disk->unlink(m->disk, m->temporary);
    free(m);
}

static int failed(struct moved *m, int rv, struct error *e)
{
    return error_errno(e, disk_error_code(rv), -rv, "cannot write %s", m->temporary);
}

int moved_begin(const struct disk *disk, const char *dir, uint64_t id, struct moved **ret_moved, struct error *e)
{
    struct moved *m = calloc(1, sizeof *m);
    if (m == NULL) return error_set(e, ERROR_NOMEM, "no memory to move events");
    m->disk = disk;
    m->id = id;
    m->written = SEGMENT_HEADER;
    snprintf(m->dir, sizeof m->dir, "%s", dir);
    snprintf(m->temporary, sizeof m->temporary, "%s/moved.tmp", m->dir);
    m->fd = disk->open(disk, m->temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (m->fd >= 0) {
        *ret_moved = m;
        return 0;
    }
    int rv = failed(m, m->fd, e);
    free(m);
    return rv;
}

static int flush(struct moved *m)
{
    int rv = m->n == 0 ? 0 : disk_write_all(m->disk, m->fd, m->gathered, m->n, m->written);
    m->written += m->n;
    m->n = 0;
    return rv;
}

int moved_put(struct moved *m, const void *bytes, size_t len, uint64_t *ret_position, struct error *e)
{
    int rv = m->n + len > GATHER ? flush(m) : 0;
    if (rv != 0) return failed(m, rv, e);
    *ret_position = m->written + m->n;
    if (len > GATHER) {
        rv = disk_write_all(m->disk, m->fd, bytes, len, m->written);
        m->written += len;
        return rv == 0 ? 0 : failed(m, rv, e);
    }
    memcpy(m->gathered + m->n, bytes, len);
    m->n += len;
    return 0;
}

uint64_t moved_bytes(const struct moved *m)
{
    return m->written + m->n;
}

int moved_finish(struct moved *m, struct error *e)
{
    uint8_t header[SEGMENT_HEADER];
    char path[PATH_MAX];
    const struct segment_header h = {.id = m->id, .bytes = moved_bytes(m), .first_seq = 1};
    if (writer_segment_path(path, sizeof path, m->dir, m->id) != 0) {
        moved_abandon(m);
        return error_set(e, ERROR_INVALID, "the log's path is too long");
    }
    segment_header_encode(&h, header);
    int rv = flush(m);
    if (rv == 0) rv = disk_write_all(m->disk, m->fd, header, sizeof header, 0);
    if (rv == 0 && !MUTANT(moved_unsynced)) rv = m->disk->datasync(m->disk, m->fd);
    if (rv == 0) rv = m->disk->rename(m->disk, m->temporary, path);
    if (rv == 0) rv = m->disk->syncdir(m->disk, m->dir);
    if (rv != 0) {
        rv = failed(m, rv, e);
        m->disk->unlink(m->disk, path);
        moved_abandon(m);
        return rv;
    }
    m->disk->close(m->disk, m->fd);
    free(m);
    return 0;
}
