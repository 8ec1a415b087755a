/* The frame: what travels on every CRSC connection, and what a Raft entry is made of.
 *
 *      0  u32  magic     "CRS1"
 *      4  u16  type      enum frame_type; FRAME_REPLY is set in an answer
 *      6  u16  flags     0 for now; a receiver ignores bits it does not know
 *      8  u64  id        chosen by the asking side; an answer repeats it
 *     16  u32  head_len  bytes of protobuf (proto/rpc.proto, raft.proto; by type)
 *     20  u32  body_len  bytes of raw payload behind it, never copied through protobuf
 *     24  u32  crc       CRC32C over bytes 0..23, head and body
 *     28  u32  reserved  0
 *     32  head, then body
 *
 * All integers are little-endian. The checksum is made once, by the client, and checked wherever the bytes are read:
 * by the leader, and again by whoever reads them back from a segment years later, because a Raft entry holds the
 * clients' frames as they came (logd/streams/entry.h).
 *
 * Pure: no I/O. Thread: any. */
#ifndef CRSC_COMMON_FRAME_H
#define CRSC_COMMON_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

enum {
    FRAME_HEADER = 32,
    FRAME_HEAD_MAX = 1 << 20,  /* bytes of protobuf in one frame */
    FRAME_BODY_MAX = 16 << 20, /* bytes of payload in one frame */
    FRAME_REPLY = 0x8000,
};

/* Wire numbers: never reuse one. What each carries is said at the message of the same name in proto/. */
enum frame_type {
    FRAME_HELLO = 1,           /* first on every connection, both ways */
    FRAME_ERROR = 2,           /* an answer: ErrorReply */
    FRAME_OPEN_PRODUCER = 16,  /* these seven are also the commands of a Raft entry */
    FRAME_APPEND = 17,
    FRAME_FENCE = 18,
    FRAME_RECORD_SNAPSHOT = 19,
    FRAME_TRIM = 20,
    FRAME_SET_RETENTION = 21,
    FRAME_RETAIN = 22,         /* never a client's: what the leader proposes for a stream's retention policy */
    FRAME_READ = 32,
    FRAME_FOLLOW = 33,
    FRAME_FOLLOW_CREDIT = 34,  /* no answer */
    FRAME_FOLLOW_CANCEL = 35,  /* no answer */
    FRAME_LATEST_SNAPSHOT = 36,
    FRAME_LIST_SNAPSHOTS = 37,
    FRAME_LIST_STREAMS = 38,
    FRAME_STATUS = 39,
    FRAME_ADD_SERVER = 40,     /* these four: ChangeServerRequest, MembersReply */
    FRAME_PROMOTE_SERVER = 41,
    FRAME_REMOVE_SERVER = 42,
    FRAME_TRANSFER_LEADERSHIP = 43,
    FRAME_RAFT = 64,           /* between servers: RaftMessage, no answer */
    FRAME_READ_PROBE = 65,     /* between servers: is the term still T? */
    FRAME_FETCH_STATE = 66,    /* between servers: a copy of the state, as a list of files */
    FRAME_FETCH_BYTES = 67,    /* between servers: a piece of one of them, in the answer's body */
    FRAME_FETCH_RECORD = 68,   /* between servers: an entry or an append, whose bytes are damaged where it is asked for, in the answer's body */
    FRAME_FOUNDERS = 69,       /* between servers, before there is a log: whom the sender has met, as the Membership that entry 1 would name; id 1: tell me yours, 0: an answer */
};

struct frame {
    uint16_t type; /* enum frame_type, perhaps with FRAME_REPLY */
    uint16_t flags;
    uint64_t id;
    const uint8_t *head; /* borrowed */
    size_t head_len;
    const uint8_t *body; /* borrowed */
    size_t body_len;
};

/* Looks for a whole frame at the start of the bytes.
 * Returns its size in bytes (> 0) and fills `ret_frame` with pointers into `data`;
 * 0 when more bytes are needed (nothing was refused yet);
 * -ERROR_PROTOCOL for a wrong magic, -ERROR_TOO_LARGE for lengths over the limits (both seen from the first
 * FRAME_HEADER bytes, before anything is allocated), -ERROR_CORRUPT for a wrong checksum. */
int64_t frame_decode(const uint8_t *data, size_t len, struct frame *ret_frame, struct error *e);

/* The size of the frame that starts with these FRAME_HEADER bytes (lengths checked, checksum not), or as above. */
int64_t frame_size(const uint8_t header[static FRAME_HEADER], struct error *e);

/* As frame_decode(), of a frame whose body need not be there: ret_frame->body is NULL, and the checksum is not looked at, so that the bytes may be wrong. For who
 * looks for a frame in a file, and reads it whole when it is the right one. */
int64_t frame_peek(const uint8_t *data, size_t len, struct frame *ret_frame, struct error *e);

/* For who has not all of it in one place: what its checksum begins with (crc32c() goes on over head and body), and what it must come to.
 * False: the header's own bytes are wrong. */
bool frame_checksum(const uint8_t header[static FRAME_HEADER], uint32_t *ret_begin, uint32_t *ret_wanted);

/* Appends the frame to `out`, computing its checksum. 0, -ERROR_TOO_LARGE or -ERROR_NOMEM. */
int frame_encode(struct buf *out, const struct frame *f);

/* As frame_encode() with a body in pieces: a sender with many payloads needs no copy of them in one place. */
struct frame_piece {
    const void *data; /* borrowed */
    size_t len;
};
int frame_encode_pieces(struct buf *out, const struct frame *f, const struct frame_piece *body, size_t n);

/* Bytes that this frame takes. */
static inline size_t frame_length(const struct frame *f)
{
    return FRAME_HEADER + f->head_len + f->body_len;
}

#endif
