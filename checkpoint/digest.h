/* SHA-256 while bytes go by, in OCI's words ("sha256:" and 64 hex digits). Internal to checkpoint/. Thread: any, one at a time. */
#ifndef CRSC_CHECKPOINT_DIGEST_H
#define CRSC_CHECKPOINT_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

#include "checkpoint/oci_image.h"

struct digest;

struct digest *digest_new(void); /* NULL: no memory */
struct digest *digest_free(struct digest *d);

/* Adds bytes. A failure (of OpenSSL: none is known) is kept and told by digest_end(). */
void digest_add(struct digest *d, const void *data, size_t len);

/* Writes the digest of all bytes so far; nothing can be added afterwards. 0 or -ERROR_INTERNAL. */
int digest_end(struct digest *d, char ret_text[OCI_DIGEST_MAX]);

/* Of bytes in memory. 0, -ERROR_NOMEM or -ERROR_INTERNAL. */
int digest_of(const void *data, size_t len, char ret_text[OCI_DIGEST_MAX]);

/* "sha256:" and 64 lower-case hex digits? (What follows is then safe as a file name.) */
bool digest_valid(const char *text);

#endif
