/* Small files. The kernel may take a part of a write and say so (Linux 6.18 on ext4 does now and then, of files on disks that have room): that is no
 * failure, the rest follows. Blocking; thread: any. crsc-logd has its own way to its disk: logd/wal/disk.h, but for folders. */
#ifndef CRSC_COMMON_FILE_H
#define CRSC_COMMON_FILE_H

#include <stddef.h>

#include "common/error.h"

/* What a failed call on a file or folder means: ERROR_NOSPACE or ERROR_IO. */
enum error_code file_error_code(int errno_value);

/* All of it, from where the file stands. 0, or a negated errno. */
int file_write(int fd, const void *bytes, size_t len);

/* `path` has these bytes from now on, or what it had before; mode 0600. They are written to `aside` first, which is gone afterwards. Not synced. 0, or a negated errno. */
int file_replace(const char *path, const char *aside, const void *bytes, size_t len);

/* The names that a folder has are so after a loss of power, too. 0, -ERROR_IO or -ERROR_NOSPACE, with errno; `e` may be NULL. */
int file_sync_dir(const char *path, struct error *e);

#endif
