/* Messages between servers, to and from the head of a frame (proto/raft.proto). The only file that sees those protobuf
 * types. Pure; thread: any. Whatever bytes come in: a message or ERROR_PROTOCOL, and memory bounded by the frame's. */
#ifndef CRSC_LOGD_CONSENSUS_RAFT_CODEC_H
#define CRSC_LOGD_CONSENSUS_RAFT_CODEC_H

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"
#include "logd/consensus/consensus.h"

/* Puts the message into `head` (emptied first). An AppendEntries' entries must be given in m->append.entries; their
 * payloads go into the frame's body, one behind the other, by the caller. -ERROR_NOMEM, -ERROR_TOO_LARGE. */
int raft_codec_encode(const struct consensus_message *m, struct buf *head);

struct raft_codec_message {
    struct consensus_message m;      /* entries point into the next */
    struct consensus_entry *entries; /* owned; payloads are references held here */
};
/* -ERROR_PROTOCOL, -ERROR_NOMEM. */
int raft_codec_decode(const struct frame *f, struct raft_codec_message *ret_message, struct error *e);
void raft_codec_message_fini(struct raft_codec_message *message);

/* Read probes (read_index.h): the round travels as the frame's id. Both directions carry the sender and its term. */
int raft_codec_encode_probe(uint64_t from, uint64_t term, struct buf *head);
int raft_codec_decode_probe(const struct frame *f, uint64_t *ret_from, uint64_t *ret_term, struct error *e);

#endif
