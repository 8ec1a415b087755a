#include "logd/server/sift.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/server/collate.h"
#include "logd/wal/disk.h"
#include "logd/wal/moved.h"
#include "logd/wal/segment.h"
#include "logd/wal/writer.h"

enum { LOOKS = 32, ROW_BYTES = 128 /* in the index, about */ };

int sift_init(struct sift *s, struct index *index, const char *dir)
{
    s->index = index;
    s->check.file.fd = -1;
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    s->runs = calloc(SIFT_RUNS, sizeof *s->runs);
    s->strays = calloc(SIFT_STRAYS, sizeof *s->strays);
    s->collate = collate_new(s->dir);
    return s->runs == NULL || s->strays == NULL || s->collate == NULL ? -ERROR_NOMEM : 0;
}

void sift_fini(struct sift *s)
{
    run_check_fini(&s->check);
    free(s->runs);
    free(s->strays);
    s->collate = collate_free(s->collate);
    s->runs = NULL;
    s->strays = NULL;
}

void sift_close(struct sift *s)
{
    raw_file_close(&s->check.file);
}

/* ---- the file ------------------------------------------------------------------------------------------------- */

static const uint8_t *read_file(void *user, uint64_t at, size_t len)
{
    return raw_file_read(user, at, len);
}

int sift_begin(struct sift *s, const struct wal_segment *segment, uint64_t until)
{
    uint64_t bytes = until != 0 ? until : segment->bytes;
    const struct sieve_options o = {.read = read_file, .user = &s->check.file, .id = segment->id, .bytes = bytes, .frames = moved_is(segment->id), .open = until != 0,
                                    .first_seq = segment->first_seq, .last_seq = segment->last_seq, .salt = segment->salt};
    char path[4096 + 64];
    s->segment = *segment;
    s->n_ranges = s->n_runs = s->n_checked = 0;
    s->more = false;
    if (writer_segment_path(path, sizeof path, s->dir, segment->id) != 0) return -ERROR_INVALID;
    sieve_begin(&s->sieve, &o);
    return raw_file_open(&s->check.file, disk_system(), path, bytes);
}

/* Of the last records the segment behind says what their checksum was. */
static void ask_next_segment(const struct sift *s, struct sieve_range *last)
{
    const struct disk *d = disk_system();
    char path[4096 + 64];
    uint8_t block[SEGMENT_HEADER];
    struct segment_header h;
    if (last->seq == 0 || last->next_seq != 0 || s->segment.last_seq == 0) return;
    if (writer_segment_path(path, sizeof path, s->dir, s->segment.id + 1) != 0) return;
    int fd = d->open(d, path, O_RDONLY);
    if (fd < 0) return;
    if (disk_read_all(d, fd, block, sizeof block, 0) == 0 && segment_header_decode(block, &h, NULL) == 0 && h.first_seq == s->segment.last_seq + 1) {
        last->next_seq = h.first_seq;
        last->next_chain = h.chain;
    }
    d->close(d, fd);
}

int sift_step(struct sift *s)
{
    uint64_t begun = s->check.file.loaded;
    struct sieve_range bad;
    enum sieve_answer answer = SIEVE_GOOD;
    while (answer != SIEVE_END && s->check.file.loaded - begun < SIFT_STEP) {
        answer = sieve_step(&s->sieve, &bad);
        if (answer != SIEVE_BAD) continue;
        if (s->n_ranges < SIFT_RANGES) s->ranges[s->n_ranges++] = bad;
        else s->more = true;
    }
    if (answer != SIEVE_END) return 1;
    if (s->n_ranges > 0) ask_next_segment(s, &s->ranges[s->n_ranges - 1]);
    return 0;
}

/* ---- the appends in it ---------------------------------------------------------------------------------------- */

static bool in_doubt(const struct sift *s, const struct streams_run *run)
{
    uint64_t from = run->where.position, to = from + run->frame_len;
    for (unsigned i = 0; i < s->n_ranges; i++)
        if (from < s->ranges[i].to && to > s->ranges[i].from) return true;
    return false;
}

static int on_run(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct sift *s = user;
    (void)e;
    if (run->where.segment != s->segment.id || !in_doubt(s, run)) return 0;
    if (s->n_runs < SIFT_RUNS) s->runs[s->n_runs++] = (struct sift_run){stream, *run};
    else s->more = true;
    return 0;
}

void sift_list(struct sift *s)
{
    s->stream = s->offset = 0;
}

int sift_list_step(struct sift *s, struct error *e)
{
    bool end = false;
    for (unsigned look = 0; look < LOOKS && !end; look++) {
        int rv = index_scan(s->index, &s->stream, &s->offset, SIFT_ROWS, on_run, s, &end, e);
        if (rv != 0) return rv;
        for (unsigned i = s->n_checked; i < s->n_runs;) {
            if (run_check(&s->check, &s->runs[i].run) == 0) s->runs[i] = s->runs[--s->n_runs];
            else i++;
        }
        s->n_checked = s->n_runs;
    }
    return !end;
}

/* ---- the index ------------------------------------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void doubt(struct sift *s, enum sift_doubt why, uint64_t stream, const struct streams_run *run)
{
    if (s->n_strays < SIFT_STRAYS) s->strays[s->n_strays++] = (struct sift_stray){why, stream, *run}; /* there is room for two of each row */
}

static int on_row(void *user, uint64_t stream, const struct streams_run *run, struct error *e)
{
    struct sift *s = user;
    (void)e;
    if (stream == s->row_stream && run->first_offset > s->row_next) {
        struct streams_run missing = {.first_offset = s->row_next, .count = 1};
        doubt(s, SIFT_GAP, stream, &missing);
    }
    s->row_stream = stream;
    s->row_next = run->first_offset + run->count;
    const uint64_t *id = bsearch(&run->where.segment, s->ids, s->n_ids, sizeof *s->ids, by_number);
    uint64_t size = id != NULL ? s->sizes[id - s->ids] : 0;
    bool there = id != NULL && run->where.position <= size && run->frame_len <= size - run->where.position;
    if (there) s->runs[s->n_runs++] = (struct sift_run){stream, *run}; /* SIFT_ROWS < SIFT_RUNS */
    else doubt(s, SIFT_NOWHERE, stream, run);
    return 0;
}

static void on_difference(void *user, const struct sift_run *row)
{
    doubt(user, SIFT_DIFFERS, row->stream, &row->run);
}

void sift_index(struct sift *s)
{
    s->stream = s->offset = 0;
    s->row_stream = s->row_next = 0;
}

void sift_segments(struct sift *s, const uint64_t *ids, const uint64_t *sizes, size_t n)
{
    s->ids = ids;
    s->sizes = sizes;
    s->n_ids = n;
}

int sift_index_step(struct sift *s, struct error *e)
{
    bool end = false;
    int rv = 0;
    s->n_strays = 0;
    s->cost = 0;
    for (unsigned look = 0; look < LOOKS && rv == 0 && !end && s->n_strays == 0 && s->cost < SIFT_STEP; look++) {
        s->n_runs = 0;
        rv = index_scan(s->index, &s->stream, &s->offset, SIFT_ROWS, on_row, s, &end, e);
        if (rv == 0) s->cost += s->n_runs * ROW_BYTES + collate_rows(s->collate, s->runs, s->n_runs, on_difference, s);
    }
    collate_close(s->collate); /* a file that goes meanwhile gives its room back */
    return rv != 0 ? rv : !end;
}
