/* The narrow file seam of the wal: everything it asks of the system goes through this table, so that tests (and the
 * simulator) can lose unsynced writes, fill the disk and fail a sync. disk_system() is the real one.
 *
 * Each function answers as its system call does: >= 0, or a negated errno. Thread: any; the implementation must allow
 * calls for different files at the same time. */
#ifndef CRSC_LOGD_WAL_DISK_H
#define CRSC_LOGD_WAL_DISK_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/error.h"

struct disk {
    int (*open)(const struct disk *d, const char *path, int flags); /* O_CLOEXEC and mode 0600 are added */
    int (*close)(const struct disk *d, int fd);
    ssize_t (*pread)(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at);
    ssize_t (*pwritev)(const struct disk *d, int fd, const struct iovec *parts, int n, uint64_t at);
    int (*allocate)(const struct disk *d, int fd, uint64_t bytes); /* of a new file: zeros, which need not be written */
    int (*datasync)(const struct disk *d, int fd);
    int (*rename)(const struct disk *d, const char *from, const char *to);
    int (*syncdir)(const struct disk *d, const char *path);
    int64_t (*size)(const struct disk *d, int fd);
    int (*unlink)(const struct disk *d, const char *path);
    int64_t (*list)(const struct disk *d, const char *dir, uint64_t **ret_ids); /* how many N of its files "N.seg", in any
                                                                                   order; the caller frees them */
    int (*mkdir)(const struct disk *d, const char *path);      /* 0 also when it is there */
    int (*lock)(const struct disk *d, const char *path);       /* a descriptor holding it; -EWOULDBLOCK: another does */
    int (*direct)(const struct disk *d, int fd);               /* from now on writes of `fd` pass the page cache by: place, length and memory
                                                                  must be multiples of what it answers; 0: that cannot be had here */
    int64_t (*space)(const struct disk *d, const char *path);  /* bytes free for us on its filesystem; INT64_MAX: it does not say */
    void *user;                                                /* the implementation's */
};

const struct disk *disk_system(void);

/* What a person is told of a negated errno: ERROR_NOSPACE when the disk or the quota is full, else ERROR_IO. */
enum error_code disk_error_code(int rv);

/* All of it, or a negated errno; a file that ends early is -ENODATA. */
int disk_read_all(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at);
/* Whole pages from `at` on, so that it works past the page cache too. How many bytes there are: fewer where the file ends, or the disk
 * gives no more; a negated errno when it gives none. */
enum { DISK_PAGE = 4096 };
ssize_t disk_read_pages(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at);
int disk_write_all(const struct disk *d, int fd, const void *bytes, size_t len, uint64_t at);
int disk_write_zeros(const struct disk *d, int fd, uint64_t from, uint64_t to);
/* Consumes `parts` (they are changed). */
int disk_writev_all(const struct disk *d, int fd, struct iovec *parts, int n, uint64_t at);

#endif
