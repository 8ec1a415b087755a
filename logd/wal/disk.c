#include "logd/wal/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/file.h"

static int result(int rv)
{
    return rv < 0 ? -errno : rv;
}

static int system_open(const struct disk *d, const char *path, int flags)
{
    (void)d;
    return result(open(path, flags | O_CLOEXEC, 0600));
}

static int system_close(const struct disk *d, int fd)
{
    (void)d;
    return result(close(fd));
}

static ssize_t system_pread(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at)
{
    (void)d;
    ssize_t n = pread(fd, bytes, len, (off_t)at);
    return n < 0 ? -errno : n;
}

static ssize_t system_pwritev(const struct disk *d, int fd, const struct iovec *parts, int n, uint64_t at)
{
    (void)d;
    ssize_t written = pwritev(fd, parts, n, (off_t)at);
    return written < 0 ? -errno : written;
}

static int system_allocate(const struct disk *d, int fd, uint64_t bytes)
{
    int rv = posix_fallocate(fd, 0, (off_t)bytes);
    return rv == EOPNOTSUPP || rv == EINVAL ? disk_write_zeros(d, fd, 0, bytes) : -rv;
}

static int system_datasync(const struct disk *d, int fd)
{
    (void)d;
    return result(fdatasync(fd));
}

static int system_rename(const struct disk *d, const char *from, const char *to)
{
    (void)d;
    return result(rename(from, to));
}

static int system_syncdir(const struct disk *d, const char *path)
{
    (void)d;
    return file_sync_dir(path, NULL) == 0 ? 0 : -errno;
}

static int64_t system_size(const struct disk *d, int fd)
{
    (void)d;
    struct stat s;
    return fstat(fd, &s) < 0 ? -errno : s.st_size;
}

static int system_unlink(const struct disk *d, const char *path)
{
    (void)d;
    return result(unlink(path));
}

static int64_t system_list(const struct disk *d, const char *dir, uint64_t **ret_ids)
{
    (void)d;
    DIR *listing = opendir(dir);
    if (listing == NULL) return -errno;
    uint64_t *ids = NULL;
    int64_t n = 0, cap = 0;
    for (struct dirent *entry; n >= 0 && (entry = readdir(listing)) != NULL;) {
        char *end;
        unsigned long long id = strtoull(entry->d_name, &end, 10);
        if (end == entry->d_name || strcmp(end, ".seg") != 0 || id == 0) continue;
        if (n == cap) {
            cap = cap == 0 ? 64 : 2 * cap;
            uint64_t *grown = realloc(ids, (size_t)cap * sizeof *ids);
            if (grown == NULL) n = -ENOMEM;
            else ids = grown;
        }
        if (n >= 0) ids[n++] = id;
    }
    closedir(listing);
    if (n < 0) free(ids);
    else *ret_ids = ids;
    return n;
}

static int system_mkdir(const struct disk *d, const char *path)
{
    (void)d;
    return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -errno;
}

static int system_lock(const struct disk *d, const char *path)
{
    (void)d;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    int rv = -errno;
    close(fd);
    return rv;
}

/* Whole blocks of the file system, though the kernel would take sectors: a write that begins within a block of a file that was allocated and never written makes ext4 fill that
 * block with zeros, alone on the file, before it goes on (256 KiB took 9 to 12 ms so, and 1 from a block's border; fio on ext4, Linux 6.18). And where the kernel cannot say what it
 * wants, a block of 4096 is enough for everything there is. */
static int system_direct(const struct disk *d, int fd)
{
    struct statx s = {0};
    enum { BLOCK = 4096 };
    int flags = fcntl(fd, F_GETFL), align = BLOCK;
    (void)d;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s) == 0 && (s.stx_mask & STATX_DIOALIGN) != 0) align = (int)s.stx_dio_offset_align;
    if (align == 0 || align > BLOCK || s.stx_dio_mem_align > BLOCK) return 0;
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0 ? BLOCK : 0;
}

static int64_t system_space(const struct disk *d, const char *path)
{
    struct statvfs fs;
    (void)d;
    if (statvfs(path, &fs) != 0) return -errno;
    return fs.f_blocks == 0 ? INT64_MAX : (int64_t)(fs.f_bavail * fs.f_frsize);
}

const struct disk *disk_system(void)
{
    static const struct disk table = {
        .open = system_open,
        .close = system_close,
        .pread = system_pread,
        .pwritev = system_pwritev,
        .allocate = system_allocate,
        .datasync = system_datasync,
        .rename = system_rename,
        .syncdir = system_syncdir,
        .size = system_size,
        .unlink = system_unlink,
        .list = system_list,
        .mkdir = system_mkdir,
        .lock = system_lock,
        .direct = system_direct,
        .space = system_space,
    };
    return &table;
}

enum error_code disk_error_code(int rv)
{
    return file_error_code(-rv);
}

int disk_read_all(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at)
{
    uint8_t *p = bytes;
    while (len > 0) {
        ssize_t n = d->pread(d, fd, p, len, at);
        if (n == -EINTR) continue;
        if (n < 0) return (int)n;
        if (n == 0) return -ENODATA;
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

ssize_t disk_read_pages(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at)
{
    size_t have = 0;
    while (have < len) {
        size_t from = have - have % DISK_PAGE; /* a page that came in part is asked for again: only at the file's end is it all there is */
        ssize_t n = d->pread(d, fd, (uint8_t *)bytes + from, len - from, at + from);
        if (n == -EINTR) continue;
        if (n < 0 && have == 0) return n;
        if (n <= 0 || from + (size_t)n <= have) break;
        have = from + (size_t)n;
    }
    return (ssize_t)have;
}

int disk_writev_all(const struct disk *d, int fd, struct iovec *parts, int n, uint64_t at)
{
    while (n > 0) {
        ssize_t written = d->pwritev(d, fd, parts, n < IOV_MAX ? n : IOV_MAX, at);
        if (written == -EINTR) continue;
        if (written == 0) return -EIO; /* no part is empty: the system would have us spin */
        if (written < 0) return (int)written;
        at += (uint64_t)written;
        while (n > 0 && (size_t)written >= parts->iov_len) {
            written -= (ssize_t)parts->iov_len;
            parts++;
            n--;
        }
        if (n > 0) {
            parts->iov_base = (char *)parts->iov_base + written;
            parts->iov_len -= (size_t)written;
        }
    }
    return 0;
}

int disk_write_all(const struct disk *d, int fd, const void *bytes, size_t len, uint64_t at)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    if (len == 0) return 0;
    return disk_writev_all(d, fd, &part, 1, at);
}

int disk_write_zeros(const struct disk *d, int fd, uint64_t from, uint64_t to)
{
    enum { STEP = 1 << 20 };
    static const _Alignas(4096) uint8_t zeros[STEP]; /* also for direct writes */
    int rv = 0;
    for (uint64_t part; from < to && rv == 0; from += part) {
        part = to - from < STEP ? to - from : STEP;
        rv = disk_write_all(d, fd, zeros, (size_t)part, from);
    }
    return rv;
}
