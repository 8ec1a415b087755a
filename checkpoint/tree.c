#include "checkpoint/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN_FOLDERS = 32 }; /* descriptors that a removal may use at once */

int tree_make(const char *path, struct error *e)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part) return error_set(e, ERROR_INVALID, "\"%.60s\" is no path for a directory", path);
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (part[i] != '/' && part[i] != '\0') continue;
        char kept = part[i];
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s cannot be made", part);
        part[i] = kept;
    }
    struct stat st;
    if (stat(path, &st) != 0) return error_errno(e, ERROR_IO, errno, "%s", path);
    return S_ISDIR(st.st_mode) ? 0 : error_set(e, ERROR_INVALID, "%s is there and is no directory", path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)where;
    return (kind == FTW_DP ? rmdir(path) : unlink(path)) == 0 || errno == ENOENT ? 0 : -1;
}

int tree_remove(const char *path, struct error *e)
{
    if (nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0 || errno == ENOENT) return 0;
    return error_errno(e, ERROR_IO, errno, "%s cannot be removed", path);
}

int tree_sync_directory(const char *path, struct error *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), failed = 0;
    if (fd < 0) return error_errno(e, ERROR_IO, errno, "%s cannot be opened", path);
    if (fsync(fd) != 0) failed = errno;
    close(fd);
    return failed == 0 ? 0 : error_errno(e, failed == ENOSPC ? ERROR_NOSPACE : ERROR_IO, failed, "%s cannot be synced", path);
}

int tree_sync_parent(const char *path, struct error *e)
{
    char parent[PATH_MAX];
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    while (len > 0 && path[len - 1] != '/') len--;
    while (len > 1 && path[len - 1] == '/') len--;
    if (len >= sizeof parent) return error_set(e, ERROR_INVALID, "the path is too long");
    if (len == 0) return tree_sync_directory(".", e);
    memcpy(parent, path, len);
    parent[len] = '\0';
    return tree_sync_directory(parent, e);
}
