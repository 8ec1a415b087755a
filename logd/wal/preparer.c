#include "logd/wal/preparer.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

struct preparer {
    const struct disk *disk;
    char path[PATH_MAX];
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t changed;
    enum { IDLE, ASKED, READY } state; /* all below is guarded by `lock` */
    uint64_t bytes;
    int fd;
    int status; /* of what is READY: 0 or a negated errno */
    bool stopping;
};

static int make(struct preparer *p, uint64_t bytes, int *ret_fd)
{
    int fd = p->disk->open(p->disk, p->path, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0) return fd;
    int rv = disk_write_zeros(p->disk, fd, 0, bytes);
    if (rv == 0) rv = p->disk->datasync(p->disk, fd); /* so that the sync of its header is a short one */
    if (rv == 0)
        *ret_fd = fd;
    else
        p->disk->close(p->disk, fd);
    return rv;
}

static void run(void *argument)
{
    struct preparer *p = argument;
    uv_mutex_lock(&p->lock);
    while (!p->stopping) {
        if (p->state != ASKED) {
            uv_cond_wait(&p->changed, &p->lock);
            continue;
        }
        uint64_t bytes = p->bytes;
        int fd = -1;
        uv_mutex_unlock(&p->lock);
        int status = make(p, bytes, &fd);
        uv_mutex_lock(&p->lock);
        p->fd = fd;
        p->status = status;
        p->state = READY;
        uv_cond_broadcast(&p->changed);
    }
    uv_mutex_unlock(&p->lock);
}

int preparer_new(const struct disk *disk, const char *dir, struct preparer **ret_preparer, struct error *e)
{
    struct preparer *p = calloc(1, sizeof *p);
    if (p == NULL) return error_set(e, ERROR_NOMEM, "no memory for the log");
    p->disk = disk;
    p->fd = -1;
    if (snprintf(p->path, sizeof p->path, "%s/next.tmp", dir) >= (int)sizeof p->path) {
        free(p);
        return error_set(e, ERROR_INVALID, "the path of the log is too long");
    }
    uv_mutex_init(&p->lock);
    uv_cond_init(&p->changed);
    int rv = uv_thread_create(&p->thread, run, p);
    if (rv != 0) {
        uv_cond_destroy(&p->changed);
        uv_mutex_destroy(&p->lock);
        free(p);
        return error_uv(e, ERROR_IO, rv, "cannot start a thread");
    }
    *ret_preparer = p;
    return 0;
}

void preparer_free(struct preparer *p)
{
    if (p == NULL) return;
    uv_mutex_lock(&p->lock);
    p->stopping = true;
    uv_cond_broadcast(&p->changed);
    uv_mutex_unlock(&p->lock);
    uv_thread_join(&p->thread);
    if (p->fd >= 0) p->disk->close(p->disk, p->fd);
    uv_cond_destroy(&p->changed);
    uv_mutex_destroy(&p->lock);
    free(p);
}

void preparer_ask(struct preparer *p, uint64_t bytes)
{
    uv_mutex_lock(&p->lock);
    if (p->state == IDLE) {
        p->state = ASKED;
        p->bytes = bytes;
        uv_cond_broadcast(&p->changed);
    }
    uv_mutex_unlock(&p->lock);
}

int preparer_take(struct preparer *p, uint64_t bytes, int *ret_fd, struct error *e)
{
    uv_mutex_lock(&p->lock);
    while (p->state == ASKED) uv_cond_wait(&p->changed, &p->lock);
    bool ready = p->state == READY && p->status == 0 && p->bytes == bytes;
    int fd = p->fd;
    p->fd = -1;
    p->state = IDLE;
    uv_mutex_unlock(&p->lock);
    if (!ready) { /* none, one of another size, or one that failed: try again here, where the error can be told */
        if (fd >= 0) p->disk->close(p->disk, fd);
        int rv = make(p, bytes, &fd);
        if (rv != 0)
            return error_errno(e, disk_error_code(rv), -rv, "cannot make a segment of %llu bytes at %s",
                               (unsigned long long)bytes, p->path);
    }
    *ret_fd = fd;
    return 0;
}

const char *preparer_path(const struct preparer *p)
{
    return p->path;
}
