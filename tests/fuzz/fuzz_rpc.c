/* Every message that a client sends to a server: the server's decoders, and the replicated state machine's own look at a command,
 * which must agree: what the leader takes, a replica can apply. */
#include <stdlib.h>

#include "logd/server/rpc_codec.h"
#include "logd/streams/arena.h"
#include "logd/streams/command_codec.h"
#include "logd/streams/entry.h"
#include "logd/streams/streams.h"
#include "tests/fuzz/fuzz.h"

static void decode_all(const struct frame *f)
{
    struct rpc_hello hello;
    struct error error;
    struct rpc_snapshot_key key;
    struct rpc_read read;
    struct rpc_follow follow;
    struct rpc_query query;
    uint32_t credit;
    rpc_decode_hello(f, &hello, NULL);
    rpc_decode_error(f, &error, NULL);
    rpc_decode_record_snapshot(f, &key, NULL);
    if (rpc_decode_read(f, &read, NULL) == 0) FUZZ_CHECK(read.stream[0] != '\0');
    if (rpc_decode_follow(f, &follow, NULL) == 0) FUZZ_CHECK(follow.stream[0] != '\0');
    rpc_decode_credit(f, &credit, NULL);
    rpc_decode_query(f, &query, NULL);
}

static void apply(const struct frame *f, bool taken)
{
    struct buf bytes = BUF_INIT, entry = BUF_INIT;
    struct streams *s = streams_new();
    struct streams_update update = STREAMS_UPDATE_INIT;
    FUZZ_CHECK(s != NULL && frame_encode(&bytes, f) == 0 && entry_begin(&entry, 1) == 0 && entry_add(&entry, bytes.data, bytes.len) == 0);
    FUZZ_CHECK(streams_apply(s, 1, entry.data, entry.len, (struct wal_location){1, 4096}, &update, NULL) == 0);
    FUZZ_CHECK(update.n_outcomes == 1 && (taken || update.outcomes[0].code != ERROR_NONE));
    streams_update_fini(&update);
    streams_free(s);
    buf_fini(&entry);
    buf_fini(&bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame f = fuzz_frame(data, size);
    decode_all(&f);
    if (f.type < FRAME_OPEN_PRODUCER || f.type > FRAME_RETAIN) f.type = (uint16_t)(FRAME_OPEN_PRODUCER + f.type % 7);
    apply(&f, streams_check(&f, NULL) == 0);
    return 0;
}
