/* Compares rows of the index with what the disk has at their places: does a frame of that length begin there, and does its head say that it is the append which the row
 * means? A row's own checksum tells that it is as it was written (records.h); this tells that what was written is true.
 *
 * The bodies are not read: that their bytes are right is what the look at the segments says (wal/sieve.h). Rows are read in the order of their places, past the page
 * cache, a page each where they lie far from each other. Files may be removed meanwhile, and events moved: who is told of a row that differs looks again.
 *
 * Blocking. Thread: one at a time. */
#ifndef CRSC_LOGD_SERVER_COLLATE_H
#define CRSC_LOGD_SERVER_COLLATE_H

#include <stdint.h>

#include "logd/server/sift.h"

struct collate;

struct collate *collate_new(const char *dir);          /* of the log; borrowed. NULL: no memory */
struct collate *collate_free(struct collate *c);       /* takes NULL */
void collate_close(struct collate *c);                 /* the file that it has open */

/* Sorts the rows by their places, and calls `differs` for each that is not what is there. How many bytes that cost the disk: a read that is far from the one
 * before costs as much as one of COLLATE_LEAST. */
enum { COLLATE_LEAST = 16 << 10 };
uint64_t collate_rows(struct collate *c, struct sift_run *rows, unsigned n, void (*differs)(void *user, const struct sift_run *row), void *user);

#endif
