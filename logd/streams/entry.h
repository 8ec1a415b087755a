/* What a Raft entry of ours contains: one group commit.
 *
 *      0  u64  time_us   wall time of the leader when it cut the entry, microseconds since 1970
 *      8  u32  count     frames that follow
 *     12  u32  reserved  0
 *     16  `count` frames (common/frame.h) exactly as clients sent them: FRAME_OPEN_PRODUCER, FRAME_APPEND,
 *         FRAME_FENCE, FRAME_RECORD_SNAPSHOT, FRAME_TRIM, FRAME_SET_RETENTION; and FRAME_RETAIN, of the leader itself
 *
 * Nothing is decoded and encoded again between the client's socket and the segment file, and the client's checksum
 * goes along. Pure; thread: any. */
#ifndef CRSC_LOGD_STREAMS_ENTRY_H
#define CRSC_LOGD_STREAMS_ENTRY_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"

enum { ENTRY_HEADER = 16 };

/* Starts an entry in an empty buf; then add whole frames' bytes with entry_add(). 0 or -ERROR_NOMEM. */
int entry_begin(struct buf *out, uint64_t time_us);
int entry_add(struct buf *out, const void *frame_bytes, size_t len);

struct entry_reader {
    const uint8_t *data; /* borrowed */
    size_t len;
    size_t at;      /* next byte */
    uint32_t left;  /* frames still to come */
    uint64_t time_us;
};

/* 0, or -ERROR_CORRUPT for bytes that are not an entry. */
int entry_open(struct entry_reader *r, const void *data, size_t len, struct error *e);

/* Next frame: 1 and its place inside the entry (`ret_at`, `ret_len`), 0 at the end, -ERROR_CORRUPT. */
int entry_next(struct entry_reader *r, struct frame *ret_frame, size_t *ret_at, size_t *ret_len, struct error *e);

#endif
