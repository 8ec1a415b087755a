/* The snapshots of one workload on this machine's disk.
 *
 *   DIR/dumps/ID/    CRIU's images of a dump, not packed yet
 *   DIR/images/ID/   a packed image: OCI layout, complete and synced (checkpoint/oci_image.h)
 *
 * A dump can be packed only in the life of the process that made it: after that nobody knows whether it is complete. It is
 * listed all the same, so that it is discarded.
 *
 * Two halves. The list: from memory, the loop's thread; it is told what happened. The work: functions that block, for any other thread;
 * they take copies and touch no list. No two about the same snapshot at the same time. */
#ifndef CRSC_OPERATOR_DRIVERS_SHELF_H
#define CRSC_OPERATOR_DRIVERS_SHELF_H

#include <limits.h>
#include <stdbool.h>

#include "checkpoint/oci_image.h"
#include "common/error.h"

enum { SHELF_ID_MAX = 200 }; /* bytes of a snapshot's id, with the terminating zero */

/* --- the list */

struct shelf;

/* Makes the folders, lists what is there and removes images that were being packed when somebody crashed. Blocks: for a start-up. */
int shelf_new(const char *dir, struct shelf **ret_shelf, struct error *e);
struct shelf *shelf_free(struct shelf *s); /* NULL is nothing; returns NULL */

/* Letters, digits, - _ . and no . first; shorter than SHELF_ID_MAX. */
bool shelf_id_valid(const char *id);

bool shelf_has(const struct shelf *s, const char *id);        /* a dump, perhaps a part of one, or an image */
bool shelf_has_image(const struct shelf *s, const char *id);
/* The specification of the container that a complete dump of this life is of; NULL: there is no such dump. Until it changes. */
const char *shelf_dump_spec(const struct shelf *s, const char *id);

int shelf_dump_begins(struct shelf *s, const char *id, struct error *e); /* -ERROR_EXISTS: it has something of that id */
void shelf_dump_complete(struct shelf *s, const char *id, const char *spec);
void shelf_dump_gone(struct shelf *s, const char *id);
void shelf_packed(struct shelf *s, const char *id);
void shelf_discarded(struct shelf *s, const char *id);

/* Paths of what is or would be there. */
void shelf_dump_path(const struct shelf *s, const char *id, char path[PATH_MAX]);
void shelf_image_path(const struct shelf *s, const char *id, char path[PATH_MAX]);

/* --- the work */

/* Packs `dump`, unless `image` is there already; then removes the dump (failing at that is no failure: *ret_dump_left). An image
 * that is there and has other labels than these: -ERROR_CONFLICT. */
int shelf_pack(const char *dump, const char *image, const struct oci_image_labels *labels, struct oci_image *ret_image,
               bool *ret_dump_left, struct error *e);

/* Unpacks into `target`, whose parent exists, and compares the labels' stream, offset and spec. -ERROR_NOT_FOUND or -ERROR_CORRUPT:
 * the image itself is to blame; any other failure may pass. */
int shelf_unpack(const char *image, const char *digest, const struct oci_image_labels *expected, const char *target,
                 struct error *e);

/* Removes both. Nothing there is no failure. */
int shelf_remove(const char *dump, const char *image, struct error *e);

#endif
