/* What each command does to the state: the rules of proto/rpc.proto, in the order they are checked. Internal to
 * streams/. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_COMMANDS_H
#define CRSC_LOGD_STREAMS_COMMANDS_H

#include "logd/streams/command_codec.h"
#include "logd/streams/stream.h"

/* Where a command comes from, and where its effects go. */
struct command_context {
    uint64_t index;   /* Raft index of its entry */
    uint64_t time_us; /* of its entry */
    struct wal_location where; /* of its frame */
    uint32_t frame_len;
    struct streams_update *update;
    struct streams_outcome *outcome; /* to be filled */
};

/* 0, whatever the outcome is; -ERROR_NOMEM: the state is torn, the replica must stop. */
int commands_run(struct streams *s, const struct command *c, const struct command_context *context);

#endif
