/* Which bytes of another server's state are to be asked for, are on their way, and are there: the plan of a fetch (fetch.h).
 *
 *   asked for ──came──► being written ──written──► there ──(all of a file)──► synced under its name: whole
 *       ▲                                            │
 *       └──────────── lost (the connection broke)    └─ every PIECES_SYNC bytes of the first file that is not whole: synced and noted
 *
 * Up to PIECES_WINDOW pieces are on their way, across the files' ends, so that neither the network nor the disk waits for the other.
 * What is noted or whole is not asked for again, whatever ends: the connection, this process, the machine.
 *
 * Pure: decides only. Thread: any, one at a time. */
#ifndef CRSC_LOGD_SERVER_PIECES_H
#define CRSC_LOGD_SERVER_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "logd/server/state_codec.h"

enum { PIECES_WINDOW = 16, PIECES_SYNC = 16 << 20 };

struct pieces_slot {
    enum { PIECES_FREE, PIECES_ASKED, PIECES_LOST, PIECES_WRITING } state;
    uint64_t frame; /* the question's id */
    struct state_piece what;
};

struct pieces {
    const struct state_manifest *manifest; /* borrowed */
    struct pieces_file {
        uint64_t next;    /* to be asked for */
        uint64_t missing; /* bytes not written yet */
        uint64_t noted;   /* bytes from its beginning on that are synced */
        enum { PIECES_NEEDED, PIECES_FINISHING, PIECES_WHOLE } state;
    } *files;
    struct pieces_slot slots[PIECES_WINDOW];
    size_t asking; /* no file before it has bytes to be asked for */
    size_t first;  /* every file before it is whole */
    bool noting;   /* the file `first` is being synced, to be noted */
    uint64_t note; /* up to there */
    uint64_t there, total; /* bytes */
};

int pieces_init(struct pieces *p, const struct state_manifest *manifest); /* nothing is there; 0 or -ERROR_NOMEM */
void pieces_fini(struct pieces *p);

/* Before anything is asked for: the first `bytes` bytes of a file are there, and synced. All of them: it is whole. */
void pieces_have(struct pieces *p, size_t file, uint64_t bytes);

/* What to ask for now, under that id; NULL: nothing, or the window is full. */
struct pieces_slot *pieces_next(struct pieces *p, uint64_t frame);
/* An answer: its slot, which is being written from now on; NULL: nobody asked. */
struct pieces_slot *pieces_came(struct pieces *p, uint64_t frame);
/* No answer will come to what was asked. */
void pieces_lost(struct pieces *p);
void pieces_written(struct pieces *p, struct pieces_slot *slot);

/* A file whose bytes are all written: to be synced and named, then pieces_finished(). False: none now. */
bool pieces_finish(struct pieces *p, size_t *ret_file);
void pieces_finished(struct pieces *p, size_t file);

/* A file to be synced, and then noted to be there up to `bytes`; then pieces_noted(). False: none now. */
bool pieces_note(struct pieces *p, size_t *ret_file, uint64_t *ret_bytes);
void pieces_noted(struct pieces *p);

bool pieces_done(const struct pieces *p); /* every file is whole */

#endif
