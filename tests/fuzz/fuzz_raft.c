/* Every message between servers. What is decoded encodes to the same message again. */
#include <string.h>

#include "logd/consensus/raft_codec.h"
#include "logd/server/state_codec.h"
#include "tests/fuzz/fuzz.h"

static void raft_message(const struct frame *f)
{
    struct raft_codec_message m, again;
    struct buf head = BUF_INIT;
    if (raft_codec_decode(f, &m, NULL) != 0) return;
    FUZZ_CHECK(raft_codec_encode(&m.m, &head) == 0);
    struct frame second = *f;
    second.head = head.data;
    second.head_len = head.len;
    FUZZ_CHECK(raft_codec_decode(&second, &again, NULL) == 0);
    FUZZ_CHECK(again.m.type == m.m.type && again.m.from == m.m.from && again.m.term == m.m.term);
    raft_codec_message_fini(&again);
    raft_codec_message_fini(&m);
    buf_fini(&head);
}

static void state_messages(const struct frame *f)
{
    struct state_manifest manifest;
    struct state_piece piece;
    uint64_t index, from, term;
    if (state_decode_manifest(f, &manifest, NULL) == 0) {
        FUZZ_CHECK(manifest.n_files <= STATE_FILES_MAX);
        for (size_t i = 0; i < manifest.n_files; i++) { /* names become paths */
            FUZZ_CHECK(strstr(manifest.files[i].name, "..") == NULL && manifest.files[i].name[0] != '/');
            FUZZ_CHECK(strncmp(manifest.files[i].name, "wal/", 4) == 0 || strcmp(manifest.files[i].name, "index/data.mdb") == 0);
        }
        state_manifest_fini(&manifest);
    }
    state_decode_request(f, &index, NULL);
    if (state_decode_piece(f, &piece, NULL) == 0) FUZZ_CHECK(piece.length >= 1 && piece.length <= STATE_PIECE_MAX);
    raft_codec_decode_probe(f, &from, &term, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame f = fuzz_frame(data, size);
    raft_message(&f);
    state_messages(&f);
    return 0;
}
