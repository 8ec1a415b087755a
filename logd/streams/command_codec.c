#include "logd/streams/command_codec.h"

#include <string.h>

#include "logd/streams/policy.h"
#include "proto/rpc.pb-c.h"

/* ---- memory: protobuf-c allocates from the arena and frees nothing -------------------------------------------- */

static void *allocate(void *data, size_t size)
{
    return arena_alloc(data, size);
}

static void release(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

/* ---- the scan: how many fields are there? --------------------------------------------------------------------- */

/* Bounds what unpacking allocates. The largest honest message is an append of STREAMS_BATCH_MAX events, each of at
 * most 8 fields; the slack is for fields that a later version may add. */
enum { FIELDS_MAX = STREAMS_BATCH_MAX + 64, NESTED_FIELDS_MAX = 64 };

struct scan {
    const uint8_t *p, *end;
};

static bool scan_varint(struct scan *s, uint64_t *ret)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 70 && s->p < s->end; shift += 7) {
        uint8_t b = *s->p++;
        if (shift < 64) v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *ret = v;
            return true;
        }
    }
    return false;
}

/* Skips one field; for a length-delimited one `ret_inside` is its content, otherwise empty. */
static bool scan_field(struct scan *s, uint64_t *ret_field, struct scan *ret_inside)
{
    uint64_t tag, v, skip = 0;
    if (!scan_varint(s, &tag)) return false;
    *ret_field = tag >> 3;
    *ret_inside = (struct scan){s->p, s->p};
    switch (tag & 7) {
    case 0: return scan_varint(s, &v);
    case 1: skip = 8; break;
    case 2:
        if (!scan_varint(s, &skip)) return false;
        break;
    case 5: skip = 4; break;
    default: return false;
    }
    if (skip > (uint64_t)(s->end - s->p)) return false;
    *ret_inside = (struct scan){s->p, s->p + skip};
    s->p += skip;
    return true;
}

/* `nested` is the number of the one field that is a message itself. */
static int scan_message(const struct frame *f, uint64_t nested, struct error *e)
{
    struct scan top = {f->head, f->head + f->head_len}, inside, inner;
    uint64_t field;
    for (unsigned fields = 0; top.p < top.end; fields++) {
        if (fields == FIELDS_MAX)
            return error_set(e, ERROR_TOO_LARGE, "a command has more than %d fields", FIELDS_MAX);
        if (!scan_field(&top, &field, &inside)) return error_set(e, ERROR_INVALID, "a command's head is no protobuf");
        if (field != nested) continue;
        for (unsigned n = 0; inside.p < inside.end; n++)
            if (n == NESTED_FIELDS_MAX || !scan_field(&inside, &field, &inner))
                return error_set(e, ERROR_INVALID, "a message within a command is no protobuf of ours");
    }
    return 0;
}

static int unpack(const struct frame *f, const ProtobufCMessageDescriptor *type, uint64_t nested, struct arena *arena,
                  void **ret_message, struct error *e)
{
    int rv = scan_message(f, nested, e);
    if (rv != 0) return rv;
    ProtobufCAllocator allocator = {allocate, release, arena};
    *ret_message = protobuf_c_message_unpack(type, &allocator, f->head_len, f->head);
    if (*ret_message != NULL) return 0;
    if (arena->failed) return error_set(e, ERROR_NOMEM, "no memory to decode a command");
    return error_set(e, ERROR_INVALID, "a command's head is no %s", type->short_name);
}

/* ---- checks --------------------------------------------------------------------------------------------------- */

static bool name_char(char c, bool slash)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-' || (slash && c == '/');
}

static int check_length(const char *what, const char *text, size_t min, size_t max, struct error *e)
{
    size_t len = strlen(text);
    if (len < min) return error_set(e, ERROR_INVALID, "a command without a %s", what);
    if (len > max) return error_set(e, ERROR_TOO_LARGE, "a %s of %zu bytes, the limit is %zu", what, len, max);
    return 0;
}

static int check_name(const char *what, const char *name, bool slash, struct error *e)
{
    int rv = check_length(what, name, 1, STREAMS_NAME_MAX, e);
    for (const char *p = name; rv == 0 && *p != '\0'; p++)
        if (!name_char(*p, slash))
            rv = error_set(e, ERROR_INVALID, "a %s may hold only A-Z a-z 0-9 . _ -%s", what, slash ? " /" : "");
    return rv;
}

static int take_stream(struct command *c, const char *name, struct error *e)
{
    c->stream = name;
    c->stream_len = strlen(name);
    return check_name("stream name", name, true, e);
}

static int check_no_body(const struct frame *f, struct error *e)
{
    return f->body_len == 0 ? 0 : error_set(e, ERROR_INVALID, "a command that takes no payload has %zu bytes", f->body_len);
}

/* ---- the commands --------------------------------------------------------------------------------------------- */

static int parse_open(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__open_producer_request__descriptor, 0, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__OpenProducerRequest *m = message;
    c->open = (struct command_open){m->producer, strlen(m->producer), m->shared != 0};
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    if ((rv = check_length("producer name", m->producer, 1, STREAMS_NAME_MAX, e)) != 0) return rv;
    return check_no_body(f, e);
}

static int take_events(const struct frame *f, const Crsc__AppendRequest *m, struct arena *arena, struct command *c,
                       struct error *e)
{
    if (m->n_events < 1) return error_set(e, ERROR_INVALID, "an append without an event");
    if (m->n_events > STREAMS_BATCH_MAX)
        return error_set(e, ERROR_TOO_LARGE, "an append of %zu events, the limit is %d", m->n_events, STREAMS_BATCH_MAX);
    struct command_event *events = arena_alloc(arena, m->n_events * sizeof *events);
    if (events == NULL) return error_set(e, ERROR_NOMEM, "no memory for an append's events");
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_events; i++) {
        const Crsc__EventHead *h = m->events[i];
        int kind = (int)h->kind; /* proto3's enums are open: any number may come */
        if (kind < COMMAND_REQUEST || kind > COMMAND_MARK)
            return error_set(e, ERROR_INVALID, "event %zu of an append is of no known kind (%d)", i, kind);
        events[i] = (struct command_event){(uint32_t)kind, h->size, h->after, h->ref};
        bytes += h->size;
    }
    if (bytes != f->body_len)
        return error_set(e, ERROR_INVALID, "an append's events claim %llu bytes, its body has %zu",
                         (unsigned long long)bytes, f->body_len);
    c->append.events = events;
    c->append.n = (uint32_t)m->n_events;
    return 0;
}

static int parse_append(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__append_request__descriptor, 4, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__AppendRequest *m = message;
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    if (m->epoch == 0 || m->epoch > COMMAND_NUMBER_MAX)
        return error_set(e, ERROR_INVALID, "an append without an epoch: open a producer first");
    if (m->sequence == 0 || m->sequence > COMMAND_NUMBER_MAX)
        return error_set(e, ERROR_INVALID, "an append without a sequence: an epoch's first is 1");
    c->append = (struct command_append){
        .epoch = m->epoch, .sequence = m->sequence, .if_last = m->if_last != 0, .last_offset = m->last_offset};
    return take_events(f, m, arena, c, e);
}

static int parse_fence(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__fence_request__descriptor, 0, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__FenceRequest *m = message;
    c->fence = m->epoch;
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    if (m->epoch > COMMAND_NUMBER_MAX) return error_set(e, ERROR_INVALID, "a fence above every possible epoch");
    return check_no_body(f, e);
}

static int parse_trim(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__trim_request__descriptor, 0, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__TrimRequest *m = message;
    c->trim.offset = m->offset;
    c->trim.force = m->force != 0;
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    return check_no_body(f, e);
}

static int take_policy(const Crsc__Retention *m, struct streams_policy *ret_policy, struct error *e)
{
    *ret_policy = (struct streams_policy){0};
    if (m == NULL) return 0;
    *ret_policy = (struct streams_policy){.keep_snapshots = m->keep_snapshots, .max_age_us = m->max_age_us, .max_bytes = m->max_bytes,
                                          .beyond_snapshots = m->beyond_snapshots != 0};
    return policy_check(ret_policy, e);
}

static int parse_set_retention(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__set_retention_request__descriptor, 2, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__SetRetentionRequest *m = message;
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    if ((rv = take_policy(m->retention, &c->policy, e)) != 0) return rv;
    return check_no_body(f, e);
}

static int parse_retain(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__retain_request__descriptor, 3, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__RetainRequest *m = message;
    c->retain.offset = m->offset;
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    if ((rv = take_policy(m->retention, &c->retain.policy, e)) != 0) return rv;
    return check_no_body(f, e);
}

static int parse_snapshot(const struct frame *f, struct arena *arena, struct command *c, struct error *e)
{
    void *message;
    int rv = unpack(f, &crsc__record_snapshot_request__descriptor, 1, arena, &message, e);
    if (rv != 0) return rv;
    const Crsc__Snapshot *m = ((const Crsc__RecordSnapshotRequest *)message)->snapshot;
    if (m == NULL) return error_set(e, ERROR_INVALID, "a snapshot command without a snapshot");
    if ((rv = take_stream(c, m->stream, e)) != 0) return rv;
    if ((rv = check_name("snapshot id", m->id, false, e)) != 0) return rv;
    int state = (int)m->state;
    if (state < COMMAND_TAKING || state > COMMAND_DELETED)
        return error_set(e, ERROR_INVALID, "a snapshot in no known state (%d)", state);
    if ((rv = check_length("snapshot image", m->image, 0, STREAMS_IMAGE_MAX, e)) != 0) return rv;
    if ((rv = check_length("snapshot sha256", m->sha256, 0, STREAMS_DIGEST_MAX, e)) != 0) return rv;
    if ((rv = check_length("node name", m->node, 0, STREAMS_NAME_MAX, e)) != 0) return rv;
    if ((rv = check_length("template hash", m->template_hash, 0, STREAMS_NAME_MAX, e)) != 0) return rv;
    if ((rv = check_length("snapshot reason", m->reason, 0, STREAMS_REASON_MAX, e)) != 0) return rv;
    c->snapshot = (struct command_snapshot){
        .id = m->id, .image = m->image, .sha256 = m->sha256, .node = m->node, .template_hash = m->template_hash,
        .reason = m->reason, .offset = m->offset, .size = m->size, .started_us = m->started_us,
        .finished_us = m->finished_us, .state = (uint32_t)state};
    return check_no_body(f, e);
}

int command_parse(const struct frame *f, struct arena *arena, struct command *ret_command, struct error *e)
{
    struct command c = {.type = f->type};
    int rv;
    switch (f->type) {
    case FRAME_OPEN_PRODUCER: rv = parse_open(f, arena, &c, e); break;
    case FRAME_APPEND: rv = parse_append(f, arena, &c, e); break;
    case FRAME_FENCE: rv = parse_fence(f, arena, &c, e); break;
    case FRAME_RECORD_SNAPSHOT: rv = parse_snapshot(f, arena, &c, e); break;
    case FRAME_TRIM: rv = parse_trim(f, arena, &c, e); break;
    case FRAME_SET_RETENTION: rv = parse_set_retention(f, arena, &c, e); break;
    case FRAME_RETAIN: rv = parse_retain(f, arena, &c, e); break;
    default: rv = error_set(e, ERROR_INVALID, "a frame of type %u is no command of the log", f->type);
    }
    if (rv == 0) *ret_command = c;
    return rv;
}
