#include "logd/consensus/raft_codec.h"

#include <stdlib.h>
#include <string.h>

#include "proto/raft.pb-c.h"
#include "proto/scratch.h"

enum { FEW = 16 /* entries of a message whose encoding needs no memory of its own */ };

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

static int encode_append(const struct consensus_message *m, Crsc__RaftMessage *message, struct buf *head)
{
    Crsc__RaftAppendEntries body = CRSC__RAFT_APPEND_ENTRIES__INIT;
    body.term = m->term;
    body.prev_log_index = m->append.prev_index;
    body.prev_log_term = m->append.prev_term;
    body.leader_commit = m->append.commit;
    message->body_case = CRSC__RAFT_MESSAGE__BODY_APPEND_ENTRIES;
    message->append_entries = &body;
    uint32_t n = m->append.n;
    Crsc__RaftEntry few[FEW], *list = n <= FEW ? few : calloc(n, sizeof *list);
    Crsc__RaftEntry *few_pointers[FEW], **pointers = n <= FEW ? few_pointers : calloc(n, sizeof *pointers);
    int rv = list == NULL || pointers == NULL ? -ERROR_NOMEM : 0;
    for (uint32_t i = 0; rv == 0 && i < n; i++) {
        if (m->append.entries[i].payload->len > FRAME_BODY_MAX) rv = -ERROR_TOO_LARGE;
        crsc__raft_entry__init(&list[i]);
        list[i].term = m->append.entries[i].term;
        list[i].type = m->append.entries[i].type;
        list[i].size = (uint32_t)m->append.entries[i].payload->len;
        pointers[i] = &list[i];
    }
    body.n_entries = n;
    body.entries = pointers;
    if (rv == 0) rv = pack(&message->base, head);
    if (pointers != few_pointers) free(pointers);
    if (list != few) free(list);
    return rv;
}

int raft_codec_encode(const struct consensus_message *m, struct buf *head)
{
    Crsc__RaftMessage message = CRSC__RAFT_MESSAGE__INIT;
    message.from = m->from;
    message.to = m->to;
    switch (m->type) {
    case CONSENSUS_REQUEST_VOTE: {
        Crsc__RaftRequestVote body = CRSC__RAFT_REQUEST_VOTE__INIT;
        body.term = m->term;
        body.candidate_id = m->request_vote.candidate;
        body.last_log_index = m->request_vote.last_index;
        body.last_log_term = m->request_vote.last_term;
        body.disrupt_leader = m->request_vote.disrupt_leader;
        body.pre_vote = m->request_vote.pre_vote;
        message.body_case = CRSC__RAFT_MESSAGE__BODY_REQUEST_VOTE;
        message.request_vote = &body;
        return pack(&message.base, head);
    }
    case CONSENSUS_REQUEST_VOTE_RESULT: {
        Crsc__RaftRequestVoteResult body = CRSC__RAFT_REQUEST_VOTE_RESULT__INIT;
        body.term = m->term;
        body.vote_granted = m->request_vote_result.granted;
        body.pre_vote = m->request_vote_result.pre_vote;
        body.features = m->request_vote_result.features;
        body.capacity = m->request_vote_result.capacity;
        message.body_case = CRSC__RAFT_MESSAGE__BODY_REQUEST_VOTE_RESULT;
        message.request_vote_result = &body;
        return pack(&message.base, head);
    }
    case CONSENSUS_APPEND_ENTRIES: return encode_append(m, &message, head);
    case CONSENSUS_APPEND_ENTRIES_RESULT: {
        Crsc__RaftAppendEntriesResult body = CRSC__RAFT_APPEND_ENTRIES_RESULT__INIT;
        body.term = m->term;
        body.rejected = m->append_result.rejected;
        body.last_log_index = m->append_result.last_index;
        body.features = m->append_result.features;
        body.capacity = m->append_result.capacity;
        message.body_case = CRSC__RAFT_MESSAGE__BODY_APPEND_ENTRIES_RESULT;
        message.append_entries_result = &body;
        return pack(&message.base, head);
    }
    case CONSENSUS_TIMEOUT_NOW: {
        Crsc__RaftTimeoutNow body = CRSC__RAFT_TIMEOUT_NOW__INIT;
        body.term = m->term;
        body.last_log_index = m->timeout_now.last_index;
        body.last_log_term = m->timeout_now.last_term;
        message.body_case = CRSC__RAFT_MESSAGE__BODY_TIMEOUT_NOW;
        message.timeout_now = &body;
        return pack(&message.base, head);
    }
    case CONSENSUS_SNAPSHOT_OFFER: {
        Crsc__RaftSnapshotOffer body = CRSC__RAFT_SNAPSHOT_OFFER__INIT;
        body.term = m->term;
        body.last_index = m->offer.last_index;
        body.last_term = m->offer.last_term;
        message.body_case = CRSC__RAFT_MESSAGE__BODY_SNAPSHOT_OFFER;
        message.snapshot_offer = &body;
        return pack(&message.base, head);
    }
    }
    return -ERROR_INTERNAL;
}

static int decode_entries(const Crsc__RaftAppendEntries *body, const struct frame *f, struct raft_codec_message *out,
                          struct error *e)
{
    size_t at = 0;
    if (body->n_entries > CONSENSUS_MESSAGE_ENTRIES_MAX)
        return error_set(e, ERROR_PROTOCOL, "a Raft message carries %zu entries, at most %d are allowed", body->n_entries,
                         CONSENSUS_MESSAGE_ENTRIES_MAX);
    if (body->n_entries == 0) goto end;
    if ((out->entries = calloc(body->n_entries, sizeof *out->entries)) == NULL)
        return error_set(e, ERROR_NOMEM, "no memory for %zu entries", body->n_entries);
    out->m.append.entries = out->entries;
    for (size_t i = 0; i < body->n_entries; i++) {
        const Crsc__RaftEntry *entry = body->entries[i];
        if (entry->size > f->body_len - at) return error_set(e, ERROR_PROTOCOL, "a Raft message's entries are longer than its body");
        struct blob *payload = blob_new(entry->size);
        if (payload == NULL) return error_set(e, ERROR_NOMEM, "no memory for an entry of %u bytes", entry->size);
        if (entry->size > 0) memcpy(payload->data, f->body + at, entry->size);
        out->entries[i] = (struct consensus_entry){entry->term, entry->type, payload};
        out->m.append.n = (uint32_t)i + 1;
        at += entry->size;
    }
end:
    if (at != f->body_len) return error_set(e, ERROR_PROTOCOL, "a Raft message's body is longer than its entries");
    return 0;
}

static int decode_body(const Crsc__RaftMessage *r, const struct frame *f, struct raft_codec_message *out, struct error *e)
{
    struct consensus_message *m = &out->m;
    switch (r->body_case) {
    case CRSC__RAFT_MESSAGE__BODY_REQUEST_VOTE:
        m->type = CONSENSUS_REQUEST_VOTE;
        m->term = r->request_vote->term;
        m->request_vote.candidate = r->request_vote->candidate_id;
        m->request_vote.last_index = r->request_vote->last_log_index;
        m->request_vote.last_term = r->request_vote->last_log_term;
        m->request_vote.disrupt_leader = r->request_vote->disrupt_leader;
        m->request_vote.pre_vote = r->request_vote->pre_vote;
        break;
    case CRSC__RAFT_MESSAGE__BODY_REQUEST_VOTE_RESULT:
        m->type = CONSENSUS_REQUEST_VOTE_RESULT;
        m->term = r->request_vote_result->term;
        m->request_vote_result.granted = r->request_vote_result->vote_granted;
        m->request_vote_result.pre_vote = r->request_vote_result->pre_vote;
        m->request_vote_result.features = (uint16_t)r->request_vote_result->features;
        m->request_vote_result.capacity = (uint16_t)r->request_vote_result->capacity;
        break;
    case CRSC__RAFT_MESSAGE__BODY_APPEND_ENTRIES:
        m->type = CONSENSUS_APPEND_ENTRIES;
        m->term = r->append_entries->term;
        m->append.prev_index = r->append_entries->prev_log_index;
        m->append.prev_term = r->append_entries->prev_log_term;
        m->append.commit = r->append_entries->leader_commit;
        return decode_entries(r->append_entries, f, out, e);
    case CRSC__RAFT_MESSAGE__BODY_APPEND_ENTRIES_RESULT:
        m->type = CONSENSUS_APPEND_ENTRIES_RESULT;
        m->term = r->append_entries_result->term;
        m->append_result.rejected = r->append_entries_result->rejected;
        m->append_result.last_index = r->append_entries_result->last_log_index;
        m->append_result.features = (uint16_t)r->append_entries_result->features;
        m->append_result.capacity = (uint16_t)r->append_entries_result->capacity;
        break;
    case CRSC__RAFT_MESSAGE__BODY_TIMEOUT_NOW:
        m->type = CONSENSUS_TIMEOUT_NOW;
        m->term = r->timeout_now->term;
        m->timeout_now.last_index = r->timeout_now->last_log_index;
        m->timeout_now.last_term = r->timeout_now->last_log_term;
        break;
    case CRSC__RAFT_MESSAGE__BODY_SNAPSHOT_OFFER:
        m->type = CONSENSUS_SNAPSHOT_OFFER;
        m->term = r->snapshot_offer->term;
        m->offer.last_index = r->snapshot_offer->last_index;
        m->offer.last_term = r->snapshot_offer->last_term;
        break;
    default: return error_set(e, ERROR_PROTOCOL, "a Raft message of an unknown kind");
    }
    if (f->body_len != 0) return error_set(e, ERROR_PROTOCOL, "a Raft message has a body it should not have");
    return 0;
}

int raft_codec_decode(const struct frame *f, struct raft_codec_message *ret_message, struct error *e)
{
    struct raft_codec_message out = {0};
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__RaftMessage *r = crsc__raft_message__unpack(memory, f->head_len, f->head);
    if (r == NULL) return error_set(e, ERROR_PROTOCOL, "the head of a Raft message is not what raft.proto says");
    out.m.from = r->from;
    out.m.to = r->to;
    int rv = decode_body(r, f, &out, e);
    crsc__raft_message__free_unpacked(r, memory);
    if (rv != 0) {
        raft_codec_message_fini(&out);
        return rv;
    }
    *ret_message = out;
    return 0;
}

void raft_codec_message_fini(struct raft_codec_message *message)
{
    if (message->m.type == CONSENSUS_APPEND_ENTRIES)
        for (uint32_t i = 0; i < message->m.append.n; i++) blob_unref(message->entries[i].payload);
    free(message->entries);
    *message = (struct raft_codec_message){0};
}

int raft_codec_encode_probe(uint64_t from, uint64_t term, struct buf *head)
{
    Crsc__ReadProbeRequest probe = CRSC__READ_PROBE_REQUEST__INIT;
    probe.from = from;
    probe.term = term;
    return pack(&probe.base, head);
}

int raft_codec_decode_probe(const struct frame *f, uint64_t *ret_from, uint64_t *ret_term, struct error *e)
{
    struct scratch scratch;
    ProtobufCAllocator *memory = scratch_begin(&scratch);
    Crsc__ReadProbeRequest *probe = crsc__read_probe_request__unpack(memory, f->head_len, f->head);
    if (probe == NULL || f->body_len != 0) {
        if (probe != NULL) crsc__read_probe_request__free_unpacked(probe, memory);
        return error_set(e, ERROR_PROTOCOL, "the head of a read probe is not what raft.proto says");
    }
    *ret_from = probe->from;
    *ret_term = probe->term;
    crsc__read_probe_request__free_unpacked(probe, memory);
    return 0;
}
