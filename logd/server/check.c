#include "logd/server/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "logd/server/verification.h"
#include "logd/wal/disk.h"
#include "logd/wal/hard_state.h"
#include "logd/wal/recovery.h"

/* ---- a disk that is only read: recovery writes again what it believes, and seals; here that comes to nothing ---- */

static int read_only_open(const struct disk *d, const char *path, int flags)
{
    (void)d, (void)flags;
    return disk_system()->open(disk_system(), path, O_RDONLY);
}

static ssize_t read_only_write(const struct disk *d, int fd, const struct iovec *parts, int n, uint64_t at)
{
    ssize_t all = 0;
    (void)d, (void)fd, (void)at;
    for (int i = 0; i < n; i++) all += (ssize_t)parts[i].iov_len;
    return all;
}

static int read_only_file(const struct disk *d, int fd)
{
    (void)d, (void)fd;
    return 0;
}

static int read_only_allocate(const struct disk *d, int fd, uint64_t bytes)
{
    (void)d, (void)fd, (void)bytes;
    return 0;
}

static int read_only_path(const struct disk *d, const char *path)
{
    (void)d, (void)path;
    return 0;
}

static int read_only_rename(const struct disk *d, const char *from, const char *to)
{
    (void)d, (void)from, (void)to;
    return 0;
}

static const struct disk *read_only_disk(struct disk *d)
{
    *d = *disk_system();
    d->open = read_only_open;
    d->pwritev = read_only_write;
    d->allocate = read_only_allocate;
    d->datasync = read_only_file;
    d->direct = read_only_file;
    d->rename = read_only_rename;
    d->syncdir = d->unlink = d->mkdir = read_only_path;
    return d;
}

/* ---- the parts ------------------------------------------------------------------------------------------------ */

static void damage(struct check *c, const struct error *e)
{
    c->damages++;
    c->on_damage(c->user, e);
}

/* 0 for damage, which was told. */
static int told(struct check *c, int rv, struct error *e)
{
    if (rv != -ERROR_CORRUPT) return rv;
    damage(c, e);
    return 0;
}

static int check_log(struct check *c, const char *wal, struct error *e)
{
    struct disk disk;
    struct recovered r;
    struct hard_state h;
    int rv = recovery_run(read_only_disk(&disk), wal, &r, e);
    if (rv != 0) return told(c, rv, e);
    c->first_index = r.base.index + 1;
    c->last_index = r.n;
    c->log_bytes = r.bytes;
    c->torn_bytes = r.cut_bytes;
    if (r.tail.fd >= 0) close(r.tail.fd);
    recovered_free(&r);
    rv = hard_state_open(&h, read_only_disk(&disk), wal, false, e);
    if (rv != 0) return told(c, rv, e);
    c->term = h.term;
    hard_state_close(&h);
    return 0;
}

static void on_event_damage(void *user, const struct error *e)
{
    damage(user, e);
}

static int check_events(struct check *c, const char *dir, struct error *e)
{
    struct verification v = {.all = true, .on_damage = on_event_damage, .on_progress = c->on_progress, .user = c};
    int rv = verification_run(&v, dir, e);
    c->applied = v.expected_applied;
    c->appends = v.runs;
    c->events = v.events;
    if (rv == -ERROR_CORRUPT && v.damages > 0) return 0; /* each was told */
    return told(c, rv, e);
}

/* What a start would refuse (startup.c). */
static void check_meeting(struct check *c)
{
    struct error e;
    if (c->damages > 0) return; /* the numbers are of no use then */
    if (c->applied > c->last_index)
        error_set(&e, ERROR_CORRUPT, "the index has applied entry %" PRIu64 ", but the log ends at %" PRIu64, c->applied, c->last_index);
    else if (c->applied + 1 < c->first_index)
        error_set(&e, ERROR_CORRUPT, "the index has applied entry %" PRIu64 ", but the log begins at %" PRIu64, c->applied, c->first_index);
    else
        return;
    damage(c, &e);
}

int check_run(const char *data_dir, struct check *c, struct error *e)
{
    char wal[PATH_MAX], path[PATH_MAX];
    snprintf(wal, sizeof wal, "%.4000s/wal", data_dir);
    snprintf(path, sizeof path, "%.4000s/index/data.mdb", data_dir);
    if (access(wal, F_OK) != 0 || access(path, F_OK) != 0)
        return error_set(e, ERROR_NOT_FOUND, "%s is no data directory of crsc-logd: there is no wal or no index in it", data_dir);
    snprintf(path, sizeof path, "%.4000s/lock", wal);
    int lock = disk_system()->lock(disk_system(), path);
    if (lock == -EWOULDBLOCK) return error_set(e, ERROR_EXISTS, "a server uses %s: stop it first", data_dir);
    if (lock < 0) return error_errno(e, ERROR_IO, -lock, "%s cannot be locked", path);
    snprintf(path, sizeof path, "%.4000s/rebuild", data_dir);
    c->rebuild = access(path, F_OK) == 0;
    int rv = check_log(c, wal, e);
    if (rv == 0) rv = check_events(c, data_dir, e);
    if (rv == 0) check_meeting(c);
    close(lock);
    return rv;
}
