#include "logd/server/verification.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "logd/index/index.h"
#include "logd/server/run_check.h"
#include "logd/wal/writer.h"

/* Appends lie on the disk in the order they came in, and in the index by stream: the one is read best in its own order, the other can be read only in its. So the index is gone
 * through for those rows that come next on the disk, these are sorted and looked at, and so on, as often as it takes. */
enum { ROWS_FIRST = 1 << 10, ROWS = 1 << 19 };

struct row {
    uint64_t stream;
    struct streams_run run;
};

struct look {
    struct verification *v;
    char dir[PATH_MAX];
    struct row *rows;
    size_t n, cap, most;
    struct wal_location from, to; /* rows in [from, to) are looked for */
    bool bounded;                 /* `to` counts */
    struct run_check check;
    uint64_t segment; /* that check.file is of; 0: none */
    int file_error;   /* errno of its opening */
};

static int compare(const struct wal_location *a, const struct wal_location *b)
{
    if (a->segment != b->segment) return a->segment < b->segment ? -1 : 1;
    return a->position < b->position ? -1 : a->position > b->position;
}

static int by_place(const void *a, const void *b)
{
    return compare(&((const struct row *)a)->run.where, &((const struct row *)b)->run.where);
}

/* ---- one append ----------------------------------------------------------------------------------------------- */

static int go_to(struct look *l, uint64_t segment, struct error *e)
{
    char path[PATH_MAX];
    struct stat st = {0};
    if (l->segment == segment) return 0;
    if (writer_segment_path(path, sizeof path, l->dir, segment) != 0) return error_set(e, ERROR_INVALID, "the path of the log is too long");
    l->file_error = stat(path, &st) == 0 ? 0 : errno;
    if (raw_file_open(&l->check.file, disk_system(), path, (uint64_t)st.st_size) != 0) return error_set(e, ERROR_NOMEM, "no memory to read the log");
    l->segment = segment;
    return 0;
}

static int look_at(struct look *l, const struct row *row, struct error *e)
{
    const struct streams_run *run = &row->run;
    int rv = go_to(l, run->where.segment, e);
    if (rv != 0) return rv;
    if (l->file_error != 0)
        return error_errno(e, l->file_error == ENOENT ? ERROR_CORRUPT : ERROR_IO, l->file_error, "the index points to segment %" PRIu64, run->where.segment);
    rv = run_check(&l->check, run);
    if (rv != -ERROR_CORRUPT) return rv == 0 ? 0 : error_set(e, ERROR_NOMEM, "no memory for an append");
    return error_set(e, ERROR_CORRUPT, "segment %" PRIu64 ", byte %" PRIu64 ": the events %" PRIu64 " to %" PRIu64 " of stream %" PRIu64 " are damaged",
                     run->where.segment, run->where.position, run->first_offset, run->first_offset + run->count - 1, row->stream);
}

static int look_and_count(struct look *l, const struct row *row, struct error *e)
{
    struct verification *v = l->v;
    struct error why;
    v->runs++;
    v->events += row->run.count;
    v->bytes += row->run.frame_len;
    if (v->on_progress != NULL && v->runs % 1024 == 0) v->on_progress(v->user, v->bytes);
    int rv = look_at(l, row, &why);
    if (rv == 0) return 0;
    if (rv == -ERROR_CORRUPT && v->damages++ == 0) v->damaged_segment = row->run.where.segment;
    if (rv == -ERROR_CORRUPT && v->all) {
        v->on_damage(v->user, &why);
        return 0;
    }
    if (e != NULL) *e = why;
    return rv;
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

static int grow(struct look *l, struct error *e)
{
    size_t cap = l->cap == 0 ? ROWS_FIRST : 2 * l->cap;
    if (cap > l->most) cap = l->most;
    struct row *grown = realloc(l->rows, cap * sizeof *grown);
    if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory for a part of the index");
    l->rows = grown;
    l->cap = cap;
    return 0;
}

/* The nearer half stays; what lies beyond it is for the next time. */
static void drop_half(struct look *l)
{
    qsort(l->rows, l->n, sizeof *l->rows, by_place);
    l->n /= 2;
    l->to = l->rows[l->n].run.where;
    l->bounded = true;
}

static bool is_beyond(const struct look *l, const struct streams_run *run)
{
    return l->bounded && compare(&run->where, &l->to) >= 0;
}

static int each_run(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct look *l = user;
    if (compare(&run->where, &l->from) < 0 || is_beyond(l, run)) return 0;
    if (l->n == l->most) drop_half(l);
    else if (l->n == l->cap && grow(l, e) != 0) return -ERROR_NOMEM;
    if (!is_beyond(l, run)) l->rows[l->n++] = (struct row){stream, *run};
    return 0;
}

static int each_segment(void *user, uint64_t segment, uint64_t live_bytes, struct error *e)
{
    (void)user, (void)segment, (void)live_bytes, (void)e;
    return 0;
}

static int look_at_all(struct look *l, const char *index, uint64_t *ret_applied, struct error *e)
{
    const struct index_inspection inspection = {.each_segment = each_segment, .each_run = each_run, .user = l};
    int rv;
    do {
        l->from = l->to;
        l->bounded = false;
        l->n = 0;
        rv = index_inspect(index, &inspection, ret_applied, e);
        if (l->bounded && compare(&l->from, &l->to) >= 0) return error_set(e, ERROR_CORRUPT, "many rows of the index have one place");
        if (l->n > 0) qsort(l->rows, l->n, sizeof *l->rows, by_place);
        for (size_t i = 0; rv == 0 && i < l->n; i++) rv = look_and_count(l, &l->rows[i], e);
    } while (rv == 0 && l->bounded);
    return rv;
}

int verification_run(struct verification *v, const char *dir, struct error *e)
{
    struct look l = {.v = v, .most = v->rows != 0 ? v->rows : ROWS};
    char index[PATH_MAX];
    uint64_t applied;
    snprintf(l.dir, sizeof l.dir, "%.4000s/wal", dir);
    snprintf(index, sizeof index, "%.4000s/index", dir);
    int rv = look_at_all(&l, index, &applied, e);
    run_check_fini(&l.check);
    free(l.rows);
    if (rv == 0 && v->expected_applied != 0 && applied != v->expected_applied)
        rv = error_set(e, ERROR_CORRUPT, "the index has applied entry %" PRIu64 ", not %" PRIu64, applied, v->expected_applied);
    if (rv == 0) v->expected_applied = applied;
    if (rv == 0 && v->damages > 0) rv = error_set(e, ERROR_CORRUPT, "%" PRIu64 " of %" PRIu64 " appends are damaged", v->damages, v->runs);
    return rv;
}
