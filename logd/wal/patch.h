/* A sealed segment's file made anew: what is good is copied, what is not is put in its place, into a file beside, which is synced and then takes the
 * name. A crash leaves the one or the other, whole; the file beside is written over by the next patch.
 *
 * Blocking; in steps, so that it can be slow. Thread: one at a time. */
#ifndef CRSC_LOGD_WAL_PATCH_H
#define CRSC_LOGD_WAL_PATCH_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/wal/disk.h"

enum { PATCH_STEP = 512 << 10 /* bytes that a step writes at most */ };

struct patch;

struct patch_piece {
    uint64_t at;
    const uint8_t *bytes;
    size_t len;
};

/* `pieces` in ascending order, without overlaps, borrowed until the end, within `bytes`, the size of the file. -ERROR_NOSPACE, -ERROR_IO, -ERROR_NOMEM. */
int patch_begin(const struct disk *disk, const char *dir, uint64_t id, uint64_t bytes, const struct patch_piece *pieces, size_t n, struct patch **ret_patch,
                struct error *e);
/* 1: there is more to do. 0: the new file is there, durably. An error: the old one is. */
int patch_step(struct patch *p, struct error *e);
void patch_free(struct patch *p); /* also in the middle; takes NULL */

/* Removes what a crash may have left. */
void patch_clean(const struct disk *disk, const char *dir);

#endif
