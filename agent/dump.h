/* A dump of a container of this node by runc and CRIU (checkpoint/runc.h), as one blocking call.
 *
 * runc works in the host's mount namespace, where the container's files are: `mount_namespace` names it (/proc/1/ns/mnt in a pod with hostPID); "":
 * ours is the host's. `store` and `run` are the same folders in both. Thread: any; the call makes one of its own. */
#ifndef CRSC_AGENT_DUMP_H
#define CRSC_AGENT_DUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/precopy.h"
#include "common/error.h"

struct dump_options {
    const char *runc, *criu; /* programs on the host; "": from PATH */
    const char *runc_root;   /* /run/containerd/runc/k8s.io */
    const char *work;        /* for logs */
    const char *mount_namespace;
    uint32_t timeout_ms;
    unsigned precopy_rounds; /* at most so many before a dump, while the container serves (checkpoint/precopy.h); 0: none */
};

struct dump_outcome {
    uint64_t us;                                /* the dump alone */
    bool harmed;                                /* CRIU was cut in the middle: the container may stand still, or be in a state that nobody meant: dump_settle()
                                                   it, and end its app */
    unsigned rounds;                            /* of pre-copy, which the dump is built upon, or was to be */
    uint64_t round_bytes[PRECOPY_ROUNDS_MAX];   /* what each wrote */
    bool futile;                                /* there were rounds, which failed or did not pay: removed */
};

/* Called when all is ready for the dump, after the rounds of pre-copy, from another thread: what has to hold still, holds still when it returns 0. */
typedef int dump_ready(void *user, struct error *e);

/* Into `image_dir`, which is made, and is to be removed after a failure. The container goes on. `ret_outcome` is filled in after a failure, too. Rounds of
 * pre-copy that fail are no failure, but when they harm the container. */
int dump_container(const struct dump_options *o, const char *id, const char *image_dir, dump_ready *ready, void *user, struct dump_outcome *ret_outcome,
                   struct error *e);

/* Has an earlier life of ours left a dump of that container in the middle? */
bool dump_left(const struct dump_options *o, const char *id);

/* Waits until no command of an earlier life works on the container, and lets it run if it was left frozen. `*ret_harmed`: CRIU was cut in the middle. */
int dump_settle(const struct dump_options *o, const char *id, bool *ret_harmed, struct error *e);

#endif
