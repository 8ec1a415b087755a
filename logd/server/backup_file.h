/* A backup of a cluster in one file: what a server sends of its state (FRAME_FETCH_STATE, FRAME_FETCH_BYTES), one frame behind the other.
 *
 *   head    FRAME_FETCH_STATE | FRAME_REPLY   the manifest (state_codec.h); body: the cluster's name
 *   pieces  FRAME_FETCH_BYTES | FRAME_REPLY   head: the piece; body: its bytes. In the manifest's order, ascending; what is not there is zeros
 *   end     FRAME_ERROR | FRAME_REPLY         body: SHA-256 of everything before
 *
 * Each frame has its own checksum, so that damage is found where it is; the end, that nothing is missing. Blocking. Thread: one at a time. */
#ifndef CRSC_LOGD_SERVER_BACKUP_FILE_H
#define CRSC_LOGD_SERVER_BACKUP_FILE_H

#include <stdint.h>

#include "common/error.h"
#include "logd/server/state_codec.h"

struct backup_writer;

/* Writes PATH.part; PATH must not exist. */
int backup_create(const char *path, const char *cluster, const struct state_manifest *manifest, struct backup_writer **ret_writer, struct error *e);
/* In ascending order. All zeros: nothing is written. -ERROR_NOSPACE, -ERROR_IO. */
int backup_put(struct backup_writer *w, const struct state_piece *piece, const void *bytes, struct error *e);
/* The end; synced, and then under its name. `ret_bytes`: of the file. The writer is gone in any case. */
int backup_finish(struct backup_writer *w, uint64_t *ret_bytes, struct error *e);
struct backup_writer *backup_abandon(struct backup_writer *w); /* takes NULL; the unfinished file goes */

/* What a backup contains, piece by piece. `on_piece` may be NULL: only to verify. A value of its own other than 0 ends it and is the result. */
struct backup_reading {
    int (*on_manifest)(void *user, const char *cluster, const struct state_manifest *manifest, struct error *e); /* borrowed; may be NULL */
    int (*on_piece)(void *user, const struct state_manifest *manifest, const struct state_piece *piece, const void *bytes, struct error *e);
    void *user;
    /* the result */
    struct state_manifest manifest; /* the caller frees it (state_manifest_fini()), also after an error */
    uint64_t bytes, pieces;
};

/* Reads all of it. -ERROR_CORRUPT with the place: what was handed out before must not be used; -ERROR_NOT_FOUND, -ERROR_IO. */
int backup_read(const char *path, struct backup_reading *r, struct error *e);

#endif
