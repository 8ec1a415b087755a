#include "logd/server/landing.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "logd/wal/disk.h"

/* A write of a piece, the end of a file, or a note. */
struct job {
    struct landing *landing;
    enum { JOB_WRITE, JOB_FINISH, JOB_NOTE } kind;
    struct pieces_slot *slot; /* JOB_WRITE */
    size_t file;
    int fd;
    uint8_t *bytes;
    uint64_t upto; /* JOB_NOTE */
    int rv;
    struct error error;
    uv_work_t work;
};

/* Writes pass the page cache by, where that can be had: a state may be larger than memory, and each page would be filled for one write (on a virtual machine that
 * alone took 40 % of two processors). Their place, length and memory are multiples of a block. */
enum { BLOCK = 4096 };
static_assert(STATE_PIECE_MAX % BLOCK == 0 && PIECES_SYNC % BLOCK == 0, "a piece begins with a block");

struct landing {
    uv_loop_t *loop;
    const struct staging *staging;
    struct pieces *pieces;
    struct landing_events events;
    int *fds; /* of each file of the manifest; -1: not open */
    uint8_t *buffers[PIECES_WINDOW];
    unsigned jobs;
    bool failed;
};

static const struct state_file *file_of(const struct landing *l, size_t file)
{
    return &l->pieces->manifest->files[file];
}

static void fail(struct landing *l, int rv, const struct error *e)
{
    if (l->failed) return;
    l->failed = true;
    l->events.on_failed(l->events.user, rv, e);
}

/* ---- jobs ----------------------------------------------------------------------------------------------------- */

/* In whole blocks: zeros follow a file's last byte until it is closed. */
static int write_piece(const struct job *j, struct error *e)
{
    const struct state_piece *what = &j->slot->what;
    const struct disk *d = disk_system();
    size_t len = (what->length + BLOCK - 1) / BLOCK * BLOCK;
    memset(j->bytes + what->length, 0, len - what->length);
    for (size_t done = 0; done < len;) {
        struct iovec part = {j->bytes + done, len - done};
        ssize_t n = d->pwritev(d, j->fd, &part, 1, what->offset + done);
        if (n == -EINTR) continue;
        if (n < BLOCK) return error_errno(e, n < 0 ? disk_error_code((int)n) : ERROR_NOSPACE, n < 0 ? (int)-n : ENOSPC, "the fetched state cannot be written");
        done += (size_t)n / BLOCK * BLOCK;
    }
    return 0;
}

/* Room is asked for with a file's first piece: that may take its time, and others are written meanwhile. */
static int put_piece(const struct job *j, const struct state_file *file, struct error *e)
{
    int rv = j->slot->what.offset == 0 ? staging_reserve(file->name, j->fd, file->size, e) : 0;
    return rv != 0 ? rv : write_piece(j, e);
}

static void run(uv_work_t *work)
{
    struct job *j = work->data;
    struct landing *l = j->landing;
    const char *name = file_of(l, j->file)->name;
    if (j->kind == JOB_WRITE) j->rv = put_piece(j, file_of(l, j->file), &j->error);
    else if (j->kind == JOB_FINISH) j->rv = staging_close_file(l->staging, name, file_of(l, j->file)->size, j->fd, &j->error);
    else j->rv = staging_note(l->staging, l->pieces->manifest->id, name, j->fd, j->upto, &j->error);
}

static void on_done(uv_work_t *work, int status);

static void queue(struct landing *l, struct job what)
{
    struct error e;
    struct job *j = malloc(sizeof *j);
    if (j == NULL) {
        fail(l, error_set(&e, ERROR_NOMEM, "no memory to write the fetched state"), &e);
        return;
    }
    *j = what;
    j->landing = l;
    j->fd = l->fds[j->file];
    j->work.data = j;
    l->jobs++;
    if (j->kind == JOB_FINISH) l->fds[j->file] = -1; /* it is closed there */
    if (uv_queue_work(l->loop, &j->work, run, on_done) != 0) abort(); /* only without a callback: cannot be */
}

static bool opened(struct landing *l, size_t file)
{
    struct error e;
    if (l->fds[file] >= 0) return true;
    int rv = staging_open_file(l->staging, file_of(l, file)->name, l->pieces->files[file].noted > 0, &l->fds[file], &e);
    if (rv != 0) fail(l, rv, &e);
    else disk_system()->direct(disk_system(), l->fds[file]);
    return rv == 0;
}

static void go_on(struct landing *l)
{
    size_t file;
    uint64_t bytes;
    while (!l->failed && pieces_finish(l->pieces, &file))
        if (opened(l, file)) queue(l, (struct job){.kind = JOB_FINISH, .file = file});
    if (!l->failed && pieces_note(l->pieces, &file, &bytes)) queue(l, (struct job){.kind = JOB_NOTE, .file = file, .upto = bytes});
}

static void on_done(uv_work_t *work, int status)
{
    struct job *j = work->data;
    struct landing *l = j->landing;
    (void)status; /* it is never cancelled */
    l->jobs--;
    if (j->rv != 0) {
        fail(l, j->rv, &j->error);
    } else if (!l->failed) {
        if (j->kind == JOB_WRITE) pieces_written(l->pieces, j->slot);
        else if (j->kind == JOB_FINISH) pieces_finished(l->pieces, j->file);
        else pieces_noted(l->pieces);
        go_on(l);
    }
    free(j);
    l->events.on_progress(l->events.user);
}

void landing_put(struct landing *l, struct pieces_slot *slot, const void *bytes)
{
    size_t i = (size_t)(slot - l->pieces->slots);
    struct error e;
    if (l->failed || !opened(l, slot->what.file)) return;
    if (l->buffers[i] == NULL && (l->buffers[i] = aligned_alloc(BLOCK, STATE_PIECE_MAX)) == NULL) {
        fail(l, error_set(&e, ERROR_NOMEM, "no memory for a piece of the state"), &e);
        return;
    }
    memcpy(l->buffers[i], bytes, slot->what.length);
    queue(l, (struct job){.kind = JOB_WRITE, .slot = slot, .file = slot->what.file, .bytes = l->buffers[i]});
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct landing *landing_new(uv_loop_t *loop, const struct staging *staging, struct pieces *pieces, const struct landing_events *events)
{
    struct landing *l = calloc(1, sizeof *l);
    if (l == NULL || (l->fds = malloc((pieces->manifest->n_files + 1) * sizeof *l->fds)) == NULL) return landing_free(l);
    l->loop = loop;
    l->staging = staging;
    l->pieces = pieces;
    l->events = *events;
    for (size_t i = 0; i < pieces->manifest->n_files; i++) l->fds[i] = -1;
    go_on(l); /* files of no bytes */
    return l;
}

bool landing_busy(const struct landing *l)
{
    return l != NULL && l->jobs > 0;
}

struct landing *landing_free(struct landing *l)
{
    if (l == NULL) return NULL;
    for (size_t i = 0; l->fds != NULL && i < l->pieces->manifest->n_files; i++)
        if (l->fds[i] >= 0) close(l->fds[i]);
    for (size_t i = 0; i < PIECES_WINDOW; i++) free(l->buffers[i]);
    free(l->fds);
    free(l);
    return NULL;
}
