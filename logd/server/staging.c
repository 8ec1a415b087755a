#include "logd/server/staging.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "common/log.h"
#include "logd/wal/base.h"
#include "logd/wal/disk.h"
#include "logd/wal/hard_state.h"
#include "logd/wal/moved.h"
#include "logd/wal/writer.h"

enum { NOTE_BYTES = 100 };

static const char *const parts[] = {"wal", "index"};

/* ---- paths and small files ------------------------------------------------------------------------------------ */

static void data_path(const struct staging *s, const char *name, char ret_path[PATH_MAX])
{
    snprintf(ret_path, PATH_MAX, "%.3900s/%.150s", s->data, name);
}

void staging_path(const struct staging *s, const char *name, char ret_path[PATH_MAX])
{
    snprintf(ret_path, PATH_MAX, "%.3900s/staging/%.150s", s->data, name);
}

void staging_segment_path(const struct staging *s, uint64_t segment, char ret_path[PATH_MAX])
{
    char dir[PATH_MAX];
    staging_path(s, "wal", dir);
    writer_segment_path(ret_path, PATH_MAX, dir, segment);
}

static int make_dir(const char *path, struct error *e)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return 0;
    return error_errno(e, errno == ENOSPC ? ERROR_NOSPACE : ERROR_IO, errno, "%s cannot be made", path);
}

static int write_bytes(const char *path, const void *bytes, size_t len, struct error *e)
{
    char new[PATH_MAX];
    snprintf(new, sizeof new, "%.4000s.new", path);
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rv = fd < 0 ? -errno : disk_write_all(disk_system(), fd, bytes, len, 0);
    bool ok = rv == 0 && fsync(fd) == 0;
    int why = rv != 0 ? -rv : errno;
    if (fd >= 0) close(fd);
    if (ok && rename(new, path) == 0) return 0;
    if (ok) why = errno;
    return error_errno(e, why == ENOSPC ? ERROR_NOSPACE : ERROR_IO, why, "%s cannot be written", path);
}

/* The number of bytes, at most cap - 1; a zero is put behind them. -1: there is no such file. */
static ssize_t read_bytes(const char *path, char *bytes, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, bytes, cap - 1);
    close(fd);
    if (n >= 0) bytes[n] = '\0';
    return n;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_all(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* what stays is removed by the next start */
}

/* ---- the note ------------------------------------------------------------------------------------------------- */

int staging_mark(const char *data_dir, uint64_t index, uint64_t from, const char *address, struct error *e)
{
    struct staging s = {.lock = -1};
    char path[PATH_MAX], text[MEMBERSHIP_ADDRESS + 64];
    snprintf(s.data, sizeof s.data, "%s", data_dir);
    data_path(&s, "rebuild", path);
    int n = snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 " %.255s\n", index, from, address);
    int rv = write_bytes(path, text, (size_t)n, e);
    return rv != 0 ? rv : file_sync_dir(s.data, e);
}

static int take_lock(struct staging *s, struct error *e)
{
    char path[PATH_MAX];
    data_path(s, "wal", path);
    int rv = make_dir(path, e);
    if (rv != 0) return rv;
    data_path(s, "wal/lock", path);
    s->lock = disk_system()->lock(disk_system(), path);
    if (s->lock == -EWOULDBLOCK) return error_set(e, ERROR_EXISTS, "another process uses %s: stop it, or choose another data directory", s->data);
    return s->lock >= 0 ? 0 : error_errno(e, ERROR_IO, -s->lock, "cannot lock %s", path);
}

int staging_open(struct staging *s, const char *data_dir, bool *ret_needed, uint64_t *ret_index, uint64_t *ret_from,
                 char ret_address[static MEMBERSHIP_ADDRESS], struct error *e)
{
    char path[PATH_MAX], text[MEMBERSHIP_ADDRESS + 64];
    *s = (struct staging){.lock = -1};
    snprintf(s->data, sizeof s->data, "%s", data_dir);
    data_path(s, "rebuild", path);
    *ret_needed = read_bytes(path, text, sizeof text) >= 0;
    if (!*ret_needed) {
        staging_path(s, "", path);
        remove_all(path);
        return 0;
    }
    if (sscanf(text, "%" SCNu64 " %" SCNu64 " %255s", ret_index, ret_from, ret_address) < 2)
        return error_set(e, ERROR_CORRUPT, "%s is damaged: it should say \"INDEX ID ADDRESS\"; remove it if this server's data is whole", path);
    int rv = take_lock(s, e);
    staging_path(s, "complete", path);
    if (rv != 0 || access(path, F_OK) != 0) return rv;
    *ret_needed = false;
    rv = staging_exchange(s, e);
    staging_close(s);
    return rv;
}

void staging_close(struct staging *s)
{
    if (s->lock >= 0) close(s->lock);
    s->lock = -1;
}

/* ---- gathering ------------------------------------------------------------------------------------------------ */

void staging_forget(const struct staging *s)
{
    char path[PATH_MAX];
    staging_path(s, "", path);
    remove_all(path);
}

static uint64_t segment_of(const char *name)
{
    return strncmp(name, "wal/", 4) == 0 ? strtoull(name + 4, NULL, 10) : 0;
}

/* Of the log's own: those that events were moved to may get the id of one that is gone, so they are fetched anew with each copy. */
static uint64_t newest_segment(const struct state_manifest *m)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < m->n_files; i++)
        if (segment_of(m->files[i].name) > newest && !moved_is(segment_of(m->files[i].name))) newest = segment_of(m->files[i].name);
    return newest;
}

static int make_dirs(const struct staging *s, struct error *e)
{
    char path[PATH_MAX];
    staging_path(s, "", path);
    int rv = make_dir(path, e);
    for (size_t i = 0; rv == 0 && i < 2; i++) {
        staging_path(s, parts[i], path);
        rv = make_dir(path, e);
    }
    return rv;
}

/* The newest segment of a copy may have got more since; so may the index. */
static void keep_old_segments(const struct staging *s, uint64_t newest)
{
    char path[PATH_MAX], file[PATH_MAX];
    struct dirent *entry;
    staging_path(s, "index", path);
    remove_all(path);
    staging_path(s, "wal", path);
    DIR *d = opendir(path);
    while (d != NULL && (entry = readdir(d)) != NULL) {
        snprintf(file, sizeof file, "wal/%s", entry->d_name);
        bool part = strstr(file, ".part") != NULL;
        if (entry->d_name[0] == '.' || (!part && segment_of(file) != 0 && segment_of(file) < newest)) continue;
        staging_path(s, file, path);
        remove(path);
    }
    if (d != NULL) closedir(d);
}

int staging_begin(const struct staging *s, uint64_t from, uint64_t instance, const struct state_manifest *m, struct error *e)
{
    char path[PATH_MAX], text[128];
    uint64_t old[4];
    staging_path(s, "source", path);
    bool known = read_bytes(path, text, sizeof text) >= 0 && sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &old[0], &old[1], &old[2], &old[3]) == 4;
    if (!known || old[0] != from || old[1] != instance) staging_forget(s);
    else if (old[2] != m->id) keep_old_segments(s, old[3]);
    int rv = make_dirs(s, e);
    int n = snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", from, instance, m->id, newest_segment(m));
    return rv != 0 ? rv : write_bytes(path, text, (size_t)n, e);
}

static void part_path(const struct staging *s, const char *name, char ret_path[PATH_MAX])
{
    char path[PATH_MAX];
    staging_path(s, name, path);
    snprintf(ret_path, PATH_MAX, "%.4000s.part", path);
}

/* What was noted last: so many bytes of a file of a copy. False: nothing. */
static bool read_note(const struct staging *s, char ret_name[static NOTE_BYTES + 1], uint64_t *ret_bytes, uint64_t *ret_copy)
{
    char path[PATH_MAX], text[NOTE_BYTES + 1];
    staging_path(s, "progress", path);
    return read_bytes(path, text, sizeof text) == NOTE_BYTES && sscanf(text, "%100s %" SCNu64 " %" SCNu64, ret_name, ret_bytes, ret_copy) == 3;
}

uint64_t staging_has(const struct staging *s, uint64_t id, const char *name, uint64_t size)
{
    char path[PATH_MAX], noted[NOTE_BYTES + 1];
    struct stat st;
    uint64_t bytes, of;
    staging_path(s, name, path);
    if (stat(path, &st) == 0 && (uint64_t)st.st_size == size) return size;
    if (!read_note(s, noted, &bytes, &of) || of != id || strcmp(noted, name) != 0) return 0;
    part_path(s, name, path);
    return stat(path, &st) == 0 && (uint64_t)st.st_size >= bytes && bytes < size ? bytes : 0;
}

/* A note of a file that is begun anew is not true any more. */
static void forget_note(const struct staging *s, const char *name)
{
    char path[PATH_MAX], noted[NOTE_BYTES + 1];
    uint64_t bytes, of;
    if (!read_note(s, noted, &bytes, &of) || strcmp(noted, name) != 0) return;
    staging_path(s, "progress", path);
    unlink(path);
}

int staging_open_file(const struct staging *s, const char *name, bool keep, int *ret_fd, struct error *e)
{
    char part[PATH_MAX];
    part_path(s, name, part);
    if (!keep) forget_note(s, name);
    *ret_fd = open(part, O_RDWR | O_CREAT | (keep ? 0 : O_TRUNC) | O_CLOEXEC, 0600);
    return *ret_fd >= 0 ? 0 : error_errno(e, disk_error_code(-errno), errno, "%s cannot be made", part);
}

int staging_reserve(const char *name, int fd, uint64_t size, struct error *e)
{
    int rc;
    do rc = size == 0 ? 0 : fallocate(fd, 0, 0, (off_t)size);
    while (rc != 0 && errno == EINTR);
    if (rc == 0 || disk_error_code(-errno) != ERROR_NOSPACE) return 0; /* not to be had here: what a write needs it gets when it comes */
    int why = errno;
    if (ftruncate(fd, 0) != 0) log_warn("room that is not enough could not be given back", "file=%s", name);
    return error_errno(e, ERROR_NOSPACE, why, "there is no room for %s", name);
}

/* The note itself is not synced: an older one is as true. */
int staging_note(const struct staging *s, uint64_t id, const char *name, int fd, uint64_t bytes, struct error *e)
{
    char path[PATH_MAX], text[NOTE_BYTES + 1];
    staging_path(s, "progress", path);
    snprintf(text, sizeof text, "%-57.57s %20" PRIu64 " %20" PRIu64 "\n", name, bytes, id);
    if (fdatasync(fd) != 0) return error_errno(e, disk_error_code(-errno), errno, "%s cannot be synced", name);
    int note = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    bool ok = note >= 0 && pwrite(note, text, NOTE_BYTES, 0) == NOTE_BYTES;
    int why = errno;
    if (note >= 0) close(note);
    return ok ? 0 : error_errno(e, why == ENOSPC ? ERROR_NOSPACE : ERROR_IO, why, "%s cannot be written", path);
}

int staging_close_file(const struct staging *s, const char *name, uint64_t size, int fd, struct error *e)
{
    char path[PATH_MAX], part[PATH_MAX];
    staging_path(s, name, path);
    part_path(s, name, part);
    int rv = ftruncate(fd, (off_t)size) == 0 && fdatasync(fd) == 0 ? 0 : error_errno(e, disk_error_code(-errno), errno, "%s cannot be synced", part);
    close(fd);
    if (rv == 0 && rename(part, path) != 0) rv = error_errno(e, ERROR_IO, errno, "%s cannot be renamed", part);
    return rv;
}

/* ---- the exchange --------------------------------------------------------------------------------------------- */

/* The term may be raised to that of the last entry, without a vote; a vote that was given stays given. */
static int carry_hard_state(const struct staging *s, uint64_t term, struct error *e)
{
    char old[PATH_MAX], dir[PATH_MAX], path[PATH_MAX], bytes[3 * 4096];
    struct hard_state h;
    data_path(s, "wal/hard_state", old);
    ssize_t n = read_bytes(old, bytes, sizeof bytes);
    if (n <= 0) return error_set(e, ERROR_CORRUPT, "%s is missing: this server must not vote", old);
    staging_path(s, "wal/hard_state", path);
    int rv = write_bytes(path, bytes, (size_t)n, e);
    if (rv != 0) return rv;
    staging_path(s, "wal", dir);
    rv = hard_state_open(&h, disk_system(), dir, false, e);
    if (rv == 0 && h.term < term) rv = hard_state_set(&h, term, 0, e);
    hard_state_close(&h);
    return rv;
}

static int write_base(const struct staging *s, const struct state_manifest *m, struct error *e)
{
    struct base base = {.index = m->applied_index, .term = m->applied_term, .segment = 1, .seq = 1, .empty = true, .note_len = m->members.len};
    char dir[PATH_MAX];
    if (m->members.len > BASE_NOTE_MAX) return error_set(e, ERROR_TOO_LARGE, "the list of members has %zu bytes", m->members.len);
    memcpy(base.note, m->members.data, m->members.len);
    if (newest_segment(m) >= base.segment) base.segment = newest_segment(m) + 1;
    staging_path(s, "wal", dir);
    return base_write(disk_system(), dir, &base, e);
}

int staging_finish(const struct staging *s, const struct state_manifest *m, struct error *e)
{
    char path[PATH_MAX];
    int rv = carry_hard_state(s, m->applied_term, e);
    if (rv == 0) rv = write_base(s, m, e);
    for (size_t i = 0; rv == 0 && i < 2; i++) {
        staging_path(s, parts[i], path);
        rv = file_sync_dir(path, e);
    }
    staging_path(s, "complete", path);
    if (rv == 0) rv = write_bytes(path, "", 0, e);
    staging_path(s, "", path);
    return rv != 0 ? rv : file_sync_dir(path, e);
}

int staging_exchange(struct staging *s, struct error *e)
{
    char from[PATH_MAX], to[PATH_MAX], old[PATH_MAX], name[32];
    for (size_t i = 0; i < 2; i++) {
        staging_path(s, parts[i], from);
        if (access(from, F_OK) != 0) continue; /* done by the start before */
        data_path(s, parts[i], to);
        snprintf(name, sizeof name, "old-%s", parts[i]);
        staging_path(s, name, old);
        remove_all(old);
        if ((rename(to, old) != 0 && errno != ENOENT) || rename(from, to) != 0)
            return error_errno(e, ERROR_IO, errno, "%s cannot take the place of %s", from, to);
    }
    int rv = file_sync_dir(s->data, e);
    if (rv != 0) return rv;
    data_path(s, "rebuild", from);
    if (unlink(from) != 0) return error_errno(e, ERROR_IO, errno, "%s cannot be removed", from);
    rv = file_sync_dir(s->data, e);
    staging_forget(s);
    return rv;
}
