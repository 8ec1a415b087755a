/* Puts the pieces of a fetched state into their files, on libuv's threads: several at a time, so that the disk is never waited for by the
 * network. Says when each is written, when a file is whole and when a part of one is noted (pieces.h decides which). Memory:
 * PIECES_WINDOW buffers of a piece. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_LANDING_H
#define CRSC_LOGD_SERVER_LANDING_H

#include <uv.h>

#include "logd/server/pieces.h"
#include "logd/server/staging.h"

struct landing;

struct landing_events {
    /* A piece was written, a file finished, a note made; everything of this may be called from here. */
    void (*on_progress)(void *user);
    /* Once; nothing more is written. ERROR_NOSPACE, ERROR_IO. */
    void (*on_failed)(void *user, int rv, const struct error *e);
    void *user;
};

/* All borrowed, to live as long. NULL without memory. */
struct landing *landing_new(uv_loop_t *loop, const struct staging *staging, struct pieces *pieces, const struct landing_events *events);
/* The body of an answer (copied); the slot is PIECES_WRITING. */
void landing_put(struct landing *l, struct pieces_slot *slot, const void *bytes);
/* Work is under way: landing_free() not yet. */
bool landing_busy(const struct landing *l);
struct landing *landing_free(struct landing *l); /* takes NULL */

#endif
