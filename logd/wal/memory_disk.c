#include "logd/wal/memory_disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512, FILES = 64, FDS = 64, CHANGES = 64, NAME = 200, NEVER = -1 };

struct content {
    uint8_t *bytes;
    size_t len, cap;
};

struct file {
    struct content live, durable;
    bool *dirty; /* per sector of what is live */
    size_t dirty_cap;
    bool resized;
};

struct name {
    char path[NAME];
    struct file *file;
};

struct change { /* of a name, not yet durable: `to` is now this file; `from` (if any) is gone */
    char from[NAME], to[NAME];
    struct file *file;
};

struct memory_disk {
    struct disk table;
    pthread_mutex_t lock;
    struct file *files[FILES * 64]; /* all that ever were */
    unsigned n_files;
    struct name names[FILES], durable_names[FILES];
    struct change changes[CHANGES];
    unsigned n_changes;
    struct file *fds[FDS]; /* NULL: free */
    bool direct[FDS], no_direct;
    struct file lock_file;
    bool locked;
    unsigned fail_ops;
    const struct file *fail_file; /* NULL: any */
    int fail_after, fail_error; /* NEVER */
    int die_after;
    bool dead;
    uint64_t space;
    size_t hold; /* 0: nothing waits */
    pthread_cond_t released;
    uint32_t tear; /* seed */
};

uint32_t test_random(uint32_t *seed) /* xorshift: good enough to choose with */
{
    uint32_t x = *seed == 0 ? 0x9e3779b9 : *seed;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *seed = x;
}

static void content_resize(struct content *c, size_t len)
{
    if (len > c->cap) {
        size_t cap = len > 2 * c->cap ? len : 2 * c->cap;
        c->bytes = realloc(c->bytes, cap);
        assert(c->bytes != NULL);
        c->cap = cap;
    }
    if (len > c->len) memset(c->bytes + c->len, 0, len - c->len);
    c->len = len;
}

static void content_copy(struct content *to, const struct content *from)
{
    content_resize(to, from->len);
    if (from->len > 0) memcpy(to->bytes, from->bytes, from->len);
}

static void mark_dirty(struct file *f, size_t from, size_t to)
{
    size_t end = (to + SECTOR - 1) / SECTOR;
    if (end > f->dirty_cap) {
        size_t cap = 2 * end;
        f->dirty = realloc(f->dirty, cap * sizeof *f->dirty);
        assert(f->dirty != NULL);
        memset(f->dirty + f->dirty_cap, 0, (cap - f->dirty_cap) * sizeof *f->dirty);
        f->dirty_cap = cap;
    }
    for (size_t s = from / SECTOR; s < end; s++) f->dirty[s] = true;
}

static void clean(struct file *f)
{
    for (size_t s = 0; s < f->dirty_cap; s++) f->dirty[s] = false;
    f->resized = false;
}

/* What a sync does: only what is dirty reaches the disk. */
static void sync_file(struct file *f)
{
    if (f->resized) content_resize(&f->durable, f->live.len);
    for (size_t s = 0; s < f->dirty_cap; s++) {
        if (!f->dirty[s]) continue;
        size_t from = s * SECTOR, to = from + SECTOR < f->live.len ? from + SECTOR : f->live.len;
        if (to > f->durable.len) content_resize(&f->durable, to);
        if (from < to) memcpy(f->durable.bytes + from, f->live.bytes + from, to - from);
    }
    clean(f);
}

static struct name *find(struct name *names, const char *path)
{
    for (unsigned i = 0; i < FILES; i++)
        if (names[i].file != NULL && strcmp(names[i].path, path) == 0) return &names[i];
    return NULL;
}

static void set_name(struct name *names, const char *path, struct file *file)
{
    struct name *n = find(names, path);
    for (unsigned i = 0; n == NULL && i < FILES; i++)
        if (names[i].file == NULL) n = &names[i];
    assert(n != NULL && strlen(path) < NAME);
    strcpy(n->path, path);
    n->file = file;
}

static struct memory_disk *enter(const struct disk *d)
{
    struct memory_disk *m = d->user;
    pthread_mutex_lock(&m->lock);
    return m;
}

static int leave(struct memory_disk *m, int rv)
{
    pthread_mutex_unlock(&m->lock);
    return rv;
}

/* 0, or the fault that this operation meets; *ret_last: it is the one in which the process dies. */
static int fault(struct memory_disk *m, enum memory_disk_op op, const struct file *f, bool *ret_last)
{
    *ret_last = false;
    if (m->dead) return -EIO;
    if (m->die_after != NEVER && m->die_after-- == 0) {
        m->die_after = NEVER;
        m->dead = *ret_last = true;
        return -EIO;
    }
    bool meant = (m->fail_ops & op) != 0 && (m->fail_file == NULL || m->fail_file == f);
    if (m->fail_after != NEVER && meant && m->fail_after-- == 0) {
        m->fail_after = NEVER;
        return -m->fail_error;
    }
    return 0;
}

static int give_fd(struct memory_disk *m, struct file *f)
{
    for (int fd = 0; fd < FDS; fd++) {
        if (m->fds[fd] != NULL) continue;
        m->fds[fd] = f;
        m->direct[fd] = false;
        return fd;
    }
    return -EMFILE;
}

static void add_change(struct memory_disk *m, const char *from, const char *to, struct file *f)
{
    assert(m->n_changes < CHANGES);
    struct change *c = &m->changes[m->n_changes++];
    snprintf(c->from, sizeof c->from, "%s", from);
    snprintf(c->to, sizeof c->to, "%s", to);
    c->file = f;
}

static int memory_open(const struct disk *d, const char *path, int flags)
{
    struct memory_disk *m = enter(d);
    if (m->dead) return leave(m, -EIO);
    struct name *n = find(m->names, path);
    if (n != NULL) {
        if ((flags & O_TRUNC) != 0) {
            mark_dirty(n->file, 0, n->file->live.len);
            n->file->live.len = 0;
            n->file->resized = true;
        }
        return leave(m, give_fd(m, n->file));
    }
    if ((flags & O_CREAT) == 0) return leave(m, -ENOENT);
    struct file *f = calloc(1, sizeof *f);
    assert(f != NULL && m->n_files < sizeof m->files / sizeof *m->files);
    m->files[m->n_files++] = f;
    set_name(m->names, path, f);
    add_change(m, "", path, f);
    return leave(m, give_fd(m, f));
}

static int memory_close(const struct disk *d, int fd)
{
    struct memory_disk *m = enter(d);
    assert(fd >= 0 && fd < FDS && m->fds[fd] != NULL);
    if (m->fds[fd] == &m->lock_file) m->locked = false;
    m->fds[fd] = NULL;
    return leave(m, 0);
}

static ssize_t memory_pread(const struct disk *d, int fd, void *bytes, size_t len, uint64_t at)
{
    struct memory_disk *m = enter(d);
    struct content *c = &m->fds[fd]->live;
    size_t n = at >= c->len ? 0 : len < c->len - at ? len : (size_t)(c->len - at);
    if (m->dead) return leave(m, -EIO);
    if (n > 0) memcpy(bytes, c->bytes + at, n);
    pthread_mutex_unlock(&m->lock);
    return (ssize_t)n;
}

static uint64_t used(const struct memory_disk *m)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < FILES; i++)
        if (m->names[i].file != NULL) sum += m->names[i].file->live.len;
    return sum;
}

static void put(struct file *f, uint64_t at, const void *bytes, size_t len)
{
    if (at + len > f->live.len) {
        content_resize(&f->live, at + len);
        f->resized = true;
    }
    memcpy(f->live.bytes + at, bytes, len);
    mark_dirty(f, at, at + len);
}

static ssize_t memory_pwritev(const struct disk *d, int fd, const struct iovec *parts, int n, uint64_t at)
{
    struct memory_disk *m = enter(d);
    bool last;
    size_t total = 0, left;
    for (int i = 0; i < n; i++) {
        total += parts[i].iov_len;
        assert(!m->direct[fd] || (parts[i].iov_len % SECTOR == 0 && (uintptr_t)parts[i].iov_base % SECTOR == 0));
    }
    assert(!m->direct[fd] || at % SECTOR == 0);
    while (m->hold != 0 && total >= m->hold) pthread_cond_wait(&m->released, &m->lock);
    int rv = fault(m, MEMORY_DISK_WRITE, m->fds[fd], &last);
    struct file *f = m->fds[fd];
    if (rv == 0 && at + total > f->live.len && used(m) + at + total - f->live.len > m->space) rv = -ENOSPC;
    if (rv == 0)
        left = total;
    else
        left = last ? test_random(&m->tear) % (total + 1) : 0; /* dying in a write leaves a part of it */
    for (int i = 0; i < n && left > 0; i++) {
        size_t len = parts[i].iov_len < left ? parts[i].iov_len : left;
        put(f, at, parts[i].iov_base, len);
        at += len;
        left -= len;
    }
    pthread_mutex_unlock(&m->lock);
    return rv != 0 ? rv : (ssize_t)total;
}

static int memory_allocate(const struct disk *d, int fd, uint64_t bytes)
{
    return disk_write_zeros(d, fd, 0, bytes);
}

static int memory_datasync(const struct disk *d, int fd)
{
    struct memory_disk *m = enter(d);
    bool last;
    int rv = fault(m, MEMORY_DISK_SYNC, m->fds[fd], &last);
    if (rv == 0)
        sync_file(m->fds[fd]);
    else if (!m->dead)
        clean(m->fds[fd]); /* reported once, and then forgotten */
    return leave(m, rv);
}

static int memory_rename(const struct disk *d, const char *from, const char *to)
{
    struct memory_disk *m = enter(d);
    bool last;
    int rv = fault(m, MEMORY_DISK_RENAME, NULL, &last);
    struct name *n = find(m->names, from);
    if (rv != 0) return leave(m, rv);
    if (n == NULL) return leave(m, -ENOENT);
    struct file *f = n->file;
    n->file = NULL;
    set_name(m->names, to, f);
    add_change(m, from, to, f);
    return leave(m, 0);
}

static void make_names_durable(struct memory_disk *m, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct name *old = find(m->durable_names, m->changes[i].from);
        if (old != NULL) old->file = NULL;
        set_name(m->durable_names, m->changes[i].to, m->changes[i].file);
    }
    m->n_changes = 0;
}

static int memory_syncdir(const struct disk *d, const char *path)
{
    (void)path; /* one directory is enough here */
    struct memory_disk *m = enter(d);
    bool last;
    int rv = fault(m, MEMORY_DISK_SYNC, NULL, &last);
    if (rv == 0) make_names_durable(m, m->n_changes);
    return leave(m, rv);
}

static int64_t memory_size(const struct disk *d, int fd)
{
    struct memory_disk *m = enter(d);
    int64_t size = (int64_t)m->fds[fd]->live.len;
    pthread_mutex_unlock(&m->lock);
    return size;
}

/* Durable at once: only what nobody needs is ever unlinked, so that it does not matter when. */
static int memory_unlink(const struct disk *d, const char *path)
{
    struct memory_disk *m = enter(d);
    struct name *n = find(m->names, path), *durable = find(m->durable_names, path);
    if (m->dead) return leave(m, -EIO);
    if (n == NULL) return leave(m, -ENOENT);
    n->file = NULL;
    if (durable != NULL) durable->file = NULL;
    return leave(m, 0);
}

static int64_t memory_list(const struct disk *d, const char *dir, uint64_t **ret_ids)
{
    (void)dir;
    struct memory_disk *m = enter(d);
    int64_t n = 0;
    uint64_t *ids = calloc(FILES, sizeof *ids);
    assert(ids != NULL);
    for (unsigned i = 0; i < FILES; i++) {
        if (m->names[i].file == NULL) continue;
        char *end, *base = strrchr(m->names[i].path, '/') + 1;
        unsigned long long id = strtoull(base, &end, 10);
        if (end != base && strcmp(end, ".seg") == 0) ids[n++] = id;
    }
    pthread_mutex_unlock(&m->lock);
    *ret_ids = ids;
    return n;
}

static int memory_mkdir(const struct disk *d, const char *path)
{
    (void)d;
    (void)path;
    return 0;
}

static int memory_lock(const struct disk *d, const char *path)
{
    (void)path;
    struct memory_disk *m = enter(d);
    if (m->locked) return leave(m, -EWOULDBLOCK);
    m->locked = true;
    return leave(m, give_fd(m, &m->lock_file));
}

static int64_t memory_space(const struct disk *d, const char *path)
{
    struct memory_disk *m = enter(d);
    uint64_t there = used(m), room = m->space > there ? m->space - there : 0;
    (void)path;
    pthread_mutex_unlock(&m->lock);
    return room > INT64_MAX ? INT64_MAX : (int64_t)room;
}

static int memory_direct(const struct disk *d, int fd)
{
    struct memory_disk *m = enter(d);
    m->direct[fd] = !m->no_direct;
    return leave(m, m->no_direct ? 0 : SECTOR);
}

struct memory_disk *memory_disk_new(void)
{
    struct memory_disk *m = calloc(1, sizeof *m);
    assert(m != NULL);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->released, NULL);
    m->fail_after = m->die_after = NEVER;
    m->space = UINT64_MAX;
    m->table =
        (struct disk){memory_open,    memory_close, memory_pread,   memory_pwritev, memory_allocate, memory_datasync, memory_rename,
                      memory_syncdir, memory_size,  memory_unlink, memory_list, memory_mkdir, memory_lock, memory_direct, memory_space, m};
    return m;
}

void memory_disk_free(struct memory_disk *m)
{
    for (unsigned i = 0; i < m->n_files; i++) {
        free(m->files[i]->live.bytes);
        free(m->files[i]->durable.bytes);
        free(m->files[i]->dirty);
        free(m->files[i]);
    }
    pthread_cond_destroy(&m->released);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

const struct disk *memory_disk_table(struct memory_disk *m)
{
    return &m->table;
}

void memory_disk_fail(struct memory_disk *m, unsigned ops, unsigned n, int error)
{
    memory_disk_fail_file(m, NULL, ops, n, error);
}

void memory_disk_fail_file(struct memory_disk *m, const char *path, unsigned ops, unsigned n, int error)
{
    enter(&m->table);
    struct name *name = path != NULL ? find(m->names, path) : NULL;
    assert(path == NULL || name != NULL);
    m->fail_file = name != NULL ? name->file : NULL;
    m->fail_ops = ops;
    m->fail_after = (int)n;
    m->fail_error = error;
    leave(m, 0);
}

void memory_disk_die(struct memory_disk *m, unsigned n)
{
    enter(&m->table);
    m->die_after = (int)n;
    m->tear = n + 1;
    leave(m, 0);
}

bool memory_disk_died(struct memory_disk *m)
{
    enter(&m->table);
    return leave(m, m->dead);
}

void memory_disk_space(struct memory_disk *m, uint64_t bytes)
{
    enter(&m->table);
    m->space = bytes;
    leave(m, 0);
}

void memory_disk_no_direct(struct memory_disk *m)
{
    m->no_direct = true;
}

void memory_disk_hold(struct memory_disk *m, size_t len)
{
    enter(&m->table);
    m->hold = len;
    pthread_cond_broadcast(&m->released);
    leave(m, 0);
}

void memory_disk_restart(struct memory_disk *m)
{
    m->dead = m->locked = false;
    m->fail_after = m->die_after = NEVER;
    m->space = UINT64_MAX;
    memset(m->fds, 0, sizeof m->fds);
}

void memory_disk_power_cut(struct memory_disk *m, uint32_t *seed)
{
    memory_disk_restart(m);
    make_names_durable(m, m->n_changes == 0 ? 0 : test_random(seed) % (m->n_changes + 1));
    memcpy(m->names, m->durable_names, sizeof m->names);
    unsigned chance = test_random(seed) % 5; /* from nothing survives (0) to everything does (4) */
    for (unsigned i = 0; i < m->n_files; i++) {
        struct file *f = m->files[i];
        for (size_t s = 0; s < f->dirty_cap; s++)
            if (f->dirty[s] && test_random(seed) % 4 >= chance) f->dirty[s] = false;
        if (f->resized && test_random(seed) % 2 == 0) f->resized = false;
        sync_file(f);
        content_copy(&f->live, &f->durable);
    }
}

uint8_t *memory_disk_bytes(struct memory_disk *m, const char *path, size_t *ret_len)
{
    uint8_t *bytes = NULL;
    pthread_mutex_lock(&m->lock);
    struct name *n = find(m->names, path);
    if (n != NULL) {
        *ret_len = n->file->live.len;
        bytes = n->file->live.bytes;
    }
    pthread_mutex_unlock(&m->lock);
    return bytes;
}

void memory_disk_cut(struct memory_disk *m, const char *path, size_t len)
{
    struct name *n = find(m->names, path);
    assert(n != NULL);
    content_resize(&n->file->live, len);
}

void memory_disk_remove(struct memory_disk *m, const char *path)
{
    struct name *n = find(m->names, path);
    assert(n != NULL);
    n->file = NULL;
}

struct memory_disk *memory_disk_clone(struct memory_disk *from)
{
    struct memory_disk *m = memory_disk_new();
    for (unsigned i = 0; i < FILES; i++) {
        if (from->names[i].file == NULL) continue;
        struct file *f = calloc(1, sizeof *f);
        assert(f != NULL);
        m->files[m->n_files++] = f;
        content_copy(&f->live, &from->names[i].file->live);
        content_copy(&f->durable, &f->live);
        set_name(m->names, from->names[i].path, f);
        set_name(m->durable_names, from->names[i].path, f);
    }
    return m;
}
