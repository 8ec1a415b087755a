#include "logd/wal/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/crc32c.h"
#include "common/mutant.h"

static const uint64_t magic = 0x3130455341424c57; /* "WLBASE01" */
enum { HEAD = 56, BLOCK = HEAD + BASE_NOTE_MAX + 4 };

static void encode(const struct base *b, uint8_t block[static BLOCK])
{
    memset(block, 0, BLOCK);
    put_u64(block, magic);
    put_u64(block + 8, b->index);
    put_u64(block + 16, b->term);
    put_u64(block + 24, b->segment);
    put_u64(block + 32, b->seq);
    put_u64(block + 40, b->empty);
    put_u64(block + 48, b->note_len);
    memcpy(block + HEAD, b->note, b->note_len);
    put_u32(block + BLOCK - 4, crc32c(0, block, BLOCK - 4));
}

static bool decode(const uint8_t block[static BLOCK], struct base *b)
{
    if (get_u64(block) != magic || get_u32(block + BLOCK - 4) != crc32c(0, block, BLOCK - 4)) return false;
    *b = (struct base){.index = get_u64(block + 8),
                       .term = get_u64(block + 16),
                       .segment = get_u64(block + 24),
                       .seq = get_u64(block + 32),
                       .empty = get_u64(block + 40) != 0,
                       .note_len = get_u64(block + 48)};
    if (b->note_len > BASE_NOTE_MAX || b->segment == 0) return false;
    memcpy(b->note, block + HEAD, b->note_len);
    return true;
}

int base_read(const struct disk *disk, const char *dir, struct base *ret_base, struct error *e)
{
    char path[PATH_MAX];
    uint8_t block[BLOCK];
    *ret_base = (struct base){.segment = 1, .seq = 1};
    if (snprintf(path, sizeof path, "%s/base", dir) >= (int)sizeof path) return error_set(e, ERROR_INVALID, "the log's path is too long");
    int fd = disk->open(disk, path, O_RDONLY);
    if (fd == -ENOENT) return 0;
    if (fd < 0) return error_errno(e, ERROR_IO, -fd, "cannot open %s", path);
    int rv = disk_read_all(disk, fd, block, sizeof block, 0);
    disk->close(disk, fd);
    if (rv != 0 && rv != -ENODATA) return error_errno(e, ERROR_IO, -rv, "cannot read %s", path);
    if (rv == 0 && decode(block, ret_base)) return 0;
    return error_set(e, ERROR_CORRUPT, "%s is damaged: nobody knows where the log begins. Nothing was changed. If the other servers are "
                     "healthy, empty this one's data directory and let it rejoin", path);
}

int base_write(const struct disk *disk, const char *dir, const struct base *b, struct error *e)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    uint8_t block[BLOCK];
    if (snprintf(path, sizeof path, "%s/base", dir) >= (int)sizeof path ||
        snprintf(temporary, sizeof temporary, "%s/base.tmp", dir) >= (int)sizeof temporary)
        return error_set(e, ERROR_INVALID, "the log's path is too long");
    encode(b, block);
    int fd = disk->open(disk, temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0) return error_errno(e, disk_error_code(fd), -fd, "cannot make %s", temporary);
    int rv = disk_write_all(disk, fd, block, sizeof block, 0);
    if (rv == 0 && !MUTANT(base_unsynced)) rv = disk->datasync(disk, fd);
    disk->close(disk, fd);
    if (rv == 0) rv = disk->rename(disk, temporary, path);
    if (rv == 0) rv = disk->syncdir(disk, dir);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot write %s", path);
}
