/* Between the client's plain structs and the protobuf messages of proto/rpc.proto. The only file of the client that
 * knows generated code.
 *
 * Encoders append a message (a frame's head) to `out`: 0 or -ERROR_NOMEM. Decoders take a whole frame from the network,
 * trust nothing in it, and return -ERROR_PROTOCOL for what is not the message they look for. Pure; thread: any. */
#ifndef CRSC_CLIENT_WIRE_H
#define CRSC_CLIENT_WIRE_H

#include "client/crsc.h"
#include "common/buf.h"
#include "common/frame.h"

enum { WIRE_VERSION = 1 };

int wire_hello(struct buf *out, const char *software);
int wire_status(struct buf *out, bool linearizable);
int wire_open(struct buf *out, const char *stream, const char *producer, bool shared);
/* Heads only; the payloads are the frame's body, in the same order. */
int wire_append(struct buf *out, const char *stream, uint64_t epoch, uint64_t sequence, const struct crsc_event *events,
                size_t n);
int wire_fence(struct buf *out, const char *stream, uint64_t epoch);
int wire_trim(struct buf *out, const char *stream, uint64_t offset, bool force);
int wire_set_retention(struct buf *out, const char *stream, const struct crsc_retention *retention);
int wire_read(struct buf *out, const char *stream, uint64_t from, uint64_t to, uint32_t max_bytes);
int wire_follow(struct buf *out, const char *stream, uint64_t from, uint32_t credit);
int wire_credit(struct buf *out, uint32_t bytes);
int wire_record_snapshot(struct buf *out, const struct crsc_snapshot *snapshot);
int wire_latest_snapshot(struct buf *out, const char *stream, const char *template_hash);
int wire_list_snapshots(struct buf *out, const char *stream);
int wire_list_streams(struct buf *out, const char *prefix);
int wire_stream_end(struct buf *out, const char *stream); /* a linearizable ListStreams of the one */

/* An ErrorReply: what it says, as an error, and what comes with it. */
struct wire_refusal {
    struct error error;
    uint64_t expected;        /* see ErrorReply.expected */
    char leader_address[272]; /* "" when unknown */
};
int wire_decode_refusal(const struct frame *f, struct wire_refusal *ret_refusal);

int wire_decode_hello(const struct frame *f, struct error *e);
int wire_decode_opened(const struct frame *f, uint64_t *ret_epoch, uint64_t *ret_last_offset);
int wire_decode_appended(const struct frame *f, uint64_t *ret_first_offset, uint32_t *ret_count, bool *ret_duplicate);
int wire_decode_fenced(const struct frame *f, uint64_t *ret_epoch);
int wire_decode_trimmed(const struct frame *f, uint64_t *ret_first_offset);

/* The rest gives structures that point into the frame's body (payloads) and into `message`; wire_decoded_fini() frees
 * both. `items` is an array of the type named at the decoder. */
struct wire_decoded {
    void *message; /* protobuf; owned */
    void *items;   /* owned */
    size_t n;
    uint64_t last_offset; /* wire_decode_events() */
};
void wire_decoded_fini(struct wire_decoded *d);

int wire_decode_events(const struct frame *f, struct wire_decoded *ret_events); /* struct crsc_event */
/* One snapshot (the answers to record and latest) or the list. struct crsc_snapshot */
int wire_decode_snapshot(const struct frame *f, struct wire_decoded *ret_snapshot);
int wire_decode_snapshots(const struct frame *f, struct wire_decoded *ret_snapshots);
int wire_decode_streams(const struct frame *f, struct wire_decoded *ret_streams); /* struct crsc_stream_info */
/* items are the members; ret_status->members points to them. */
int wire_decode_status(const struct frame *f, struct crsc_status *ret_status, struct wire_decoded *ret_members);

int wire_change(struct buf *out, uint64_t id, const char *address, bool force);
int wire_decode_members(const struct frame *f, uint64_t *ret_leader_id, struct wire_decoded *ret_members); /* struct crsc_member */

#endif
