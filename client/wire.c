#include "client/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/rpc.pb-c.h"

/* protobuf-c's strings are not const, though packing only reads them. */
static char *text(const char *s)
{
    return s != NULL ? (char *)(uintptr_t)s : (char *)(uintptr_t) "";
}

static int pack(struct buf *out, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    int rv = buf_reserve(out, size);
    if (rv != 0) return rv;
    protobuf_c_message_pack(message, out->data + out->len);
    out->len += size;
    return 0;
}

int wire_hello(struct buf *out, const char *software)
{
    Crsc__Hello m = CRSC__HELLO__INIT;
    m.version = WIRE_VERSION;
    m.software = text(software);
    return pack(out, &m.base);
}

int wire_status(struct buf *out, bool linearizable)
{
    Crsc__StatusRequest m = CRSC__STATUS_REQUEST__INIT;
    m.linearizable = linearizable;
    return pack(out, &m.base);
}

int wire_open(struct buf *out, const char *stream, const char *producer, bool shared)
{
    Crsc__OpenProducerRequest m = CRSC__OPEN_PRODUCER_REQUEST__INIT;
    m.stream = text(stream);
    m.producer = text(producer);
    m.shared = shared;
    return pack(out, &m.base);
}

int wire_append(struct buf *out, const char *stream, uint64_t epoch, uint64_t sequence, const struct crsc_event *events,
                size_t n)
{
    Crsc__AppendRequest m = CRSC__APPEND_REQUEST__INIT;
    Crsc__EventHead *heads = calloc(n > 0 ? n : 1, sizeof *heads);
    Crsc__EventHead **list = calloc(n > 0 ? n : 1, sizeof *list);
    int rv = -ERROR_NOMEM;
    if (heads != NULL && list != NULL) {
        for (size_t i = 0; i < n; i++) {
            crsc__event_head__init(&heads[i]);
            heads[i].kind = (Crsc__EventKind)events[i].kind;
            heads[i].after = events[i].after;
            heads[i].ref = events[i].ref;
            heads[i].size = events[i].size;
            list[i] = &heads[i];
        }
        m.stream = text(stream);
        m.epoch = epoch;
        m.sequence = sequence;
        m.n_events = n;
        m.events = list;
        rv = pack(out, &m.base);
    }
    free(list);
    free(heads);
    return rv;
}

int wire_fence(struct buf *out, const char *stream, uint64_t epoch)
{
    Crsc__FenceRequest m = CRSC__FENCE_REQUEST__INIT;
    m.stream = text(stream);
    m.epoch = epoch;
    return pack(out, &m.base);
}

int wire_trim(struct buf *out, const char *stream, uint64_t offset, bool force)
{
    Crsc__TrimRequest m = CRSC__TRIM_REQUEST__INIT;
    m.stream = text(stream);
    m.offset = offset;
    m.force = force;
    return pack(out, &m.base);
}

int wire_set_retention(struct buf *out, const char *stream, const struct crsc_retention *retention)
{
    Crsc__SetRetentionRequest m = CRSC__SET_RETENTION_REQUEST__INIT;
    Crsc__Retention r = CRSC__RETENTION__INIT;
    r.keep_snapshots = retention->keep_snapshots;
    r.max_age_us = retention->max_age_us;
    r.max_bytes = retention->max_bytes;
    r.beyond_snapshots = retention->beyond_snapshots;
    m.stream = text(stream);
    m.retention = &r;
    return pack(out, &m.base);
}

int wire_read(struct buf *out, const char *stream, uint64_t from, uint64_t to, uint32_t max_bytes)
{
    Crsc__ReadRequest m = CRSC__READ_REQUEST__INIT;
    m.stream = text(stream);
    m.from = from;
    m.to = to;
    m.max_bytes = max_bytes;
    return pack(out, &m.base);
}

int wire_follow(struct buf *out, const char *stream, uint64_t from, uint32_t credit)
{
    Crsc__FollowRequest m = CRSC__FOLLOW_REQUEST__INIT;
    m.stream = text(stream);
    m.from = from;
    m.credit = credit;
    m.wait = true;
    return pack(out, &m.base);
}

int wire_credit(struct buf *out, uint32_t bytes)
{
    Crsc__FollowCredit m = CRSC__FOLLOW_CREDIT__INIT;
    m.bytes = bytes;
    return pack(out, &m.base);
}

int wire_record_snapshot(struct buf *out, const struct crsc_snapshot *s)
{
    Crsc__Snapshot one = CRSC__SNAPSHOT__INIT;
    Crsc__RecordSnapshotRequest m = CRSC__RECORD_SNAPSHOT_REQUEST__INIT;
    one.stream = text(s->stream);
    one.id = text(s->id);
    one.offset = s->offset;
    one.state = (Crsc__SnapshotState)s->state;
    one.image = text(s->image);
    one.sha256 = text(s->sha256);
    one.size = s->size;
    one.node = text(s->node);
    one.template_hash = text(s->template_hash);
    one.started_us = s->started_us;
    one.finished_us = s->finished_us;
    one.reason = text(s->reason);
    m.snapshot = &one;
    return pack(out, &m.base);
}

int wire_latest_snapshot(struct buf *out, const char *stream, const char *template_hash)
{
    Crsc__LatestSnapshotRequest m = CRSC__LATEST_SNAPSHOT_REQUEST__INIT;
    m.stream = text(stream);
    m.template_hash = text(template_hash);
    return pack(out, &m.base);
}

int wire_list_snapshots(struct buf *out, const char *stream)
{
    Crsc__ListSnapshotsRequest m = CRSC__LIST_SNAPSHOTS_REQUEST__INIT;
    m.stream = text(stream);
    return pack(out, &m.base);
}

int wire_list_streams(struct buf *out, const char *prefix)
{
    Crsc__ListStreamsRequest m = CRSC__LIST_STREAMS_REQUEST__INIT;
    m.prefix = text(prefix);
    return pack(out, &m.base);
}

int wire_stream_end(struct buf *out, const char *stream)
{
    Crsc__ListStreamsRequest m = CRSC__LIST_STREAMS_REQUEST__INIT;
    m.prefix = text(stream);
    m.linearizable = m.exact = true;
    return pack(out, &m.base);
}

/* ---- decoding ------------------------------------------------------------------------------------------------- */

static void *unpack(const struct frame *f, const ProtobufCMessageDescriptor *type)
{
    return protobuf_c_message_unpack(type, NULL, f->head_len, f->head);
}

static void drop(void *message)
{
    if (message != NULL) protobuf_c_message_free_unpacked(message, NULL);
}

void wire_decoded_fini(struct wire_decoded *d)
{
    drop(d->message);
    free(d->items);
    *d = (struct wire_decoded){0};
}

/* The server's text goes into logs and onto terminals: nothing in it may move a cursor or end a line. */
static void copy_text(char *to, size_t size, const char *from)
{
    size_t n = 0;
    for (; from[n] != '\0' && n + 1 < size; n++)
        to[n] = (unsigned char)from[n] < 0x20 || from[n] == 0x7f ? '?' : from[n];
    to[n] = '\0';
}

int wire_decode_refusal(const struct frame *f, struct wire_refusal *ret_refusal)
{
    Crsc__ErrorReply *m = unpack(f, &crsc__error_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    struct wire_refusal r = {.expected = m->expected};
    /* A code of a newer server than we are: all we know is that it did not do it. */
    r.error.code = m->code > ERROR_NONE && m->code < ERROR_CODE_MAX ? (enum error_code)m->code : ERROR_INTERNAL;
    copy_text(r.error.text, sizeof r.error.text, m->text[0] != '\0' ? m->text : error_name((int)r.error.code));
    copy_text(r.leader_address, sizeof r.leader_address, m->leader_address);
    drop(m);
    *ret_refusal = r;
    return 0;
}

int wire_decode_hello(const struct frame *f, struct error *e)
{
    Crsc__Hello *m = unpack(f, &crsc__hello__descriptor);
    if (m == NULL) return error_set(e, ERROR_PROTOCOL, "its greeting cannot be read");
    uint32_t version = m->version;
    drop(m);
    if (version != WIRE_VERSION)
        return error_set(e, ERROR_PROTOCOL, "it speaks protocol version %u, this client %d: upgrade the older one",
                         version, WIRE_VERSION);
    return 0;
}

int wire_decode_opened(const struct frame *f, uint64_t *ret_epoch, uint64_t *ret_last_offset)
{
    Crsc__OpenProducerReply *m = unpack(f, &crsc__open_producer_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    uint64_t epoch = m->epoch, last = m->last_offset;
    drop(m);
    if (epoch == 0) return -ERROR_PROTOCOL;
    *ret_epoch = epoch;
    *ret_last_offset = last;
    return 0;
}

int wire_decode_appended(const struct frame *f, uint64_t *ret_first_offset, uint32_t *ret_count, bool *ret_duplicate)
{
    Crsc__AppendReply *m = unpack(f, &crsc__append_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    uint64_t first = m->first_offset;
    uint32_t count = m->count;
    bool duplicate = m->duplicate;
    drop(m);
    if (first == 0 || count == 0) return -ERROR_PROTOCOL;
    *ret_first_offset = first;
    *ret_count = count;
    *ret_duplicate = duplicate;
    return 0;
}

int wire_decode_fenced(const struct frame *f, uint64_t *ret_epoch)
{
    Crsc__FenceReply *m = unpack(f, &crsc__fence_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    *ret_epoch = m->epoch;
    drop(m);
    return 0;
}

int wire_decode_trimmed(const struct frame *f, uint64_t *ret_first_offset)
{
    Crsc__TrimReply *m = unpack(f, &crsc__trim_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    *ret_first_offset = m->first_offset;
    drop(m);
    return 0;
}

/* Room for n items behind a message; takes the message over in any case. */
static int decoded(struct wire_decoded *ret, void *message, size_t n, size_t size)
{
    void *items = calloc(n > 0 ? n : 1, size);
    if (items == NULL) {
        drop(message);
        return -ERROR_NOMEM;
    }
    *ret = (struct wire_decoded){.message = message, .items = items, .n = n};
    return 0;
}

int wire_decode_events(const struct frame *f, struct wire_decoded *ret_events)
{
    Crsc__ReadReply *m = unpack(f, &crsc__read_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    size_t total = 0;
    for (size_t i = 0; i < m->n_events; i++) {
        const Crsc__EventHead *h = m->events[i];
        total += h->size; /* bounded: the head has at most FRAME_HEAD_MAX bytes, so no overflow of 64 bits */
        bool dense = i == 0 ? h->offset > 0 : h->offset == m->events[i - 1]->offset + 1;
        if (!dense || h->kind < CRSC__EVENT_KIND__REQUEST || h->kind > CRSC__EVENT_KIND__MARK || total > f->body_len) {
            drop(m);
            return -ERROR_PROTOCOL;
        }
    }
    if (total != f->body_len) {
        drop(m);
        return -ERROR_PROTOCOL;
    }
    struct wire_decoded d;
    int rv = decoded(&d, m, m->n_events, sizeof(struct crsc_event));
    if (rv != 0) return rv;
    struct crsc_event *events = d.items;
    const uint8_t *payload = f->body;
    for (size_t i = 0; i < d.n; i++) {
        const Crsc__EventHead *h = m->events[i];
        events[i] = (struct crsc_event){.kind = (enum crsc_kind)h->kind,
                                        .after = h->after,
                                        .ref = h->ref,
                                        .payload = payload,
                                        .size = h->size,
                                        .offset = h->offset,
                                        .epoch = h->epoch,
                                        .sequence = h->sequence,
                                        .time_us = h->time_us};
        payload += h->size;
    }
    d.last_offset = m->last_offset;
    *ret_events = d;
    return 0;
}

static void snapshot_from(struct crsc_snapshot *to, const Crsc__Snapshot *s)
{
    *to = (struct crsc_snapshot){.stream = s->stream,
                                 .id = s->id,
                                 .offset = s->offset,
                                 .state = (enum crsc_snapshot_state)s->state,
                                 .image = s->image,
                                 .sha256 = s->sha256,
                                 .node = s->node,
                                 .template_hash = s->template_hash,
                                 .reason = s->reason,
                                 .size = s->size,
                                 .started_us = s->started_us,
                                 .finished_us = s->finished_us,
                                 .recorded_us = s->recorded_us};
}

int wire_decode_snapshot(const struct frame *f, struct wire_decoded *ret_snapshot)
{
    /* LatestSnapshotReply and RecordSnapshotReply are the same message by field number and type. */
    Crsc__LatestSnapshotReply *m = unpack(f, &crsc__latest_snapshot_reply__descriptor);
    if (m == NULL || m->snapshot == NULL) {
        drop(m);
        return -ERROR_PROTOCOL;
    }
    struct wire_decoded d;
    int rv = decoded(&d, m, 1, sizeof(struct crsc_snapshot));
    if (rv != 0) return rv;
    snapshot_from(d.items, m->snapshot);
    *ret_snapshot = d;
    return 0;
}

int wire_decode_snapshots(const struct frame *f, struct wire_decoded *ret_snapshots)
{
    Crsc__ListSnapshotsReply *m = unpack(f, &crsc__list_snapshots_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    struct wire_decoded d;
    int rv = decoded(&d, m, m->n_snapshots, sizeof(struct crsc_snapshot));
    if (rv != 0) return rv;
    struct crsc_snapshot *items = d.items;
    for (size_t i = 0; i < d.n; i++) snapshot_from(&items[i], m->snapshots[i]);
    *ret_snapshots = d;
    return 0;
}

int wire_decode_streams(const struct frame *f, struct wire_decoded *ret_streams)
{
    Crsc__ListStreamsReply *m = unpack(f, &crsc__list_streams_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    struct wire_decoded d;
    int rv = decoded(&d, m, m->n_streams, sizeof(struct crsc_stream_info));
    if (rv != 0) return rv;
    struct crsc_stream_info *items = d.items;
    for (size_t i = 0; i < d.n; i++) {
        const Crsc__StreamInfo *s = m->streams[i];
        items[i] = (struct crsc_stream_info){.name = s->name,
                                             .producer = s->producer,
                                             .first_offset = s->first_offset,
                                             .last_offset = s->last_offset,
                                             .epoch = s->epoch,
                                             .min_epoch = s->min_epoch,
                                             .bytes = s->bytes,
                                             .last_time_us = s->last_time_us,
                                             .latest_snapshot_offset = s->latest_snapshot_offset,
                                             .snapshots_valid = s->snapshots_valid};
        if (s->retention == NULL) continue;
        items[i].retention = (struct crsc_retention){.keep_snapshots = s->retention->keep_snapshots,
                                                     .max_age_us = s->retention->max_age_us,
                                                     .max_bytes = s->retention->max_bytes,
                                                     .beyond_snapshots = s->retention->beyond_snapshots != 0};
    }
    *ret_streams = d;
    return 0;
}

static void take_members(Crsc__Member **list, size_t n, struct crsc_member *members)
{
    for (size_t i = 0; i < n; i++)
        members[i] = (struct crsc_member){.id = list[i]->id, .address = list[i]->address, .role = list[i]->role, .reachable = list[i]->reachable,
                                          .match_index = list[i]->match_index, .instance = list[i]->instance};
}

int wire_change(struct buf *out, uint64_t id, const char *address, bool force)
{
    Crsc__ChangeServerRequest m = CRSC__CHANGE_SERVER_REQUEST__INIT;
    m.id = id;
    m.address = text(address);
    m.force = force;
    return pack(out, &m.base);
}

int wire_decode_members(const struct frame *f, uint64_t *ret_leader_id, struct wire_decoded *ret_members)
{
    Crsc__MembersReply *m = unpack(f, &crsc__members_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    struct wire_decoded d;
    int rv = decoded(&d, m, m->n_members, sizeof(struct crsc_member));
    if (rv != 0) return rv;
    take_members(m->members, d.n, d.items);
    *ret_leader_id = m->leader_id;
    *ret_members = d;
    return 0;
}

int wire_decode_status(const struct frame *f, struct crsc_status *ret_status, struct wire_decoded *ret_members)
{
    Crsc__StatusReply *m = unpack(f, &crsc__status_reply__descriptor);
    if (m == NULL) return -ERROR_PROTOCOL;
    struct wire_decoded d;
    int rv = decoded(&d, m, m->n_members, sizeof(struct crsc_member));
    if (rv != 0) return rv;
    struct crsc_member *members = d.items;
    take_members(m->members, d.n, members);
    Crsc__Scrub none = CRSC__SCRUB__INIT;
    const Crsc__Scrub *scrub = m->scrub != NULL ? m->scrub : &none;
    *ret_status = (struct crsc_status){.node_id = m->node_id,
                                       .term = m->term,
                                       .leader_id = m->leader_id,
                                       .commit_index = m->commit_index,
                                       .applied_index = m->applied_index,
                                       .persisted_index = m->persisted_index,
                                       .durable_applied_index = m->durable_applied_index,
                                       .first_index = m->first_index,
                                       .last_index = m->last_index,
                                       .streams = m->streams,
                                       .log_bytes = m->log_bytes,
                                       .started_us = m->started_us,
                                       .cluster = m->cluster,
                                       .role = m->role,
                                       .leader_address = m->leader_address,
                                       .version = m->version,
                                       .alarm = m->alarm,
                                       .scrub = {.passes = scrub->passes, .bytes = scrub->bytes, .found = scrub->found, .repaired = scrub->repaired,
                                                 .damaged_segments = scrub->damaged_segments, .last_pass_us = scrub->last_pass_us,
                                                 .pass_bytes = scrub->pass_bytes, .pass_of = scrub->pass_of},
                                       .members = members,
                                       .n_members = d.n};
    *ret_members = d;
    return 0;
}
