#include "logd/server/state_codec.h"

#include <stdbool.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/raft.pb-c.h"

static int pack(const ProtobufCMessage *m, struct buf *head)
{
    size_t size = protobuf_c_message_get_packed_size(m);
    if (size > FRAME_HEAD_MAX) return -ERROR_TOO_LARGE;
    head->len = 0;
    int rv = buf_reserve(head, size == 0 ? 1 : size);
    if (rv == 0) head->len = protobuf_c_message_pack(m, head->data);
    return rv;
}

static int not_a(const char *what, struct error *e)
{
    return error_set(e, ERROR_PROTOCOL, "the head of this frame is not a %s message", what);
}

void state_manifest_fini(struct state_manifest *m)
{
    buf_fini(&m->members);
    free(m->files);
    *m = (struct state_manifest){0};
}

int state_encode_manifest(const struct state_manifest *m, struct buf *head)
{
    Crsc__FetchStateReply reply = CRSC__FETCH_STATE_REPLY__INIT;
    Crsc__StateFile *files = calloc(m->n_files + 1, sizeof *files), **list = calloc(m->n_files + 1, sizeof *list);
    int rv = files != NULL && list != NULL ? 0 : -ERROR_NOMEM;
    for (size_t i = 0; rv == 0 && i < m->n_files; i++) {
        crsc__state_file__init(&files[i]);
        files[i].name = m->files[i].name;
        files[i].size = m->files[i].size;
        list[i] = &files[i];
    }
    reply.id = m->id;
    reply.applied_index = m->applied_index;
    reply.applied_term = m->applied_term;
    reply.members = (ProtobufCBinaryData){m->members.len, m->members.data};
    reply.files = list;
    reply.n_files = m->n_files;
    if (rv == 0) rv = pack(&reply.base, head);
    free(files);
    free(list);
    return rv;
}

/* They become paths. */
static bool name_valid(const char *name)
{
    if (strcmp(name, "index/data.mdb") == 0) return true;
    if (strlen(name) >= STATE_NAME_MAX || strncmp(name, "wal/", 4) != 0) return false;
    name += 4;
    return strspn(name, "0123456789") == 20 && strcmp(name + 20, ".seg") == 0;
}

static int take_files(const Crsc__FetchStateReply *reply, struct state_manifest *m, struct error *e)
{
    if (reply->n_files == 0 || reply->n_files > STATE_FILES_MAX || reply->members.len == 0 || reply->applied_index == 0 || reply->applied_term == 0)
        return error_set(e, ERROR_PROTOCOL, "the offered state is incomplete");
    m->files = calloc(reply->n_files, sizeof *m->files);
    if (m->files == NULL || buf_add(&m->members, reply->members.data, reply->members.len) != 0)
        return error_set(e, ERROR_NOMEM, "no memory for the list of files");
    for (size_t i = 0; i < reply->n_files; i++) {
        const Crsc__StateFile *file = reply->files[i];
        if (!name_valid(file->name)) return error_set(e, ERROR_PROTOCOL, "the offered state has a file of the name \"%.80s\"", file->name);
        if (file->size > INT64_MAX) return error_set(e, ERROR_PROTOCOL, "the offered state has a file of %" PRIu64 " bytes", file->size);
        memcpy(m->files[i].name, file->name, strlen(file->name) + 1);
        m->files[i].size = file->size;
        m->n_files++;
    }
    return 0;
}

int state_decode_manifest(const struct frame *f, struct state_manifest *ret_manifest, struct error *e)
{
    Crsc__FetchStateReply *reply = crsc__fetch_state_reply__unpack(NULL, f->head_len, f->head);
    if (reply == NULL) return not_a("FetchStateReply", e);
    struct state_manifest m = {.id = reply->id, .applied_index = reply->applied_index, .applied_term = reply->applied_term};
    int rv = take_files(reply, &m, e);
    crsc__fetch_state_reply__free_unpacked(reply, NULL);
    if (rv == 0) *ret_manifest = m;
    else state_manifest_fini(&m);
    return rv;
}

int state_encode_request(uint64_t index, struct buf *head)
{
    Crsc__FetchStateRequest m = CRSC__FETCH_STATE_REQUEST__INIT;
    m.index = index;
    return pack(&m.base, head);
}

int state_decode_request(const struct frame *f, uint64_t *ret_index, struct error *e)
{
    Crsc__FetchStateRequest *m = crsc__fetch_state_request__unpack(NULL, f->head_len, f->head);
    if (m == NULL) return not_a("FetchStateRequest", e);
    *ret_index = m->index;
    crsc__fetch_state_request__free_unpacked(m, NULL);
    return 0;
}

int state_encode_piece(const struct state_piece *p, struct buf *head)
{
    Crsc__FetchBytesRequest m = CRSC__FETCH_BYTES_REQUEST__INIT;
    m.id = p->id;
    m.file = p->file;
    m.offset = p->offset;
    m.length = p->length;
    return pack(&m.base, head);
}

int state_decode_piece(const struct frame *f, struct state_piece *ret_piece, struct error *e)
{
    Crsc__FetchBytesRequest *m = crsc__fetch_bytes_request__unpack(NULL, f->head_len, f->head);
    if (m == NULL) return not_a("FetchBytesRequest", e);
    *ret_piece = (struct state_piece){m->id, m->offset, m->file, m->length};
    crsc__fetch_bytes_request__free_unpacked(m, NULL);
    if (ret_piece->length == 0 || ret_piece->length > STATE_PIECE_MAX)
        return error_set(e, ERROR_PROTOCOL, "a piece of %u bytes: 1 to %d are allowed", ret_piece->length, STATE_PIECE_MAX);
    return 0;
}

int state_encode_record(const struct state_record *r, struct buf *head)
{
    Crsc__FetchRecordRequest m = CRSC__FETCH_RECORD_REQUEST__INIT;
    m.index = r->index;
    m.term = r->term;
    m.stream = r->stream;
    m.offset = r->offset;
    return pack(&m.base, head);
}

int state_decode_record(const struct frame *f, struct state_record *ret_record, struct error *e)
{
    Crsc__FetchRecordRequest *m = crsc__fetch_record_request__unpack(NULL, f->head_len, f->head);
    if (m == NULL) return not_a("FetchRecordRequest", e);
    *ret_record = (struct state_record){m->index, m->term, m->stream, m->offset};
    crsc__fetch_record_request__free_unpacked(m, NULL);
    if ((ret_record->index == 0) == (ret_record->stream == 0)) return error_set(e, ERROR_PROTOCOL, "a FetchRecordRequest is for an entry or for an append");
    return 0;
}
