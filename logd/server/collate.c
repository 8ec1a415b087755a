#include "logd/server/collate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/frame.h"
#include "logd/streams/run_reader.h"
#include "logd/wal/disk.h"
#include "logd/wal/writer.h"

/* WINDOW: read at once, at most; GAP: what lies between two rows is read with them, up to that. */
enum { PAGE = 4096, WINDOW = 64 << 10, GAP = 16 << 10 };

struct collate {
    const char *dir;
    uint64_t segment; /* that `fd` is of; 0: none */
    int fd;           /* < 0: it is not there */
    uint64_t at;      /* of the window in the file */
    size_t len;       /* of the window; 0: nothing was read */
    uint64_t cost;
    uint8_t *window; /* WINDOW, aligned */
};

struct collate *collate_new(const char *dir)
{
    struct collate *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    *c = (struct collate){.dir = dir, .fd = -1, .window = aligned_alloc(PAGE, WINDOW)};
    return c->window != NULL ? c : collate_free(c);
}

void collate_close(struct collate *c)
{
    if (c->fd >= 0) disk_system()->close(disk_system(), c->fd);
    c->fd = -1;
    c->segment = 0;
    c->len = 0;
}

struct collate *collate_free(struct collate *c)
{
    if (c == NULL) return NULL;
    collate_close(c);
    free(c->window);
    free(c);
    return NULL;
}

static void go_to(struct collate *c, uint64_t segment)
{
    const struct disk *d = disk_system();
    char path[PATH_MAX];
    if (c->segment == segment) return;
    collate_close(c);
    c->segment = segment;
    if (writer_segment_path(path, sizeof path, c->dir, segment) != 0) return;
    c->fd = d->open(d, path, O_RDONLY);
    if (c->fd >= 0) d->direct(d, c->fd); /* not to be had: as everybody reads it */
}

/* The `len` bytes at `at`, and what follows up to `until` with them. NULL: they are not there. */
static const uint8_t *look(struct collate *c, uint64_t at, size_t len, uint64_t until)
{
    if (c->fd < 0) return NULL;
    if (c->len == 0 || at < c->at || at + len > c->at + c->len) {
        uint64_t from = at - at % PAGE, to = until > at + len ? until : at + len;
        to = (to + PAGE - 1) / PAGE * PAGE;
        size_t wanted = to - from < WINDOW ? (size_t)(to - from) : WINDOW;
        c->at = from;
        ssize_t n = disk_read_pages(disk_system(), c->fd, c->window, wanted, from);
        c->len = n > 0 ? (size_t)n : 0;
        c->cost += wanted > COLLATE_LEAST ? wanted : COLLATE_LEAST;
    }
    return at + len <= c->at + c->len ? c->window + (at - c->at) : NULL;
}

static size_t head_part(const struct streams_run *run)
{
    return run->frame_len < PAGE ? run->frame_len : PAGE;
}

/* Heads are short; one that is longer than WINDOW, of thousands of events, is believed by the frame's length. */
static bool is_there(struct collate *c, const struct streams_run *run, uint64_t until)
{
    struct frame f;
    size_t len = head_part(run), most = run->frame_len < WINDOW - PAGE ? run->frame_len : WINDOW - PAGE;
    const uint8_t *bytes = look(c, run->where.position, len, until);
    int64_t size = bytes == NULL ? -1 : frame_peek(bytes, len, &f, NULL);
    if (size == 0 && most > len) {
        bytes = look(c, run->where.position, most, 0);
        size = bytes == NULL ? -1 : frame_peek(bytes, most, &f, NULL);
    }
    if (size == 0) return frame_size(bytes, NULL) == (int64_t)run->frame_len;
    return size == (int64_t)run->frame_len && run_match(run, &f, NULL) != -ERROR_CORRUPT;
}

static int by_place(const void *a, const void *b)
{
    const struct wal_location *x = &((const struct sift_run *)a)->run.where, *y = &((const struct sift_run *)b)->run.where;
    if (x->segment != y->segment) return x->segment < y->segment ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

/* As far as the rows behind it lie close to each other. */
static uint64_t read_until(const struct sift_run *rows, unsigned n)
{
    const struct wal_location *first = &rows[0].run.where;
    uint64_t until = first->position + head_part(&rows[0].run);
    for (unsigned i = 1; i < n; i++) {
        const struct wal_location *next = &rows[i].run.where;
        uint64_t end = next->position + head_part(&rows[i].run);
        if (next->segment != first->segment || next->position > until + GAP || end > first->position + WINDOW - PAGE) break;
        if (end > until) until = end;
    }
    return until;
}

uint64_t collate_rows(struct collate *c, struct sift_run *rows, unsigned n, void (*differs)(void *user, const struct sift_run *row), void *user)
{
    c->cost = 0;
    qsort(rows, n, sizeof *rows, by_place);
    for (unsigned i = 0; i < n; i++) {
        go_to(c, rows[i].run.where.segment);
        if (!is_there(c, &rows[i].run, read_until(rows + i, n - i))) differs(user, &rows[i]);
    }
    return c->cost;
}
