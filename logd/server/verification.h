/* Is a state whole? A folder with "index/" (an LMDB environment that nobody has open) and "wal/" (segments): every run of events that the
 * index knows must be a whole frame at its place, by the checksum that the client gave it. What a fetched or backed-up state is asked before it is
 * used, and `crsc-logctl check` asks of a server's own. Appends are read once, in the order of the disk and past its page cache; memory stays flat. Blocking. Thread: any. */
#ifndef CRSC_LOGD_SERVER_VERIFICATION_H
#define CRSC_LOGD_SERVER_VERIFICATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct verification {
    uint64_t expected_applied; /* the entry up to which the index must have applied; 0: whatever it says, which is put here */
    bool all;                  /* go on after the first damage, telling each to on_damage */
    void (*on_damage)(void *user, const struct error *e);
    void (*on_progress)(void *user, uint64_t bytes); /* of events, looked at so far; may be NULL */
    void *user;
    size_t rows; /* of the index that are kept at a time; 0: as many as 40 MB hold */
    /* the result */
    uint64_t runs, events, bytes, damages;
    uint64_t damaged_segment; /* the first; 0: none, or it was not a segment */
};

/* 0; -ERROR_CORRUPT (the first damage, in words), -ERROR_IO, -ERROR_NOMEM. */
int verification_run(struct verification *v, const char *dir, struct error *e);

#endif
