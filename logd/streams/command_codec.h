/* A command's frame as plain C: the only module of streams that knows protobuf.
 *
 * command_parse() checks everything about a command that does not depend on state (names, counts, sizes against the
 * body, kinds, limits), and its verdict depends on the frame's bytes alone: every replica gives the same one. How much
 * a frame can make it allocate is bounded before protobuf-c sees it (a scan that counts fields).
 *
 * Pure. Thread: any. */
#ifndef CRSC_LOGD_STREAMS_COMMAND_CODEC_H
#define CRSC_LOGD_STREAMS_COMMAND_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "logd/streams/arena.h"
#include "logd/streams/streams.h"

/* crsc.EventKind and crsc.SnapshotState of proto/rpc.proto, for those who must not see protobuf. */
enum command_kind { COMMAND_REQUEST = 1, COMMAND_COMPLETION = 2, COMMAND_MARK = 3 };
enum command_state { COMMAND_TAKING = 1, COMMAND_VALID = 2, COMMAND_FAILED = 3, COMMAND_DELETED = 4 };

/* Sequences and epochs up to here are accepted from outside, so that adding to them never overflows. */
#define COMMAND_NUMBER_MAX (UINT64_C(1) << 62)

struct command_event {
    uint32_t kind; /* enum command_kind */
    uint32_t size; /* bytes in the body */
    uint64_t after, ref;
};

struct command_open {
    const char *producer;
    size_t producer_len;
    bool shared;
};

struct command_append {
    uint64_t epoch, sequence; /* 1 to COMMAND_NUMBER_MAX */
    const struct command_event *events;
    uint32_t n; /* 1 to STREAMS_BATCH_MAX */
    bool if_last;
    uint64_t last_offset;
};

struct command_snapshot {
    const char *id, *image, *sha256, *node, *template_hash, *reason; /* never NULL; within the limits of streams.h */
    uint64_t offset, size, started_us, finished_us;
    uint32_t state; /* enum command_state */
};

/* Pointers are into the arena or the frame's own bytes; strings are zero-terminated. */
struct command {
    uint16_t type; /* enum frame_type: which member below is set */
    const char *stream;
    size_t stream_len; /* 1 to STREAMS_NAME_MAX */
    union {
        struct command_open open;
        struct command_append append;
        uint64_t fence; /* epoch, 0: one above the present one */
        struct command_snapshot snapshot;
        struct {
            uint64_t offset; /* the last that goes */
            bool force;
        } trim;
        struct streams_policy policy; /* FRAME_SET_RETENTION */
        struct {
            uint64_t offset; /* the last that goes */
            struct streams_policy policy;
        } retain;
    };
};

/* 0; -ERROR_INVALID or -ERROR_TOO_LARGE (about the bytes); -ERROR_NOMEM (about this machine, never about the bytes). */
int command_parse(const struct frame *f, struct arena *arena, struct command *ret_command, struct error *e);

#endif
