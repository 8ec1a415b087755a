#include "logd/wal/wal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/crc32c.h"
#include "common/mutant.h"
#include "logd/wal/hard_state.h"
#include "logd/wal/moved.h"
#include "logd/wal/recovery.h"
#include "logd/wal/segment.h"
#include "logd/wal/writer.h"

enum { SEGMENT_MIN = 64 << 10, CACHE_DEFAULT = 32 << 20, READERS = 16, SEGMENTS_PER_SPARE = 16 };

/* One present entry. `payload` is kept until it is written, and after that while it is among the newest cache_bytes. */
struct slot {
    struct recovered_entry at;
    uint64_t seq; /* of its record; 0: it was recovered */
    struct blob *payload;
    bool written;
};

struct wal {
    const struct disk *disk;
    struct wal_options options;
    char dir[PATH_MAX];
    int lock_fd;
    struct hard_state hard;
    struct writer *writer;
    struct base base;   /* entries up to base.index are not here */
    struct slot *slots; /* slots[i] is index base.index + i + 1 */
    uint64_t n, cap;    /* n: the last index; cap: of slots */
    struct recovered_segment *segments; /* that are there or queued, ascending */
    size_t n_segments, cap_segments;
    struct recovered_segment *moved; /* moved.h; ascending */
    size_t n_moved;
    uint64_t persisted;    /* index */
    uint64_t cached_from;  /* slots below this index hold no written payload any more */
    uint64_t cached_bytes; /* of payloads held, written or not */
    uint64_t queued_bytes;
    uint64_t bytes;
    uint64_t next_seq;
    uint64_t segment, position, segment_bytes; /* where the next record goes; segment 0: none yet */
    struct reader {
        uint64_t segment; /* 0: none */
        int fd;
    } readers[READERS]; /* segment id is at id % READERS: bounded, and neighbours do not push each other out */
    uint64_t cut_bytes;
    bool failed;
    void (*closed)(void *user);
    void *closed_user;
};

/* Of a present index. */
static struct slot *slot_at(const struct wal *w, uint64_t index)
{
    return &w->slots[index - w->base.index - 1];
}

static bool present(const struct wal *w, uint64_t index)
{
    return index > w->base.index && index <= w->n;
}

/* ---- the cache ------------------------------------------------------------------------------------------------ */

static void drop_payload(struct wal *w, struct slot *s)
{
    if (s->payload == NULL) return;
    w->cached_bytes -= s->payload->len;
    s->payload = blob_unref(s->payload);
}

/* Forgets the oldest payloads that are on the disk until the rest fits. */
static void trim_cache(struct wal *w)
{
    while (w->cached_bytes > w->options.cache_bytes && w->cached_from <= w->n) {
        struct slot *s = slot_at(w, w->cached_from);
        if (!s->written) return;
        drop_payload(w, s);
        w->cached_from++;
    }
}

/* ---- what the writer tells ------------------------------------------------------------------------------------ */

static void on_done(void *user, struct writer_op *done)
{
    struct wal *w = user;
    uint64_t persisted = 0; /* highest of these that was not replaced meanwhile */
    while (done != NULL) {
        struct writer_op *op = done;
        done = op->next;
        if (op->kind == WRITER_RECORD && op->record.kind == RECORD_ENTRY) {
            w->queued_bytes -= op->record.length;
            struct slot *s = present(w, op->record.index) ? slot_at(w, op->record.index) : NULL;
            if (s != NULL && s->seq == op->record.seq) {
                s->written = true;
                persisted = op->record.index;
            }
        }
        blob_unref(op->payload);
        free(op);
    }
    trim_cache(w);
    if (persisted == 0) return;
    w->persisted = persisted;
    w->options.on_persisted(w->options.user, persisted, wal_term_at(w, persisted));
}

static void on_failed(void *user, const struct error *e)
{
    struct wal *w = user;
    w->failed = true;
    w->options.on_failed(w->options.user, e);
}

/* ---- opening and closing -------------------------------------------------------------------------------------- */

static void wal_free(struct wal *w)
{
    for (uint64_t i = w->base.index + 1; w->slots != NULL && i <= w->n; i++) blob_unref(slot_at(w, i)->payload);
    for (unsigned i = 0; i < READERS; i++)
        if (w->readers[i].segment != 0) w->disk->close(w->disk, w->readers[i].fd);
    free(w->slots);
    free(w->segments);
    free(w->moved);
    hard_state_close(&w->hard);
    if (w->lock_fd >= 0) w->disk->close(w->disk, w->lock_fd);
    free(w);
}

static int check_options(const struct wal_options *o, struct error *e)
{
    if (o->segment_bytes < SEGMENT_MIN || o->segment_bytes > UINT64_C(1) << 30 ||
        o->segment_bytes % SEGMENT_HEADER != 0)
        return error_set(e, ERROR_INVALID, "a segment must have 64KiB to 1GiB, a multiple of 4KiB");
    if (strlen(o->dir) >= PATH_MAX - 64) return error_set(e, ERROR_INVALID, "the path of the log is too long");
    return 0;
}

/* Makes the directory, durably, and keeps every other process out of it. */
static int enter_dir(struct wal *w, struct error *e)
{
    char path[PATH_MAX + 8];
    int rv = w->disk->mkdir(w->disk, w->dir);
    memcpy(path, w->dir, sizeof w->dir); /* dirname() writes into its argument */
    if (rv == 0) rv = w->disk->syncdir(w->disk, dirname(path));
    if (rv != 0) return error_errno(e, disk_error_code(rv), -rv, "cannot make %s", w->dir);
    snprintf(path, sizeof path, "%s/lock", w->dir);
    w->lock_fd = w->disk->lock(w->disk, path);
    if (w->lock_fd == -EWOULDBLOCK)
        return error_set(e, ERROR_EXISTS, "another process uses %s: stop it, or choose another data directory", w->dir);
    return w->lock_fd >= 0 ? 0 : error_errno(e, disk_error_code(w->lock_fd), -w->lock_fd, "cannot lock %s", path);
}

static int adopt(struct wal *w, struct recovered *r, struct error *e)
{
    uint64_t here = r->n - r->base.index;
    w->slots = calloc(here + 1024, sizeof *w->slots);
    if (w->slots == NULL) {
        recovered_free(r);
        return error_set(e, ERROR_NOMEM, "no memory for the log's table");
    }
    w->base = r->base;
    w->cap = here + 1024;
    w->n = w->persisted = r->n;
    for (uint64_t i = 0; i < here; i++) w->slots[i] = (struct slot){.at = r->entries[i], .written = true};
    w->segments = r->segments;
    w->n_segments = w->cap_segments = r->n_segments;
    w->moved = r->moved;
    w->n_moved = r->n_moved;
    r->segments = r->moved = NULL;
    w->cached_from = r->n + 1;
    w->bytes = r->bytes;
    w->cut_bytes = r->cut_bytes;
    w->next_seq = r->next_seq;
    w->segment = r->last_segment;
    w->position = r->tail.position;
    w->segment_bytes = r->tail.segment_bytes;
    recovered_free(r);
    return 0;
}

int wal_open(uv_loop_t *loop, const struct wal_options *options, struct wal **ret_wal, struct error *e)
{
    static const struct writer_handlers handlers = {on_done, on_failed};
    struct recovered r;
    int rv = check_options(options, e);
    if (rv != 0) return rv;
    struct wal *w = calloc(1, sizeof *w);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory for the log");
    w->disk = options->disk == NULL ? disk_system() : options->disk;
    w->options = *options;
    w->lock_fd = w->hard.fd = -1;
    if (w->options.cache_bytes == 0) w->options.cache_bytes = CACHE_DEFAULT;
    snprintf(w->dir, sizeof w->dir, "%s", options->dir);
    w->options.dir = NULL; /* was borrowed */
    rv = enter_dir(w, e);
    if (rv == 0) rv = recovery_run(w->disk, w->dir, &r, e);
    if (rv != 0) goto err;
    rv = adopt(w, &r, e);
    if (rv == 0) rv = hard_state_open(&w->hard, w->disk, w->dir, r.last_segment == 0 && r.base.index == 0, e);
    if (rv == 0)
        rv = writer_start(loop, w->disk, w->dir, w->options.segment_bytes, &r.tail, &handlers, w, &w->writer, e);
    if (rv != 0) {
        if (r.tail.fd >= 0) w->disk->close(w->disk, r.tail.fd);
        goto err;
    }
    *ret_wal = w;
    return 0;

err:
    wal_free(w);
    return rv;
}

static void on_stopped(void *user, struct writer_op *unwritten)
{
    struct wal *w = user;
    void (*closed)(void *) = w->closed;
    void *closed_user = w->closed_user;
    while (unwritten != NULL) {
        struct writer_op *op = unwritten;
        unwritten = op->next;
        blob_unref(op->payload);
        free(op);
    }
    wal_free(w);
    closed(closed_user);
}

void wal_close(struct wal *w, void (*done)(void *user), void *user)
{
    w->closed = done;
    w->closed_user = user;
    writer_stop(w->writer, on_stopped);
}

/* ---- appending ------------------------------------------------------------------------------------------------ */

static struct writer_op *new_op(struct writer_op ***end)
{
    struct writer_op *op = calloc(1, sizeof *op);
    if (op == NULL) return NULL;
    **end = op;
    *end = &op->next;
    return op;
}

static uint32_t new_salt(const struct wal *w)
{
    uint64_t mix[2] = {w->options.salt_seed, w->next_seq};
    uint32_t salt;
    if (w->options.salt_seed == 0 && getrandom(&salt, sizeof salt, GRND_NONBLOCK) == sizeof salt) return salt;
    return crc32c(0x5eed, mix, sizeof mix);
}

/* Enters the segment that is begun now, and where the one before ended. */
static int enter_segment(struct wal *w, uint64_t id, uint64_t bytes, uint32_t salt)
{
    if (w->n_segments == w->cap_segments) {
        size_t cap = w->cap_segments < 64 ? 64 : 2 * w->cap_segments;
        struct recovered_segment *grown = realloc(w->segments, cap * sizeof *grown);
        if (grown == NULL) return -ERROR_NOMEM;
        w->segments = grown;
        w->cap_segments = cap;
    }
    if (w->n_segments > 0 && w->segments[w->n_segments - 1].id >= w->base.segment) w->segments[w->n_segments - 1].end = w->n;
    w->segments[w->n_segments++] = (struct recovered_segment){.id = id, .bytes = bytes, .first_seq = w->next_seq, .salt = salt};
    w->bytes += bytes;
    return 0;
}

/* Gives the record its place, with a new segment before it when it does not fit into this one. Behind the last record
 * of a segment there is always room for a mark. */
static struct writer_op *place(struct wal *w, uint32_t length, struct writer_op ***end)
{
    uint64_t size = record_size(length);
    if (w->segment == 0 || w->position + size + RECORD_HEADER > w->segment_bytes) {
        struct writer_op *begin = new_op(end);
        if (begin == NULL) return NULL;
        uint64_t needed =
            (SEGMENT_HEADER + size + RECORD_HEADER + SEGMENT_HEADER - 1) / SEGMENT_HEADER * SEGMENT_HEADER;
        w->segment_bytes = needed > w->options.segment_bytes ? needed : w->options.segment_bytes;
        uint32_t salt = new_salt(w);
        if (enter_segment(w, w->segment + 1, w->segment_bytes, salt) != 0) return NULL;
        w->segment++;
        w->position = SEGMENT_HEADER;
        begin->kind = WRITER_SEGMENT;
        begin->segment = (struct segment_header){w->segment, w->segment_bytes, w->next_seq, 0, salt, false};
    }
    struct writer_op *op = new_op(end);
    if (op == NULL) return NULL;
    op->kind = WRITER_RECORD;
    op->position = w->position;
    op->record.length = length;
    op->record.seq = w->next_seq++;
    w->position += size;
    return op;
}

static int truncate_from(struct wal *w, uint64_t index, struct writer_op ***end)
{
    struct writer_op *op = place(w, 0, end);
    if (op == NULL) return -ERROR_NOMEM;
    op->record.kind = RECORD_TRUNCATE;
    op->record.index = MUTANT(truncate_last_only) ? w->n : index;
    for (uint64_t i = index; i <= w->n; i++) drop_payload(w, slot_at(w, i));
    w->n = index - 1;
    for (size_t i = 0; i < w->n_segments; i++) /* they end with entries that are replaced now: no place to begin the log at */
        if (w->segments[i].end >= index) w->segments[i].end = 0;
    if (w->persisted > w->n) w->persisted = w->n;
    if (w->cached_from > index) w->cached_from = index;
    return 0;
}

static int add_entry(struct wal *w, const struct wal_entry *entry, struct writer_op ***end)
{
    if (w->n - w->base.index == w->cap) {
        struct slot *grown = realloc(w->slots, 2 * w->cap * sizeof *grown);
        if (grown == NULL) return -ERROR_NOMEM;
        w->slots = grown;
        w->cap *= 2;
    }
    uint32_t length = (uint32_t)entry->payload->len;
    struct writer_op *op = place(w, length, end);
    if (op == NULL) return -ERROR_NOMEM;
    op->record.kind = RECORD_ENTRY;
    op->record.type = (uint16_t)entry->type;
    op->record.index = entry->index;
    op->record.term = entry->term;
    op->payload = blob_ref(entry->payload);
    *slot_at(w, ++w->n) = (struct slot){
        .at = {.term = entry->term,
               .where = {w->segment, op->position + RECORD_HEADER},
               .length = length,
               .crc = crc32c(0, entry->payload->data, length),
               .type = (uint16_t)entry->type},
        .seq = op->record.seq,
        .payload = blob_ref(entry->payload),
    };
    w->cached_bytes += length;
    w->queued_bytes += length;
    return 0;
}

int wal_append(struct wal *w, const struct wal_entry *entries, unsigned n)
{
    struct writer_op *ops = NULL, **end = &ops;
    if (w->failed) return -ERROR_INTERNAL;
    if (n == 0) return 0;
    assert(entries[0].index > w->base.index && entries[0].index <= w->n + 1);
    for (unsigned i = 0; i < n; i++) {
        assert(entries[i].index == entries[0].index + i && entries[i].type <= UINT16_MAX);
        if (entries[i].payload->len > RECORD_PAYLOAD_MAX) return -ERROR_TOO_LARGE;
    }
    int rv = entries[0].index <= w->n ? truncate_from(w, entries[0].index, &end) : 0;
    for (unsigned i = 0; i < n && rv == 0; i++) rv = add_entry(w, &entries[i], &end);
    if (rv != 0) w->failed = true; /* the table is ahead of what will be written: the caller must stop the node */
    if (ops != NULL) writer_push(w->writer, ops);
    return rv;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static int reading_fd(struct wal *w, uint64_t segment, int *ret_fd, struct error *e)
{
    struct reader *r = &w->readers[segment % READERS];
    if (r->segment != segment) {
        char path[PATH_MAX];
        writer_segment_path(path, sizeof path, w->dir, segment);
        int fd = w->disk->open(w->disk, path, O_RDONLY);
        if (fd < 0) return error_errno(e, ERROR_IO, -fd, "cannot open %s", path);
        if (r->segment != 0) w->disk->close(w->disk, r->fd);
        *r = (struct reader){segment, fd};
    }
    *ret_fd = r->fd;
    return 0;
}

static void close_reader(struct wal *w, uint64_t segment)
{
    struct reader *r = &w->readers[segment % READERS];
    if (r->segment != segment) return;
    w->disk->close(w->disk, r->fd);
    *r = (struct reader){0};
}

void wal_replaced(struct wal *w, uint64_t segment)
{
    close_reader(w, segment);
}

static int read_disk(struct wal *w, struct wal_location at, size_t len, void *bytes, struct error *e)
{
    int fd, rv = reading_fd(w, at.segment, &fd, e);
    if (rv != 0) return rv;
    rv = disk_read_all(w->disk, fd, bytes, len, at.position);
    if (rv != 0)
        return error_errno(e, rv == -ENODATA ? ERROR_CORRUPT : ERROR_IO, -rv,
                           "cannot read %zu bytes of segment %llu at %llu", len, (unsigned long long)at.segment,
                           (unsigned long long)at.position);
    return 0;
}

int wal_read(struct wal *w, uint64_t index, struct wal_entry *ret_entry, struct error *e)
{
    if (!present(w, index))
        return error_set(e, ERROR_NOT_FOUND, "the log has no entry %llu", (unsigned long long)index);
    struct slot *s = slot_at(w, index);
    struct blob *payload = s->payload == NULL ? blob_new(s->at.length) : blob_ref(s->payload);
    if (payload == NULL) return error_set(e, ERROR_NOMEM, "no memory for an entry");
    if (s->payload == NULL) {
        int rv = read_disk(w, s->at.where, s->at.length, payload->data, e);
        if (rv == 0 && crc32c(0, payload->data, s->at.length) != s->at.crc)
            rv = error_set(e, ERROR_CORRUPT, "entry %llu in segment %llu at %llu is damaged", (unsigned long long)index,
                           (unsigned long long)s->at.where.segment, (unsigned long long)s->at.where.position);
        if (rv != 0) {
            blob_unref(payload);
            return rv;
        }
    }
    *ret_entry = (struct wal_entry){.index = index, .term = s->at.term, .type = s->at.type, .payload = payload};
    return 0;
}

int wal_locate(const struct wal *w, uint64_t index, struct wal_location *ret_location)
{
    if (!present(w, index)) return -ERROR_NOT_FOUND;
    *ret_location = slot_at(w, index)->at.where;
    return 0;
}

/* The slot holding the place, if its payload is in memory: places grow with the index. */
static const struct slot *cached_slot(const struct wal *w, struct wal_location at)
{
    uint64_t low = w->cached_from - 1 - w->base.index, high = w->n - w->base.index, n = high;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct wal_location *p = &w->slots[middle].at.where;
        if (p->segment < at.segment ||
            (p->segment == at.segment && p->position + w->slots[middle].at.length <= at.position))
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && w->slots[low].at.where.segment == at.segment && w->slots[low].at.where.position <= at.position
               ? &w->slots[low]
               : NULL;
}

int wal_read_at(struct wal *w, struct wal_location at, size_t len, void *bytes, struct error *e)
{
    const struct slot *s = cached_slot(w, at);
    if (s != NULL && s->payload != NULL && at.position + len <= s->at.where.position + s->at.length) {
        memcpy(bytes, s->payload->data + (at.position - s->at.where.position), len);
        return 0;
    }
    return read_disk(w, at, len, bytes, e);
}

/* ---- moving the beginning ------------------------------------------------------------------------------------- */

/* The last segment that can go from Raft's sight: all in it is applied, and the next one is surely on the disk. */
static const struct recovered_segment *last_to_go(const struct wal *w, uint64_t limit)
{
    const struct recovered_segment *found = NULL;
    if (limit >= w->persisted) limit = w->persisted == 0 ? 0 : w->persisted - 1;
    for (size_t i = 0; i + 1 < w->n_segments; i++)
        if (w->segments[i].end > w->base.index && w->segments[i].end <= limit) found = &w->segments[i];
    return found;
}

int wal_compact(struct wal *w, uint64_t limit, const void *note, size_t note_len, struct error *e)
{
    const struct recovered_segment *last = last_to_go(w, limit);
    assert(note_len <= BASE_NOTE_MAX);
    if (w->failed || last == NULL) return 0;
    struct base base = {
        .index = last->end, .term = wal_term_at(w, last->end), .segment = last[1].id, .seq = last[1].first_seq, .note_len = note_len};
    memcpy(base.note, note, note_len);
    int rv = base_write(w->disk, w->dir, &base, e);
    if (rv != 0) return rv;
    for (uint64_t i = w->base.index + 1; i <= base.index; i++) drop_payload(w, slot_at(w, i));
    memmove(w->slots, slot_at(w, base.index + 1), (w->n - base.index) * sizeof *w->slots);
    if (w->cached_from <= base.index) w->cached_from = base.index + 1;
    w->base = base;
    return 0;
}

static int remove_segment(struct wal *w, const struct recovered_segment *s, struct error *e)
{
    char path[PATH_MAX];
    int rv = 0;
    close_reader(w, s->id);
    writer_segment_path(path, sizeof path, w->dir, s->id);
    if (!writer_recycle(w->writer, path, s->bytes, 1 + (unsigned)(w->n_segments / SEGMENTS_PER_SPARE))) rv = w->disk->unlink(w->disk, path);
    if (rv != 0 && rv != -ENOENT) return error_errno(e, ERROR_IO, -rv, "cannot remove %s", path);
    w->bytes -= s->bytes;
    return 0;
}

/* Of one list, whose ids are below `below` where they may go. *removed counts. */
static int reclaim(struct wal *w, struct recovered_segment *list, size_t *n, uint64_t below, wal_needed_cb *needed, void *user, unsigned most,
                   int *removed, struct error *e)
{
    size_t kept = 0;
    int rv = 0;
    for (size_t i = 0; i < *n; i++) {
        struct recovered_segment s = list[i];
        bool goes = rv == 0 && (unsigned)*removed < most && s.id < below && !needed(user, s.id);
        if (goes) rv = remove_segment(w, &s, e);
        if (goes && rv == 0) ++*removed;
        else list[kept++] = s;
    }
    *n = kept;
    return rv;
}

int wal_reclaim(struct wal *w, wal_needed_cb *needed, void *user, unsigned most, struct error *e)
{
    int removed = 0;
    int rv = reclaim(w, w->segments, &w->n_segments, w->base.segment, needed, user, most, &removed, e);
    if (rv == 0) rv = reclaim(w, w->moved, &w->n_moved, UINT64_MAX, needed, user, most, &removed, e);
    return rv == 0 ? removed : rv;
}

int wal_adopt(struct wal *w, uint64_t id, uint64_t bytes)
{
    assert(id >= wal_next_moved(w));
    struct recovered_segment *grown = realloc(w->moved, (w->n_moved + 1) * sizeof *grown);
    if (grown == NULL) return -ERROR_NOMEM;
    w->moved = grown;
    w->moved[w->n_moved++] = (struct recovered_segment){.id = id, .bytes = bytes};
    w->bytes += bytes;
    return 0;
}

uint64_t wal_next_moved(const struct wal *w)
{
    return w->n_moved == 0 ? MOVED_FIRST : w->moved[w->n_moved - 1].id + 1;
}

uint64_t wal_index_before(const struct wal *w, uint64_t keep_bytes)
{
    uint64_t bytes = 0;
    for (size_t i = w->n_segments; i-- > 0 && w->segments[i].id >= w->base.segment;) {
        if (bytes >= keep_bytes && w->segments[i].end != 0) return w->segments[i].end;
        bytes += w->segments[i].bytes;
    }
    return 0;
}

size_t wal_segments(const struct wal *w)
{
    return w->n_segments + w->n_moved;
}

/* That a record of a later segment is on the disk says that this one had been, with its mark. */
static bool is_sealed(const struct wal *w, uint64_t id)
{
    if (moved_is(id) || id < w->base.segment) return true;
    return present(w, w->persisted) && slot_at(w, w->persisted)->at.where.segment > id;
}

struct wal_segment wal_segment(const struct wal *w, size_t i)
{
    const struct recovered_segment *s = i < w->n_segments ? &w->segments[i] : &w->moved[i - w->n_segments];
    bool followed = i + 1 < w->n_segments && s[1].id == s->id + 1 && s[1].first_seq != 0;
    return (struct wal_segment){.id = s->id, .bytes = s->bytes, .raft = s->id >= w->base.segment && !moved_is(s->id), .sealed = is_sealed(w, s->id),
                                .first_seq = s->first_seq, .last_seq = followed ? s[1].first_seq - 1 : 0, .salt = s->salt};
}

bool wal_settled(const struct wal *w, struct wal_segment *ret_segment, uint64_t *ret_until)
{
    if (w->n_segments == 0 || !present(w, w->persisted)) return false;
    const struct recovered_entry *last = &slot_at(w, w->persisted)->at;
    uint64_t end = last->where.position + last->length, settled = end - end % SEGMENT_HEADER;
    struct wal_segment s = wal_segment(w, w->n_segments - 1);
    if (s.id != last->where.segment || s.sealed) return false;
    for (uint64_t i = w->persisted; i > w->base.index; i--) {
        const struct recovered_entry *at = &slot_at(w, i)->at;
        if (at->where.segment != s.id) return false;
        if (at->where.position - RECORD_HEADER > settled) continue;
        *ret_segment = s;
        *ret_until = at->where.position - RECORD_HEADER;
        return *ret_until > SEGMENT_HEADER;
    }
    return false;
}

size_t wal_entries_in(const struct wal *w, uint64_t segment, uint64_t from, uint64_t to, struct wal_place *places, size_t most)
{
    size_t n = 0;
    for (uint64_t i = w->base.index + 1; i <= w->n && n < most; i++) {
        const struct recovered_entry *at = &slot_at(w, i)->at;
        uint64_t position = at->where.position - RECORD_HEADER;
        if (at->where.segment > segment) break; /* places grow with the index */
        if (at->where.segment != segment || position < from || position >= to) continue;
        places[n++] = (struct wal_place){.index = i, .term = at->term, .position = position, .length = at->length, .crc = at->crc, .type = at->type};
    }
    return n;
}

void wal_roll(struct wal *w)
{
    if (w->segment != 0) w->position = w->segment_bytes; /* the mark goes where the last record ended: the writer knows */
}

const void *wal_note(const struct wal *w, size_t *ret_len)
{
    *ret_len = w->base.note_len;
    return w->base.note;
}

/* ---- small things --------------------------------------------------------------------------------------------- */

uint64_t wal_first_index(const struct wal *w)
{
    return w->base.index + 1;
}

uint64_t wal_last_index(const struct wal *w)
{
    return w->n;
}

uint64_t wal_persisted_index(const struct wal *w)
{
    return w->persisted;
}

uint64_t wal_bytes(const struct wal *w)
{
    return w->bytes;
}

uint64_t wal_cut_bytes(const struct wal *w)
{
    return w->cut_bytes;
}

uint64_t wal_sync_under_way_us(const struct wal *w)
{
    return writer_busy_us(w->writer);
}

bool wal_no_room(struct wal *w)
{
    return writer_no_room(w->writer);
}

const struct prom_histogram *wal_sync_times(const struct wal *w)
{
    return writer_sync_times(w->writer);
}

uint64_t wal_queued_bytes(const struct wal *w)
{
    return w->queued_bytes;
}

uint64_t wal_term_at(const struct wal *w, uint64_t index)
{
    if (index == w->base.index) return w->base.term;
    return present(w, index) ? slot_at(w, index)->at.term : 0;
}

uint64_t wal_term(const struct wal *w)
{
    return w->hard.term;
}

uint64_t wal_vote(const struct wal *w)
{
    return w->hard.vote;
}

int wal_set_hard_state(struct wal *w, uint64_t term, uint64_t vote, struct error *e)
{
    int rv = hard_state_set(&w->hard, term, vote, e);
    if (rv != 0) w->failed = true; /* W4: nothing more is promised */
    return rv;
}
