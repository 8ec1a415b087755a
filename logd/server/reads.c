#include "logd/server/reads.h"

#include <stdlib.h>
#include <string.h>

#include "logd/server/node.h"
#include "logd/server/session.h"

struct reads {
    struct node *node;
    struct run_event *events; /* READS_EVENTS_MAX */
    struct buf head, body, frame;
};

struct reads *reads_new(struct node *node)
{
    struct reads *r = calloc(1, sizeof *r);
    if (r == NULL) return NULL;
    r->node = node;
    if ((r->events = calloc(READS_EVENTS_MAX, sizeof *r->events)) == NULL) return reads_free(r);
    return r;
}

struct reads *reads_free(struct reads *r)
{
    if (r == NULL) return NULL;
    free(r->events);
    buf_fini(&r->head);
    buf_fini(&r->body);
    buf_fini(&r->frame);
    free(r);
    return NULL;
}

static int find_run(struct reads *r, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e)
{
    bool in_index = false;
    if (streams_find(r->node->streams, stream_id, offset, ret_run, &in_index) == 0) return 0;
    int rv = in_index ? index_find(r->node->index, stream_id, offset, ret_run, e) : -ERROR_NOT_FOUND;
    if (rv == -ERROR_NOT_FOUND)
        return error_set(e, ERROR_CORRUPT, "offset %llu of a stream is missing from the index", (unsigned long long)offset);
    return rv;
}

/* The bytes of the append that a run is, into r->frame; run_open() checks them. */
static int load_run(struct reads *r, const struct streams_run *run, struct error *e)
{
    if (run->frame_len < FRAME_HEADER || run->frame_len > FRAME_HEADER + FRAME_HEAD_MAX + FRAME_BODY_MAX)
        return error_set(e, ERROR_CORRUPT, "the index gives a frame of %u bytes", run->frame_len);
    r->frame.len = 0;
    if (buf_reserve(&r->frame, run->frame_len) != 0) return error_set(e, ERROR_NOMEM, "no memory to read %u bytes", run->frame_len);
    return wal_read_at(r->node->wal, run->where, run->frame_len, r->frame.data, e);
}

/* Adds what one run has from `from` on. Sets *ret_full when a bound was met. */
static int add_run(struct reads *r, const struct streams_run *run, uint64_t from, uint64_t to, uint32_t max_bytes,
                   size_t max_events, size_t *n, bool *ret_full, struct error *e)
{
    struct run_reader reader;
    struct run_event event;
    int rv = load_run(r, run, e);
    if (rv == 0) rv = run_open(&reader, run, r->frame.data, run->frame_len, from, e);
    if (rv != 0) {
        if (rv == -ERROR_CORRUPT)
            error_prefix(e, "segment %llu at %llu", (unsigned long long)run->where.segment, (unsigned long long)run->where.position);
        return rv;
    }
    while (!*ret_full && run_next(&reader, &event)) {
        if (*n == max_events || event.offset > to || (*n > 0 && r->body.len + event.size > max_bytes)) {
            *ret_full = true;
        } else if (buf_add(&r->body, event.payload, event.size) != 0) {
            rv = error_set(e, ERROR_NOMEM, "no memory for the answer");
            break;
        } else {
            r->events[(*n)++] = event;
        }
    }
    run_close(&reader);
    return rv;
}

int reads_events(struct reads *r, uint64_t stream_id, uint64_t from, uint64_t to, uint32_t max_bytes, uint32_t max_events,
                 struct reads_result *ret_result, struct error *e)
{
    struct streams_info info;
    size_t n = 0, most = max_events == 0 || max_events > READS_EVENTS_MAX ? READS_EVENTS_MAX : max_events;
    bool full = false;
    if (streams_info(r->node->streams, stream_id, &info) != 0) return error_set(e, ERROR_NOT_FOUND, "there is no such stream");
    if (from < info.first_offset)
        return error_set(e, ERROR_NOT_FOUND, "offset %llu is gone: the stream begins at %llu", (unsigned long long)from,
                         (unsigned long long)info.first_offset);
    if (max_bytes == 0) max_bytes = READS_BYTES_DEFAULT;
    if (max_bytes > READS_BYTES_MAX) max_bytes = READS_BYTES_MAX;
    if (to == 0 || to > info.last_offset) to = info.last_offset;
    r->body.len = 0;
    while (!full && n < most && from + n <= to) {
        struct streams_run run;
        size_t had = n;
        int rv = find_run(r, stream_id, from + n, &run, e);
        if (rv == 0) rv = add_run(r, &run, from + n, to, max_bytes, most, &n, &full, e);
        if (rv == 0 && n == had && !full) rv = error_set(e, ERROR_CORRUPT, "a stored append does not hold its offsets");
        if (rv != 0) return rv;
    }
    int rv = rpc_encode_events(r->events, n, info.last_offset, &r->head);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "the answer cannot be encoded");
    *ret_result = (struct reads_result){&r->head, &r->body, n, from + n};
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
    else session_reply(s, FRAME_READ | FRAME_REPLY, f->id, result.head, result.body->data, result.body->len);
}
