/* A checkpoint as an OCI image layout on disk: what is kept, copied between machines, and verified before a restore.
 *
 *   DIR/oci-layout  DIR/index.json  DIR/blobs/sha256/{manifest, config, layer}
 *
 * The one layer is an uncompressed tar of the dump under `checkpoint/`, or a container runtime's own checkpoint archive as it is
 * (oci_image_wrap(): `checkpoint/`, spec.dump, config.dump, ...), which that runtime restores from. The manifest carries the annotations that
 * containerd and CRI-O know a checkpoint image by (`org.criu.checkpoint.container.name`,
 * `io.kubernetes.cri-o.annotations.checkpoint.name`) and ours: `crsc.io/stream`, `crsc.io/offset`, `crsc.io/spec`.
 * The manifest's digest names everything in it: it is what the log records, and what must be given to unpack. With
 * it index.json is not read at all: what is there cannot mislead.
 *
 * A packed image is on disk for good when pack returns 0, and not there at all otherwise: it is written under
 * "DIR.partial", fsynced, renamed, and the parent directory is fsynced. What a crash leaves under that name is removed
 * by the next pack to the same DIR. Files are 0600 and directories 0700: a checkpoint contains the app's secrets.
 *
 * Thread: any but the loop's: these calls block (disk, hashing). Two calls about the same DIR must not overlap.
 * Strings are borrowed for the call. Sources: the OCI image specification 1.0 (image-layout, manifest, descriptor). */
#ifndef CRSC_CHECKPOINT_OCI_IMAGE_H
#define CRSC_CHECKPOINT_OCI_IMAGE_H

#include <stdint.h>

#include "common/error.h"

enum {
    OCI_DIGEST_MAX = 72,   /* "sha256:", 64 hex digits, zero */
    OCI_LABEL_MAX = 512,   /* bytes of a label, with the terminating zero */
    OCI_USER_MAX = 24,     /* "uid:gid" */
    OCI_JSON_MAX = 1 << 20 /* bytes of index.json, of a manifest and of a config; larger is refused */
};

/* What an image is a checkpoint of. */
struct oci_image_labels {
    char container[OCI_LABEL_MAX]; /* the container's name */
    char stream[OCI_LABEL_MAX];    /* the log's stream */
    uint64_t offset;               /* it contains every request up to this one, and none after */
    char spec[OCI_DIGEST_MAX];     /* digest of the bundle's config.json (oci_file_digest()) that it may be restored into; ""
                                      when nobody said: then nobody may check it */
    char user[OCI_USER_MAX];       /* "uid:gid" of a wrapped archive's container, which a kubelet asks the image for (runAsNonRoot); "": none. Not
                                      read back */
};

struct oci_image {
    char digest[OCI_DIGEST_MAX]; /* of the manifest: the image's name */
    uint64_t size;               /* bytes of all blobs */
    struct oci_image_labels labels;
};

/* Packs the files and directories of `dump_dir` (regular files and directories, and the links of pre-copy (precopy.h), only) as a new image. -ERROR_EXISTS when `dir`
 * is there already; -ERROR_NOSPACE on a full disk. */
int oci_image_pack(const char *dump_dir, const char *dir, const struct oci_image_labels *labels,
    struct oci_image *ret_image, struct error *e);

/* The same of an archive that a container runtime wrote: its bytes, from the beginning to the end of `fd`, are the layer. -ERROR_INVALID: it is no
 * tar. Such an image cannot be unpacked here. */
int oci_image_wrap(int fd, const char *dir, const struct oci_image_labels *labels, struct oci_image *ret_image, struct error *e);

/* Verifies an image against the digest of its manifest (from the log) and extracts the dump into `target`, which must
 * not exist and whose parent must. The bytes that were hashed are the bytes that were extracted. Everything or nothing: at
 * a difference anywhere -ERROR_CORRUPT, and no `target`. Refused with -ERROR_INVALID: what is not a checkpoint, entries
 * other than regular files, directories and the links of pre-copy below `checkpoint/`, names that leave it or go through a link. More than `max_bytes` of content:
 * -ERROR_TOO_LARGE. */
int oci_image_unpack(const char *dir, const char *digest, const char *target, uint64_t max_bytes,
    struct oci_image *ret_image, struct error *e);

/* Reads all of an image against the digest of its manifest, and writes nothing. -ERROR_CORRUPT as above. */
int oci_image_verify(const char *dir, const char *digest, struct oci_image *ret_image, struct error *e);

/* Reads and verifies manifest and config only: labels and size, without the layer's bytes. `digest` may be NULL: any. */
int oci_image_inspect(const char *dir, const char *digest, struct oci_image *ret_image, struct error *e);

/* "sha256:..." of a file's bytes. */
int oci_file_digest(const char *path, char ret_digest[OCI_DIGEST_MAX], struct error *e);

#endif
