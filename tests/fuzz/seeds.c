/* Writes the corpora that our own encoders can make: `seeds DIR` fills DIR/frame, rpc, raft, wire, segment, index, oci, backup, membership. The texts
 * (HTTP, configuration) and whatever a fuzzer found are files in tests/fuzz/corpus. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/oci_json.h"
#include "client/wire.h"
#include "logd/consensus/raft_codec.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/state_codec.h"
#include "logd/streams/records.h"
#include "tests/fuzz/fuzz.h"

static const char *root;
static unsigned n_files;

static void put(const char *target, const void *bytes, size_t len)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/%s/seed-%02u", root, target, n_files++);
    FILE *f = fopen(path, "wb");
    FUZZ_CHECK(f != NULL && fwrite(bytes, 1, len, f) == len && fclose(f) == 0);
}

/* As fuzz_frame() takes it apart. Empties `head`. */
static void put_frame(const char *target, uint16_t type, struct buf *head, const char *body)
{
    struct buf out = BUF_INIT;
    uint8_t start[4] = {(uint8_t)(type >> 8), (uint8_t)type, (uint8_t)(head->len >> 8), (uint8_t)head->len};
    FUZZ_CHECK(buf_add(&out, start, 4) == 0 && buf_add(&out, head->data, head->len) == 0 && buf_add(&out, body, strlen(body)) == 0);
    put(target, out.data, out.len);
    buf_fini(&out);
    head->len = 0;
}

static void rpc_seeds(void)
{
    struct buf h = BUF_INIT;
    struct crsc_event events[2] = {{.kind = CRSC_REQUEST, .size = 3}, {.kind = CRSC_COMPLETION, .size = 2, .ref = 1, .after = 1}};
    struct crsc_snapshot s = {.stream = "c/n/k/a", .id = "one", .offset = 3, .state = CRSC_VALID, .image = "image", .sha256 = "sha256:00",
                              .node = "n1", .template_hash = "t", .reason = "", .size = 9};
    wire_hello(&h, "fuzz"), put_frame("rpc", FRAME_HELLO, &h, "");
    wire_open(&h, "c/n/k/a", "p", false), put_frame("rpc", FRAME_OPEN_PRODUCER, &h, "");
    wire_append(&h, "c/n/k/a", 1, 1, events, 2), put_frame("rpc", FRAME_APPEND, &h, "abcde");
    wire_fence(&h, "c/n/k/a", 4), put_frame("rpc", FRAME_FENCE, &h, "");
    wire_trim(&h, "c/n/k/a", 4, true), put_frame("rpc", FRAME_TRIM, &h, "");
    wire_set_retention(&h, "c/n/k/a", &(struct crsc_retention){.keep_snapshots = 2, .max_age_us = 9}), put_frame("rpc", FRAME_SET_RETENTION, &h, "");
    rpc_encode_retain("c/n/k/a", 3, &(struct streams_policy){.max_bytes = 9, .beyond_snapshots = true}, &h), put_frame("rpc", FRAME_RETAIN, &h, "");
    wire_record_snapshot(&h, &s), put_frame("rpc", FRAME_RECORD_SNAPSHOT, &h, "");
    wire_read(&h, "c/n/k/a", 1, 0, 1000), put_frame("rpc", FRAME_READ, &h, "");
    wire_follow(&h, "c/n/k/a", 1, 1000), put_frame("rpc", FRAME_FOLLOW, &h, "");
    wire_latest_snapshot(&h, "c/n/k/a", "t"), put_frame("rpc", FRAME_LATEST_SNAPSHOT, &h, "");
    wire_status(&h, true), put_frame("rpc", FRAME_STATUS, &h, "");
    buf_fini(&h);
}

static void wire_seeds(void)
{
    struct buf h = BUF_INIT;
    struct rpc_error error = {.code = ERROR_NOT_LEADER, .text = "ask the leader", .leader_id = 2, .leader_address = "127.0.0.1:7402"};
    struct run_event events[1] = {{0}};
    struct streams_snapshot s = {.id = "one", .offset = 3, .state = 2, .image = "i", .sha256 = "s", .node = "n", .template_hash = "t", .reason = ""};
    struct streams_info info = {.id = 1, .name = "c/n/k/a", .first_offset = 1, .last_offset = 9, .producer = "p"};
    struct rpc_member member = {.id = 1, .address = "127.0.0.1:7401", .reachable = true};
    struct rpc_status status = {.node_id = 1, .cluster = "c", .role = "leader", .leader_address = "127.0.0.1:7401", .members = &member, .n_members = 1};
    rpc_encode_hello(1, "c", 7, "a:1", &h), put_frame("wire", FRAME_HELLO, &h, "");
    rpc_encode_error(&error, &h), put_frame("wire", FRAME_ERROR, &h, "");
    rpc_encode_events(events, 1, 9, &h), put_frame("wire", FRAME_READ, &h, "");
    rpc_encode_snapshot(FRAME_LIST_SNAPSHOTS, "c/n/k/a", &s, 1, &h), put_frame("wire", FRAME_LIST_SNAPSHOTS, &h, "");
    rpc_encode_streams(&info, 1, &h), put_frame("wire", FRAME_LIST_STREAMS, &h, "");
    rpc_encode_status(&status, &h), put_frame("wire", FRAME_STATUS, &h, "");
    buf_fini(&h);
}

static void raft_seeds(void)
{
    struct buf h = BUF_INIT;
    struct consensus_entry entry = {.term = 2, .payload = blob_new(3)};
    FUZZ_CHECK(entry.payload != NULL);
    memcpy(entry.payload->data, "abc", 3);
    for (int type = CONSENSUS_REQUEST_VOTE; type <= CONSENSUS_SNAPSHOT_OFFER; type++) {
        struct consensus_message m = {.type = (enum consensus_message_type)type, .from = 1, .to = 2, .term = 3};
        if (type == CONSENSUS_APPEND_ENTRIES) m.append.entries = &entry, m.append.n = 1, m.append.prev_index = 4, m.append.prev_term = 2;
        if (raft_codec_encode(&m, &h) == 0) put_frame("raft", FRAME_RAFT, &h, type == CONSENSUS_APPEND_ENTRIES ? "abc" : "");
    }
    struct state_file files[2] = {{"index/data.mdb", 8192}, {"wal/00000000000000000001.seg", 65536}};
    struct state_manifest manifest = {.id = 1, .applied_index = 5, .applied_term = 2, .files = files, .n_files = 2};
    struct state_piece piece = {.id = 1, .file = 1, .offset = 4096, .length = 100};
    state_encode_manifest(&manifest, &h), put_frame("raft", FRAME_FETCH_STATE, &h, "");
    state_encode_piece(&piece, &h), put_frame("raft", FRAME_FETCH_BYTES, &h, "");
    blob_unref(entry.payload);
    buf_fini(&h);
}

/* The little programs of fuzz_frame, fuzz_segment, fuzz_index. */
static void program_seeds(void)
{
    struct frame f = {.type = FRAME_READ, .id = 9, .head = (const uint8_t *)"head", .head_len = 4, .body = (const uint8_t *)"body", .body_len = 4};
    struct buf out = BUF_INIT;
    FUZZ_CHECK(frame_encode(&out, &f) == 0);
    put("frame", out.data, out.len);
    put("segment", "\x06\x02\x10\x02\x20\x02\x30\x01\x02\x08\x00\x03\x02\x40\x00\x00", 16);
    put("segment", "\x03\x02\x10\x02\x20\x02\x30\x01\x10\x90\x01\x00", 12);
    uint8_t value[RECORDS_VALUE_MAX], seed[5 + sizeof value];
    struct stream s = {.name = (char *)"c/n/k/a", .producer = (char *)"p"};
    size_t len = records_encode_stream(&s, value);
    memcpy(seed, (uint8_t[5]){0, 1, 0, (uint8_t)(len >> 8), (uint8_t)len}, 5);
    memcpy(seed + 5, value, len);
    put("index", seed, 5 + len);
    buf_fini(&out);
}

static void oci_seeds(void)
{
    struct oci_manifest m = {.config = {.digest = "sha256:" "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", .size = 10},
                             .layer = {.digest = "sha256:" "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", .size = 20}};
    m.labels = (struct oci_image_labels){.container = "app", .stream = "c/n/k/a", .offset = 12};
    size_t len;
    char *text = oci_write_manifest(&m, &len);
    put("oci", text, len), free(text);
    text = oci_write_config(&m.layer, "", &len);
    put("oci", text, len), free(text);
    text = oci_write_index(&m.config, &m.labels, &len);
    put("oci", text, len), free(text);
    const char state[] = "{\"ociVersion\":\"1.0.2\",\"id\":\"c\",\"pid\":12,\"status\":\"running\",\"bundle\":\"/b\"}";
    put("oci", state, sizeof state - 1);
}

/* The parts that fuzz_backup.c and fuzz_membership.c put together. */
static void backup_seeds(void)
{
    struct state_file files[2] = {{"index/data.mdb", 8192}, {"wal/00000000000000000001.seg", 65536}};
    struct state_manifest manifest = {.id = 1, .applied_index = 5, .applied_term = 2, .files = files, .n_files = 2};
    struct state_piece piece = {.id = 1, .file = 1, .offset = 4096, .length = 3};
    struct buf head = BUF_INIT, out = BUF_INIT;
    FUZZ_CHECK(buf_add(&manifest.members, "m", 1) == 0 && state_encode_manifest(&manifest, &head) == 0);
    FUZZ_CHECK(buf_add(&out, (uint8_t[]){1, (uint8_t)(head.len >> 8), (uint8_t)head.len, 0, 1}, 5) == 0 && buf_add(&out, head.data, head.len) == 0 &&
               buf_add(&out, "c", 1) == 0 && state_encode_piece(&piece, &head) == 0);
    FUZZ_CHECK(buf_add(&out, (uint8_t[]){0, 0, (uint8_t)head.len, 0, 3}, 5) == 0 && buf_add(&out, head.data, head.len) == 0 && buf_add(&out, "abc", 3) == 0);
    put("backup", out.data, out.len);
    struct consensus_member members[3] = {{1, "a:1", 0}, {2, "b:1", 0}, {3, "c:1", 0}};
    struct blob *payload;
    FUZZ_CHECK(consensus_first_entry(members, 3, &payload, NULL) == 0);
    out.len = 0;
    FUZZ_CHECK(buf_add(&out, (uint8_t[]){(uint8_t)(payload->len >> 8), (uint8_t)payload->len}, 2) == 0 && buf_add(&out, payload->data, payload->len) == 0 &&
               buf_add(&out, "\x00\x03\x04\x01\x03\x00\x02\x01\x00\x03\x02\x05\x07", 13) == 0);
    put("membership", out.data, out.len);
    blob_unref(payload);
    buf_fini(&manifest.members);
    buf_fini(&head);
    buf_fini(&out);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    root = argv[1];
    mkdir(root, 0755);
    backup_seeds();
    rpc_seeds();
    wire_seeds();
    raft_seeds();
    program_seeds();
    oci_seeds();
    return 0;
}
