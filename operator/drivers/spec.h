/* The digest of a container's specification: checkpoints fit a bundle whose digest is that of the bundle which they were taken of.
 *
 * It is that of the whole config.json, byte for byte, except for what says only *where* replicas of one app run: the path of the network
 * namespace (`linux.namespaces[].path` of type network) and `linux.cgroupsPath`. A restored process gets those of its new bundle, so that
 * bundles of replicas which differ in nothing else fit each other. A file that has neither keeps the digest of its bytes.
 *
 * Thread: any but the loop's, as it reads a file. */
#ifndef CRSC_OPERATOR_DRIVERS_SPEC_H
#define CRSC_OPERATOR_DRIVERS_SPEC_H

#include "checkpoint/oci_image.h"
#include "common/error.h"

/* `path`: of config.json. -ERROR_NOT_FOUND, -ERROR_IO; -ERROR_INVALID: it is no JSON. */
int spec_digest(const char *path, char ret_digest[OCI_DIGEST_MAX], struct error *e);

#endif
