#include "logd/wal/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/mutant.h"
#include "logd/wal/moved.h"
#include "logd/wal/segment.h"

struct file {
    int fd;
    char path[PATH_MAX];
    uint8_t *bytes;
    size_t len;
    struct segment_header header;
};

static void file_fini(const struct disk *disk, struct file *f)
{
    free(f->bytes);
    if (f->fd >= 0) disk->close(disk, f->fd);
    f->bytes = NULL;
    f->fd = -1;
}

static int corrupt(const char *path, uint64_t at, uint64_t index, struct error *e, const char *what)
{
    return error_set(
        e, ERROR_CORRUPT,
        "%s, byte %llu, entry %llu: %s. Nothing was changed. If the other servers are healthy, empty this one's "
        "data directory and let it rejoin",
        path, (unsigned long long)at, (unsigned long long)index, what);
}

static int file_read(const struct disk *disk, const char *dir, uint64_t id, uint64_t index, struct file *f,
                     struct error *e)
{
    *f = (struct file){.fd = -1};
    if (writer_segment_path(f->path, sizeof f->path, dir, id) != 0)
        return error_set(e, ERROR_INVALID, "the log's path is too long");
    f->fd = disk->open(disk, f->path, O_RDWR);
    if (f->fd == -ENOENT) return corrupt(f->path, 0, index, e, "this segment is missing, but a later one is there");
    if (f->fd < 0) return error_errno(e, ERROR_IO, -f->fd, "cannot open %s", f->path);
    int64_t size = disk->size(disk, f->fd);
    if (size < 0) return error_errno(e, ERROR_IO, (int)-size, "cannot look at %s", f->path);
    if (size < SEGMENT_HEADER) return corrupt(f->path, (uint64_t)size, index, e, "the file ends inside its header");
    f->len = (size_t)size;
    f->bytes = malloc(f->len);
    if (f->bytes == NULL) return error_set(e, ERROR_NOMEM, "no memory to read %s", f->path);
    int rv = disk_read_all(disk, f->fd, f->bytes, f->len, 0);
    if (rv != 0) return error_errno(e, ERROR_IO, -rv, "cannot read %s", f->path);
    if (segment_header_decode(f->bytes, &f->header, NULL) != 0 || f->header.id != id)
        return corrupt(f->path, 0, index, e, "the segment's header is damaged");
    return 0;
}

static void truncate_from(struct recovered *out, uint64_t index)
{
    out->n = index - 1 + MUTANT(truncate_too_few);
    for (size_t i = 0; i < out->n_segments; i++)
        if (out->segments[i].end >= index) out->segments[i].end = 0;
}

static int take_record(struct recovered *out, const struct file *f, const struct record *r, size_t at, struct error *e)
{
    if (r->index <= out->base.index || r->index > out->n + (r->kind == RECORD_ENTRY))
        return corrupt(f->path, at, r->index, e, "a record's Raft index does not follow the one before");
    if (r->kind == RECORD_TRUNCATE) {
        truncate_from(out, r->index);
        return 0;
    }
    if (r->index != out->n + 1)
        return corrupt(f->path, at, r->index, e, "a record's Raft index does not follow the one before");
    if (out->n - out->base.index == out->cap) {
        uint64_t cap = out->cap == 0 ? 1024 : 2 * out->cap;
        void *grown = realloc(out->entries, cap * sizeof *out->entries);
        if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory for the log's table");
        out->entries = grown;
        out->cap = cap;
    }
    out->entries[out->n++ - out->base.index] = (struct recovered_entry){
        .term = r->term,
        .where = {f->header.id, at + RECORD_HEADER},
        .length = r->length,
        .crc = crc32c(0, f->bytes + at + RECORD_HEADER, r->length),
        .type = r->type,
    };
    return 0;
}

/* Makes what was read durable, and leaves zeros behind it, so that what a crash left there can never be read as records
 * later; gives the file its full size back if the crash (or a person) shortened it. Bytes that are not proven to have
 * been synced are written again: after a failed sync the system may take them for clean although the disk never got
 * them. */
static int repair_tail(const struct disk *disk, struct file *f, const struct segment_scan *stop,
                       const struct segment_end *end, struct error *e)
{
    struct segment_scan again;
    struct record r;
    size_t at;
    segment_scan_begin(&again, &f->header, f->bytes, f->len);
    while (again.seq <= end->proven && segment_scan_next(&again, &r, &at)) continue;
    size_t good = stop->at < f->len ? stop->at : f->len; /* the last record's padding may be cut off */
    int rv = again.at < good ? disk_write_all(disk, f->fd, f->bytes + again.at, good - again.at, again.at) : 0;
    uint64_t zeros_to = f->len < f->header.bytes       ? f->header.bytes
                        : end->verdict == SEGMENT_TORN ? good + end->dirty
                                                       : 0;
    if (rv == 0) rv = disk_write_zeros(disk, f->fd, good, zeros_to);
    if (rv == 0) rv = disk->datasync(disk, f->fd);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot repair %s", f->path);
}

/* The end of the newest segment: nothing later vouches for it but its own bytes. */
static int take_tail(const struct disk *disk, struct recovered *out, struct file *f, const struct segment_scan *stop,
                     struct error *e)
{
    struct segment_end end;
    segment_scan_end(stop, &end);
    if (end.verdict == SEGMENT_CORRUPT)
        return corrupt(f->path, stop->at, out->n + 1, e,
                       "what stood here had been synced, a later record says so, and is damaged");
    if (end.verdict == SEGMENT_SEALED)
        return corrupt(f->path, stop->at, out->n + 1, e, "a segment followed this one, and its file is missing");
    out->cut_bytes = end.verdict == SEGMENT_TORN ? end.dirty : 0;
    int rv = repair_tail(disk, f, stop, &end, e);
    if (rv != 0) return rv;
    out->tail = (struct writer_tail){f->fd, stop->at, f->header.bytes, stop->seq - 1, stop->chain, f->header.salt};
    out->next_seq = stop->seq;
    out->last_segment = f->header.id;
    f->fd = -1; /* the writer's from here on */
    return 0;
}

/* Where a segment that is followed by another stopped: its mark must name that other one. */
struct stop {
    struct segment_scan scan; /* its bytes are gone */
    char path[PATH_MAX];
    bool sealed;
};

static void remember_stop(struct stop *stop, const struct segment_scan *scan, const struct file *f)
{
    struct segment_end end;
    segment_scan_end(scan, &end);
    stop->scan = *scan;
    stop->scan.bytes = NULL;
    memcpy(stop->path, f->path, sizeof stop->path);
    stop->sealed = end.verdict == SEGMENT_SEALED;
}

/* A crash may have come between the beginning of the newest segment and the mark that names it. */
static int seal(const struct disk *disk, const struct stop *stop, uint64_t next, struct error *e)
{
    int fd = disk->open(disk, stop->path, O_RDWR);
    if (fd < 0) return error_errno(e, ERROR_IO, -fd, "cannot open %s", stop->path);
    uint8_t mark[RECORD_HEADER];
    writer_mark(stop->scan.salt, stop->scan.seq, stop->scan.chain, next, mark);
    int rv = disk_write_all(disk, fd, mark, sizeof mark, stop->scan.at);
    if (rv == 0) rv = disk->datasync(disk, fd);
    disk->close(disk, fd);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot seal %s", stop->path);
}

static int read_records(struct recovered *out, const struct file *f, struct segment_scan *scan, struct error *e)
{
    struct record r;
    size_t at;
    int rv = 0;
    segment_scan_begin(scan, &f->header, f->bytes, f->len);
    while (rv == 0 && segment_scan_next(scan, &r, &at)) rv = take_record(out, f, &r, at, e);
    return rv;
}

/* Says of the segment that was just read what the table of segments is to know. */
static void enter_segment(struct recovered *out, const struct file *f, bool last)
{
    for (size_t i = 0; i < out->n_segments; i++)
        if (out->segments[i].id == f->header.id)
            out->segments[i] = (struct recovered_segment){.id = f->header.id, .bytes = f->header.bytes, .first_seq = f->header.first_seq,
                                                          .salt = f->header.salt, .end = last ? 0 : out->n};
}

/* A segment must begin just where the one before stopped, or records were lost there that had been on the disk before
 * it was begun. */
static int read_segments(const struct disk *disk, const char *dir, uint64_t highest, struct recovered *out,
                         struct file *f, struct error *e)
{
    uint64_t first = out->base.segment;
    struct stop before = {.scan = {.seq = out->base.seq}};
    struct segment_scan scan;
    for (uint64_t id = first;; id++) {
        int rv = file_read(disk, dir, id, out->n + 1, f, e);
        if (rv != 0) return rv;
        if (id == first && first > 1) before.scan.chain = f->header.chain; /* what came before it is not read again */
        if (f->header.first_seq != before.scan.seq || f->header.chain != before.scan.chain)
            return corrupt(id == first ? f->path : before.path, before.scan.at, out->n + 1, e,
                           "records that were on the disk before the next segment was begun are damaged");
        rv = read_records(out, f, &scan, e);
        if (rv != 0) return rv;
        enter_segment(out, f, id == highest);
        if (id == highest) break;
        remember_stop(&before, &scan, f);
        file_fini(disk, f);
    }
    int rv = disk->syncdir(disk, dir); /* the process that began the newest one may have died before this */
    if (rv != 0) return error_errno(e, disk_error_code(rv), -rv, "cannot sync %s", dir);
    rv = take_tail(disk, out, f, &scan, e);
    return rv == 0 && highest > first && !before.sealed ? seal(disk, &before, highest, e) : rv;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int file_bytes(const struct disk *disk, const char *dir, uint64_t id, uint64_t *ret_bytes, struct error *e)
{
    char path[PATH_MAX];
    if (writer_segment_path(path, sizeof path, dir, id) != 0) return error_set(e, ERROR_INVALID, "the log's path is too long");
    int fd = disk->open(disk, path, O_RDONLY);
    if (fd < 0) return error_errno(e, ERROR_IO, -fd, "cannot open %s", path);
    int64_t size = disk->size(disk, fd);
    disk->close(disk, fd);
    if (size < 0) return error_errno(e, ERROR_IO, (int)-size, "cannot look at %s", path);
    *ret_bytes = (uint64_t)size;
    return 0;
}

/* The table of segments, and the sizes of those that are not read: of the others the header will say. */
static int list_segments(const struct disk *disk, const char *dir, struct recovered *out, struct error *e)
{
    uint64_t *ids = NULL;
    int64_t n = disk->list(disk, dir, &ids);
    int rv = 0;
    if (n < 0) return error_errno(e, ERROR_IO, (int)-n, "cannot list %s", dir);
    out->segments = calloc((size_t)n + 1, sizeof *out->segments);
    out->moved = calloc((size_t)n + 1, sizeof *out->moved);
    if (out->segments == NULL || out->moved == NULL) rv = error_set(e, ERROR_NOMEM, "no memory for the log's table");
    if (n > 0) qsort(ids, (size_t)n, sizeof *ids, by_id);
    for (int64_t i = 0; rv == 0 && i < n; i++) {
        bool moved = moved_is(ids[i]);
        struct recovered_segment *s = moved ? &out->moved[out->n_moved++] : &out->segments[out->n_segments++];
        s->id = ids[i];
        if (moved || s->id < out->base.segment) rv = file_bytes(disk, dir, s->id, &s->bytes, e);
    }
    free(ids);
    return rv;
}

void recovered_free(struct recovered *r)
{
    free(r->entries);
    free(r->segments);
    free(r->moved);
    r->entries = NULL;
    r->segments = r->moved = NULL;
}

static void begin_empty(struct recovered *out)
{
    out->next_seq = out->base.seq;
    out->last_segment = out->base.segment - 1;
    out->tail = (struct writer_tail){.fd = -1, .synced = out->base.seq - 1};
}

/* A first segment without a record was begun, and nothing was ever stored in it: it is put aside, so that whoever finds a segment knows that there is a log
 * (docs/OPERATIONS.md, founding). Not removed: if the index should know better, somebody may want to look at it. */
static int drop_unused(const struct disk *disk, const char *dir, struct recovered *out, struct error *e)
{
    char path[PATH_MAX], aside[PATH_MAX];
    bool unused = out->tail.fd >= 0 && out->next_seq == out->base.seq && out->n_segments == 1 && out->base.index == 0 && !out->base.empty;
    if (!unused || MUTANT(unused_segment)) return 0;
    if (writer_segment_path(path, sizeof path, dir, out->last_segment) != 0) return error_set(e, ERROR_INVALID, "the log's path is too long");
    disk->close(disk, out->tail.fd);
    begin_empty(out);
    out->n_segments = 0;
    snprintf(aside, sizeof aside, "%.4000s/first.unused", dir);
    int rv = disk->rename(disk, path, aside);
    if (rv == 0) rv = disk->syncdir(disk, dir);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "cannot rename %s", path);
}

int recovery_run(const struct disk *disk, const char *dir, struct recovered *ret_recovered, struct error *e)
{
    struct recovered out = {.tail = {.fd = -1}};
    struct file f = {.fd = -1};
    int rv = base_read(disk, dir, &out.base, e);
    if (rv == 0) rv = list_segments(disk, dir, &out, e);
    uint64_t highest = rv == 0 && out.n_segments > 0 ? out.segments[out.n_segments - 1].id : 0;
    out.n = out.base.index;
    begin_empty(&out);
    if (rv == 0 && highest < out.base.segment && out.base.index > 0 && !out.base.empty)
        rv = error_set(e, ERROR_CORRUPT, "%s: segment %llu, where the log begins, is missing. Nothing was changed. If the other servers are "
                       "healthy, empty this one's data directory and let it rejoin", dir, (unsigned long long)out.base.segment);
    if (rv == 0 && highest >= out.base.segment) rv = read_segments(disk, dir, highest, &out, &f, e);
    file_fini(disk, &f);
    if (rv == 0) rv = drop_unused(disk, dir, &out, e);
    for (size_t i = 0; i < out.n_segments; i++) out.bytes += out.segments[i].bytes;
    for (size_t i = 0; i < out.n_moved; i++) out.bytes += out.moved[i].bytes;
    if (rv == 0) {
        *ret_recovered = out;
        return 0;
    }
    if (out.tail.fd >= 0) disk->close(disk, out.tail.fd);
    recovered_free(&out);
    return rv;
}
