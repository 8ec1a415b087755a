/* The driver for one machine: runc and CRIU (checkpoint/), without a kubelet.
 *
 *   STATE/NAME/instances/GENERATION.json   the records: {"generation","offset","snapshot","spec","attached"}
 *   STATE/NAME/images/SNAPSHOT/            images (OCI layout), kept
 *   STATE/NAME/dumps/SNAPSHOT/             CRIU's images of a checkpoint that is not packed yet
 *   STATE/NAME/restore/                    an image that is being restored, unpacked; emptied afterwards
 *   STATE/NAME/work/                       logs of commands; CRIU's log of the last dump and restore
 *   RUNC_ROOT                              runc's own state
 *
 * A container's id is NAME-GENERATION; one called NAME that somebody else started is generation 0. The specification is the
 * bundle's config.json, read at each start: `spec` is its digest at that moment (a running instance `fits` while its own is the
 * present one). A directory is used by one driver at a time (a lock file): -ERROR_BUSY.
 *
 * The death of a container's process is noticed through a pidfd, without polling. Hashing, packing and unpacking go to the
 * loop's worker threads. Thread: the loop's. Ownership: strings are copied. */
#ifndef CRSC_OPERATOR_DRIVERS_LOCAL_H
#define CRSC_OPERATOR_DRIVERS_LOCAL_H

#include <uv.h>

#include "operator/driver.h"

struct local_options {
    const char *name;      /* of the workload: letters, digits, - _ . */
    const char *stream;    /* into the images' labels */
    const char *bundle;    /* absolute */
    const char *state_dir; /* absolute; made if it is not there */
    const char *runc_root; /* absolute */
    const char *runc;      /* programs; NULL: from PATH */
    const char *criu;
    uint32_t timeout_ms;   /* of each command of runc; 0: its default */
    unsigned precopy_rounds; /* at most so many before a dump (checkpoint/precopy.h), where the kernel tracks written pages; 0: none */
};

/* `on_change`: the instance ended. It comes from the loop, also between calls. Blocking, for a start-up: makes the directories,
 * takes the lock, reads the bundle's digest, lists images. */
int local_new(uv_loop_t *loop, const struct local_options *options, void (*on_change)(void *user), void *user,
              struct driver **ret_driver, struct error *e);

#endif
