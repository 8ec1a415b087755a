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

static int finish_trim(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_trimmed_cb *callback = (crsc_trimmed_cb *)call->callback;
    uint64_t first_offset = 0;
    if (e == NULL) {
        int rv = wire_decode_trimmed(f, &first_offset);
        if (rv != 0) return rv;
    }
    callback(call->user, e, first_offset);
    return 0;
}

int crsc_trim(struct crsc_client *c, const char *stream, uint64_t offset, bool force, crsc_trimmed_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_trim(&head, stream, offset, force);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_TRIM, &head, finish_trim, (void (*)(void))done, user, NULL);
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

static int finish_set_retention(struct call *call, const struct error *e, const struct frame *f)
{
    (void)f; /* the answer says nothing but that it was done */
    ((crsc_done_cb *)call->callback)(call->user, e);
    return 0;
}

int crsc_set_retention(struct crsc_client *c, const char *stream, const struct crsc_retention *retention, crsc_done_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_set_retention(&head, stream, retention);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_SET_RETENTION, &head, finish_set_retention, (void (*)(void))done, user, NULL);
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

static int finish_end(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_end_cb *callback = (crsc_end_cb *)call->callback;
    struct wire_decoded d = {0};
    if (e == NULL) {
        int rv = wire_decode_streams(f, &d);
        if (rv != 0) return rv;
    }
    const struct crsc_stream_info *info = d.items;
    callback(call->user, e, d.n == 1 ? info->last_offset : 0);
    wire_decoded_fini(&d);
    return 0;
}

int crsc_stream_end(struct crsc_client *c, const char *stream, crsc_end_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_stream_end(&head, stream);
    if (rv != 0) return rv;
    return client_call(&c->main, FRAME_LIST_STREAMS, &head, finish_end, (void (*)(void))done, user, NULL);
}

static int finish_change(struct call *call, const struct error *e, const struct frame *f)
{
    crsc_members_cb *callback = (crsc_members_cb *)call->callback;
    struct wire_decoded d = {0};
    uint64_t leader = 0;
    if (e == NULL) {
        int rv = wire_decode_members(f, &leader, &d);
        if (rv != 0) return rv;
    }
    callback(call->user, e, d.items, d.n, leader);
    wire_decoded_fini(&d);
    return 0;
}

int crsc_change_server(struct crsc_client *c, enum crsc_change change, uint64_t id, const char *address, bool force,
                       crsc_members_cb *done, void *user)
{
    struct buf head = BUF_INIT;
    int rv = wire_change(&head, id, address, force);
    if (rv != 0) return rv;
    return client_call(&c->main, (uint16_t)change, &head, finish_change, (void (*)(void))done, user, NULL);
}

static int finish_ask(struct call *call, const struct error *e, const struct frame *f)
{
    ((crsc_answer_cb *)call->callback)(call->user, e, f);
    return 0;
}

int crsc_ask(struct crsc_client *c, uint16_t type, const void *head, size_t head_len, crsc_answer_cb *done, void *user)
{
    struct buf copy = BUF_INIT;
    int rv = buf_add(&copy, head, head_len);
    if (rv != 0) return rv;
    return client_call(&c->main, type, &copy, finish_ask, (void (*)(void))done, user, NULL);
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
