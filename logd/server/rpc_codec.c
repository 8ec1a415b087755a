#include "logd/server/rpc_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/rpc.pb-c.h"
#include "proto/scratch.h"

static int pack(const ProtobufCMessage *m, struct buf *head)
{
    size_t size = protobuf_c_message_get_packed_size(m);
    if (size > FRAME_HEAD_MAX) return -ERROR_TOO_LARGE;
    head->len = 0;
    int rv = buf_reserve(head, size == 0 ? 1 : size);
    if (rv != 0) return rv;
    head->len = protobuf_c_message_pack(m, head->data);
    return 0;
}

/* protobuf-c wants char * that it never writes to. */
static char *text(const char *s)
{
    return (char *)(uintptr_t)(s == NULL ? "" : s);
}

static int not_a(const char *what, struct error *e)
{
    return error_set(e, ERROR_PROTOCOL, "the head of this frame is not a %s message", what);
}

static int copy(char ret[static RPC_NAME], const char *s, const char *what, struct error *e)
{
    size_t len = strlen(s);
    if (len >= RPC_NAME) return error_set(e, ERROR_INVALID, "%s has %zu bytes, at most %d are allowed", what, len, RPC_NAME - 1);
    memcpy(ret, s, len + 1);
    return 0;
}

static int copy_stream(char ret[static RPC_NAME], const char *s, struct error *e)
{
    if (s[0] == '\0') return error_set(e, ERROR_INVALID, "the stream's name is missing");
    return copy(ret, s, "the stream's name", e);
}

/* ---- hello, errors -------------------------------------------------------------------------------------------- */

int rpc_decode_hello(const struct frame *f, struct rpc_hello *ret_hello, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__Hello *m = crsc__hello__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("Hello", e);
    struct rpc_hello hello = {.version = m->version, .node_id = m->node_id};
    hello.instance = m->instance;
    int rv = copy(hello.cluster, m->cluster, "the cluster's name", e);
    if (rv == 0) rv = copy(hello.address, m->address, "the server's address", e);
    snprintf(hello.software, sizeof hello.software, "%s", m->software);
    crsc__hello__free_unpacked(m, memory);
    if (rv == 0) *ret_hello = hello;
    return rv;
}

int rpc_encode_hello(uint64_t node_id, const char *cluster, uint64_t instance, const char *address, struct buf *head)
{
    Crsc__Hello m = CRSC__HELLO__INIT;
    m.version = RPC_VERSION;
    m.node_id = node_id;
    m.cluster = text(cluster);
    m.instance = instance;
    m.address = text(address);
    m.software = text("crsc-logd " CRSC_VERSION);
    return pack(&m.base, head);
}

int rpc_encode_error(const struct rpc_error *error, struct buf *head)
{
    Crsc__ErrorReply m = CRSC__ERROR_REPLY__INIT;
    m.code = (uint32_t)error->code;
    m.text = text(error->text);
    m.leader_id = error->leader_id;
    m.leader_address = text(error->leader_address);
    m.expected = error->expected;
    return pack(&m.base, head);
}

int rpc_decode_error(const struct frame *f, struct error *ret_error, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__ErrorReply *m = crsc__error_reply__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("ErrorReply", e);
    error_set(ret_error, m->code < ERROR_CODE_MAX ? (enum error_code)m->code : ERROR_INTERNAL, "%s", m->text);
    crsc__error_reply__free_unpacked(m, memory);
    return 0;
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

int rpc_decode_record_snapshot(const struct frame *f, struct rpc_snapshot_key *ret_key, struct error *e)
{
    Crsc__RecordSnapshotRequest *m = crsc__record_snapshot_request__unpack(NULL, f->head_len, f->head);
    if (m == NULL) return not_a("RecordSnapshot", e);
    struct rpc_snapshot_key key = {0};
    int rv = m->snapshot == NULL ? error_set(e, ERROR_INVALID, "the snapshot is missing") : 0;
    if (rv == 0) rv = copy_stream(key.stream, m->snapshot->stream, e);
    if (rv == 0) rv = copy(key.id, m->snapshot->id, "the snapshot's id", e);
    crsc__record_snapshot_request__free_unpacked(m, NULL);
    if (rv == 0) *ret_key = key;
    return rv;
}

static void fill_snapshot(Crsc__Snapshot *m, const char *stream, const struct streams_snapshot *s)
{
    crsc__snapshot__init(m);
    m->stream = text(stream);
    m->id = text(s->id);
    m->offset = s->offset;
    m->state = (Crsc__SnapshotState)s->state;
    m->image = text(s->image);
    m->sha256 = text(s->sha256);
    m->size = s->size;
    m->node = text(s->node);
    m->template_hash = text(s->template_hash);
    m->started_us = s->started_us;
    m->finished_us = s->finished_us;
    m->reason = text(s->reason);
    m->recorded_us = s->recorded_us;
}

int rpc_encode_outcome(const struct streams_outcome *o, const char *stream, const struct streams_snapshot *snapshot,
                       struct buf *head)
{
    switch (o->type) {
    case FRAME_OPEN_PRODUCER: {
        Crsc__OpenProducerReply m = CRSC__OPEN_PRODUCER_REPLY__INIT;
        m.epoch = o->epoch;
        m.last_offset = o->offset;
        return pack(&m.base, head);
    }
    case FRAME_APPEND: {
        Crsc__AppendReply m = CRSC__APPEND_REPLY__INIT;
        m.first_offset = o->offset;
        m.count = o->count;
        m.duplicate = o->duplicate;
        return pack(&m.base, head);
    }
    case FRAME_FENCE: {
        Crsc__FenceReply m = CRSC__FENCE_REPLY__INIT;
        m.epoch = o->epoch;
        return pack(&m.base, head);
    }
    case FRAME_TRIM: {
        Crsc__TrimReply m = CRSC__TRIM_REPLY__INIT;
        m.first_offset = o->offset;
        return pack(&m.base, head);
    }
    case FRAME_SET_RETENTION: {
        Crsc__SetRetentionReply m = CRSC__SET_RETENTION_REPLY__INIT;
        return pack(&m.base, head);
    }
    case FRAME_RECORD_SNAPSHOT: {
        Crsc__RecordSnapshotReply m = CRSC__RECORD_SNAPSHOT_REPLY__INIT;
        Crsc__Snapshot s;
        if (snapshot != NULL) {
            fill_snapshot(&s, stream, snapshot);
            m.snapshot = &s;
        }
        return pack(&m.base, head);
    }
    default: return -ERROR_INTERNAL;
    }
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

int rpc_decode_read(const struct frame *f, struct rpc_read *ret_read, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__ReadRequest *m = crsc__read_request__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("Read", e);
    struct rpc_read read = {.from = m->from, .to = m->to, .max_bytes = m->max_bytes, .max_events = m->max_events};
    int rv = copy_stream(read.stream, m->stream, e);
    crsc__read_request__free_unpacked(m, memory);
    if (rv == 0 && read.from == 0) rv = error_set(e, ERROR_INVALID, "offsets begin at 1");
    if (rv == 0) *ret_read = read;
    return rv;
}

int rpc_decode_follow(const struct frame *f, struct rpc_follow *ret_follow, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__FollowRequest *m = crsc__follow_request__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("Follow", e);
    struct rpc_follow follow = {.from = m->from, .credit = m->credit, .wait = m->wait};
    int rv = copy_stream(follow.stream, m->stream, e);
    crsc__follow_request__free_unpacked(m, memory);
    if (rv == 0 && follow.from == 0) rv = error_set(e, ERROR_INVALID, "offsets begin at 1");
    if (rv == 0) *ret_follow = follow;
    return rv;
}

int rpc_decode_credit(const struct frame *f, uint32_t *ret_bytes, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__FollowCredit *m = crsc__follow_credit__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("FollowCredit", e);
    *ret_bytes = m->bytes;
    crsc__follow_credit__free_unpacked(m, memory);
    return 0;
}

static int decode_latest(const struct frame *f, struct rpc_query *q, struct error *e)
{
    Crsc__LatestSnapshotRequest *m = crsc__latest_snapshot_request__unpack(NULL, f->head_len, f->head);
    if (m == NULL) return not_a("LatestSnapshot", e);
    int rv = copy_stream(q->stream, m->stream, e);
    if (rv == 0) rv = copy(q->template_hash, m->template_hash, "the template hash", e);
    crsc__latest_snapshot_request__free_unpacked(m, NULL);
    return rv;
}

static int decode_list_snapshots(const struct frame *f, struct rpc_query *q, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__ListSnapshotsRequest *m = crsc__list_snapshots_request__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("ListSnapshots", e);
    int rv = copy_stream(q->stream, m->stream, e);
    crsc__list_snapshots_request__free_unpacked(m, memory);
    return rv;
}

int rpc_decode_query(const struct frame *f, struct rpc_query *ret_query, struct error *e)
{
    struct rpc_query q = {0};
    int rv = 0;
    if (f->type == FRAME_LATEST_SNAPSHOT) {
        q.linearizable = true;
        rv = decode_latest(f, &q, e);
    } else if (f->type == FRAME_LIST_SNAPSHOTS) {
        q.linearizable = true;
        rv = decode_list_snapshots(f, &q, e);
    } else if (f->type == FRAME_LIST_STREAMS) {
        struct scratch scratch;
        ProtobufCAllocator *memory = scratch_begin(&scratch);
        Crsc__ListStreamsRequest *m = crsc__list_streams_request__unpack(memory, f->head_len, f->head);
        if (m == NULL) return not_a("ListStreams", e);
        rv = copy(q.stream, m->prefix, "the prefix", e);
        q.linearizable = m->linearizable;
        q.exact = m->exact;
        crsc__list_streams_request__free_unpacked(m, memory);
    } else {
        struct scratch scratch;
        ProtobufCAllocator *memory = scratch_begin(&scratch);
        Crsc__StatusRequest *m = crsc__status_request__unpack(memory, f->head_len, f->head);
        if (m == NULL) return not_a("Status", e);
        q.linearizable = m->linearizable;
        q.brief = m->brief;
        crsc__status_request__free_unpacked(m, memory);
    }
    if (rv == 0) *ret_query = q;
    return rv;
}

int rpc_encode_events(const struct run_event *events, size_t n, uint64_t last_offset, struct buf *head)
{
    Crsc__ReadReply m = CRSC__READ_REPLY__INIT;
    Crsc__EventHead *list = calloc(n + 1, sizeof *list);
    Crsc__EventHead **pointers = calloc(n + 1, sizeof *pointers);
    int rv = list == NULL || pointers == NULL ? -ERROR_NOMEM : 0;
    for (size_t i = 0; rv == 0 && i < n; i++) {
        crsc__event_head__init(&list[i]);
        list[i].kind = (Crsc__EventKind)events[i].kind;
        list[i].after = events[i].after;
        list[i].size = events[i].size;
        list[i].ref = events[i].ref;
        list[i].offset = events[i].offset;
        list[i].epoch = events[i].epoch;
        list[i].sequence = events[i].sequence;
        list[i].time_us = events[i].time_us;
        pointers[i] = &list[i];
    }
    m.n_events = n;
    m.events = pointers;
    m.last_offset = last_offset;
    if (rv == 0) rv = pack(&m.base, head);
    free(pointers);
    free(list);
    return rv;
}

/* ---- queries -------------------------------------------------------------------------------------------------- */

int rpc_encode_snapshot(uint16_t type, const char *stream, const struct streams_snapshot *snapshots, size_t n, struct buf *head)
{
    Crsc__Snapshot *list = calloc(n + 1, sizeof *list);
    Crsc__Snapshot **pointers = calloc(n + 1, sizeof *pointers);
    int rv = list == NULL || pointers == NULL ? -ERROR_NOMEM : 0;
    for (size_t i = 0; rv == 0 && i < n; i++) {
        fill_snapshot(&list[i], stream, &snapshots[i]);
        pointers[i] = &list[i];
    }
    if (rv == 0 && type == FRAME_LATEST_SNAPSHOT) {
        Crsc__LatestSnapshotReply m = CRSC__LATEST_SNAPSHOT_REPLY__INIT;
        m.snapshot = pointers[0];
        rv = pack(&m.base, head);
    } else if (rv == 0) {
        Crsc__ListSnapshotsReply m = CRSC__LIST_SNAPSHOTS_REPLY__INIT;
        m.n_snapshots = n;
        m.snapshots = pointers;
        rv = pack(&m.base, head);
    }
    free(pointers);
    free(list);
    return rv;
}

static void fill_policy(Crsc__Retention *m, const struct streams_policy *p)
{
    crsc__retention__init(m);
    m->keep_snapshots = p->keep_snapshots;
    m->max_age_us = p->max_age_us;
    m->max_bytes = p->max_bytes;
    m->beyond_snapshots = p->beyond_snapshots;
}

int rpc_encode_retain(const char *stream, uint64_t offset, const struct streams_policy *policy, struct buf *head)
{
    Crsc__RetainRequest m = CRSC__RETAIN_REQUEST__INIT;
    Crsc__Retention retention;
    fill_policy(&retention, policy);
    m.stream = text(stream);
    m.offset = offset;
    m.retention = &retention;
    return pack(&m.base, head);
}

int rpc_encode_streams(const struct streams_info *streams, size_t n, struct buf *head)
{
    Crsc__ListStreamsReply m = CRSC__LIST_STREAMS_REPLY__INIT;
    Crsc__StreamInfo *list = calloc(n + 1, sizeof *list);
    Crsc__StreamInfo **pointers = calloc(n + 1, sizeof *pointers);
    Crsc__Retention *retentions = calloc(n + 1, sizeof *retentions);
    int rv = list == NULL || pointers == NULL || retentions == NULL ? -ERROR_NOMEM : 0;
    for (size_t i = 0; rv == 0 && i < n; i++) {
        crsc__stream_info__init(&list[i]);
        list[i].name = text(streams[i].name);
        list[i].first_offset = streams[i].first_offset;
        list[i].last_offset = streams[i].last_offset;
        list[i].epoch = streams[i].epoch;
        list[i].min_epoch = streams[i].min_epoch;
        list[i].bytes = streams[i].bytes;
        list[i].last_time_us = streams[i].last_time_us;
        list[i].snapshots_valid = streams[i].snapshots_valid;
        list[i].latest_snapshot_offset = streams[i].latest_snapshot_offset;
        list[i].producer = text(streams[i].producer);
        if (streams_policy_is_set(&streams[i].policy)) {
            fill_policy(&retentions[i], &streams[i].policy);
            list[i].retention = &retentions[i];
        }
        pointers[i] = &list[i];
    }
    m.n_streams = n;
    m.streams = pointers;
    if (rv == 0) rv = pack(&m.base, head);
    free(retentions);
    free(pointers);
    free(list);
    return rv;
}

enum { MEMBERS = 16 };

static void fill_members(const struct rpc_member *members, size_t n, Crsc__Member *list, Crsc__Member **pointers)
{
    for (size_t i = 0; i < n; i++) {
        crsc__member__init(&list[i]);
        list[i].id = members[i].id;
        list[i].address = text(members[i].address);
        list[i].role = text(members[i].voter ? "voter" : "standby");
        list[i].reachable = members[i].reachable;
        list[i].match_index = members[i].match;
        list[i].instance = members[i].instance;
        pointers[i] = &list[i];
    }
}

int rpc_encode_status(const struct rpc_status *s, struct buf *head)
{
    Crsc__StatusReply m = CRSC__STATUS_REPLY__INIT;
    Crsc__Member list[MEMBERS], *pointers[MEMBERS];
    if (s->n_members > MEMBERS) return -ERROR_TOO_LARGE;
    fill_members(s->members, s->n_members, list, pointers);
    m.node_id = s->node_id;
    m.cluster = text(s->cluster);
    m.role = text(s->role);
    m.term = s->term;
    m.leader_id = s->leader_id;
    m.leader_address = text(s->leader_address);
    m.commit_index = s->commit_index;
    m.applied_index = s->applied_index;
    m.persisted_index = s->persisted_index;
    m.durable_applied_index = s->durable_applied_index;
    m.first_index = s->first_index;
    m.last_index = s->last_index;
    m.streams = s->streams;
    m.log_bytes = s->log_bytes;
    m.started_us = s->started_us;
    if (s->cluster != NULL) m.version = text(CRSC_VERSION);
    m.alarm = text(s->alarm);
    Crsc__Scrub scrub = CRSC__SCRUB__INIT;
    scrub.passes = s->scrub.passes;
    scrub.bytes = s->scrub.bytes;
    scrub.found = s->scrub.found;
    scrub.repaired = s->scrub.repaired;
    scrub.damaged_segments = s->scrub.damaged;
    scrub.last_pass_us = s->scrub.last_pass_us;
    scrub.pass_bytes = s->scrub.pass_bytes;
    scrub.pass_of = s->scrub.pass_of;
    m.scrub = &scrub;
    m.n_members = s->n_members;
    m.members = pointers;
    return pack(&m.base, head);
}

int rpc_encode_status_request(bool linearizable, struct buf *head)
{
    Crsc__StatusRequest m = CRSC__STATUS_REQUEST__INIT;
    m.linearizable = linearizable;
    m.brief = true;
    return pack(&m.base, head);
}

int rpc_decode_alarm(const struct frame *f, size_t size, char *ret_alarm, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__StatusReply *m = crsc__status_reply__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("StatusReply", e);
    snprintf(ret_alarm, size, "%s", m->alarm);
    crsc__status_reply__free_unpacked(m, memory);
    return 0;
}

int rpc_decode_applied(const struct frame *f, uint64_t *ret_applied, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__StatusReply *m = crsc__status_reply__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("StatusReply", e);
    *ret_applied = m->applied_index;
    crsc__status_reply__free_unpacked(m, memory);
    return 0;
}
/* ---- membership ----------------------------------------------------------------------------------------------- */

int rpc_decode_change(const struct frame *f, struct rpc_change *ret_change, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__ChangeServerRequest *m = crsc__change_server_request__unpack(memory, f->head_len, f->head);
    if (m == NULL) return not_a("ChangeServer", e);
    struct rpc_change change = {.id = m->id, .force = m->force};
    int rv = copy(change.address, m->address, "the server's address", e);
    crsc__change_server_request__free_unpacked(m, memory);
    if (rv == 0 && change.id == 0 && f->type != FRAME_TRANSFER_LEADERSHIP) rv = error_set(e, ERROR_INVALID, "the server's id is missing");
    if (rv == 0) *ret_change = change;
    return rv;
}

int rpc_encode_members(const struct rpc_member *members, size_t n, uint64_t leader_id, struct buf *head)
{
    Crsc__MembersReply m = CRSC__MEMBERS_REPLY__INIT;
    Crsc__Member list[MEMBERS], *pointers[MEMBERS];
    if (n > MEMBERS) return -ERROR_TOO_LARGE;
    fill_members(members, n, list, pointers);
    m.n_members = n;
    m.members = pointers;
    m.leader_id = leader_id;
    return pack(&m.base, head);
}
