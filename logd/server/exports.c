#include "logd/server/exports.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/loop.h"
#include "common/mutant.h"
#include "logd/server/node.h"
#include "logd/server/pace.h"
#include "logd/server/scrub.h"
#include "logd/server/session.h"
#include "logd/server/state_codec.h"
#include "logd/wal/writer.h"

enum { WAITERS_MAX = 16, SPARES_MAX = 16, PAGES = STATE_PIECE_MAX + DISK_PAGE /* it may begin within a page */ };

struct waiter {
    struct session *session;
    uint64_t id;
};

struct exports {
    struct node *node;
    char dir[PATH_MAX], data[PATH_MAX + 16]; /* the copy's folder and its one file */
    bool made, making;
    bool given; /* its last byte was sent */
    uint64_t used_ms;
    struct state_manifest manifest;
    struct waiter waiters[WAITERS_MAX]; /* for the copy that is being made */
    unsigned n_waiters;
    uv_work_t work;
    struct segments { /* that the copy points to: the worker's while `making` */
        uint64_t *ids;
        size_t n, cap;
        uint64_t stream, next; /* of the run that was looked at last, and the offset behind it */
    } segments;
    uint64_t applied;
    int rv;
    struct error error;
    unsigned reads; /* under way */
    struct pace pace;
    struct piece *first, *last; /* wait for their turn (catch-up-rate) */
    struct piece *spares;
    unsigned n_spares;
    uv_timer_t turn;
    bool turn_closed;
    bool closing;
    void (*done)(void *user);
    void *user;
};

struct piece {
    struct exports *x;
    struct piece *next;
    uint64_t due_us;
    struct session *session;
    uint64_t id;
    char path[PATH_MAX];
    struct state_piece what;
    int failed; /* errno, 0 when all was read */
    uv_work_t work;
    uint8_t *pages; /* owned: whole ones */
    const uint8_t *bytes;
};

/* ---- the copy ------------------------------------------------------------------------------------------------- */

static void remove_copy(struct exports *x)
{
    char lock[PATH_MAX + 16];
    snprintf(lock, sizeof lock, "%s/lock.mdb", x->dir);
    unlink(x->data);
    unlink(lock);
    rmdir(x->dir);
    state_manifest_fini(&x->manifest);
    x->made = x->given = false;
    for (struct piece *p; (p = x->spares) != NULL; free(p)) {
        x->spares = p->next;
        free(p->pages);
    }
    x->n_spares = 0;
}

static int keep_segment(void *user, uint64_t segment, uint64_t live_bytes, struct error *e)
{
    struct segments *s = user;
    (void)live_bytes;
    if (s->n == s->cap) {
        size_t cap = s->cap == 0 ? 64 : 2 * s->cap;
        uint64_t *grown = realloc(s->ids, cap * sizeof *grown);
        if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory for the list of segments");
        s->ids = grown;
        s->cap = cap;
    }
    s->ids[s->n++] = segment;
    return 0;
}

/* Who takes the copy could not use one with a damaged or missing place, and would know only when it has all of it; from a backup, when it is needed. */
static int look_at_run(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct segments *s = user;
    if (stream == s->stream && run->first_offset != s->next)
        return error_set(e, ERROR_CORRUPT, "the index lacks what is before offset %llu of a stream", (unsigned long long)run->first_offset);
    s->stream = stream;
    s->next = run->first_offset + run->count;
    return 0;
}

static void make_copy(uv_work_t *work)
{
    struct exports *x = work->data;
    const struct index_inspection look = {.each_segment = keep_segment, .each_run = look_at_run, .user = &x->segments};
    x->segments.n = 0;
    x->segments.stream = 0;
    if (mkdir(x->dir, 0700) != 0) x->rv = error_errno(&x->error, ERROR_IO, errno, "cannot make %s", x->dir);
    if (x->rv == 0) x->rv = index_copy(x->node->index, x->dir, &x->error);
    if (x->rv == 0) x->rv = index_inspect(x->dir, &look, &x->applied, &x->error);
}

static uint64_t segment_bytes(const struct wal *wal, uint64_t id)
{
    for (size_t i = 0; i < wal_segments(wal); i++)
        if (wal_segment(wal, i).id == id) return wal_segment(wal, i).bytes;
    return 0;
}

static int describe(struct exports *x, struct error *e)
{
    struct node *node = x->node;
    struct state_manifest *m = &x->manifest;
    struct stat st;
    *m = (struct state_manifest){.id = node_now_ms(), .applied_index = x->applied, .applied_term = wal_term_at(node->wal, x->applied)};
    if (m->applied_term == 0) return error_set(e, ERROR_UNAVAILABLE, "the copy is older than the log's beginning: ask again");
    m->files = calloc(x->segments.n + 1, sizeof *m->files);
    if (m->files == NULL || buf_add(&m->members, node->members->data, node->members->len) != 0)
        return error_set(e, ERROR_NOMEM, "no memory for the list of files");
    if (x->segments.n + 1 > STATE_FILES_MAX) return error_set(e, ERROR_TOO_LARGE, "the state has %zu segments, too many to list", x->segments.n);
    if (stat(x->data, &st) != 0) return error_errno(e, ERROR_IO, errno, "%s", x->data);
    snprintf(m->files[m->n_files].name, STATE_NAME_MAX, "index/data.mdb");
    m->files[m->n_files++].size = (uint64_t)st.st_size;
    for (size_t i = 0; i < x->segments.n; i++) {
        struct state_file *f = &m->files[m->n_files++];
        snprintf(f->name, sizeof f->name, "wal/%020llu.seg", (unsigned long long)x->segments.ids[i]);
        f->size = segment_bytes(node->wal, x->segments.ids[i]);
        if (f->size == 0) return error_set(e, ERROR_CORRUPT, "the index points to segment %llu, which is not there", (unsigned long long)x->segments.ids[i]);
    }
    return 0;
}

static void answer(struct exports *x, const struct waiter *w)
{
    struct buf head = BUF_INIT;
    if (x->rv == 0 && (x->rv = state_encode_manifest(&x->manifest, &head)) != 0)
        error_set(&x->error, (enum error_code)-x->rv, "the list of files cannot be encoded");
    if (x->rv != 0) session_fail(w->session, w->id, &x->error);
    else session_reply(w->session, FRAME_FETCH_STATE | FRAME_REPLY, w->id, &head, NULL, 0);
    buf_fini(&head);
}

static void end_if_done(struct exports *x)
{
    if (!x->closing || x->making || x->reads > 0 || !x->turn_closed) return;
    void (*done)(void *) = x->done;
    void *user = x->user;
    remove_copy(x);
    free(x->segments.ids);
    free(x);
    done(user);
}

static void on_copied(uv_work_t *work, int status)
{
    struct exports *x = work->data;
    (void)status; /* it is never cancelled */
    x->making = false;
    if (x->rv == 0) x->rv = describe(x, &x->error);
    x->made = x->rv == 0;
    x->used_ms = node_now_ms();
    if (x->made)
        log_info("a copy of the state is ready for another server", "applied=%" PRIu64 " files=%zu", x->applied, x->manifest.n_files);
    else
        log_warn("the state cannot be copied for another server", "reason=%s", x->error.text);
    for (unsigned i = 0; i < x->n_waiters; i++) {
        answer(x, &x->waiters[i]);
        session_unref(x->waiters[i].session);
    }
    x->n_waiters = 0;
    if (!x->made) remove_copy(x);
    end_if_done(x);
}

void exports_state(struct exports *x, struct session *s, const struct frame *f)
{
    struct error e;
    uint64_t index;
    struct waiter w = {s, f->id};
    if (state_decode_request(f, &index, &e) != 0) {
        session_fail(s, f->id, &e);
        return;
    }
    if (index > index_applied(x->node->index) && !MUTANT(backup_early)) {
        error_set(&e, ERROR_UNAVAILABLE, "this server has applied entry %llu, not %llu yet", (unsigned long long)index_applied(x->node->index),
                  (unsigned long long)index);
        session_fail(s, f->id, &e);
        return;
    }
    if (scrub_alarm(x->node->scrub)) {
        char text[128];
        scrub_text(x->node->scrub, sizeof text, text);
        bool alone = consensus_membership(x->node->consensus)->n <= 1; /* nobody else has a better one */
        error_set(&e, alone ? ERROR_CORRUPT : ERROR_UNAVAILABLE, "this server's state is not good: %s", text);
        session_fail(s, f->id, &e);
        return;
    }
    x->used_ms = node_now_ms();
    if (x->made && x->applied >= index && x->rv == 0) {
        answer(x, &w);
        return;
    }
    if (x->n_waiters == WAITERS_MAX || x->closing || x->reads > 0 || x->first != NULL) {
        error_set(&e, ERROR_BUSY, "a copy of the state is in use: ask again");
        session_fail(s, f->id, &e);
        return;
    }
    session_ref(s);
    x->waiters[x->n_waiters++] = w;
    if (x->making) return;
    if (x->made) remove_copy(x);
    x->making = true;
    x->rv = 0;
    x->work.data = x;
    if (uv_queue_work(x->node->loop, &x->work, make_copy, on_copied) != 0) abort(); /* only without a callback: cannot be */
}

/* ---- pieces --------------------------------------------------------------------------------------------------- */

/* Those that were sent are used again: allocated anew each time, large and aligned as they are, they left the heap in pieces (230 MB after 10 GB, instead of 60). */
static struct piece *piece_new(struct exports *x)
{
    struct piece *p = x->spares;
    if (p != NULL) {
        x->spares = p->next;
        x->n_spares--;
        return p;
    }
    p = malloc(sizeof *p);
    if (p == NULL || (p->pages = aligned_alloc(DISK_PAGE, PAGES)) != NULL) return p;
    free(p);
    return NULL;
}

static void piece_free(struct piece *p)
{
    struct exports *x = p->x;
    if (x->n_spares == SPARES_MAX) {
        free(p->pages);
        free(p);
        return;
    }
    p->next = x->spares;
    x->spares = p;
    x->n_spares++;
}

/* Past the page cache, where that can be had: what is read once for another server would drive out what clients read again. */
static void read_piece(uv_work_t *work)
{
    struct piece *p = work->data;
    const struct disk *d = disk_system();
    size_t before = p->what.offset % DISK_PAGE, wanted = before + p->what.length;
    int fd = d->open(d, p->path, O_RDONLY);
    if (fd >= 0) d->direct(d, fd);
    ssize_t n = fd < 0 ? fd : disk_read_pages(d, fd, p->pages, (wanted + DISK_PAGE - 1) / DISK_PAGE * DISK_PAGE, p->what.offset - before);
    p->bytes = p->pages + before;
    p->failed = n < 0 ? (int)-n : (size_t)n < wanted ? ENODATA : 0;
    if (fd >= 0) d->close(d, fd);
}

static void forget(struct piece *p)
{
    session_paid(p->session, p->what.length);
    session_unref(p->session);
    piece_free(p);
}

static void on_read(uv_work_t *work, int status)
{
    struct piece *p = work->data;
    struct exports *x = p->x;
    struct error e;
    struct buf head = BUF_INIT;
    (void)status;
    x->reads--;
    x->used_ms = node_now_ms();
    if (p->failed != 0) {
        error_errno(&e, ERROR_IO, p->failed, "%s cannot be read", p->path);
        session_fail(p->session, p->id, &e);
    } else {
        session_reply(p->session, FRAME_FETCH_BYTES | FRAME_REPLY, p->id, &head, p->bytes, p->what.length);
        if (p->what.file + 1 == x->manifest.n_files && p->what.offset + p->what.length == x->manifest.files[p->what.file].size) x->given = true;
    }
    forget(p);
    end_if_done(x);
}

static void start(struct piece *p)
{
    p->work.data = p;
    p->x->reads++;
    if (uv_queue_work(p->x->node->loop, &p->work, read_piece, on_read) != 0) abort(); /* as above */
}

static void on_turn(uv_timer_t *timer)
{
    struct exports *x = timer->data;
    struct piece *p;
    uint64_t now = loop_monotonic_us();
    while ((p = x->first) != NULL && p->due_us <= now) {
        x->first = p->next;
        start(p);
    }
    if (p != NULL) uv_timer_start(timer, on_turn, (p->due_us - now) / 1000 + 1, 0);
}

static void wait_for_turn(struct exports *x, struct piece *p)
{
    if (x->first == NULL) x->first = p;
    else x->last->next = p;
    x->last = p;
    on_turn(&x->turn);
}

static int check_piece(const struct exports *x, const struct state_piece *what, struct error *e)
{
    if (!x->made || what->id != x->manifest.id) return error_set(e, ERROR_NOT_FOUND, "that copy of the state is gone: ask for a new one");
    if (what->file >= x->manifest.n_files || what->offset + what->length < what->offset ||
        what->offset + what->length > x->manifest.files[what->file].size)
        return error_set(e, ERROR_INVALID, "there are no such bytes in the state");
    return 0;
}

void exports_bytes(struct exports *x, struct session *s, const struct frame *f)
{
    struct state_piece what;
    struct error e;
    struct piece *p = NULL;
    int rv = state_decode_piece(f, &what, &e);
    if (rv == 0) rv = x->closing ? error_set(&e, ERROR_CANCELED, "this server stops") : check_piece(x, &what, &e);
    if (rv == 0 && (p = piece_new(x)) == NULL) rv = error_set(&e, ERROR_NOMEM, "no memory for a piece");
    if (rv != 0) {
        session_fail(s, f->id, &e);
        return;
    }
    *p = (struct piece){.pages = p->pages, .x = x, .session = session_ref(s), .id = f->id, .what = what, .due_us = pace_take(&x->pace, loop_monotonic_us(), what.length)};
    const char *name = x->manifest.files[what.file].name;
    if (strncmp(name, "index/", 6) == 0) snprintf(p->path, sizeof p->path, "%.*s", PATH_MAX - 1, x->data);
    else snprintf(p->path, sizeof p->path, "%.4000s/%s", x->node->settings->data_dir, name);
    session_owe(s, what.length);
    wait_for_turn(x, p);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

bool exports_pinned(const struct exports *x)
{
    return x->made || x->making;
}

void exports_tick(struct exports *x)
{
    uint64_t idle = node_now_ms() - x->used_ms, most = x->given || x->node->space.state != SPACE_ENOUGH ? EXPORTS_IDLE_LEAST_MS : EXPORTS_IDLE_MS;
    if (!x->made || x->reads > 0 || x->first != NULL || idle < most) return;
    log_info("the copy of the state is removed, as nobody asks for it any more", NULL);
    remove_copy(x);
}

struct exports *exports_new(struct node *node)
{
    struct exports *x = calloc(1, sizeof *x);
    if (x == NULL) return NULL;
    x->node = node;
    snprintf(x->dir, sizeof x->dir, "%.4000s/export", node->settings->data_dir);
    snprintf(x->data, sizeof x->data, "%s/data.mdb", x->dir);
    remove_copy(x);
    x->pace.rate = node->settings->catch_up_rate;
    uv_timer_init(node->loop, &x->turn);
    x->turn.data = x;
    return x;
}

static void on_turn_closed(uv_handle_t *handle)
{
    struct exports *x = handle->data;
    x->turn_closed = true;
    end_if_done(x);
}

void exports_close(struct exports *x, void (*done)(void *user), void *user)
{
    x->closing = true;
    x->done = done;
    x->user = user;
    for (struct piece *p; (p = x->first) != NULL; forget(p)) x->first = p->next; /* their connections are gone */
    uv_close((uv_handle_t *)&x->turn, on_turn_closed);
}
