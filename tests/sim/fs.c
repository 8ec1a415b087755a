#include "tests/sim/fs.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/world.h"

/* A file's bytes lie at one address for ever, so that they can be mapped; FILE_MAX bounds what a simulated file may hold. */
enum { FILES = 700, FILE_MAX = 16 << 20, NAMES = 160, NAME = 112, CHANGES = 256, FDS = 1024 };
enum state { CLEAN, DIRTY, LOST };

struct undo {
    uint32_t sector;
    uint32_t at; /* of the durable bytes in `old`; UINT32_MAX: zeros */
};

struct file {
    bool used, is_dir, marked;
    uint8_t *bytes;
    size_t size, high, durable_size; /* high: no byte above was ever other than zero */
    uint8_t *states;                 /* by sector */
    struct undo *undo;
    size_t n_undo, cap_undo;
    uint8_t *old;
    size_t n_old, cap_old;
};

struct name {
    char path[NAME];
    struct file *file;
};

struct change { /* from "": made; to "": removed */
    char from[NAME], to[NAME];
    struct file *file;
};

struct machine {
    struct name names[NAMES], durable[NAMES];
    unsigned n_names, n_durable;
    struct change changes[CHANGES];
    unsigned n_changes;
    struct fs_faults faults;
};

struct descriptor {
    struct file *file;
    char dir[NAME];
    unsigned machine;
    int flags;
    uint64_t at;
    bool locked;
};

static struct file files[FILES];
static struct machine machines[FS_MACHINES];
static struct descriptor fds[FDS];
static uint8_t *region;
uint64_t fs_counts[8];

/* ---- files ---------------------------------------------------------------------------------------------------- */

static void file_clear(struct file *f)
{
    memset(f->bytes, 0, f->high);
    memset(f->states, 0, (f->high + FS_SECTOR - 1) / FS_SECTOR);
    f->size = f->high = f->durable_size = f->n_undo = f->n_old = 0;
    f->used = false;
}

static void mark(const struct name *names, unsigned n)
{
    for (unsigned i = 0; i < n; i++) names[i].file->marked = true;
}

/* Files without a name, live or durable, and without a descriptor. */
static void collect(void)
{
    for (int i = 0; i < FILES; i++) files[i].marked = false;
    for (unsigned i = 0; i < FS_MACHINES; i++) {
        mark(machines[i].names, machines[i].n_names);
        mark(machines[i].durable, machines[i].n_durable);
        for (unsigned j = 0; j < machines[i].n_changes; j++)
            if (machines[i].changes[j].file != NULL) machines[i].changes[j].file->marked = true;
    }
    for (int i = 0; i < FDS; i++)
        if (fds[i].file != NULL) fds[i].file->marked = true;
    for (int i = 0; i < FILES; i++)
        if (files[i].used && !files[i].marked) file_clear(&files[i]);
}

static struct file *file_new(bool is_dir)
{
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < FILES; i++) {
            if (files[i].used) continue;
            files[i].used = true;
            files[i].is_dir = is_dir;
            return &files[i];
        }
        collect();
    }
    fprintf(stderr, "simulator: more than %d files\n", FILES);
    abort();
}

static void reserve(struct file *f, size_t sectors)
{
    unsigned heap = memory_heap();
    if (f->n_undo + sectors <= f->cap_undo && f->n_old + sectors * FS_SECTOR <= f->cap_old) return;
    memory_enter(0);
    while (f->cap_undo < f->n_undo + sectors) f->cap_undo = f->cap_undo == 0 ? 64 : 2 * f->cap_undo;
    while (f->cap_old < f->n_old + sectors * FS_SECTOR) f->cap_old = f->cap_old == 0 ? 64 * FS_SECTOR : 2 * f->cap_old;
    f->undo = realloc(f->undo, f->cap_undo * sizeof *f->undo);
    f->old = realloc(f->old, f->cap_old);
    memory_enter(heap);
    if (f->undo == NULL || f->old == NULL) abort();
}

/* Keeps the durable bytes of what is about to be changed. */
static void touch(struct file *f, size_t from, size_t to)
{
    size_t first = from / FS_SECTOR, end = (to + FS_SECTOR - 1) / FS_SECTOR, known = (f->high + FS_SECTOR - 1) / FS_SECTOR;
    reserve(f, end - first);
    for (size_t s = first; s < end;) {
        size_t begin = s;
        if (f->states[s] != CLEAN) { /* its durable bytes are kept already */
            f->states[s++] = DIRTY;
            continue;
        }
        for (; s < end && f->states[s] == CLEAN; s++) {
            f->states[s] = DIRTY;
            f->undo[f->n_undo++] = (struct undo){(uint32_t)s, s < known ? (uint32_t)(f->n_old + (s - begin) * FS_SECTOR) : UINT32_MAX};
        }
        size_t bytes = begin < known ? ((s < known ? s : known) - begin) * FS_SECTOR : 0;
        memcpy(f->old + f->n_old, f->bytes + begin * FS_SECTOR, bytes);
        f->n_old += bytes;
    }
}

static void put(struct file *f, const uint8_t *bytes, size_t len, uint64_t at)
{
    if (len == 0) return;
    touch(f, at, at + len);
    memcpy(f->bytes + at, bytes, len);
    if (at + len > f->high) f->high = at + len;
    if (at + len > f->size) f->size = at + len;
}

static void set_size(struct file *f, size_t size)
{
    if (size < f->size) {
        touch(f, size, f->size);
        memset(f->bytes + size, 0, f->size - size);
    }
    f->size = size;
}

static void forget_undo(struct file *f)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->n_undo; i++) {
        uint8_t *state = &f->states[f->undo[i].sector];
        if (*state == LOST) f->undo[kept++] = f->undo[i];
        else *state = CLEAN;
    }
    f->n_undo = kept;
    if (kept == 0) f->n_old = 0;
}

static void make_durable(struct file *f)
{
    forget_undo(f);
    f->durable_size = f->size;
}

static void make_durable_part(struct file *f, size_t from, size_t to)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->n_undo; i++) {
        size_t s = f->undo[i].sector;
        if (f->states[s] == DIRTY && s >= from / FS_SECTOR && s * FS_SECTOR < to) f->states[s] = CLEAN;
        else f->undo[kept++] = f->undo[i];
    }
    f->n_undo = kept;
    if (kept == 0) f->n_old = 0;
    if (f->durable_size < to) f->durable_size = to;
}

/* ---- names ---------------------------------------------------------------------------------------------------- */

static struct name *find(struct name *names, unsigned n, const char *path)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(names[i].path, path) == 0) return &names[i];
    return NULL;
}

static void remove_name(struct name *names, unsigned *n, const char *path)
{
    struct name *x = find(names, *n, path);
    if (x != NULL) memmove(x, x + 1, (size_t)(&names[--*n] - x) * sizeof *x); /* order is kept: listings repeat */
}

static void add_name(struct name *names, unsigned *n, const char *path, struct file *f)
{
    remove_name(names, n, path);
    if (*n == NAMES) {
        fprintf(stderr, "simulator: more than %d names on a machine\n", NAMES);
        abort();
    }
    snprintf(names[*n].path, NAME, "%s", path);
    names[(*n)++].file = f;
}

static void apply_change(struct name *names, unsigned *n, const struct change *c)
{
    if (c->from[0] == '\0') {
        add_name(names, n, c->to, c->file);
    } else if (c->to[0] == '\0') {
        remove_name(names, n, c->from);
    } else { /* with everything below, when it is a directory */
        size_t len = strlen(c->from);
        remove_name(names, n, c->to);
        for (unsigned i = 0; i < *n; i++) {
            char moved[2 * NAME];
            if (strncmp(names[i].path, c->from, len) != 0 || (names[i].path[len] != '/' && names[i].path[len] != '\0')) continue;
            size_t all = (size_t)snprintf(moved, sizeof moved, "%s%s", c->to, names[i].path + len);
            assert(all < NAME);
            memcpy(names[i].path, moved, all + 1);
        }
    }
}

static void names_durable(struct machine *m, unsigned n)
{
    for (unsigned i = 0; i < n; i++) apply_change(m->durable, &m->n_durable, &m->changes[i]);
    memmove(m->changes, m->changes + n, (m->n_changes - n) * sizeof *m->changes);
    m->n_changes -= n;
}

static void change(struct machine *m, const char *from, const char *to, struct file *f)
{
    if (m->n_changes == CHANGES) names_durable(m, CHANGES / 2); /* the journal is full: as on a real one */
    struct change *c = &m->changes[m->n_changes++];
    snprintf(c->from, NAME, "%s", from);
    snprintf(c->to, NAME, "%s", to);
    c->file = f;
    apply_change(m->names, &m->n_names, c);
}

/* "/sim/3/wal/lock/" -> machine 3, "wal/lock" in `ret`. */
static struct machine *locate(const char *path, char ret[NAME], unsigned *ret_number)
{
    char *end;
    unsigned long number = strtoul(path + 5, &end, 10);
    assert(number < FS_MACHINES);
    size_t n = 0;
    while (*end != '\0') {
        while (*end == '/') end++;
        size_t len = strcspn(end, "/");
        if (len == 2 && strncmp(end, "..", 2) == 0) {
            while (n > 0 && ret[--n] != '/') {
            }
        } else if (len > 0) {
            assert(n + len + 2 < NAME);
            if (n > 0) ret[n++] = '/';
            memcpy(ret + n, end, len);
            n += len;
        }
        end += len;
    }
    ret[n] = '\0';
    *ret_number = (unsigned)number;
    return &machines[number];
}

static bool parent_exists(struct machine *m, const char *path)
{
    char dir[NAME];
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return true;
    snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
    struct name *x = find(m->names, m->n_names, dir);
    return x != NULL && x->file->is_dir;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct fs_faults *fs_faults(unsigned machine)
{
    return &machines[machine].faults;
}

void fs_begin(void)
{
    if (region == NULL) {
        region = mmap(NULL, (size_t)FILES * (FILE_MAX + FILE_MAX / FS_SECTOR), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED) abort();
        for (int i = 0; i < FILES; i++) {
            files[i].bytes = region + (size_t)i * FILE_MAX;
            files[i].states = region + (size_t)FILES * FILE_MAX + (size_t)i * (FILE_MAX / FS_SECTOR);
        }
    }
    for (int i = 0; i < FDS; i++) fds[i].file = NULL;
    for (unsigned i = 0; i < FS_MACHINES; i++) {
        struct machine *m = &machines[i];
        m->n_names = m->n_durable = m->n_changes = 0;
        m->faults = (struct fs_faults){.sync_min_us = 80, .sync_max_us = 300};
    }
    for (int i = 0; i < FILES; i++)
        if (files[i].used) file_clear(&files[i]);
    memset(fs_counts, 0, sizeof fs_counts);
}

void fs_process_ended(unsigned machine)
{
    for (int i = 0; i < FDS; i++)
        if (fds[i].file != NULL && fds[i].machine == machine) fds[i].file = NULL;
}

void fs_wipe(unsigned machine)
{
    machines[machine].n_names = machines[machine].n_durable = machines[machine].n_changes = 0;
}

static void cut_file(struct file *f, unsigned keep_of_4)
{
    for (size_t i = f->n_undo; i-- > 0;) {
        struct undo *u = &f->undo[i];
        uint8_t *at = f->bytes + (size_t)u->sector * FS_SECTOR;
        f->states[u->sector] = CLEAN;
        if (dice_below(&world_dice, 4) < keep_of_4) {
            fs_counts[FS_TORN]++;
            continue;
        }
        fs_counts[FS_LOST]++;
        if (u->at == UINT32_MAX) memset(at, 0, FS_SECTOR);
        else memcpy(at, f->old + u->at, FS_SECTOR);
        if (((size_t)u->sector + 1) * FS_SECTOR > f->high) f->high = ((size_t)u->sector + 1) * FS_SECTOR;
    }
    f->n_undo = f->n_old = 0;
    if (f->size != f->durable_size && dice_chance(&world_dice, 500)) {
        if (f->durable_size < f->size) memset(f->bytes + f->durable_size, 0, f->high > f->durable_size ? f->high - f->durable_size : 0);
        f->size = f->durable_size;
    }
    if (f->high > f->size) memset(f->bytes + f->size, 0, f->high - f->size);
    f->durable_size = f->size;
}

void fs_power_cut(unsigned machine)
{
    struct machine *m = &machines[machine];
    fs_process_ended(machine);
    if (m->n_changes > 0) names_durable(m, (unsigned)dice_below(&world_dice, m->n_changes + 1));
    m->n_changes = 0;
    memcpy(m->names, m->durable, sizeof m->names);
    m->n_names = m->n_durable;
    unsigned keep = (unsigned)dice_below(&world_dice, 5);
    for (unsigned i = 0; i < m->n_names; i++) cut_file(m->names[i].file, keep);
}

bool fs_is_path(const char *path)
{
    return path != NULL && strncmp(path, "/sim/", 5) == 0;
}

bool fs_is_memory(const void *p)
{
    return region != NULL && (const uint8_t *)p >= region && (const uint8_t *)p < region + (size_t)FILES * FILE_MAX;
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static struct descriptor *get(int fd)
{
    assert(fd >= FS_FD && fd < FS_FD + FDS);
    return &fds[fd - FS_FD];
}

static void boundary(void)
{
    process_io(process_current());
}

int fs_open(const char *path, int flags)
{
    char name[NAME];
    unsigned number;
    struct machine *m = locate(path, name, &number);
    struct file *f = NULL;
    boundary();
    if (name[0] == '\0') {
        static struct file root = {.is_dir = true, .used = true};
        f = &root;
    } else {
        struct name *x = find(m->names, m->n_names, name);
        if (x != NULL) f = x->file;
    }
    if (f != NULL && f->is_dir && (flags & O_ACCMODE) != O_RDONLY) return -EISDIR;
    if (f == NULL) {
        if ((flags & O_CREAT) == 0 || !parent_exists(m, name)) return -ENOENT;
        if (m->faults.full) {
            fs_counts[FS_FULL]++;
            return -ENOSPC;
        }
        f = file_new(false);
        change(m, "", name, f);
    } else if ((flags & O_TRUNC) != 0) {
        set_size(f, 0);
    }
    for (int i = 0; i < FDS; i++) {
        if (fds[i].file != NULL) continue;
        fds[i] = (struct descriptor){.file = f, .machine = number, .flags = flags};
        snprintf(fds[i].dir, NAME, "%s", name);
        return FS_FD + i;
    }
    return -EMFILE;
}

int fs_close(int fd)
{
    struct descriptor *d = get(fd);
    if (d->file == NULL) return -EBADF;
    d->file = NULL;
    return 0;
}

ssize_t fs_pread(int fd, void *bytes, size_t len, uint64_t at)
{
    struct descriptor *d = get(fd);
    struct fs_faults *faults = &machines[d->machine].faults;
    if (d->file == NULL) return -EBADF;
    if (faults->fail_reads > 0 && process_current() != NULL) {
        faults->fail_reads--;
        fs_counts[FS_EIO_READ]++;
        world_trace("machine %u: a read fails", d->machine);
        return -EIO;
    }
    size_t size = d->file->size, n = at >= size ? 0 : len < size - at ? len : size - (size_t)at;
    if (n > 0) memcpy(bytes, d->file->bytes + at, n);
    return (ssize_t)n;
}

ssize_t fs_read(int fd, void *bytes, size_t len)
{
    struct descriptor *d = get(fd);
    ssize_t n = fs_pread(fd, bytes, len, d->at);
    if (n > 0) d->at += (uint64_t)n;
    return n;
}

static void put_parts(struct file *f, const struct iovec *parts, int n, uint64_t at, size_t most)
{
    for (int i = 0; i < n && most > 0; i++) {
        size_t len = parts[i].iov_len < most ? parts[i].iov_len : most;
        put(f, parts[i].iov_base, len, at);
        at += len;
        most -= len;
    }
}

static uint64_t sync_time(struct machine *m)
{
    const struct fs_faults *x = &m->faults;
    fs_counts[FS_SYNCS]++;
    if (dice_chance(&world_dice, x->spike_of_1000)) {
        fs_counts[FS_SPIKES]++;
        return dice_below(&world_dice, x->spike_us) * US;
    }
    return dice_between(&world_dice, x->sync_min_us, x->sync_max_us) * US;
}

static bool is_aligned(const struct iovec *parts, int n, uint64_t at)
{
    for (int i = 0; i < n; i++)
        if ((uintptr_t)parts[i].iov_base % FS_SECTOR != 0 || parts[i].iov_len % FS_SECTOR != 0) return false;
    return at % FS_SECTOR == 0;
}

ssize_t fs_pwritev(int fd, const struct iovec *parts, int n, uint64_t at)
{
    struct descriptor *d = get(fd);
    struct file *f = d->file;
    struct machine *m = &machines[d->machine];
    struct process *p = process_current();
    size_t total = 0;
    if (f == NULL) return -EBADF;
    for (int i = 0; i < n; i++) total += parts[i].iov_len;
    if (at + total > FILE_MAX) return -EFBIG;
    if ((d->flags & O_DIRECT) != 0 && !is_aligned(parts, n, at)) return -EINVAL;
    if (p != NULL && p->die_at_io == 0) put_parts(f, parts, n, at, dice_below(&world_dice, total + 1)); /* dies in the middle */
    boundary();
    if (m->faults.fail_writes > 0) {
        m->faults.fail_writes--;
        fs_counts[FS_EIO_WRITE]++;
        world_trace("machine %u: a write fails", d->machine);
        return -EIO;
    }
    if (m->faults.full && at + total > f->size) {
        fs_counts[FS_FULL]++;
        if (at >= f->size) return -ENOSPC;
        total = f->size - at; /* what there is room for */
    }
    put_parts(f, parts, n, at, total);
    world_trace_cheap(1, (uint64_t)d->machine << 32 | (uint64_t)total, at);
    if ((d->flags & O_DSYNC) != 0) {
        if (m->faults.fail_syncs > 0) {
            m->faults.fail_syncs--;
            fs_counts[FS_EIO_SYNC]++;
            return -EIO;
        }
        fiber_sleep(sync_time(m));
        make_durable_part(f, at, at + total);
        boundary();
    }
    return (ssize_t)total;
}

ssize_t fs_writev(int fd, const struct iovec *parts, int n)
{
    struct descriptor *d = get(fd);
    ssize_t done = fs_pwritev(fd, parts, n, (d->flags & O_APPEND) != 0 ? d->file->size : d->at);
    if (done > 0) d->at += (uint64_t)done;
    return done;
}

int fs_sync(int fd)
{
    struct descriptor *d = get(fd);
    struct file *f = d->file;
    struct machine *m = &machines[d->machine];
    if (f == NULL) return -EBADF;
    boundary();
    if (m->faults.fail_syncs > 0) {
        m->faults.fail_syncs--;
        fs_counts[FS_EIO_SYNC]++;
        world_trace("machine %u: a sync fails", d->machine);
        for (size_t i = 0; i < f->n_undo; i++) f->states[f->undo[i].sector] = LOST;
        return -EIO;
    }
    uint64_t takes = sync_time(m);
    bool early = dice_chance(&world_dice, 500); /* what is written meanwhile may be included or not */
    unsigned changes = m->n_changes;
    if (f->is_dir) {
        fiber_sleep(takes);
        names_durable(m, m->n_changes < changes ? m->n_changes : changes);
    } else {
        if (early) make_durable(f);
        fiber_sleep(takes);
        if (!early) make_durable(f);
    }
    world_trace_cheap(2, d->machine, f->size);
    boundary();
    return 0;
}

int fs_resize(int fd, uint64_t size)
{
    struct descriptor *d = get(fd);
    if (d->file == NULL) return -EBADF;
    if (size > FILE_MAX) return -EFBIG;
    boundary();
    if (size > d->file->size && machines[d->machine].faults.full) {
        fs_counts[FS_FULL]++;
        return -ENOSPC;
    }
    set_size(d->file, size);
    if (size > d->file->high) d->file->high = size;
    return 0;
}

int64_t fs_seek(int fd, int64_t to, int whence)
{
    struct descriptor *d = get(fd);
    if (d->file == NULL) return -EBADF;
    int64_t base = whence == 0 ? 0 : whence == 1 ? (int64_t)d->at : (int64_t)d->file->size;
    d->at = (uint64_t)(base + to);
    return (int64_t)d->at;
}

int fs_rename(const char *from, const char *to)
{
    char a[NAME], b[NAME];
    unsigned number;
    struct machine *m = locate(from, a, &number);
    locate(to, b, &number);
    boundary();
    struct name *x = find(m->names, m->n_names, a), *y = find(m->names, m->n_names, b);
    if (x == NULL || !parent_exists(m, b)) return -ENOENT;
    if (y != NULL && y->file->is_dir && fs_entry(to, 0) != NULL) return -ENOTEMPTY;
    change(m, a, b, x->file);
    boundary();
    return 0;
}

int fs_unlink(const char *path, bool dir)
{
    char name[NAME];
    unsigned number;
    struct machine *m = locate(path, name, &number);
    boundary();
    struct name *x = find(m->names, m->n_names, name);
    if (x == NULL) return -ENOENT;
    if (x->file->is_dir != dir) return dir ? -ENOTDIR : -EISDIR;
    if (dir && fs_entry(path, 0) != NULL) return -ENOTEMPTY;
    change(m, name, "", x->file);
    return 0;
}

int fs_mkdir(const char *path)
{
    char name[NAME];
    unsigned number;
    struct machine *m = locate(path, name, &number);
    boundary();
    if (name[0] == '\0' || find(m->names, m->n_names, name) != NULL) return -EEXIST;
    if (!parent_exists(m, name)) return -ENOENT;
    change(m, "", name, file_new(true));
    return 0;
}

int fs_lock(int fd)
{
    struct descriptor *d = get(fd);
    for (int i = 0; i < FDS; i++)
        if (fds[i].file == d->file && fds[i].locked && &fds[i] != d) return -EWOULDBLOCK;
    d->locked = true;
    return 0;
}

int fs_flags(int fd)
{
    return get(fd)->flags;
}

void fs_set_flags(int fd, int flags)
{
    get(fd)->flags = flags;
}

int fs_stat(const char *path, bool *ret_dir, uint64_t *ret_size)
{
    char name[NAME];
    unsigned number;
    struct machine *m = locate(path, name, &number);
    struct name *x = find(m->names, m->n_names, name);
    *ret_dir = name[0] == '\0';
    *ret_size = 0;
    if (x == NULL) return *ret_dir ? 0 : -ENOENT;
    *ret_dir = x->file->is_dir;
    *ret_size = x->file->size;
    return 0;
}

int fs_fstat(int fd, bool *ret_dir, uint64_t *ret_size)
{
    struct descriptor *d = get(fd);
    if (d->file == NULL) return -EBADF;
    *ret_dir = d->file->is_dir;
    *ret_size = d->file->size;
    return 0;
}

void *fs_map(int fd, size_t len, bool writable)
{
    struct descriptor *d = get(fd);
    if (d->file == NULL || (writable && len > FILE_MAX)) {
        errno = d->file == NULL ? EBADF : ENOMEM;
        return NULL;
    }
    if (writable && len > d->file->high) d->file->high = len;
    return d->file->bytes; /* a map of more than there is is not read beyond the file's end */
}

const char *fs_entry(const char *dir, unsigned i)
{
    char name[NAME];
    unsigned number;
    struct machine *m = locate(dir, name, &number);
    size_t len = strlen(name);
    for (unsigned j = 0; j < m->n_names; j++) {
        const char *p = m->names[j].path;
        if (len > 0 && (strncmp(p, name, len) != 0 || p[len] != '/')) continue;
        p += len > 0 ? len + 1 : 0;
        if (*p != '\0' && strchr(p, '/') == NULL && i-- == 0) return p;
    }
    return NULL;
}

uint8_t *fs_bytes(const char *path, size_t *ret_len)
{
    char name[NAME];
    unsigned number;
    struct machine *m = locate(path, name, &number);
    struct name *x = find(m->names, m->n_names, name);
    if (x == NULL) return NULL;
    *ret_len = x->file->size;
    return x->file->bytes;
}
