/* Snapshot records of one stream: what they hold, and which moves between states are allowed.
 *
 *      new ----> taking ----> valid ----> failed ----> deleted
 *       |          |            |                         ^
 *       |          +--> failed -|-------------------------+
 *       |          +--> deleted +--> deleted              |
 *       +--> valid, failed            each state to itself
 *
 * At most STREAMS_SNAPSHOTS_MAX per stream: the oldest deleted, else the oldest failed one makes room.
 * Pure; embedded in struct stream. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_SNAPSHOT_H
#define CRSC_LOGD_STREAMS_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "logd/streams/streams.h"

struct snapshot {
    uint64_t number;             /* order of first recording within the stream, from 1 */
    struct streams_snapshot out; /* its strings point into `strings` */
    char strings[];
};

struct snapshots {
    struct snapshot **all; /* owned; by number */
    uint32_t n, cap;
};

enum snapshot_string {
    SNAPSHOT_ID, SNAPSHOT_IMAGE, SNAPSHOT_SHA256, SNAPSHOT_NODE, SNAPSHOT_TEMPLATE_HASH, SNAPSHOT_REASON,
    SNAPSHOT_STRINGS
};

/* Copies `from` with all its strings (found through snapshot_string_of). NULL without memory. */
struct snapshot *snapshot_new(uint64_t number, const struct streams_snapshot *from);
struct snapshot *snapshot_free(struct snapshot *s);

/* The member of a record that holds this string: one table for copying, encoding and decoding. */
const char **snapshot_string_of(struct streams_snapshot *s, enum snapshot_string which);

/* May a record in state `from` (0: there is none) be written over with `to`? */
bool snapshot_move_allowed(uint32_t from, uint32_t to);
const char *snapshot_state_name(uint32_t state); /* "taking", ...; never NULL */

void snapshots_fini(struct snapshots *all);

/* Index of the record with this id, or all->n. */
uint32_t snapshots_find(const struct snapshots *all, const char *id);

/* Index of the record that makes room for one more, or all->n if none may. */
uint32_t snapshots_victim(const struct snapshots *all);

/* Puts a record in its place by number, taking it; one with the same number is freed. 0 or -ERROR_NOMEM (not taken). */
int snapshots_put(struct snapshots *all, struct snapshot *s);
void snapshots_remove(struct snapshots *all, uint32_t i);

/* Valid, and what comes after it is still there in a stream that begins at first_offset: it can be restored from. */
bool snapshot_usable(const struct snapshot *s, uint64_t first_offset);

/* The usable one with the highest offset, the newest of equals; template_hash "" for any. NULL: none. */
const struct snapshot *snapshots_latest(const struct snapshots *all, const char *template_hash, uint64_t first_offset);

#endif
