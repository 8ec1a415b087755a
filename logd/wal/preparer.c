#include "logd/wal/preparer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { PATH_BYTES = PATH_MAX + 16 };
enum { ZEROS_STEP = 1 << 20, ZEROS_PAUSE_MS = 4 /* no more than 250 MB/s: the log's own writes come between */ };

struct made {
    int fd;
    bool recycled;
};

struct preparer {
    const struct disk *disk;
    char dir[PATH_MAX], path[PATH_BYTES];
    uint64_t spare_bytes; /* of each */
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t changed;
    enum { IDLE, ASKED, READY } state; /* all below is guarded by `lock` */
    uint64_t bytes;
    bool zeros;
    bool hurry; /* somebody waits */
    struct made made;
    int status; /* of what is READY: 0 or a negated errno */
    bool stopping;
    enum { NONE, THERE, BUSY } spares[SPARES_MAX]; /* BUSY: a thread is at its file */
};

/* ---- spares --------------------------------------------------------------------------------------------------- */

static void spare_path(const struct preparer *p, unsigned i, char ret_path[static PATH_BYTES])
{
    snprintf(ret_path, PATH_BYTES, "%s/spare-%02u.tmp", p->dir, i % SPARES_MAX);
}

static void set_spare(struct preparer *p, unsigned i, int state)
{
    uv_mutex_lock(&p->lock);
    p->spares[i] = state;
    uv_mutex_unlock(&p->lock);
}

/* A file of the right size, whatever is in it? A wrong one is removed. */
static bool usable(const struct preparer *p, const char *path)
{
    int fd = p->disk->open(p->disk, path, O_RDWR);
    if (fd < 0) return false;
    bool right = p->disk->size(p->disk, fd) == (int64_t)p->spare_bytes;
    p->disk->close(p->disk, fd);
    if (!right) p->disk->unlink(p->disk, path);
    return right;
}

/* What the process before left: spares, and a file that it had made and not used. */
static void find_spares(struct preparer *p)
{
    char path[PATH_BYTES];
    for (unsigned i = 0; i < SPARES_MAX; i++) {
        spare_path(p, i, path);
        if (usable(p, path)) p->spares[i] = THERE;
        else if (usable(p, p->path) && p->disk->rename(p->disk, p->path, path) == 0) p->spares[i] = THERE;
    }
}

bool preparer_recycle(struct preparer *p, const char *path, uint64_t bytes, unsigned most)
{
    char to[PATH_BYTES];
    unsigned there = 0, free = SPARES_MAX;
    if (bytes != p->spare_bytes) return false;
    uv_mutex_lock(&p->lock);
    for (unsigned i = SPARES_MAX; i-- > 0;) {
        if (p->spares[i] == NONE) free = i;
        else there++;
    }
    bool room = free < SPARES_MAX && there < most;
    if (room) p->spares[free] = BUSY;
    uv_mutex_unlock(&p->lock);
    if (!room) return false;
    spare_path(p, free, to);
    int rv = p->disk->rename(p->disk, path, to);
    set_spare(p, free, rv == 0 ? THERE : NONE);
    return rv == 0;
}

/* A spare under the next file's name. Its name as a segment is gone durably before a byte of it may change: a file that is named as a
 * segment always holds that one. 0: there is none, or a negated errno. */
static int take_spare(struct preparer *p, uint64_t bytes, struct made *ret)
{
    char path[PATH_BYTES];
    unsigned i = 0;
    if (bytes != p->spare_bytes) return 0;
    uv_mutex_lock(&p->lock);
    while (i < SPARES_MAX && p->spares[i] != THERE) i++;
    if (i < SPARES_MAX) p->spares[i] = BUSY;
    uv_mutex_unlock(&p->lock);
    if (i == SPARES_MAX) return 0;
    spare_path(p, i, path);
    int rv = p->disk->rename(p->disk, path, p->path);
    set_spare(p, i, rv == 0 ? NONE : THERE);
    if (rv != 0) return rv;
    rv = p->disk->syncdir(p->disk, p->dir);
    if (rv == -ENOSPC || rv == -EDQUOT) rv = -EIO;
    if (rv == 0) rv = p->disk->open(p->disk, p->path, O_RDWR);
    if (rv < 0) return rv;
    *ret = (struct made){rv, true};
    return 0;
}

/* ---- making --------------------------------------------------------------------------------------------------- */

static int fill(struct preparer *p, int fd, uint64_t bytes)
{
    int rv = p->disk->direct(p->disk, fd); /* no pages for bytes that nobody reads */
    rv = rv < 0 ? rv : 0;
    for (uint64_t at = 0; at < bytes && rv == 0; at += ZEROS_STEP) {
        rv = disk_write_zeros(p->disk, fd, at, at + ZEROS_STEP < bytes ? at + ZEROS_STEP : bytes);
        uv_mutex_lock(&p->lock);
        bool hurry = p->hurry || p->stopping;
        uv_mutex_unlock(&p->lock);
        if (!hurry) uv_sleep(ZEROS_PAUSE_MS);
    }
    return rv;
}

static int make(struct preparer *p, uint64_t bytes, bool zeros, struct made *ret)
{
    *ret = (struct made){.fd = -1};
    int rv = take_spare(p, bytes, ret);
    if (rv != 0 || ret->fd >= 0) return rv;
    int64_t room = p->disk->space(p->disk, p->dir);
    if (room >= 0 && (uint64_t)room < bytes) return -ENOSPC; /* not even tried: others need what there is */
    int fd = p->disk->open(p->disk, p->path, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0) return fd;
    rv = zeros ? fill(p, fd, bytes) : p->disk->allocate(p->disk, fd, bytes);
    if (rv != 0) {
        p->disk->close(p->disk, fd);
        p->disk->unlink(p->disk, p->path); /* what it got of the last room */
        return rv;
    }
    rv = p->disk->datasync(p->disk, fd); /* so that the sync of its header is a short one */
    if (rv == 0) ret->fd = fd;
    else p->disk->close(p->disk, fd);
    return rv == -ENOSPC || rv == -EDQUOT ? -EIO : rv; /* preparer_take(): no failed sync is tried again */
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
        bool zeros = p->zeros;
        struct made made;
        uv_mutex_unlock(&p->lock);
        int status = make(p, bytes, zeros, &made);
        uv_mutex_lock(&p->lock);
        p->made = made;
        p->status = status;
        p->state = READY;
        uv_cond_broadcast(&p->changed);
    }
    uv_mutex_unlock(&p->lock);
}

int preparer_new(const struct disk *disk, const char *dir, uint64_t bytes, struct preparer **ret_preparer, struct error *e)
{
    if (strlen(dir) + sizeof "/spare-00.tmp" > PATH_MAX) return error_set(e, ERROR_INVALID, "the path of the log is too long");
    struct preparer *p = calloc(1, sizeof *p);
    if (p == NULL) return error_set(e, ERROR_NOMEM, "no memory for the log");
    p->disk = disk;
    p->made.fd = -1;
    p->spare_bytes = bytes;
    strcpy(p->dir, dir);
    snprintf(p->path, sizeof p->path, "%s/next.tmp", p->dir);
    find_spares(p);
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
    if (p->made.fd >= 0) p->disk->close(p->disk, p->made.fd);
    uv_cond_destroy(&p->changed);
    uv_mutex_destroy(&p->lock);
    free(p);
}

void preparer_ask(struct preparer *p, uint64_t bytes, bool zeros)
{
    uv_mutex_lock(&p->lock);
    if (p->state == IDLE) {
        p->state = ASKED;
        p->bytes = bytes;
        p->zeros = zeros;
        uv_cond_broadcast(&p->changed);
    }
    uv_mutex_unlock(&p->lock);
}

int preparer_take(struct preparer *p, uint64_t bytes, int *ret_fd, bool *ret_recycled, struct error *e)
{
    uv_mutex_lock(&p->lock);
    p->hurry = true;
    while (p->state == ASKED) uv_cond_wait(&p->changed, &p->lock);
    bool ready = p->state == READY && p->status == 0 && p->bytes == bytes;
    struct made made = p->made;
    p->made.fd = -1;
    p->state = IDLE;
    p->hurry = false;
    uv_mutex_unlock(&p->lock);
    if (!ready) { /* none, one of another size, or one that failed: try again here, where the error can be told */
        if (made.fd >= 0) p->disk->close(p->disk, made.fd);
        int rv = make(p, bytes, false, &made);
        if (rv != 0)
            return error_errno(e, disk_error_code(rv), -rv, "cannot make a segment of %llu bytes at %s",
                               (unsigned long long)bytes, p->path);
    }
    *ret_fd = made.fd;
    *ret_recycled = made.recycled;
    return 0;
}

const char *preparer_path(const struct preparer *p)
{
    return p->path;
}
