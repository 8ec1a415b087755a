#include "logd/wal/writer.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "common/prom.h"
#include "logd/wal/appender.h"
#include "logd/wal/preparer.h"

enum { GROUP_MAX = 512, GROUP_BYTES = 4 << 20 };
#define QUICK_NS (UINT64_C(4) * 1000 * 1000 * 1000) /* a segment half full before that: preparer.h */
#define ROOM_NS (UINT64_C(100) * 1000 * 1000)       /* a full disk is looked at so often */
#define IDLE_NS (UINT64_C(5) * 1000 * 1000)         /* nothing came for so long: the log is idle */

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
    bool no_room; /* it waits for room for the next segment */
    struct error error;
    /* the writer's thread only */
    struct preparer *preparer;
    struct appender *appender; /* of tail.fd */
    struct writer_tail tail;
    uint64_t begun_ns; /* the segment */
    struct prom_histogram sync_times; /* read by others */
    _Atomic uint64_t busy_since_ns;   /* a group is being written and synced; 0: none is. Read by others */
    /* the loop's thread only */
    bool told_failure;
    void (*stopped)(void *user, struct writer_op *unwritten);
};

int writer_segment_path(char *path, size_t size, const char *dir, uint64_t id)
{
    return snprintf(path, size, "%s/%020llu.seg", dir, (unsigned long long)id) < (int)size ? 0 : -ERROR_INVALID;
}

void writer_mark(uint32_t salt, uint64_t seq, uint32_t chain, uint64_t next, uint8_t header[static RECORD_HEADER])
{
    struct record mark = {.kind = RECORD_MARK, .index = next, .seq = seq, .synced = seq - 1, .chain = chain};
    record_encode(&mark, salt, NULL, header);
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

/* The mark behind the last record; not synced. */
static int put_mark(struct writer *w, uint64_t next)
{
    uint8_t header[RECORD_HEADER];
    writer_mark(w->tail.salt, w->tail.synced + 1, w->tail.chain, next, header);
    return appender_aside(w->appender, header, sizeof header);
}

/* The file gets its header under the temporary name and is renamed when all of it, and all of the segment before, is on
 * the disk: that a segment exists proves everything before it (segment.h). Then the one before is sealed with its name.
 */
static int install_segment(struct writer *w, struct writer_op *op, int fd)
{
    _Alignas(SEGMENT_HEADER) uint8_t header[SEGMENT_HEADER]; /* the descriptor may be a direct one already */
    char path[PATH_MAX];
    const struct writer_tail *t = &w->tail;
    if (writer_segment_path(path, sizeof path, w->dir, op->segment.id) != 0) return -ENAMETOOLONG;
    op->segment.chain = t->chain;
    segment_header_encode(&op->segment, header);
    int rv = disk_write_all(w->disk, fd, header, sizeof header, 0);
    if (rv == 0 && !MUTANT(skip_header_sync)) rv = w->disk->datasync(w->disk, fd);
    if (rv == 0) rv = w->disk->rename(w->disk, preparer_path(w->preparer), path);
    if (rv == 0 && !MUTANT(skip_dir_sync)) rv = w->disk->syncdir(w->disk, w->dir);
    if (rv != 0 || t->fd < 0) return rv;
    rv = put_mark(w, op->segment.id);
    return rv == 0 ? w->disk->datasync(w->disk, t->fd) : rv;
}

/* False: the log is being closed. */
static bool wait_for_room(struct writer *w)
{
    uv_mutex_lock(&w->lock);
    w->no_room = true;
    if (!w->stopping) uv_cond_timedwait(&w->wake_writer, &w->lock, ROOM_NS);
    bool goes_on = !w->stopping;
    uv_mutex_unlock(&w->lock);
    return goes_on;
}

/* The one place where a full disk is waited for: no byte of the log has been touched. */
static int take_file(struct writer *w, struct writer_op *op, int *ret_fd, struct error *e)
{
    int rv;
    while ((rv = preparer_take(w->preparer, op->segment.bytes, ret_fd, &op->segment.recycled, e)) == -ERROR_NOSPACE)
        if (!wait_for_room(w)) return rv;
    uv_mutex_lock(&w->lock);
    w->no_room = false;
    uv_mutex_unlock(&w->lock);
    return rv;
}

static int begin_segment(struct writer *w, struct writer_op *op, struct error *e)
{
    int fd = -1, rv = take_file(w, op, &fd, e);
    if (rv != 0) return rv;
    rv = install_segment(w, op, fd);
    if (rv == 0) rv = appender_begin(w->appender, fd, SEGMENT_HEADER);
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
    w->begun_ns = uv_hrtime();
    return 0;
}

/* Writes consecutive records of one segment, from `first` to before `end`, and syncs them. */
static int write_group(struct writer *w, struct writer_op *first, const struct writer_op *end, struct error *e)
{
    static const uint8_t padding[8];
    uint8_t header[RECORD_HEADER];
    uint64_t last_seq = 0, begun = uv_hrtime();
    int rv = 0;
    atomic_store_explicit(&w->busy_since_ns, begun, memory_order_relaxed);
    for (struct writer_op *op = first; op != end && rv == 0; op = op->next) {
        op->record.synced = w->tail.synced;
        op->record.chain = w->tail.chain;
        record_encode(&op->record, w->tail.salt, op->payload == NULL ? NULL : op->payload->data, header);
        w->tail.chain = op->record.crc;
        last_seq = op->record.seq;
        uint64_t size = record_size(op->record.length), pad = size - RECORD_HEADER - op->record.length;
        rv = appender_put(w->appender, header, sizeof header);
        if (rv == 0 && op->payload != NULL) rv = appender_put(w->appender, op->payload->data, op->record.length);
        if (rv == 0) rv = appender_put(w->appender, padding, pad);
        w->tail.position = op->position + size;
    }
    if (rv == 0) rv = appender_flush(w->appender);
    if (rv != 0) return error_errno(e, disk_error_code(rv), -rv, "a write to the log in %s failed", w->dir);
    if (!MUTANT(skip_sync)) rv = w->disk->datasync(w->disk, w->tail.fd); /* <- here an acknowledged append became durable */
    if (rv != 0) return error_errno(e, disk_error_code(rv), -rv, "a sync of the log in %s failed", w->dir);
    w->tail.synced = last_seq;
    prom_observe(&w->sync_times, (uv_hrtime() - begun) / 1000);
    atomic_store_explicit(&w->busy_since_ns, 0, memory_order_relaxed);
    return 0;
}

/* Said once the log is idle; not synced itself: it only has to be there when the process dies, or when the disk later
 * changes bytes of the last group. The next record is written over it. */
static int write_mark(struct writer *w, struct error *e)
{
    if (w->tail.fd < 0) return 0;
    int rv = put_mark(w, 0);
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
        if (w->tail.position > w->tail.segment_bytes / 2)
            preparer_ask(w->preparer, w->prepare_bytes, uv_hrtime() - w->begun_ns > QUICK_NS);
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
    w->begun_ns = uv_hrtime();
    if (w->tail.fd < 0) preparer_ask(w->preparer, w->prepare_bytes, false);
    while (rv == 0) {
        uv_mutex_lock(&w->lock);
        bool idle = false;
        while (w->queued.first == NULL && !w->stopping && !idle) {
            if (marked) uv_cond_wait(&w->wake_writer, &w->lock);
            else idle = uv_cond_timedwait(&w->wake_writer, &w->lock, IDLE_NS) == UV_ETIMEDOUT;
        }
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
    bool failed = w->failed && !(w->stopping && w->no_room); /* closed while it waited for room: nothing failed */
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
    w->appender = appender_new(disk);
    rv = w->appender == NULL ? error_set(e, ERROR_NOMEM, "no memory for the log") : preparer_new(disk, dir, prepare_bytes, &w->preparer, e);
    if (rv != 0) goto err_async;
    rv = tail->fd < 0 ? 0 : appender_begin(w->appender, tail->fd, tail->position);
    if (rv != 0) {
        rv = error_errno(e, disk_error_code(rv), -rv, "cannot go on writing the log in %s", dir);
        goto err_preparer_only;
    }
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
err_preparer_only:
    preparer_free(w->preparer);
err_async:
    appender_free(w->appender);
    uv_close((uv_handle_t *)&w->wake_loop, on_start_failed);
    return rv;
}

bool writer_recycle(struct writer *w, const char *path, uint64_t bytes, unsigned most)
{
    return preparer_recycle(w->preparer, path, bytes, most);
}

const struct prom_histogram *writer_sync_times(const struct writer *w)
{
    return &w->sync_times;
}

bool writer_no_room(struct writer *w)
{
    uv_mutex_lock(&w->lock);
    bool no_room = w->no_room;
    uv_mutex_unlock(&w->lock);
    return no_room;
}

uint64_t writer_busy_us(const struct writer *w)
{
    uint64_t since = atomic_load_explicit(&w->busy_since_ns, memory_order_relaxed), now = uv_hrtime();
    return since == 0 || since > now ? 0 : (now - since) / 1000;
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
    appender_free(w->appender);
    if (w->tail.fd >= 0) w->disk->close(w->disk, w->tail.fd);
    uv_close((uv_handle_t *)&w->wake_loop, on_closed);
}
