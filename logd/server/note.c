#include "logd/server/note.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mutant.h"
#include "logd/wal/disk.h"

static int path_of(const char *dir, const char *name, const char *suffix, char ret_path[static PATH_MAX], struct error *e)
{
    if ((size_t)snprintf(ret_path, PATH_MAX, "%s/%s%s", dir, name, suffix) < PATH_MAX) return 0;
    return error_set(e, ERROR_INVALID, "data-dir is too long");
}

int note_write(const char *dir, const char *name, const char *text, struct error *e)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    int rv = path_of(dir, name, "", path, e);
    if (rv == 0) rv = path_of(dir, name, ".new", temporary, e);
    if (rv != 0) return rv;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return error_errno(e, ERROR_IO, errno, "cannot write %s", temporary);
    size_t len = strlen(text);
    bool ok = disk_write_all(disk_system(), fd, text, len, 0) == 0 && (MUTANT(note_unsynced) || fsync(fd) == 0);
    int saved = errno;
    close(fd);
    if (!ok) return error_errno(e, ERROR_IO, saved, "cannot write %s", temporary);
    if (rename(temporary, path) != 0) return error_errno(e, ERROR_IO, errno, "cannot rename %s", temporary);
    return MUTANT(note_unsynced) ? 0 : file_sync_dir(dir, e);
}

int note_read(const char *dir, const char *name, size_t size, char *ret_text, struct error *e)
{
    char path[PATH_MAX];
    int rv = path_of(dir, name, "", path, e);
    if (rv != 0) return rv;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : error_errno(e, ERROR_IO, errno, "cannot read %s", path);
    ssize_t n = read(fd, ret_text, size - 1);
    int saved = errno;
    close(fd);
    if (n < 0) return error_errno(e, ERROR_IO, saved, "cannot read %s", path);
    ret_text[n] = '\0';
    return 1;
}

int note_remove(const char *dir, const char *name, struct error *e)
{
    char path[PATH_MAX];
    int rv = path_of(dir, name, "", path, e);
    if (rv != 0) return rv;
    if (unlink(path) != 0) return errno == ENOENT ? 0 : error_errno(e, ERROR_IO, errno, "cannot remove %s", path);
    return file_sync_dir(dir, e);
}
