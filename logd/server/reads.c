#include "logd/server/reads.h"

#include <stdlib.h>
#include <string.h>

#include "logd/server/node.h"
#include "logd/server/scrub.h"
#include "logd/server/session.h"

enum { RUNS_AHEAD = 64 };

struct reads {
    struct node *node;
    struct run_event *events;   /* READS_EVENTS_MAX */
    struct frame_piece *pieces; /* as many: of one run's events each */
    size_t *places;             /* in `frames`, of the pieces: it moves while it grows */
    struct streams_run runs[RUNS_AHEAD]; /* what the index told when it was asked last, in this call */
    unsigned n_runs, run;
    struct buf head, frames;
};

/* One answer in the making. */
struct gathering {
    uint64_t stream_id, from, to;
    uint32_t max_bytes;
    size_t max_events;
    size_t n, n_pieces, bytes;
    bool full; /* a bound was met */
};

struct reads *reads_new(struct node *node)
{
    struct reads *r = calloc(1, sizeof *r);
    if (r == NULL) return NULL;
    r->node = node;
    r->events = calloc(READS_EVENTS_MAX, sizeof *r->events);
    r->pieces = calloc(READS_EVENTS_MAX, sizeof *r->pieces);
    r->places = calloc(READS_EVENTS_MAX, sizeof *r->places);
    return r->events != NULL && r->pieces != NULL && r->places != NULL ? r : reads_free(r);
}

struct reads *reads_free(struct reads *r)
{
    if (r == NULL) return NULL;
    free(r->events);
    free(r->pieces);
    free(r->places);
    buf_fini(&r->head);
    buf_fini(&r->frames);
    free(r);
    return NULL;
}

static int find_run(struct reads *r, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e)
{
    bool in_index = false;
    if (r->run < r->n_runs && offset == r->runs[r->run].first_offset) {
        *ret_run = r->runs[r->run++];
        return 0;
    }
    if (streams_find(r->node->streams, stream_id, offset, ret_run, &in_index) == 0) return 0;
    r->n_runs = 0;
    int rv = in_index ? index_find(r->node->index, stream_id, offset, r->runs, RUNS_AHEAD, &r->n_runs, e) : -ERROR_NOT_FOUND;
    if (rv == -ERROR_NOT_FOUND)
        return error_set(e, ERROR_CORRUPT, "offset %llu of a stream is missing from the index", (unsigned long long)offset);
    if (rv != 0) return rv;
    *ret_run = r->runs[0];
    r->run = 1;
    return 0;
}

int reads_find(struct reads *r, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e)
{
    r->n_runs = r->run = 0; /* what was looked up ahead is another question's */
    return find_run(r, stream_id, offset, ret_run, e);
}

/* The bytes of the append that a run is, behind what r->frames has; run_open() checks them. */
static int load_run(struct reads *r, const struct streams_run *run, struct error *e)
{
    if (run->frame_len < FRAME_HEADER || run->frame_len > FRAME_HEADER + FRAME_HEAD_MAX + FRAME_BODY_MAX)
        return error_set(e, ERROR_CORRUPT, "the index gives a frame of %u bytes", run->frame_len);
    if (buf_reserve(&r->frames, run->frame_len) != 0) return error_set(e, ERROR_NOMEM, "no memory to read %u bytes", run->frame_len);
    return wal_read_at(r->node->wal, run->where, run->frame_len, r->frames.data + r->frames.len, e);
}

/* Adds what one run has: its payloads lie behind each other, and stay where they were read to. */
static int add_run(struct reads *r, const struct streams_run *run, struct gathering *g, struct error *e)
{
    struct run_reader reader;
    struct run_event event;
    const uint8_t *begin = NULL;
    size_t bytes = 0;
    int rv = load_run(r, run, e);
    if (rv == 0) rv = run_open(&reader, run, r->frames.data + r->frames.len, run->frame_len, g->from + g->n, e);
    if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) {
        error_prefix(e, "segment %llu at %llu", (unsigned long long)run->where.segment, (unsigned long long)run->where.position);
        scrub_suspect(r->node->scrub, run->where.segment, e);
        return scrub_explain(r->node->scrub, run->where.segment, e);
    }
    if (rv != 0) return rv;
    while (run_next(&reader, &event)) {
        g->full = g->n == g->max_events || event.offset > g->to || (g->n > 0 && g->bytes + bytes + event.size > g->max_bytes);
        if (g->full) break;
        if (begin == NULL) begin = event.payload;
        bytes += event.size;
        r->events[g->n++] = event;
    }
    run_close(&reader);
    if (bytes == 0) return 0;
    r->places[g->n_pieces] = (size_t)(begin - r->frames.data);
    r->pieces[g->n_pieces++].len = bytes;
    r->frames.len += run->frame_len;
    g->bytes += bytes;
    return 0;
}

/* An append that would be cut is left for the next answer, where it need not be read twice, once this one is half full. */
static bool rather_later(const struct gathering *g, const struct streams_run *run)
{
    return g->bytes > g->max_bytes / 2 && g->bytes + run->frame_len > g->max_bytes;
}

static int gather(struct reads *r, struct gathering *g, struct error *e)
{
    int rv = 0;
    r->frames.len = 0;
    r->n_runs = r->run = 0;
    while (!g->full && g->n < g->max_events && g->from + g->n <= g->to) {
        struct streams_run run;
        size_t had = g->n;
        rv = find_run(r, g->stream_id, g->from + g->n, &run, e);
        if (rv == 0 && rather_later(g, &run)) break;
        if (rv == 0) rv = add_run(r, &run, g, e);
        if (rv == 0 && g->n == had && !g->full) rv = error_set(e, ERROR_CORRUPT, "a stored append does not hold its offsets");
        if (rv != 0) return rv;
    }
    for (size_t i = 0; i < g->n_pieces; i++) r->pieces[i].data = r->frames.data + r->places[i];
    return 0;
}

int reads_events(struct reads *r, uint64_t stream_id, uint64_t from, uint64_t to, uint32_t max_bytes, uint32_t max_events,
                 struct reads_result *ret_result, struct error *e)
{
    struct streams_info info;
    if (streams_info(r->node->streams, stream_id, &info) != 0) return error_set(e, ERROR_NOT_FOUND, "there is no such stream");
    if (from < info.first_offset)
        return error_set(e, ERROR_NOT_FOUND, "offset %llu is gone: the stream begins at %llu", (unsigned long long)from,
                         (unsigned long long)info.first_offset);
    struct gathering g = {.stream_id = stream_id, .from = from, .to = to == 0 || to > info.last_offset ? info.last_offset : to,
        .max_bytes = max_bytes == 0 ? READS_BYTES_DEFAULT : max_bytes > READS_BYTES_MAX ? READS_BYTES_MAX : max_bytes,
        .max_events = max_events == 0 || max_events > READS_EVENTS_MAX ? READS_EVENTS_MAX : max_events};
    int rv = gather(r, &g, e);
    if (rv != 0) return rv;
    rv = rpc_encode_events(r->events, g.n, info.last_offset, &r->head);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "the answer cannot be encoded");
    *ret_result = (struct reads_result){&r->head, r->pieces, g.n_pieces, g.bytes, g.n, from + g.n};
    return 0;
}

void reads_request(struct reads *r, struct session *s, const struct frame *f)
{
    struct rpc_read q;
    struct reads_result result;
    struct error e;
    int rv = rpc_decode_read(f, &q, &e);
    if (rv == 0) {
        uint64_t stream = streams_id(r->node->streams, q.stream, strlen(q.stream));
        if (stream == 0) rv = error_set(&e, ERROR_NOT_FOUND, "there is no stream %s", q.stream);
        else rv = reads_events(r, stream, q.from, q.to, q.max_bytes, q.max_events, &result, &e);
    }
    if (rv == -ERROR_CORRUPT) log_error("stored events are damaged", "stream=%s reason=%s", q.stream, e.text);
    if (rv != 0) session_fail(s, f->id, &e);
    else session_reply_pieces(s, FRAME_READ | FRAME_REPLY, f->id, result.head, result.pieces, result.n_pieces);
}
