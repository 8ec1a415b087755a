/* Clients' messages, from and to the head of a frame (proto/rpc.proto). The only file here that sees those protobuf types.
 *
 * Decoders copy into plain structs with bounded strings and refuse with ERROR_INVALID what rpc.proto does not allow, with
 * ERROR_PROTOCOL what is no such message at all. Encoders empty `head` first; 0, -ERROR_NOMEM or -ERROR_TOO_LARGE.
 * Pure; thread: any. */
#ifndef CRSC_LOGD_SERVER_RPC_CODEC_H
#define CRSC_LOGD_SERVER_RPC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"
#include "logd/server/scrub.h"
#include "logd/streams/run_reader.h"
#include "logd/streams/streams.h"

enum { RPC_VERSION = 1, RPC_NAME = STREAMS_NAME_MAX + 1 /* with the zero */ };

struct rpc_hello {
    uint32_t version;
    char cluster[RPC_NAME];
    uint64_t node_id; /* 0: a client */
    char software[RPC_NAME];
    uint64_t instance; /* of a server: of its data directory */
    char address[RPC_NAME];
};
int rpc_decode_hello(const struct frame *f, struct rpc_hello *ret_hello, struct error *e);
int rpc_encode_hello(uint64_t node_id, const char *cluster, uint64_t instance, const char *address, struct buf *head);

struct rpc_error {
    enum error_code code;
    const char *text;
    uint64_t leader_id;
    const char *leader_address; /* NULL: unknown */
    uint64_t expected;
};
int rpc_encode_error(const struct rpc_error *error, struct buf *head);
/* For the connecting side: what an ErrorReply says. */
int rpc_decode_error(const struct frame *f, struct error *ret_error, struct error *e);

/* Which snapshot a RecordSnapshot command is about. */
struct rpc_snapshot_key {
    char stream[RPC_NAME], id[RPC_NAME];
};
int rpc_decode_record_snapshot(const struct frame *f, struct rpc_snapshot_key *ret_key, struct error *e);

/* The answer to a command that had its effect (outcome->code is ERROR_NONE). `snapshot` only with RecordSnapshot. */
int rpc_encode_outcome(const struct streams_outcome *outcome, const char *stream, const struct streams_snapshot *snapshot,
                       struct buf *head);

struct rpc_read {
    char stream[RPC_NAME];
    uint64_t from, to; /* to 0: no bound */
    uint32_t max_bytes, max_events;
};
int rpc_decode_read(const struct frame *f, struct rpc_read *ret_read, struct error *e);

struct rpc_follow {
    char stream[RPC_NAME];
    uint64_t from;
    uint32_t credit;
    bool wait;
};
int rpc_decode_follow(const struct frame *f, struct rpc_follow *ret_follow, struct error *e);
int rpc_decode_credit(const struct frame *f, uint32_t *ret_bytes, struct error *e);

/* LatestSnapshot, ListSnapshots, ListStreams, Status: what each does not have stays empty. */
struct rpc_query {
    bool brief; /* Status: without cluster, version and members */
    char stream[RPC_NAME]; /* ListStreams: the prefix */
    char template_hash[RPC_NAME];
    bool linearizable;
    bool exact; /* ListStreams: `stream` is a whole name */
};
int rpc_decode_query(const struct frame *f, struct rpc_query *ret_query, struct error *e);

/* A ReadReply's head; the payloads go into the body, one behind the other. */
int rpc_encode_events(const struct run_event *events, size_t n, uint64_t last_offset, struct buf *head);

/* A RetainRequest: a command of this server's own. */
int rpc_encode_retain(const char *stream, uint64_t offset, const struct streams_policy *policy, struct buf *head);

int rpc_encode_snapshot(uint16_t type, const char *stream, const struct streams_snapshot *list, size_t n, struct buf *head);
int rpc_encode_streams(const struct streams_info *list, size_t n, struct buf *head);

struct rpc_member {
    uint64_t id;
    const char *address;
    bool voter, reachable;
    uint64_t match, instance;
};
struct rpc_status {
    uint64_t node_id, term, leader_id, commit_index, applied_index, persisted_index, durable_applied_index, first_index,
        last_index, streams, log_bytes, started_us;
    const char *cluster, *role, *leader_address, *alarm;
    struct scrub_state scrub;
    const struct rpc_member *members;
    size_t n_members;
};
int rpc_encode_status(const struct rpc_status *status, struct buf *head); /* cluster NULL: a brief one */
/* For a server that asks another one: a brief Status, what is applied there, and its alarm (cut to the size). */
int rpc_encode_status_request(bool linearizable, struct buf *head);
int rpc_decode_alarm(const struct frame *f, size_t size, char *ret_alarm, struct error *e);
int rpc_decode_applied(const struct frame *f, uint64_t *ret_applied, struct error *e);

/* AddServer, PromoteServer, RemoveServer, TransferLeadership. */
struct rpc_change {
    uint64_t id;
    char address[RPC_NAME];
    bool force;
};
int rpc_decode_change(const struct frame *f, struct rpc_change *ret_change, struct error *e);
int rpc_encode_members(const struct rpc_member *members, size_t n, uint64_t leader_id, struct buf *head);

#endif
