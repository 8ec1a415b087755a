#include "checkpoint/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"

enum { DEPTH_MAX = 128 }; /* folders in folders that a removal enters; each takes a descriptor */

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

/* A bind mount has the device of what it shows, so that devices tell nothing: the kernel is asked. */
static bool is_mount(int parent, const char *name)
{
    struct statx stx;
    return statx(parent, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) == 0 &&
           (stx.stx_attributes_mask & stx.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/* 0, or -1 and errno. */
static int remove_at(int parent, const char *name, int depth)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM && errno != EBUSY) return -1;
    if (is_mount(parent, name) || depth == DEPTH_MAX) {
        errno = depth == DEPTH_MAX ? ELOOP : EBUSY;
        return -1;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), failed = 0;
    if (fd < 0) return errno == ENOENT ? 0 : -1;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        failed = errno;
        close(fd);
        errno = failed;
        return -1;
    }
    for (struct dirent *entry; failed == 0 && (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && remove_at(fd, entry->d_name, depth + 1) != 0)
            failed = errno;
    closedir(dir);
    if (failed == 0 && (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)) return 0;
    if (failed != 0) errno = failed;
    return -1;
}

int tree_remove(const char *path, struct error *e)
{
    if (remove_at(AT_FDCWD, path, 0) == 0) return 0;
    return error_errno(e, ERROR_IO, errno, "%s cannot be removed", path);
}

int tree_sync_parent(const char *path, struct error *e)
{
    char parent[PATH_MAX];
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    while (len > 0 && path[len - 1] != '/') len--;
    while (len > 1 && path[len - 1] == '/') len--;
    if (len >= sizeof parent) return error_set(e, ERROR_INVALID, "the path is too long");
    if (len == 0) return file_sync_dir(".", e);
    memcpy(parent, path, len);
    parent[len] = '\0';
    return file_sync_dir(parent, e);
}

static int write_synced(const char *path, const void *data, size_t len, struct error *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600), failed = 0;
    if (fd < 0) return error_errno(e, file_error_code(errno), errno, "%s cannot be made", path);
    failed = -file_write(fd, data, len);
    if (failed == 0 && fsync(fd) != 0) failed = errno;
    close(fd);
    return failed == 0 ? 0 : error_errno(e, file_error_code(failed), failed, "%s cannot be written", path);
}

int tree_replace_file(const char *path, const void *data, size_t len, struct error *e)
{
    char aside[PATH_MAX];
    int n = snprintf(aside, sizeof aside, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof aside) return error_set(e, ERROR_INVALID, "the path is too long");
    int rc = write_synced(aside, data, len, e);
    if (rc == 0 && rename(aside, path) != 0) rc = error_errno(e, ERROR_IO, errno, "%s cannot be renamed", aside);
    if (rc == 0) rc = tree_sync_parent(path, e);
    if (rc != 0) unlink(aside);
    return rc;
}
