#include "logd/server/donor.h"

#include "logd/server/node.h"
#include "logd/server/reads.h"
#include "logd/server/scrub.h"
#include "logd/server/session.h"
#include "logd/server/state_codec.h"
#include "logd/streams/run_reader.h"

static int read_entry(struct node *node, const struct state_record *r, struct buf *out, struct error *e)
{
    struct wal_entry entry;
    if (wal_term_at(node->wal, r->index) != r->term) return error_set(e, ERROR_NOT_FOUND, "entry %" PRIu64 " of term %" PRIu64 " is not here", r->index, r->term);
    int rv = wal_read(node->wal, r->index, &entry, e);
    if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) scrub_suspect_entry(node->scrub, r->index, e);
    if (rv != 0) return rv;
    rv = buf_add(out, entry.payload->data, entry.payload->len) == 0 ? 0 : error_set(e, ERROR_NOMEM, "no memory for an entry");
    blob_unref(entry.payload);
    return rv;
}

static int read_run(struct node *node, const struct state_record *r, struct buf *out, struct error *e)
{
    struct streams_info info;
    struct streams_run run;
    struct run_reader reader;
    if (streams_info(node->streams, r->stream, &info) != 0 || r->offset < info.first_offset || r->offset > info.last_offset)
        return error_set(e, ERROR_NOT_FOUND, "offset %" PRIu64 " of stream %" PRIu64 " is not here", r->offset, r->stream);
    int rv = reads_find(node->reads, r->stream, r->offset, &run, e);
    if (rv != 0) return rv;
    if (run.first_offset != r->offset || run.frame_len > FRAME_BODY_MAX) return error_set(e, ERROR_NOT_FOUND, "no append begins at offset %" PRIu64, r->offset);
    if (buf_reserve(out, run.frame_len) != 0) return error_set(e, ERROR_NOMEM, "no memory for an append");
    rv = wal_read_at(node->wal, run.where, run.frame_len, out->data, e);
    if (rv == 0) rv = run_open(&reader, &run, out->data, run.frame_len, run.first_offset, e);
    if (rv == 0) run_close(&reader);
    if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) scrub_suspect(node->scrub, run.where.segment, e);
    out->len = run.frame_len;
    return rv;
}

void donor_request(struct node *node, struct session *session, const struct frame *f)
{
    struct state_record r;
    struct error e;
    struct buf out = BUF_INIT, head = BUF_INIT;
    int rv = state_decode_record(f, &r, &e);
    if (rv == 0) rv = r.index != 0 ? read_entry(node, &r, &out, &e) : read_run(node, &r, &out, &e);
    if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) e.code = ERROR_UNAVAILABLE; /* damaged here as well */
    if (rv == 0 && out.len > FRAME_BODY_MAX) rv = error_set(&e, ERROR_TOO_LARGE, "a record of %zu bytes", out.len);
    if (rv != 0) session_fail(session, f->id, &e);
    else session_reply(session, FRAME_FETCH_RECORD | FRAME_REPLY, f->id, &head, out.data, out.len);
    buf_fini(&out);
}
