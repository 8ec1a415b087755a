#include "logd/wal/hard_state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/crc32c.h"
#include "common/mutant.h"

static const uint64_t magic = 0x3145544154534148; /* "HASTATE1" */
enum { COPY = 4096, USED = 32 };

static void encode(const struct hard_state *h, uint8_t copy[static COPY])
{
    memset(copy, 0, COPY);
    put_u64(copy, magic);
    put_u64(copy + 8, h->seq);
    put_u64(copy + 16, h->term);
    put_u64(copy + 24, h->vote);
    put_u32(copy + USED, crc32c(0, copy, USED));
}

/* The copy's sequence number, 0 when it is not whole. */
static uint64_t whole(const uint8_t copy[static COPY])
{
    bool right = get_u64(copy) == magic && get_u32(copy + USED) == crc32c(0, copy, USED);
    return right ? get_u64(copy + 8) : 0;
}

static int write_copy(struct hard_state *h, unsigned which, struct error *e)
{
    uint8_t copy[COPY];
    encode(h, copy);
    int rv = disk_write_all(h->disk, h->fd, copy, COPY, which * (uint64_t)COPY);
    if (rv == 0 && !MUTANT(skip_vote_sync)) rv = h->disk->datasync(h->disk, h->fd); /* <- here a term or a vote becomes a promise */
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot store term and vote");
}

static int make(struct hard_state *h, const char *dir, const char *path, struct error *e)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary)
        return error_set(e, ERROR_INVALID, "the log's path is too long");
    h->fd = h->disk->open(h->disk, temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (h->fd < 0) return error_errno(e, disk_error_code(h->fd), -h->fd, "cannot make %s", temporary);
    h->seq = 1;
    int rv = write_copy(h, 0, e);
    if (rv == 0) rv = write_copy(h, 1, e);
    if (rv != 0) return rv;
    rv = h->disk->rename(h->disk, temporary, path);
    if (rv == 0) rv = h->disk->syncdir(h->disk, dir);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot make %s", path);
}

static int load(struct hard_state *h, const char *dir, const char *path, struct error *e)
{
    uint8_t copies[2 * COPY] = {0};
    int64_t size = h->disk->size(h->disk, h->fd);
    if (size < 0) return error_errno(e, ERROR_IO, (int)-size, "cannot look at %s", path);
    size_t present = size < (int64_t)sizeof copies ? (size_t)size : sizeof copies;
    int rv = disk_read_all(h->disk, h->fd, copies, present, 0);
    if (rv != 0) return error_errno(e, ERROR_IO, -rv, "cannot read %s", path);
    uint64_t first = whole(copies), second = whole(copies + COPY);
    if (first == 0 && second == 0)
        return error_set(
            e, ERROR_CORRUPT,
            "%s holds no whole copy of term and vote: this node must not vote. Nothing was changed. If the other "
            "servers are healthy, empty this one's data directory and let it rejoin",
            path);
    unsigned newest = first >= second ? 0 : 1;
    const uint8_t *copy = copies + newest * COPY;
    h->seq = get_u64(copy + 8);
    h->term = get_u64(copy + 16) - MUTANT(forget_term);
    h->vote = MUTANT(forget_vote) ? 0 : get_u64(copy + 24);
    rv = write_copy(h, 1 - newest, e); /* the other first: at no moment is there less than there was */
    if (rv == 0) rv = write_copy(h, newest, e);
    if (rv != 0) return rv;
    rv = h->disk->syncdir(h->disk, dir); /* the process that made it may have died before this */
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot sync %s", dir);
}

int hard_state_open(struct hard_state *h, const struct disk *disk, const char *dir, bool fresh, struct error *e)
{
    char path[PATH_MAX];
    *h = (struct hard_state){.disk = disk, .fd = -1};
    if (snprintf(path, sizeof path, "%s/hard_state", dir) >= (int)sizeof path)
        return error_set(e, ERROR_INVALID, "the log's path is too long");
    int rv;
    h->fd = disk->open(disk, path, O_RDWR);
    if (h->fd >= 0)
        rv = load(h, dir, path, e);
    else if (h->fd != -ENOENT)
        rv = error_errno(e, ERROR_IO, -h->fd, "cannot open %s", path);
    else if (fresh)
        rv = make(h, dir, path, e);
    else
        rv = error_set(
            e, ERROR_CORRUPT,
            "%s is missing, but there is a log: this node must not vote. Nothing was changed. If the other servers are "
            "healthy, empty this one's data directory and let it rejoin",
            path);
    if (rv != 0) hard_state_close(h);
    return rv;
}

int hard_state_set(struct hard_state *h, uint64_t term, uint64_t vote, struct error *e)
{
    if (h->failed) return error_set(e, ERROR_IO, "term and vote could not be stored before: the node must stop");
    struct hard_state next = *h;
    next.seq++;
    next.term = term;
    next.vote = vote;
    int rv = write_copy(&next, 0, e);
    if (rv == 0) rv = write_copy(&next, 1, e);
    if (rv == 0)
        *h = next;
    else
        h->failed = true;
    return rv;
}

void hard_state_close(struct hard_state *h)
{
    if (h->fd >= 0) h->disk->close(h->disk, h->fd);
    h->fd = -1;
}
