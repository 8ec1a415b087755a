/* What logd, LMDB and libraft ask of the C library about files, time and the end of the process, when a simulated process asks it.
 * Defined in the executable, these come before the C library's own, for the shared libraries too. Anything that is not of the
 * simulation (other paths, other descriptors, no process running) goes to the kernel. */
#undef _FILE_OFFSET_BITS /* it would give both twins one name */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/cluster.h"
#include "tests/sim/fs.h"
#include "tests/sim/world.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* the 64-bit twins of what <unistd.h> declares under one name */
#pragma GCC diagnostic ignored "-Wredundant-decls"

#define TWIN(name) __attribute__((alias(name)))

static long result(int64_t rv)
{
    if (rv >= 0) return (long)rv;
    errno = (int)-rv;
    return -1;
}

static bool ours(int fd)
{
    return fd >= FS_FD;
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

int sim_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return (int)(fs_is_path(path) ? result(fs_open(path, flags)) : syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
int open(const char *path, int flags, ...) TWIN("sim_open");
int open64(const char *path, int flags, ...) TWIN("sim_open");

int close(int fd)
{
    return (int)(ours(fd) ? result(fs_close(fd)) : syscall(SYS_close, fd));
}

ssize_t read(int fd, void *bytes, size_t len)
{
    return ours(fd) ? result(fs_read(fd, bytes, len)) : syscall(SYS_read, fd, bytes, len);
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    return ours(fd) ? result(fs_writev(fd, &part, 1)) : syscall(SYS_write, fd, bytes, len);
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    return ours(fd) ? result(fs_writev(fd, parts, n)) : syscall(SYS_writev, fd, parts, n);
}

ssize_t sim_pread(int fd, void *bytes, size_t len, off_t at)
{
    return ours(fd) ? result(fs_pread(fd, bytes, len, (uint64_t)at)) : syscall(SYS_pread64, fd, bytes, len, at);
}
ssize_t pread(int fd, void *bytes, size_t len, off_t at) TWIN("sim_pread");
ssize_t pread64(int fd, void *bytes, size_t len, off_t at) TWIN("sim_pread");

ssize_t sim_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    return ours(fd) ? result(fs_pwritev(fd, &part, 1, (uint64_t)at)) : syscall(SYS_pwrite64, fd, bytes, len, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) TWIN("sim_pwrite");
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) TWIN("sim_pwrite");

ssize_t sim_pwritev(int fd, const struct iovec *parts, int n, off_t at)
{
    return ours(fd) ? result(fs_pwritev(fd, parts, n, (uint64_t)at)) : syscall(SYS_pwritev, fd, parts, n, at, 0);
}
ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) TWIN("sim_pwritev");
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t at) TWIN("sim_pwritev");

int fsync(int fd)
{
    return (int)(ours(fd) ? result(fs_sync(fd)) : syscall(SYS_fsync, fd));
}

int fdatasync(int fd)
{
    return (int)(ours(fd) ? result(fs_sync(fd)) : syscall(SYS_fdatasync, fd));
}

int sim_ftruncate(int fd, off_t size)
{
    return (int)(ours(fd) ? result(fs_resize(fd, (uint64_t)size)) : syscall(SYS_ftruncate, fd, size));
}
int ftruncate(int fd, off_t size) TWIN("sim_ftruncate");
int ftruncate64(int fd, off_t size) TWIN("sim_ftruncate");

int sim_fallocate(int fd, off_t at, off_t len)
{
    bool dir;
    uint64_t size;
    if (!ours(fd)) return syscall(SYS_fallocate, fd, 0, at, len) == 0 ? 0 : errno;
    int rv = fs_fstat(fd, &dir, &size);
    if (rv == 0 && (uint64_t)(at + len) > size) rv = fs_resize(fd, (uint64_t)(at + len));
    return -rv;
}
int posix_fallocate(int fd, off_t at, off_t len) TWIN("sim_fallocate");

int sim_reserve(int fd, int mode, off_t at, off_t len)
{
    if (!ours(fd)) return (int)syscall(SYS_fallocate, fd, mode, at, len);
    return (int)result(-sim_fallocate(fd, at, len));
}
int fallocate(int fd, int mode, off_t at, off_t len) TWIN("sim_reserve");
int fallocate64(int fd, int mode, off_t at, off_t len) TWIN("sim_reserve");

int posix_fallocate64(int fd, off_t at, off_t len) TWIN("sim_fallocate");

off_t sim_lseek(int fd, off_t to, int whence)
{
    return ours(fd) ? result(fs_seek(fd, to, whence)) : syscall(SYS_lseek, fd, to, whence);
}
off_t lseek(int fd, off_t to, int whence) TWIN("sim_lseek");
off_t lseek64(int fd, off_t to, int whence) TWIN("sim_lseek");

/* For what is read with <stdio.h>: the C library's own opens without asking us. */
static ssize_t cookie_read(void *fd, char *bytes, size_t len)
{
    return result(fs_read((int)(intptr_t)fd, bytes, len));
}

static ssize_t cookie_write(void *fd, const char *bytes, size_t len)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    ssize_t n = fs_writev((int)(intptr_t)fd, &part, 1);
    return n < 0 ? result(n) + 1 : n; /* 0 is how it is told */
}

static int cookie_seek(void *fd, off64_t *at, int whence)
{
    int64_t rv = fs_seek((int)(intptr_t)fd, *at, whence);
    if (rv >= 0) *at = rv;
    return rv >= 0 ? 0 : (int)result(rv);
}

static int cookie_close(void *fd)
{
    return (int)result(fs_close((int)(intptr_t)fd));
}

/* The FILE is the world's: the C library keeps a list of all, also of those of a process that is no more. */
static FILE *stream_of(int fd, const char *mode)
{
    unsigned heap = memory_heap();
    memory_enter(0);
    FILE *f = fopencookie((void *)(intptr_t)fd, mode,
                          (cookie_io_functions_t){.read = cookie_read, .write = cookie_write, .seek = cookie_seek, .close = cookie_close});
    memory_enter(heap);
    if (f != NULL) f->_fileno = fd; /* for fileno() */
    return f;
}

FILE *fdopen(int fd, const char *mode)
{
    FILE *(*real)(int, const char *);
    if (ours(fd)) return stream_of(fd, mode);
    void *found = dlsym(RTLD_NEXT, "fdopen");
    memcpy(&real, &found, sizeof real);
    return real(fd, mode);
}

FILE *sim_fopen(const char *path, const char *mode)
{
    FILE *(*real)(const char *, const char *);
    if (!fs_is_path(path)) {
        void *found = dlsym(RTLD_NEXT, "fopen");
        memcpy(&real, &found, sizeof real);
        return real(path, mode);
    }
    int fd = mode[0] == 'r' ? fs_open(path, O_RDONLY) : -ENOSYS;
    if (fd < 0) {
        result(fd);
        return NULL;
    }
    return stream_of(fd, mode);
}
FILE *fopen(const char *path, const char *mode) TWIN("sim_fopen");
FILE *fopen64(const char *path, const char *mode) TWIN("sim_fopen");

/* A simulated process has nobody who reads what it prints. */
int printf(const char *format, ...)
{
    va_list args;
    int n = 0;
    va_start(args, format);
    if (process_current() == NULL) n = vprintf(format, args);
    va_end(args);
    return n;
}

static void fill(struct stat *st, bool dir, uint64_t size)
{
    memset(st, 0, sizeof *st);
    st->st_mode = dir ? S_IFDIR | 0700 : S_IFREG | 0600;
    st->st_size = (off_t)size;
    st->st_blksize = 4096;
    st->st_nlink = 1;
}

int sim_stat(const char *path, struct stat *st)
{
    bool dir;
    uint64_t size;
    if (!fs_is_path(path)) return (int)syscall(SYS_newfstatat, AT_FDCWD, path, st, 0);
    int rv = fs_stat(path, &dir, &size);
    if (rv == 0) fill(st, dir, size);
    return (int)result(rv);
}
int stat(const char *path, struct stat *st) TWIN("sim_stat");
int stat64(const char *path, struct stat64 *st) TWIN("sim_stat");
int lstat(const char *path, struct stat *st) TWIN("sim_stat");

int sim_fstat(int fd, struct stat *st)
{
    bool dir;
    uint64_t size;
    if (!ours(fd)) return (int)syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH);
    int rv = fs_fstat(fd, &dir, &size);
    if (rv == 0) fill(st, dir, size);
    return (int)result(rv);
}
int fstat(int fd, struct stat *st) TWIN("sim_fstat");
int fstat64(int fd, struct stat64 *st) TWIN("sim_fstat");

int __fxstat(int version, int fd, struct stat *st)
{
    (void)version;
    return sim_fstat(fd, st);
}

int statx(int fd, const char *path, int flags, unsigned mask, struct statx *st)
{
    return ours(fd) ? (int)result(-ENOSYS) : (int)syscall(SYS_statx, fd, path, flags, mask, st);
}

int sim_fstatfs(int fd, struct statfs *st)
{
    if (!ours(fd)) return (int)syscall(SYS_fstatfs, fd, st);
    memset(st, 0, sizeof *st);
    return 0;
}
int fstatfs(int fd, struct statfs *st) TWIN("sim_fstatfs");
int fstatfs64(int fd, struct statfs64 *st) TWIN("sim_fstatfs");

/* Only of simulated disks: nothing else here asks. */
static int disk_space(unsigned machine, struct statvfs *st)
{
    memset(st, 0, sizeof *st);
    st->f_bsize = st->f_frsize = 4096;
    st->f_blocks = 1 << 20;
    st->f_bavail = st->f_bfree = fs_faults(machine)->full ? 0 : 1 << 19;
    st->f_files = st->f_ffree = st->f_favail = 1 << 20;
    return 0;
}

int sim_fstatvfs(int fd, struct statvfs *st)
{
    struct process *p = process_current();
    if (p == NULL || !ours(fd)) return (int)result(-ENOSYS);
    return disk_space(p->number, st);
}
int fstatvfs(int fd, struct statvfs *st) TWIN("sim_fstatvfs");
int fstatvfs64(int fd, struct statvfs64 *st) TWIN("sim_fstatvfs");

int sim_statvfs(const char *path, struct statvfs *st)
{
    struct process *p = process_current();
    if (p == NULL || !fs_is_path(path)) return (int)result(-ENOSYS);
    return disk_space(p->number, st);
}
int statvfs(const char *path, struct statvfs *st) TWIN("sim_statvfs");
int statvfs64(const char *path, struct statvfs64 *st) TWIN("sim_statvfs");

int access(const char *path, int mode)
{
    bool dir;
    uint64_t size;
    return (int)(fs_is_path(path) ? result(fs_stat(path, &dir, &size)) : syscall(SYS_faccessat, AT_FDCWD, path, mode));
}

int rename(const char *from, const char *to)
{
    return (int)(fs_is_path(from) ? result(fs_rename(from, to)) : syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}

int unlink(const char *path)
{
    return (int)(fs_is_path(path) ? result(fs_unlink(path, false)) : syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

int rmdir(const char *path)
{
    return (int)(fs_is_path(path) ? result(fs_unlink(path, true)) : syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR));
}

int remove(const char *path)
{
    bool dir;
    uint64_t size;
    if (!fs_is_path(path)) return unlink(path) == 0 || (errno == EISDIR && rmdir(path) == 0) ? 0 : -1;
    int rv = fs_stat(path, &dir, &size);
    return (int)result(rv == 0 ? fs_unlink(path, dir) : rv);
}

int mkdir(const char *path, mode_t mode)
{
    if (strcmp(path, "/sim") == 0) return (int)result(-EEXIST);
    return (int)(fs_is_path(path) ? result(fs_mkdir(path)) : syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int flock(int fd, int operation)
{
    return (int)(ours(fd) ? result(fs_lock(fd)) : syscall(SYS_flock, fd, operation));
}

int sim_fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    void *argument = va_arg(args, void *);
    va_end(args);
    if (!ours(fd)) return (int)syscall(SYS_fcntl, fd, command, argument);
    if (command == F_GETLK) ((struct flock *)argument)->l_type = F_UNLCK;
    if (command == F_GETFL) return fs_flags(fd);
    if (command == F_SETFL) fs_set_flags(fd, (int)(intptr_t)argument);
    return 0; /* locks are between processes, and no two of them have one machine's files */
}
int fcntl(int fd, int command, ...) TWIN("sim_fcntl");
int fcntl64(int fd, int command, ...) TWIN("sim_fcntl");

/* ---- directories ---------------------------------------------------------------------------------------------- */

static struct listing {
    bool used;
    char path[256];
    unsigned at;
    struct dirent entry;
} listings[16];

DIR *opendir(const char *path)
{
    bool dir;
    uint64_t size;
    int rv = fs_is_path(path) ? fs_stat(path, &dir, &size) : -EACCES;
    for (size_t i = 0; rv == 0 && i < sizeof listings / sizeof *listings; i++) {
        if (listings[i].used) continue;
        listings[i].used = true;
        listings[i].at = 0;
        snprintf(listings[i].path, sizeof listings[i].path, "%s", path);
        return (DIR *)(void *)&listings[i];
    }
    result(rv == 0 ? -EMFILE : rv);
    return NULL;
}

struct dirent *sim_readdir(DIR *dir)
{
    struct listing *l = (struct listing *)(void *)dir;
    const char *name = fs_entry(l->path, l->at++);
    if (name == NULL) return NULL;
    snprintf(l->entry.d_name, sizeof l->entry.d_name, "%s", name);
    return &l->entry;
}
struct dirent *readdir(DIR *dir) TWIN("sim_readdir");
struct dirent64 *readdir64(DIR *dir) TWIN("sim_readdir");

int closedir(DIR *dir)
{
    ((struct listing *)(void *)dir)->used = false;
    return 0;
}

/* Depth first; the callback may remove what it is given. */
static int walk(const char *path, int (*each)(const char *, const struct stat *, int, struct FTW *), int depth)
{
    char below[256];
    struct stat st;
    struct FTW where = {0, depth};
    if (sim_stat(path, &st) != 0) return -1;
    for (unsigned i = 0; S_ISDIR(st.st_mode);) {
        const char *name = fs_entry(path, i);
        if (name == NULL) break;
        if (snprintf(below, sizeof below, "%s/%s", path, name) >= (int)sizeof below) return (int)result(-ENAMETOOLONG);
        int rv = walk(below, each, depth + 1);
        if (rv != 0) return rv;
        name = fs_entry(path, i);
        if (name != NULL && strcmp(strrchr(below, '/') + 1, name) == 0) i++; /* it stayed */
    }
    return each(path, &st, S_ISDIR(st.st_mode) ? FTW_DP : FTW_F, &where);
}

int sim_nftw(const char *path, int (*each)(const char *, const struct stat *, int, struct FTW *), int n, int flags)
{
    (void)n;
    (void)flags;
    return fs_is_path(path) ? walk(path, each, 0) : (int)result(-EACCES);
}
int nftw(const char *path, int (*each)(const char *, const struct stat *, int, struct FTW *), int n, int flags) TWIN("sim_nftw");
int nftw64(const char *path, int (*each)(const char *, const struct stat64 *, int, struct FTW *), int n, int flags) TWIN("sim_nftw");

/* ---- memory --------------------------------------------------------------------------------------------------- */

void *sim_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
    if (!ours(fd)) return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
    void *bytes = fs_map(fd, len, (prot & PROT_WRITE) != 0);
    return bytes == NULL ? MAP_FAILED : (char *)bytes + offset;
}
void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset) TWIN("sim_mmap");
void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t offset) TWIN("sim_mmap");

int munmap(void *at, size_t len)
{
    return fs_is_memory(at) ? 0 : (int)syscall(SYS_munmap, at, len);
}

int madvise(void *at, size_t len, int advice)
{
    return fs_is_memory(at) ? 0 : (int)syscall(SYS_madvise, at, len, advice);
}

int msync(void *at, size_t len, int flags)
{
    return fs_is_memory(at) ? 0 : (int)syscall(SYS_msync, at, len, flags);
}

/* LMDB's locks lie in its lock file. The C library's robust mutexes would keep lists through that memory beyond the death of a
 * simulated process; these are one number. */
static int real_mutex(const char *name, pthread_mutex_t *m)
{
    int (*function)(pthread_mutex_t *);
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(&function, &found, sizeof found);
    return function(m);
}

int pthread_mutex_lock(pthread_mutex_t *m)
{
    if (!fs_is_memory(m)) return real_mutex("pthread_mutex_lock", m);
    int *locked = (int *)(void *)m;
    while (*locked != 0) fiber_wait(m);
    *locked = 1;
    return 0;
}

int pthread_mutex_unlock(pthread_mutex_t *m)
{
    if (!fs_is_memory(m)) return real_mutex("pthread_mutex_unlock", m);
    *(int *)(void *)m = 0;
    fiber_wake_all(process_current(), m);
    return 0;
}

/* ---- time, chance, the end ------------------------------------------------------------------------------------ */

int clock_gettime(clockid_t id, struct timespec *ret)
{
    struct process *p = process_current();
    if (p == NULL) return (int)syscall(SYS_clock_gettime, id, ret);
    uint64_t ns = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? process_wall_us(p) * 1000 : process_mono_ns(p);
    ret->tv_sec = (time_t)(ns / SECOND);
    ret->tv_nsec = (long)(ns % SECOND);
    return 0;
}

ssize_t getrandom(void *bytes, size_t len, unsigned flags)
{
    if (process_current() == NULL) return syscall(SYS_getrandom, bytes, len, flags);
    for (size_t i = 0; i < len; i++) ((uint8_t *)bytes)[i] = (uint8_t)dice_roll(&world_dice);
    return (ssize_t)len;
}

void _exit(int status)
{
    struct process *p = process_current();
    if (p != NULL) process_end(p, status);
    for (;;) syscall(SYS_exit_group, status);
}

int execv(const char *path, char *const argv[])
{
    struct process *p = process_current();
    if (p == NULL) return (int)syscall(SYS_execve, path, argv, environ);
    process_end(p, PROCESS_RESTARTS);
    return -1;
}

/* A failed assertion or an abort() of a simulated process is a finding. */
void __assert_fail(const char *what, const char *file, unsigned line, const char *function)
{
    struct process *p = process_current();
    cluster_crashed();
    if (p != NULL) world_violation("process %u: assertion `%s' failed at %s:%u (%s)", p->number, what, file, line, function);
    fprintf(stderr, "simulator: %s:%u: %s: assertion `%s' failed\n", file, line, function, what);
    signal(SIGABRT, SIG_DFL);
    raise(SIGABRT);
    for (;;) syscall(SYS_exit_group, 134);
}

void abort(void)
{
    struct process *p = process_current();
    cluster_crashed();
    if (p != NULL) world_violation("process %u: abort()", p->number);
    signal(SIGABRT, SIG_DFL);
    raise(SIGABRT);
    for (;;) syscall(SYS_exit_group, 134);
}
