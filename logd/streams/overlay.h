/* Where one stream's newest events are, until the index has them durably.
 *
 * A queue of runs in offset order, each with the Raft index of the entry that brought it. Its memory is given back when
 * it empties, so an idle stream costs nothing.
 * Pure; embedded in struct stream. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_OVERLAY_H
#define CRSC_LOGD_STREAMS_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "logd/streams/streams.h"

struct overlay_item {
    uint64_t index; /* Raft's */
    struct streams_run run;
};

struct overlay {
    struct overlay_item *items; /* owned; items[first .. n) are in use */
    uint32_t first, n, cap;
};

void overlay_fini(struct overlay *o);

/* `index` and `run` lie behind everything in it. 0 or -ERROR_NOMEM. */
int overlay_add(struct overlay *o, uint64_t index, const struct streams_run *run);

/* Drops what came at or before this Raft index; true if nothing is left. */
bool overlay_durable(struct overlay *o, uint64_t index);

/* The run holding `offset`, or NULL. */
const struct streams_run *overlay_find(const struct overlay *o, uint64_t offset);

#endif
