/* Images to and from a registry or a peer agent, by the OCI distribution protocol. Everything is named by digest: what is fetched is verified by
 * oci_image_unpack() or registry_verify(), never believed. Blocking; thread: any. Strings are borrowed. */
#ifndef CRSC_AGENT_REGISTRY_H
#define CRSC_AGENT_REGISTRY_H

#include "agent/call.h"
#include "checkpoint/oci_image.h"
#include "common/error.h"

struct registry {
    const char *base;           /* "http://host:port" or "https://host:port" */
    const char *repository;     /* "checkpoints/demo/counter" */
    const struct call_tls *tls; /* for https */
};

/* Uploads the layout `dir` whose manifest has that digest, under `tag`; then asks the registry for it by digest, and compares. */
int registry_push(const struct registry *r, const char *dir, const char *digest, const char *tag, struct error *e);

/* Makes the layout `dir` (which must not be there; its parent must) from the image of that digest: manifest and config compared with their digests, the layer by size
 * only. At most `max_bytes`. -ERROR_NOT_FOUND; -ERROR_CORRUPT: what came is not what was asked for. */
int registry_fetch(const struct registry *r, const char *digest, const char *dir, uint64_t max_bytes, struct error *e);

/* The digest of the image of that tag. -ERROR_NOT_FOUND. */
int registry_resolve(const struct registry *r, const char *tag, char ret_digest[OCI_DIGEST_MAX], struct error *e);

/* Removes the manifest. Not there is no failure. Some registries do not allow it: -ERROR_UNAVAILABLE. */
int registry_delete(const struct registry *r, const char *digest, struct error *e);

#endif
