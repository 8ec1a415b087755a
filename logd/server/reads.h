/* Events out of the log: stream and offset -> run (streams, then index) -> the stored frame (wal) -> its events.
 * What is read is checked twice: the client's own checksum over the frame, and that it is the append the index means.
 * Applied, hence committed, events only. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_READS_H
#define CRSC_LOGD_SERVER_READS_H

#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "logd/server/rpc_codec.h"

struct node;
struct reads;
struct session;

enum { READS_BYTES_DEFAULT = 1 << 20, READS_BYTES_MAX = 4 << 20, READS_EVENTS_MAX = 4096 };

struct reads *reads_new(struct node *node);
struct reads *reads_free(struct reads *r);

/* Where an event of a stream is. -ERROR_CORRUPT when nobody knows, -ERROR_IO. */
int reads_find(struct reads *r, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e);

/* A Read request: answered at once. */
void reads_request(struct reads *r, struct session *s, const struct frame *f);

/* Events [from, to] of a stream (to 0: the end): the head of a ReadReply and its body in pieces, valid until the next call. At least
 * one event when there is one, else as many as max_bytes of payload and max_events allow, but that half of max_bytes is enough where
 * more would cut an append in two; n may be 0. `ret_next` is the offset after the last one. -ERROR_NOT_FOUND below the first offset,
 * -ERROR_CORRUPT, -ERROR_IO, -ERROR_NOMEM. */
struct reads_result {
    const struct buf *head;
    const struct frame_piece *pieces; /* of the body; into the appends as they were read */
    size_t n_pieces, bytes;           /* bytes: of the whole body */
    size_t n;
    uint64_t next;
};
int reads_events(struct reads *r, uint64_t stream_id, uint64_t from, uint64_t to, uint32_t max_bytes, uint32_t max_events,
                 struct reads_result *ret_result, struct error *e);

#endif
