/* Looks at one segment, or at the index, and lists what is damaged: the worker's half of the scrub (scrub.h).
 *
 * A segment is looked at by itself first (wal/sieve.h). When something is wrong with one that Raft does not need any more, the index says which appends
 * are there, and each of those in doubt is checked by the client's own checksum and by what the index knows of it: bytes that nobody needs may be what they like.
 *
 * Blocking, in steps. Thread: one at a time; begin and end on the loop's, the steps on a worker's. */
#ifndef CRSC_LOGD_SERVER_SIFT_H
#define CRSC_LOGD_SERVER_SIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/index/index.h"
#include "logd/server/run_check.h"
#include "logd/wal/sieve.h"
#include "logd/wal/wal.h"

enum { SIFT_RANGES = 128, SIFT_RUNS = 4096, SIFT_ROWS = 512 /* of the index at a look */, SIFT_STEP = 1 << 20, SIFT_STRAYS = 2 * SIFT_ROWS };

struct sift_run {
    uint64_t stream;
    struct streams_run run;
};

/* A row of the index that may be wrong, if it is not one that has changed, or whose segment has come or gone, since it was read. */
struct sift_stray {
    enum sift_doubt {
        SIFT_NOWHERE, /* its place is in none of the segments */
        SIFT_DIFFERS, /* another append than the one that it means is there, or none */
        SIFT_GAP,     /* there is no row of run.first_offset, though there are some before and behind it */
    } doubt;
    uint64_t stream;
    struct streams_run run;
};

struct collate;

struct sift {
    struct index *index; /* borrowed */
    char dir[4096];      /* of the log */
    struct wal_segment segment;
    struct run_check check; /* check.file: the segment */
    struct sieve sieve;
    struct sieve_range ranges[SIFT_RANGES];
    unsigned n_ranges;
    bool more; /* ranges or runs than there is room for: the next look finds them */
    uint64_t stream, offset; /* the look at the index goes on there */
    struct sift_run *runs;   /* SIFT_RUNS */
    unsigned n_runs, n_checked; /* of which n_checked were looked at, and are damaged */
    /* the look at the index */
    const uint64_t *ids; /* of the segments, ascending, borrowed */
    const uint64_t *sizes;
    size_t n_ids;
    struct collate *collate;
    uint64_t row_stream, row_next; /* of the last row, and the offset behind it; 0: there was none */
    struct sift_stray *strays;     /* SIFT_STRAYS; of the last step */
    unsigned n_strays;
    uint64_t cost; /* of the last step, in bytes read */
};

int sift_init(struct sift *s, struct index *index, const char *dir); /* -ERROR_NOMEM */
void sift_fini(struct sift *s);

/* Begins to look at a sealed segment, or (`until` not 0) at what is settled of the newest one. -ERROR_NOMEM. */
int sift_begin(struct sift *s, const struct wal_segment *segment, uint64_t until);
/* 1: there is more to do. 0: s->ranges are what is damaged in the file. */
int sift_step(struct sift *s);

/* Then, of a segment that is not Raft's: 1: there is more to do; 0: s->runs[0..n_checked) are the damaged appends; or an error of the index. */
void sift_list(struct sift *s);
int sift_list_step(struct sift *s, struct error *e);

/* Every row of the index: can it be read (-ERROR_CORRUPT: no), does it go on where the one before ends, is its place within a segment, and is the append that it means there
 * (collate.h)? 1: there is more to do. After each step the strays are to be looked at, and the segments told anew. */
void sift_index(struct sift *s);
void sift_segments(struct sift *s, const uint64_t *ids, const uint64_t *sizes, size_t n);
int sift_index_step(struct sift *s, struct error *e);

void sift_close(struct sift *s); /* the file */

#endif
