/* The JSON of an OCI image layout: written and read. Internal to checkpoint/; no I/O. Thread: any.
 *
 * Readers are given bytes whose digest has been verified, but trust them no more than that: every word is checked. `e` is never NULL. */
#ifndef CRSC_CHECKPOINT_OCI_JSON_H
#define CRSC_CHECKPOINT_OCI_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "checkpoint/oci_image.h"

#define OCI_LAYOUT_TEXT "{\"imageLayoutVersion\":\"1.0.0\"}"

struct oci_blob {
    char digest[OCI_DIGEST_MAX];
    uint64_t size; /* bytes */
};

struct oci_manifest {
    struct oci_blob config, layer;
    struct oci_image_labels labels;
};

/* Each returns malloc()ed text (the caller frees it) and its length, or NULL without memory. */
char *oci_write_config(const struct oci_blob *layer, const char *user, size_t *ret_len); /* user "": none */
char *oci_write_manifest(const struct oci_manifest *m, size_t *ret_len);
char *oci_write_index(const struct oci_blob *manifest, const struct oci_image_labels *labels, size_t *ret_len);

/* -ERROR_INVALID and what is wrong with it, when it is not of a checkpoint image. */
int oci_read_manifest(const char *text, size_t len, struct oci_manifest *ret_manifest, struct error *e);

/* Checks that the config is of that layer. */
int oci_check_config(const char *text, size_t len, const struct oci_blob *layer, struct error *e);

/* The digest of an index's one manifest. */
int oci_read_index(const char *text, size_t len, char ret_digest[OCI_DIGEST_MAX], struct error *e);

#endif
