#include "logd/streams/testing.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "logd/streams/entry.h"
#include "proto/rpc.pb-c.h"

static void must(int rv)
{
    if (rv != 0) abort();
}

void testing_raw(struct buf *out, uint16_t type, const void *head, size_t head_len, const void *body, size_t body_len)
{
    struct frame f = {.type = type, .id = 7, .head = head, .head_len = head_len, .body = body, .body_len = body_len};
    must(frame_encode(out, &f));
}

static void add_message(struct buf *out, uint16_t type, const ProtobufCMessage *m, const struct buf *body)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *head = malloc(len + 1);
    if (head == NULL) abort();
    protobuf_c_message_pack(m, head);
    testing_raw(out, type, head, len, body != NULL ? body->data : NULL, body != NULL ? body->len : 0);
    free(head);
}

void testing_open(struct buf *out, const char *stream, const char *producer, bool shared)
{
    Crsc__OpenProducerRequest m = CRSC__OPEN_PRODUCER_REQUEST__INIT;
    m.stream = (char *)stream;
    m.producer = (char *)producer;
    m.shared = shared;
    add_message(out, FRAME_OPEN_PRODUCER, &m.base, NULL);
}

void testing_fence(struct buf *out, const char *stream, uint64_t epoch)
{
    Crsc__FenceRequest m = CRSC__FENCE_REQUEST__INIT;
    m.stream = (char *)stream;
    m.epoch = epoch;
    add_message(out, FRAME_FENCE, &m.base, NULL);
}

void testing_trim(struct buf *out, const char *stream, uint64_t offset, bool force)
{
    Crsc__TrimRequest m = CRSC__TRIM_REQUEST__INIT;
    m.stream = (char *)stream;
    m.offset = offset;
    m.force = force;
    add_message(out, FRAME_TRIM, &m.base, NULL);
}

static Crsc__Retention retention(const struct streams_policy *p)
{
    Crsc__Retention m = CRSC__RETENTION__INIT;
    m.keep_snapshots = p->keep_snapshots;
    m.max_age_us = p->max_age_us;
    m.max_bytes = p->max_bytes;
    m.beyond_snapshots = p->beyond_snapshots;
    return m;
}

void testing_set_retention(struct buf *out, const char *stream, const struct streams_policy *policy)
{
    Crsc__SetRetentionRequest m = CRSC__SET_RETENTION_REQUEST__INIT;
    Crsc__Retention r = retention(policy);
    m.stream = (char *)stream;
    m.retention = &r;
    add_message(out, FRAME_SET_RETENTION, &m.base, NULL);
}

void testing_retain(struct buf *out, const char *stream, uint64_t offset, const struct streams_policy *policy)
{
    Crsc__RetainRequest m = CRSC__RETAIN_REQUEST__INIT;
    Crsc__Retention r = retention(policy);
    m.stream = (char *)stream;
    m.offset = offset;
    m.retention = &r;
    add_message(out, FRAME_RETAIN, &m.base, NULL);
}

uint8_t testing_payload(const char *stream, uint64_t epoch, uint64_t sequence, uint32_t at)
{
    uint64_t sum = 0;
    for (const char *c = stream; *c != '\0'; c++) sum = sum * 3 + (uint8_t)*c;
    return (uint8_t)(sum + epoch * 31 + sequence * 131 + (sequence >> 8) + at * 7);
}

void testing_append(struct buf *out, const struct testing_append *a)
{
    Crsc__AppendRequest m = CRSC__APPEND_REQUEST__INIT;
    Crsc__EventHead *heads = calloc(a->n + 1, sizeof *heads);
    Crsc__EventHead **pointers = calloc(a->n + 1, sizeof(*pointers));
    struct buf body = BUF_INIT;
    if (heads == NULL || pointers == NULL) abort();
    for (uint32_t i = 0; i < a->n; i++) {
        struct testing_event event = a->events != NULL ? a->events[i] : (struct testing_event){.kind = 1, .size = 5};
        crsc__event_head__init(&heads[i]);
        heads[i].kind = (Crsc__EventKind)event.kind;
        heads[i].size = event.size;
        heads[i].after = event.after;
        heads[i].ref = event.ref;
        pointers[i] = &heads[i];
        for (uint32_t at = 0; at < event.size; at++) {
            uint8_t byte = testing_payload(a->stream, a->epoch, a->sequence + i, at);
            must(buf_add(&body, &byte, 1));
        }
    }
    for (int i = 0; i < a->body_extra; i++) must(buf_add(&body, "x", 1));
    if (a->body_extra < 0) body.len -= (size_t)-a->body_extra;
    m.stream = (char *)a->stream;
    m.epoch = a->epoch;
    m.sequence = a->sequence;
    m.events = pointers;
    m.n_events = a->n;
    m.if_last = a->if_last;
    m.last_offset = a->last_offset;
    add_message(out, FRAME_APPEND, &m.base, &body);
    buf_fini(&body);
    free(pointers);
    free(heads);
}

static char *text(const char *s)
{
    return s != NULL ? (char *)s : (char *)"";
}

void testing_snapshot(struct buf *out, const struct testing_snapshot *s)
{
    Crsc__RecordSnapshotRequest m = CRSC__RECORD_SNAPSHOT_REQUEST__INIT;
    Crsc__Snapshot snapshot = CRSC__SNAPSHOT__INIT;
    snapshot.stream = text(s->stream);
    snapshot.id = text(s->id);
    snapshot.offset = s->offset;
    snapshot.state = (Crsc__SnapshotState)s->state;
    snapshot.image = text(s->image);
    snapshot.sha256 = text(s->sha256);
    snapshot.node = text(s->node);
    snapshot.template_hash = text(s->template_hash);
    snapshot.reason = text(s->reason);
    snapshot.size = s->size;
    snapshot.started_us = s->started_us;
    snapshot.finished_us = s->finished_us;
    m.snapshot = &snapshot;
    add_message(out, FRAME_RECORD_SNAPSHOT, &m.base, NULL);
}

void testing_entry(struct buf *out, uint64_t time_us, const struct buf *frames)
{
    must(entry_begin(out, time_us));
    for (size_t at = 0; at < frames->len;) {
        int64_t size = frame_size(frames->data + at, NULL);
        if (size <= 0) abort();
        must(entry_add(out, frames->data + at, (size_t)size));
        at += (size_t)size;
    }
}

struct testing_random testing_seed(const char *test)
{
    const char *given = getenv("CRSC_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
    printf("%s: CRSC_SEED=%" PRIu64 "\n", test, seed);
    fflush(stdout);
    return (struct testing_random){seed};
}

uint64_t testing_next(struct testing_random *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t testing_below(struct testing_random *r, uint64_t n)
{
    return testing_next(r) % n;
}
