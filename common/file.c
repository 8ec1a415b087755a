#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum error_code file_error_code(int errno_value)
{
    return errno_value == ENOSPC || errno_value == EDQUOT ? ERROR_NOSPACE : ERROR_IO;
}

int file_write(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int file_replace(const char *path, const char *aside, const void *bytes, size_t len)
{
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    int rv = file_write(fd, bytes, len);
    if (close(fd) != 0 && rv == 0) rv = -errno;
    if (rv == 0 && rename(aside, path) != 0) rv = -errno;
    if (rv != 0) unlink(aside);
    return rv;
}

int file_sync_dir(const char *path, struct error *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int why = fd >= 0 && fsync(fd) == 0 ? 0 : errno;
    if (fd >= 0) close(fd);
    errno = why;
    return why == 0 ? 0 : error_errno(e, file_error_code(why), why, "%s cannot be synced", path);
}
