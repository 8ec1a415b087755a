/* The checkpoint images on this node's disk: DIR/images/STREAM/ID/, OCI layouts (checkpoint/oci_image.h), where STREAM is a hash of the stream's name.
 *
 * The list is made from the disk at the start and kept in memory. An image that is held is not removed. Within `budget` bytes: choose_eviction()
 * says what goes. Thread: any; calls that touch the disk block. Strings are copied. */
#ifndef CRSC_AGENT_STORE_H
#define CRSC_AGENT_STORE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "checkpoint/oci_image.h"
#include "common/error.h"

enum { STORE_ID_MAX = 65 };

struct store;

struct store_image {
    char id[STORE_ID_MAX];
    struct oci_image image; /* its labels name stream and offset */
    char path[PATH_MAX];
};

int store_new(const char *dir, uint64_t budget, struct store **ret_store, struct error *e);
struct store *store_free(struct store *s);

/* Where the image of that id is or would be; makes the folder above it. */
int store_place(struct store *s, const char *stream, const char *id, char path[PATH_MAX], struct error *e);

/* A whole image was put in its place: from now on it is listed, and held until store_release(). */
int store_add(struct store *s, const char *id, const struct oci_image *image, struct error *e);

/* Finds and holds it. `stream` NULL: any stream's. False: there is none. */
bool store_hold(struct store *s, const char *stream, const char *id, struct store_image *ret_image);
bool store_hold_digest(struct store *s, const char *blob, struct store_image *ret_image); /* the image of that manifest digest */
void store_release(struct store *s, const struct store_image *image);

/* -ERROR_NOT_FOUND; -ERROR_BUSY while it is held. */
int store_remove(struct store *s, const char *stream, const char *id, struct error *e);

/* Removes what the budget asks for. How many. */
unsigned store_evict(struct store *s);

/* A copy of the list, malloc()ed; NULL without memory or without images. */
struct store_image *store_list(struct store *s, size_t *ret_n);
uint64_t store_bytes(struct store *s, uint64_t *ret_budget, size_t *ret_n);

#endif
