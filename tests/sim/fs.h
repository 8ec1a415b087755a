/* The disks of the simulated machines: paths "/sim/N/...", where N is the machine's number.
 *
 * Written bytes are live at once (the page cache) and durable after a sync. For each sector that is not durable yet the durable bytes
 * are kept; a power cut gives any subset of those back: torn in units of a sector, lost, or kept. Sizes are durable apart from bytes,
 * names (files, renames, removals) apart from both, in order, as journaling file systems do. A sync that fails leaves what it was to
 * make durable live and not durable, as Linux does, and later syncs do not help. A process that is killed loses nothing that it wrote.
 *
 * fs_*() answer like system calls with negated errnos. Calls of a process pass boundaries of I/O (process_io()); syncs take
 * simulated time. Descriptors are numbers from FS_FD on. Thread: one. */
#ifndef CRSC_TESTS_SIM_FS_H
#define CRSC_TESTS_SIM_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct process;

enum { FS_FD = 1 << 20, FS_MACHINES = 16, FS_SECTOR = 512 };

/* What hurts a machine's disk at present. */
struct fs_faults {
    uint64_t sync_min_us, sync_max_us; /* a sync takes */
    unsigned spike_of_1000;            /* of syncs take spike_us */
    uint64_t spike_us;
    bool full;                         /* no file grows: ENOSPC */
    unsigned fail_writes, fail_reads, fail_syncs; /* the next so many: EIO */
};
struct fs_faults *fs_faults(unsigned machine);
extern uint64_t fs_counts[8];
enum { FS_SYNCS, FS_FULL, FS_EIO_WRITE, FS_EIO_READ, FS_EIO_SYNC, FS_SPIKES, FS_TORN, FS_LOST };

void fs_begin(void);                      /* empty disks */
void fs_power_cut(unsigned machine);
void fs_process_ended(unsigned machine);  /* descriptors and locks are gone */
void fs_wipe(unsigned machine);
bool fs_is_path(const char *path);
bool fs_is_memory(const void *p);

int fs_open(const char *path, int flags);
int fs_close(int fd);
ssize_t fs_pread(int fd, void *bytes, size_t len, uint64_t at);
ssize_t fs_read(int fd, void *bytes, size_t len);
ssize_t fs_pwritev(int fd, const struct iovec *parts, int n, uint64_t at);
ssize_t fs_writev(int fd, const struct iovec *parts, int n);
int fs_sync(int fd);
int fs_resize(int fd, uint64_t size);
int64_t fs_seek(int fd, int64_t to, int whence);
int fs_rename(const char *from, const char *to);
int fs_unlink(const char *path, bool dir);
int fs_mkdir(const char *path);
int fs_lock(int fd);
int fs_flags(int fd);
void fs_set_flags(int fd, int flags); /* O_DIRECT: only whole sectors are written, from memory that begins at one */
int fs_stat(const char *path, bool *ret_dir, uint64_t *ret_size);
int fs_fstat(int fd, bool *ret_dir, uint64_t *ret_size);
void *fs_map(int fd, size_t len, bool writable); /* what is written through it is never durable; NULL: errno was set */
/* The i-th name directly in the directory; NULL: no more. */
const char *fs_entry(const char *dir, unsigned i);
/* Live bytes, for who looks at or damages a disk from outside; durably. NULL: no such file. */
uint8_t *fs_bytes(const char *path, size_t *ret_len);

#endif
