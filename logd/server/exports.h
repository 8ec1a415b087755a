/* Copies of this server's state, for another one that lacks what its leader's log no longer has (FRAME_FETCH_STATE).
 *
 * One copy at a time: LMDB's own consistent copy of the index, and the segments that it points to, which are not copied but kept in
 * place (exports_pinned()) until nobody has asked for a piece for EXPORTS_IDLE_MS. Everyone who asks meanwhile gets the same
 * one, also after a broken connection. Files are read on libuv's threads, in pieces of at most 1 MiB, no faster than catch-up-rate: memory stays
 * flat, and the loop goes on serving.
 *
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_EXPORTS_H
#define CRSC_LOGD_SERVER_EXPORTS_H

#include <stdbool.h>

#include "common/frame.h"

enum {
    EXPORTS_IDLE_MS = 300000,
    EXPORTS_IDLE_LEAST_MS = 60000, /* with little room on the disk, or when it was given to its end */
};

struct node;
struct session;
struct exports;

struct exports *exports_new(struct node *node); /* NULL without memory; removes what an earlier life left */
/* `done` when no piece is being read any more. */
void exports_close(struct exports *x, void (*done)(void *user), void *user);

void exports_state(struct exports *x, struct session *s, const struct frame *f);
void exports_bytes(struct exports *x, struct session *s, const struct frame *f);

/* There is a copy: the log must neither begin later nor lose segments. */
bool exports_pinned(const struct exports *x);
void exports_tick(struct exports *x); /* about once a second */

#endif
