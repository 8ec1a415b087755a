#include "logd/server/mover.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/loop.h"
#include "logd/index/batch.h"
#include "logd/server/node.h"
#include "logd/server/pace.h"
#include "logd/server/scrub.h"
#include "logd/server/sparse.h"
#include "logd/wal/moved.h"
#include "logd/wal/writer.h"

enum { ROWS = 512 /* of the index at a look */, LOOKS = 32, STEP_BYTES = 1 << 20, MOVES_MAX = 1 << 16, POLL_MS = 10, PAUSE_MS = 60000, SLACK_SEGMENTS = 2 };

struct found {
    uint64_t stream;
    struct streams_run run;
};

struct mover {
    struct node *node;
    char dir[PATH_MAX];
    uv_timer_t timer;
    uv_work_t work;
    struct pace pace;
    bool busy; /* what follows, up to `error`, is the worker's */
    uint64_t *victims; /* ascending; NULL: no pass */
    size_t n_victims;
    uint64_t stream, offset; /* the pass goes on there */
    bool end;
    struct found *found; /* ROWS */
    unsigned n_found;
    uint64_t reading; /* the segment that `fd` is of; 0: none */
    int fd;
    struct buf frame;
    struct moved *out;
    uint64_t out_id, out_bytes;
    struct batch_move *moves; /* MOVES_MAX; into `out` */
    size_t n_moves;
    bool finished; /* `out` is a file now */
    uint64_t copied;
    uint64_t damaged; /* a segment in which a damaged event was met; 0: none */
    int rv;
    struct error error;
    uint64_t bytes;   /* since the start */
    uint64_t after_ms; /* no pass before */
    bool closing;
    void (*done)(void *user);
    void *user;
};

/* ---- the worker's thread -------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int on_run(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct mover *m = user;
    (void)e;
    if (bsearch(&run->where.segment, m->victims, m->n_victims, sizeof *m->victims, by_number) != NULL) m->found[m->n_found++] = (struct found){stream, *run};
    return 0;
}

static void stop_reading(struct mover *m)
{
    if (m->reading != 0) disk_system()->close(disk_system(), m->fd);
    m->reading = 0;
}

/* 1: it is in m->frame. 0: it is gone, or damaged: it stays where it is. */
static int read_frame(struct mover *m, const struct streams_run *run, struct error *e)
{
    const struct disk *d = disk_system();
    char path[PATH_MAX];
    struct frame f;
    if (m->reading != run->where.segment) {
        stop_reading(m);
        if (writer_segment_path(path, sizeof path, m->dir, run->where.segment) != 0) return error_set(e, ERROR_INVALID, "the log's path is too long");
        m->fd = d->open(d, path, O_RDONLY);
        if (m->fd == -ENOENT) return 0; /* all of it was trimmed meanwhile */
        if (m->fd < 0) return error_errno(e, ERROR_IO, -m->fd, "cannot open %s", path);
        m->reading = run->where.segment;
    }
    m->frame.len = 0;
    if (buf_reserve(&m->frame, run->frame_len) != 0) return error_set(e, ERROR_NOMEM, "no memory to move %u bytes", run->frame_len);
    int rv = disk_read_all(d, m->fd, m->frame.data, run->frame_len, run->where.position);
    if (rv == 0 && frame_decode(m->frame.data, run->frame_len, &f, NULL) == (int64_t)run->frame_len) return 1;
    m->damaged = run->where.segment;
    return 0;
}

static int copy_run(struct mover *m, const struct found *x, struct error *e)
{
    uint64_t position;
    int rv = read_frame(m, &x->run, e);
    if (rv <= 0) return rv;
    if (m->out == NULL) rv = moved_begin(disk_system(), m->dir, m->out_id, &m->out, e);
    else rv = 0;
    if (rv == 0) rv = moved_put(m->out, m->frame.data, x->run.frame_len, &position, e);
    if (rv != 0) return rv;
    m->moves[m->n_moves++] = (struct batch_move){x->stream, x->run.first_offset, x->run.where, {m->out_id, position}};
    m->copied += x->run.frame_len;
    return 0;
}

static bool full(const struct mover *m)
{
    return m->out != NULL && (moved_bytes(m->out) >= m->node->settings->segment_bytes || m->n_moves + ROWS > MOVES_MAX);
}

static int finish_file(struct mover *m, struct error *e)
{
    struct moved *out = m->out;
    m->out_bytes = moved_bytes(out);
    m->out = NULL;
    int rv = moved_finish(out, e);
    m->finished = rv == 0;
    return rv;
}

static void step(uv_work_t *work)
{
    struct mover *m = work->data;
    m->rv = 0;
    m->copied = 0;
    for (unsigned look = 0; m->rv == 0 && look < LOOKS && !m->end && !full(m) && m->copied < STEP_BYTES; look++) {
        m->n_found = 0;
        m->rv = index_scan(m->node->index, &m->stream, &m->offset, ROWS, on_run, m, &m->end, &m->error);
        for (unsigned i = 0; m->rv == 0 && i < m->n_found; i++) m->rv = copy_run(m, &m->found[i], &m->error);
    }
    if (m->rv == 0 && m->out != NULL && (m->end || full(m))) m->rv = finish_file(m, &m->error);
    if (m->rv != 0 || m->end) stop_reading(m);
}

/* ---- the loop's thread ---------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer);

static void end_pass(struct mover *m)
{
    stop_reading(m);
    moved_abandon(m->out);
    m->out = NULL;
    m->out_id = 0;
    m->n_moves = 0;
    free(m->victims);
    m->victims = NULL;
}

static void on_closed(uv_handle_t *handle)
{
    struct mover *m = handle->data;
    void (*done)(void *user) = m->done;
    void *user = m->user;
    end_pass(m);
    buf_fini(&m->frame);
    free(m->found);
    free(m->moves);
    free(m);
    done(user);
}

static void failed(struct mover *m)
{
    log_warn("events could not be moved out of sparse segments; it is tried again", "reason=%s", m->error.text);
    m->after_ms = node_now_ms() + PAUSE_MS;
    end_pass(m);
}

/* The file belongs to the log before anything points to it: else a start would not know it. */
static void tell(struct mover *m)
{
    m->finished = false;
    if (wal_adopt(m->node->wal, m->out_id, m->out_bytes) != 0) {
        m->rv = error_set(&m->error, ERROR_NOMEM, "no memory for the log's table"); /* nothing points to the file: the next start removes it */
        return;
    }
    m->rv = index_move(m->node->index, m->moves, m->n_moves, &m->error);
    m->n_moves = 0;
}

static void on_step(uv_work_t *work, int status)
{
    struct mover *m = work->data;
    (void)status;
    m->busy = false;
    m->bytes += m->copied;
    if (m->closing) {
        uv_close((uv_handle_t *)&m->timer, on_closed);
        return;
    }
    struct error why;
    error_set(&why, ERROR_CORRUPT, "an event that was to be moved is damaged");
    if (m->damaged != 0) scrub_suspect(m->node->scrub, m->damaged, &why);
    m->damaged = 0;
    if (m->rv == 0 && m->finished) tell(m);
    if (m->rv != 0) {
        failed(m);
        return;
    }
    uint64_t now = loop_monotonic_us(), next = pace_take(&m->pace, now, m->copied);
    uv_timer_start(&m->timer, on_timer, (next - now) / 1000 + 1, 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct mover *m = timer->data;
    if (index_moving(m->node->index)) {
        uv_timer_start(timer, on_timer, POLL_MS, 0);
    } else if (m->end) {
        log_info("events were moved out of sparse segments", "segments=%zu log_bytes=%" PRIu64, m->n_victims, wal_bytes(m->node->wal));
        end_pass(m);
    } else {
        if (m->out == NULL) m->out_id = wal_next_moved(m->node->wal);
        m->busy = true;
        if (uv_queue_work(m->node->loop, &m->work, step, on_step) != 0) abort(); /* only without a callback: cannot be */
    }
}

/* The segments that may be rewritten; NULL: none, or no memory. */
static struct sparse_segment *list_segments(const struct node *node, size_t *ret_n)
{
    size_t all = wal_segments(node->wal), n = 0;
    struct sparse_segment *list = calloc(all + 1, sizeof *list);
    for (size_t i = 0; list != NULL && i < all; i++) {
        struct wal_segment s = wal_segment(node->wal, i);
        uint64_t live;
        if (!s.raft && index_live(node->index, s.id, &live, NULL) == 0 && live > 0) list[n++] = (struct sparse_segment){s.id, s.bytes, live};
    }
    *ret_n = n;
    return list;
}

void mover_tick(struct mover *m)
{
    struct node *node = m->node;
    size_t n = 0;
    if (m->victims != NULL || m->closing || node->stopping || node_now_ms() < m->after_ms || node->space.state == SPACE_FULL) return;
    struct sparse_segment *list = list_segments(node, &n);
    size_t chosen = list == NULL ? 0 : sparse_choose(list, n, SLACK_SEGMENTS * node->settings->segment_bytes);
    if (chosen > 0 && (m->victims = calloc(chosen, sizeof *m->victims)) != NULL) {
        for (size_t i = 0; i < chosen; i++) m->victims[i] = list[i].id;
        qsort(m->victims, chosen, sizeof *m->victims, by_number);
        m->n_victims = chosen;
        m->stream = m->offset = 0;
        m->end = false;
        uv_timer_start(&m->timer, on_timer, 0, 0);
    }
    free(list);
}

bool mover_holds(const struct mover *m, uint64_t segment)
{
    return segment == m->out_id;
}

uint64_t mover_bytes(const struct mover *m)
{
    return m->bytes;
}

struct mover *mover_new(struct node *node)
{
    struct mover *m = calloc(1, sizeof *m);
    if (m == NULL) return NULL;
    m->node = node;
    m->work.data = m;
    m->pace.rate = node->settings->background_rate;
    m->found = calloc(ROWS, sizeof *m->found);
    m->moves = calloc(MOVES_MAX, sizeof *m->moves);
    if (m->found == NULL || m->moves == NULL || snprintf(m->dir, sizeof m->dir, "%s/wal", node->settings->data_dir) >= (int)sizeof m->dir) {
        free(m->found);
        free(m->moves);
        free(m);
        return NULL;
    }
    uv_timer_init(node->loop, &m->timer);
    m->timer.data = m;
    return m;
}

void mover_close(struct mover *m, void (*done)(void *user), void *user)
{
    m->closing = true;
    m->done = done;
    m->user = user;
    if (!m->busy) uv_close((uv_handle_t *)&m->timer, on_closed);
}
