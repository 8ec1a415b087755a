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

/* Appends lie on the disk in the order they came in, and in the index by stream. Each stream's are in both orders alike (but for those that were moved), so it is a merge: of each
 * stream in turn what lies in the next group of segments, sorted by place and looked at; then the next group, from where each stream was left. A group is of so many segments as
 * one batch of rows is likely to be enough for: else the segments are read twice. No row is looked at twice, wherever it leads to. */
enum { ROWS_FIRST = 1 << 10, ROWS = 1 << 19, APPEND_LEAST = 128 /* bytes, about */ };

struct row {
    uint64_t stream;
    struct streams_run run;
};

struct segment {
    uint64_t id, live;
};

struct place { /* where a stream is gone on with */
    uint64_t stream, offset;
};

struct look {
    struct verification *v;
    char dir[PATH_MAX];
    struct row *rows; /* the batch */
    size_t n, cap, most;
    struct segment *segments;
    size_t n_segments, cap_segments, next_segment; /* next: the first one behind the group */
    uint64_t until;                                /* rows in segments up to it are the group's */
    struct place *places;                          /* of the streams, in the index' order */
    size_t n_places, cap_places, at;               /* at: the stream's that the pass is at, + 1 */
    struct run_check check;
    uint64_t segment; /* that check.file is of; 0: none */
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
    l->segment = 0;
    if (stat(path, &st) != 0 && errno != ENOENT) return error_errno(e, ERROR_IO, errno, "%s", path);
    if (raw_file_open(&l->check.file, disk_system(), path, (uint64_t)st.st_size) != 0) return error_set(e, ERROR_NOMEM, "no memory to read the log");
    int fd = l->check.file.fd;
    if (fd < 0) return error_errno(e, fd == -ENOENT ? ERROR_CORRUPT : ERROR_IO, -fd, "the index points to segment %" PRIu64 ": %s", segment, path);
    l->segment = segment;
    return 0;
}

/* *ret_segment: the damage is the segment's, not the row's. */
static int look_at(struct look *l, const struct row *row, bool *ret_segment, struct error *e)
{
    const struct streams_run *run = &row->run;
    *ret_segment = true;
    int rv = go_to(l, run->where.segment, e);
    if (rv != 0) return rv;
    rv = run_check(&l->check, run);
    if (rv == 0 || rv == -ERROR_NOMEM) return rv == 0 ? 0 : error_set(e, ERROR_NOMEM, "no memory for an append");
    *ret_segment = rv == -ERROR_CORRUPT;
    return error_set(e, ERROR_CORRUPT, "segment %" PRIu64 ", byte %" PRIu64 ": the events %" PRIu64 " to %" PRIu64 " of stream %" PRIu64 " are %s", run->where.segment,
                     run->where.position, run->first_offset, run->first_offset + run->count - 1, row->stream, rv == -ERROR_CORRUPT ? "damaged" : "not there, but others");
}

static int look_and_count(struct look *l, const struct row *row, struct error *e)
{
    struct verification *v = l->v;
    struct error why;
    bool segment;
    v->runs++;
    v->events += row->run.count;
    v->bytes += row->run.frame_len;
    if (v->on_progress != NULL && v->runs % 1024 == 0) v->on_progress(v->user, v->bytes);
    int rv = look_at(l, row, &segment, &why);
    if (rv == 0) return 0;
    if (rv == -ERROR_CORRUPT && v->damages++ == 0 && segment) v->damaged_segment = row->run.where.segment;
    if (rv == -ERROR_CORRUPT && v->all) {
        v->on_damage(v->user, &why);
        return 0;
    }
    if (e != NULL) *e = why;
    return rv;
}

/* ---- groups and batches --------------------------------------------------------------------------------------- */

/* Room for one more. */
static int grow(void *array, size_t n, size_t *cap, size_t size, struct error *e)
{
    void **list = array;
    if (n < *cap) return 0;
    size_t more = *cap == 0 ? ROWS_FIRST : 2 * *cap;
    void *grown = realloc(*list, more * size);
    if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory for a part of the index");
    *list = grown;
    *cap = more;
    return 0;
}

static int look_at_batch(struct look *l, struct error *e)
{
    int rv = 0;
    if (l->n > 0) qsort(l->rows, l->n, sizeof *l->rows, by_place);
    for (size_t i = 0; rv == 0 && i < l->n; i++) rv = look_and_count(l, &l->rows[i], e);
    l->n = 0;
    return rv;
}

static void next_group(struct look *l)
{
    const struct verification *v = l->v;
    uint64_t bytes = 0, append = v->runs > 0 ? v->bytes / v->runs / 4 * 3 : 0, least = l->most * (append > APPEND_LEAST ? append : APPEND_LEAST);
    while (l->next_segment < l->n_segments && bytes < least) bytes += l->segments[l->next_segment++].live;
    l->until = l->next_segment < l->n_segments ? l->segments[l->next_segment - 1].id : UINT64_MAX; /* the last group: wherever a row leads to */
    l->at = 0;
}

static int each_segment(void *user, uint64_t segment, uint64_t live_bytes, struct error *e)
{
    struct look *l = user;
    int rv = grow(&l->segments, l->n_segments, &l->cap_segments, sizeof *l->segments, e);
    if (rv == 0) l->segments[l->n_segments++] = (struct segment){segment, live_bytes};
    return rv;
}

static uint64_t from(void *user, uint64_t stream)
{
    struct look *l = user;
    if (l->until == 0) next_group(l); /* the first pass: all segments are known */
    while (l->at < l->n_places && l->places[l->at].stream < stream) l->at++;
    return l->at < l->n_places && l->places[l->at].stream == stream ? l->places[l->at].offset : 0;
}

/* Where this stream is gone on with; the first pass meets all of them, in their order. */
static int keep_place(struct look *l, uint64_t stream, uint64_t offset, struct error *e)
{
    if (l->at == l->n_places) {
        int rv = grow(&l->places, l->n_places, &l->cap_places, sizeof *l->places, e);
        if (rv != 0) return rv;
        l->n_places++;
    }
    l->places[l->at] = (struct place){stream, offset};
    return 0;
}

static int each_run(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct look *l = user;
    bool mine = run->where.segment <= l->until;
    int rv = keep_place(l, stream, mine ? run->first_offset + 1 : run->first_offset, e);
    if (rv != 0) return rv;
    if (!mine) return INDEX_NEXT_STREAM;
    if (l->n == l->most) rv = look_at_batch(l, e);
    if (rv == 0) rv = grow(&l->rows, l->n, &l->cap, sizeof *l->rows, e);
    if (rv == 0) l->rows[l->n++] = (struct row){stream, *run};
    return rv;
}

static int again(void *user, struct error *e)
{
    struct look *l = user;
    int rv = look_at_batch(l, e);
    if (rv != 0 || l->until == UINT64_MAX) return rv;
    next_group(l);
    return 1;
}

static int look_at_all(struct look *l, const char *index, uint64_t *ret_applied, struct error *e)
{
    const struct index_inspection inspection = {.each_segment = each_segment, .each_run = each_run, .from = from, .again = again, .user = l};
    struct error other;
    int rv = index_inspect(index, &inspection, ret_applied, e);
    if (rv != -ERROR_CORRUPT || !l->v->all) return rv;
    int rest = look_at_batch(l, &other); /* what was found before the index' own damage */
    if (rest != 0) {
        *e = other;
        return rest;
    }
    l->v->damages++;
    l->v->on_damage(l->v->user, e);
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
    free(l.segments);
    free(l.places);
    if (rv == 0 && v->expected_applied != 0 && applied != v->expected_applied)
        rv = error_set(e, ERROR_CORRUPT, "the index has applied entry %" PRIu64 ", not %" PRIu64, applied, v->expected_applied);
    if (rv == 0) v->expected_applied = applied;
    if (rv == 0 && v->damages > 0) rv = error_set(e, ERROR_CORRUPT, "%" PRIu64 " of %" PRIu64 " appends are damaged", v->damages, v->runs);
    return rv;
}
