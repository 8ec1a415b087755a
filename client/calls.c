/* The calls of crsc.h that are one question and one answer: encode, hand to the client, decode. */
#include "client/internal.h"

static int finish_fence(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_fenced_cb *callback = (crsc_fenced_cb *)call->callback;
    uint64_t epoch = 0;
    if (e == NULL) {
        int rv = wire_decode_fenced(f, &epoch);
        if (rv != 0) return rv;
    }
    callback(call->user, e, epoch);
    return 0;
}

int crsc_fence(struct crsc_client *c, const char *stream, uint64_t epoch, crsc_fenced_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_fence(&head, stream, epoch);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_FENCE, &head, finish_fence, (void (*)(void))done, user, NULL);
}

static int finish_read(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_events_cb *callback = (crsc_events_cb *)call->callback;
    struct wire_decoded d = {0};
    if (e == NULL) {
        int rv = wire_decode_events(f, &d);
        if (rv != 0) return rv;
    }
    callback(call->user, e, d.items, d.n, d.last_offset);
    wire_decoded_fini(&d);
    return 0;
}

int crsc_read(struct crsc_client *c, const char *stream, uint64_t from, uint64_t to, uint32_t max_bytes,
              crsc_events_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_read(&head, stream, from, to, max_bytes);
    if (rv != 0) return rv;
    return client_call(&c->bulk, FRAME_READ, &head, finish_read, (void (*)(void))done, user, NULL);
}

static int finish_snapshots(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_snapshots_cb *callback = (crsc_snapshots_cb *)call->callback;
    struct wire_decoded d = {0};
    if (e == NULL) {
        int rv = call->type == FRAME_LIST_SNAPSHOTS ? wire_decode_snapshots(f, &d) : wire_decode_snapshot(f, &d);
        if (rv != 0) return rv;
    }
    callback(call->user, e, d.items, d.n);
    wire_decoded_fini(&d);
    return 0;
}

int crsc_record_snapshot(struct crsc_client *c, const struct crsc_snapshot *snapshot, crsc_snapshots_cb *done,
                         void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_record_snapshot(&head, snapshot);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_RECORD_SNAPSHOT, &head, finish_snapshots, (void (*)(void))done, user, NULL);
}

int crsc_latest_snapshot(struct crsc_client *c, const char *stream, const char *template_hash, crsc_snapshots_cb *done,
                         void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_latest_snapshot(&head, stream, template_hash);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_LATEST_SNAPSHOT, &head, finish_snapshots, (void (*)(void))done, user, NULL);
}

int crsc_list_snapshots(struct crsc_client *c, const char *stream, crsc_snapshots_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_list_snapshots(&head, stream);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_LIST_SNAPSHOTS, &head, finish_snapshots, (void (*)(void))done, user, NULL);
}

static int finish_streams(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_streams_cb *callback = (crsc_streams_cb *)call->callback;
    struct wire_decoded d = {0};
    if (e == NULL) {
        int rv = wire_decode_streams(f, &d);
        if (rv != 0) return rv;
    }
    callback(call->user, e, d.items, d.n);
    wire_decoded_fini(&d);
    return 0;
}

int crsc_list_streams(struct crsc_client *c, const char *prefix, crsc_streams_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_list_streams(&head, prefix);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_LIST_STREAMS, &head, finish_streams, (void (*)(void))done, user, NULL);
}

const char *crsc_snapshot_state_name(enum crsc_snapshot_state state)
{
    switch (state) {
    case CRSC_TAKING: return "taking";
    case CRSC_VALID: return "valid";
    case CRSC_FAILED: return "failed";
    case CRSC_DELETED: return "deleted";
    }
    return "unknown";
}
