#include "logd/wal/writer.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/wal/preparer.h"

enum { GROUP_MAX = 512, GROUP_BYTES = 4 << 20 };

struct ops {
    struct writer_op *first, **end;
};

struct writer {
    const struct disk *disk;
    char dir[PATH_MAX];
    uint64_t prepare_bytes;
    struct writer_handlers handlers;
    void *user;
    uv_async_t wake_loop;
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t wake_writer;
    /* shared, under `lock` */
    struct ops queued, done;
    bool stopping, failed;
    struct error error;
    /* the writer's thread only */
    struct preparer *preparer;
    struct writer_tail tail;
    /* the loop's thread only */
    bool told_failure;
    void (*stopped)(void *user, struct writer_op *unwritten);
};

int writer_segment_path(char *path, size_t size, const char *dir, uint64_t id)
{
    return snprintf(path, size, "%s/%020llu.seg", dir, (unsigned long long)id) < (int)size ? 0 : -ERROR_INVALID;
}

int writer_mark(const struct disk *disk, int fd, uint64_t at, uint32_t salt, uint64_t seq, uint32_t chain,
                uint64_t next)
{
    uint8_t header[RECORD_HEADER];
    struct record mark = {.kind = RECORD_MARK, .index = next, .seq = seq, .synced = seq - 1, .chain = chain};
    record_encode(&mark, salt, NULL, header);
    return disk_write_all(disk, fd, header, sizeof header, at);
}

static void ops_init(struct ops *o)
{
    o->first = NULL;
    o->end = &o->first;
}

static void ops_add(struct ops *o, struct writer_op *list)
{
    *o->end = list;
    while (*o->end != NULL) o->end = &(*o->end)->next;
}

/* ---- the writer's thread -------------------------------------------------------------------------------------- */

/* The file gets its header under the temporary name and is renamed when all of it, and all of the segment before, is on
 * the disk: that a segment exists proves everything before it (segment.h). Then the one before is sealed with its name.
 */
static int install_segment(struct writer *w, struct writer_op *op, int fd)
{
    uint8_t header[SEGMENT_HEADER];
    char path[PATH_MAX];
    const struct writer_tail *t = &w->tail;
    if (writer_segment_path(path, sizeof path, w->dir, op->segment.id) != 0) return -ENAMETOOLONG;
    op->segment.chain = t->chain;
    segment_header_encode(&op->segment, header);
    int rv = disk_write_all(w->disk, fd, header, sizeof header, 0);
    if (rv == 0) rv = w->disk->datasync(w->disk, fd);
    if (rv == 0) rv = w->disk->rename(w->disk, preparer_path(w->preparer), path);
    if (rv == 0) rv = w->disk->syncdir(w->disk, w->dir);
    if (rv != 0 || t->fd < 0) return rv;
    rv = writer_mark(w->disk, t->fd, t->position, t->salt, t->synced + 1, t->chain, op->segment.id);
    return rv == 0 ? w->disk->datasync(w->disk, t->fd) : rv;
}

static int begin_segment(struct writer *w, struct writer_op *op, struct error *e)
{
    int fd = -1, rv = preparer_take(w->preparer, op->segment.bytes, &fd, e);
    if (rv != 0) return rv;
    rv = install_segment(w, op, fd);
    if (rv != 0) {
        w->disk->close(w->disk, fd);
        return error_errno(e, disk_error_code(rv), -rv, "cannot begin segment %llu in %s",
                           (unsigned long long)op->segment.id, w->dir);
    }
    if (w->tail.fd >= 0) w->disk->close(w->disk, w->tail.fd);
    w->tail.fd = fd;
    w->tail.position = SEGMENT_HEADER;
    w->tail.segment_bytes = op->segment.bytes;
    w->tail.salt = op->segment.salt;
    return 0;
}

/* Writes consecutive records of one segment, from `first` to before `end`, and syncs them. */
static int write_group(struct writer *w, struct writer_op *first, const struct writer_op *end, struct error *e)
{
    static const uint8_t padding[8];
    static _Thread_local uint8_t headers[GROUP_MAX][RECORD_HEADER];
    static _Thread_local struct iovec parts[3 * GROUP_MAX];
    unsigned n = 0, n_parts = 0;
    uint64_t at = first->position, last_seq = 0;
    for (struct writer_op *op = first; op != end; op = op->next, n++) {
        op->record.synced = w->tail.synced;
        op->record.chain = w->tail.chain;
        record_encode(&op->record, w->tail.salt, op->payload == NULL ? NULL : op->payload->data, headers[n]);
        w->tail.chain = op->record.crc;
        last_seq = op->record.seq;
        uint64_t size = record_size(op->record.length), pad = size - RECORD_HEADER - op->record.length;
        parts[n_parts++] = (struct iovec){headers[n], RECORD_HEADER};
        if (op->record.length > 0) parts[n_parts++] = (struct iovec){op->payload->data, op->record.length};
        if (pad > 0) parts[n_parts++] = (struct iovec){(void *)(uintptr_t)padding, (size_t)pad};
        w->tail.position = op->position + size;
    }
    int rv = disk_writev_all(w->disk, w->tail.fd, parts, (int)n_parts, at);
    if (rv != 0) return error_errno(e, disk_error_code(rv), -rv, "a write to the log in %s failed", w->dir);
    rv = w->disk->datasync(w->disk, w->tail.fd); /* <- here an acknowledged append became durable */
    if (rv != 0) return error_errno(e, disk_error_code(rv), -rv, "a sync of the log in %s failed", w->dir);
    w->tail.synced = last_seq;
    return 0;
}

/* Said once the log is idle; not synced itself: it only has to be there when the process dies, or when the disk later
 * changes bytes of the last group. The next record is written over it. */
static int write_mark(struct writer *w, struct error *e)
{
    const struct writer_tail *t = &w->tail;
    if (t->fd < 0) return 0;
    int rv = writer_mark(w->disk, t->fd, t->position, t->salt, t->synced + 1, t->chain, 0);
    return rv == 0 ? 0 : error_errno(e, disk_error_code(rv), -rv, "a write to the log in %s failed", w->dir);
}

/* The first op that does not belong to the group that `first` begins. */
static struct writer_op *group_end(struct writer_op *first)
{
    unsigned n = 0;
    uint64_t bytes = 0;
    struct writer_op *op = first;
    while (op != NULL && op->kind == WRITER_RECORD && n < GROUP_MAX && bytes < GROUP_BYTES) {
        n++;
        bytes += op->record.length;
        op = op->next;
    }
    return op;
}

static void report(struct writer *w, struct writer_op *first, struct writer_op *end)
{
    struct writer_op **last = &first;
    while (*last != end) last = &(*last)->next;
    *last = NULL;
    uv_mutex_lock(&w->lock);
    ops_add(&w->done, first);
    uv_mutex_unlock(&w->lock);
    uv_async_send(&w->wake_loop);
}

static void report_failure(struct writer *w, const struct error *e, struct writer_op *unwritten)
{
    uv_mutex_lock(&w->lock);
    w->failed = true;
    w->error = *e;
    struct ops rest = w->queued; /* behind what was being written */
    ops_init(&w->queued);
    ops_add(&w->queued, unwritten);
    if (rest.first != NULL) ops_add(&w->queued, rest.first);
    uv_mutex_unlock(&w->lock);
    uv_async_send(&w->wake_loop);
}

/* Writes and reports the ops of one batch, group by group. */
static int work_off(struct writer *w, struct writer_op *ops, struct error *e)
{
    while (ops != NULL) {
        struct writer_op *end = ops->kind == WRITER_SEGMENT ? ops->next : group_end(ops);
        int rv = ops->kind == WRITER_SEGMENT ? begin_segment(w, ops, e) : write_group(w, ops, end, e);
        if (rv != 0) {
            report_failure(w, e, ops);
            return rv;
        }
        report(w, ops, end);
        if (w->tail.position > w->tail.segment_bytes / 2) preparer_ask(w->preparer, w->prepare_bytes);
        ops = end;
    }
    return 0;
}

static void run(void *argument)
{
    struct writer *w = argument;
    struct error e;
    bool marked = false; /* also what was recovered gets its mark */
    int rv = 0;
    if (w->tail.fd < 0) preparer_ask(w->preparer, w->prepare_bytes);
    while (rv == 0) {
        uv_mutex_lock(&w->lock);
        while (marked && w->queued.first == NULL && !w->stopping) uv_cond_wait(&w->wake_writer, &w->lock);
        struct writer_op *ops = w->queued.first;
        bool stop = w->stopping && ops == NULL && marked;
        ops_init(&w->queued);
        uv_mutex_unlock(&w->lock);
        if (stop) break;
        if (ops != NULL) {
            marked = false;
            rv = work_off(w, ops, &e);
        } else {
            marked = true;
            rv = write_mark(w, &e);
            if (rv != 0) report_failure(w, &e, NULL);
        }
    }
}

/* ---- the loop's thread ---------------------------------------------------------------------------------------- */

static void on_wake_loop(uv_async_t *async)
{
    struct writer *w = async->data;
    uv_mutex_lock(&w->lock);
    struct writer_op *done = w->done.first;
    bool failed = w->failed;
    ops_init(&w->done);
    uv_mutex_unlock(&w->lock);
    if (done != NULL) w->handlers.on_done(w->user, done);
    if (failed && !w->told_failure) {
        w->told_failure = true;
        w->handlers.on_failed(w->user, &w->error);
    }
}

static void on_start_failed(uv_handle_t *handle)
{
    free(handle->data);
}

int writer_start(uv_loop_t *loop, const struct disk *disk, const char *dir, uint64_t prepare_bytes,
                 const struct writer_tail *tail, const struct writer_handlers *handlers, void *user,
                 struct writer **ret_writer, struct error *e)
{
    struct writer *w = calloc(1, sizeof *w);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory for the log");
    snprintf(w->dir, sizeof w->dir, "%s", dir);
    w->disk = disk;
    w->prepare_bytes = prepare_bytes;
    w->handlers = *handlers;
    w->user = user;
    w->tail = *tail;
    ops_init(&w->queued);
    ops_init(&w->done);
    int rv = uv_async_init(loop, &w->wake_loop, on_wake_loop);
    if (rv != 0) {
        free(w);
        return error_uv(e, ERROR_IO, rv, "cannot make the log's wake-up");
    }
    w->wake_loop.data = w;
    rv = preparer_new(disk, dir, &w->preparer, e);
    if (rv != 0) goto err_async;
    uv_mutex_init(&w->lock);
    uv_cond_init(&w->wake_writer);
    rv = uv_thread_create(&w->thread, run, w);
    if (rv != 0) {
        rv = error_uv(e, ERROR_IO, rv, "cannot start the log's thread");
        goto err_preparer;
    }
    *ret_writer = w;
    return 0;

err_preparer:
    uv_cond_destroy(&w->wake_writer);
    uv_mutex_destroy(&w->lock);
    preparer_free(w->preparer);
err_async:
    uv_close((uv_handle_t *)&w->wake_loop, on_start_failed);
    return rv;
}

void writer_push(struct writer *w, struct writer_op *ops)
{
    uv_mutex_lock(&w->lock);
    ops_add(&w->queued, ops);
    uv_cond_signal(&w->wake_writer);
    uv_mutex_unlock(&w->lock);
}

static void on_closed(uv_handle_t *handle)
{
    struct writer *w = handle->data;
    w->stopped(w->user, w->queued.first);
    uv_cond_destroy(&w->wake_writer);
    uv_mutex_destroy(&w->lock);
    free(w);
}

void writer_stop(struct writer *w, void (*stopped)(void *user, struct writer_op *unwritten))
{
    w->stopped = stopped;
    uv_mutex_lock(&w->lock);
    w->stopping = true;
    uv_cond_signal(&w->wake_writer);
    uv_mutex_unlock(&w->lock);
    uv_thread_join(&w->thread);
    on_wake_loop(&w->wake_loop);
    preparer_free(w->preparer);
    if (w->tail.fd >= 0) w->disk->close(w->disk, w->tail.fd);
    uv_close((uv_handle_t *)&w->wake_loop, on_closed);
}
