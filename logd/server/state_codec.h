/* The messages by which a server fetches another's state (proto/raft.proto), from and to the head of a frame. Decoders refuse with
 * ERROR_PROTOCOL; encoders: 0, -ERROR_NOMEM or -ERROR_TOO_LARGE. Pure; thread: any. */
#ifndef CRSC_LOGD_SERVER_STATE_CODEC_H
#define CRSC_LOGD_SERVER_STATE_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"

enum { STATE_NAME_MAX = 64, STATE_FILES_MAX = 1 << 15, STATE_PIECE_MAX = 1 << 20 };

struct state_file {
    char name[STATE_NAME_MAX]; /* "index/data.mdb" or "wal/N.seg": nothing else is ever decoded */
    uint64_t size;
};

struct state_manifest {
    uint64_t id, applied_index, applied_term;
    struct buf members;
    struct state_file *files; /* owned */
    size_t n_files;
};
void state_manifest_fini(struct state_manifest *m);
int state_encode_manifest(const struct state_manifest *m, struct buf *head);
int state_decode_manifest(const struct frame *f, struct state_manifest *ret_manifest, struct error *e);

int state_encode_request(uint64_t index, struct buf *head);
int state_decode_request(const struct frame *f, uint64_t *ret_index, struct error *e);

struct state_piece {
    uint64_t id, offset;
    uint32_t file, length; /* length: 1 to STATE_PIECE_MAX */
};
int state_encode_piece(const struct state_piece *p, struct buf *head);
int state_decode_piece(const struct frame *f, struct state_piece *ret_piece, struct error *e);

/* A Raft entry (index, term), or the append of a stream that begins at an offset. */
struct state_record {
    uint64_t index, term, stream, offset;
};
int state_encode_record(const struct state_record *r, struct buf *head);
int state_decode_record(const struct frame *f, struct state_record *ret_record, struct error *e);

#endif
