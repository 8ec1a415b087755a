/* A dump of a container of this node by runc and CRIU (checkpoint/runc.h), as one blocking call.
 *
 * runc works in the host's mount namespace, where the container's files are: `mount_namespace` names it (/proc/1/ns/mnt in a pod with hostPID); "":
 * ours is the host's. `store` and `run` are the same folders in both. Thread: any; the call makes one of its own. */
#ifndef CRSC_AGENT_DUMP_H
#define CRSC_AGENT_DUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct dump_options {
    const char *runc, *criu; /* programs on the host; "": from PATH */
    const char *runc_root;   /* /run/containerd/runc/k8s.io */
    const char *work;        /* for logs */
    const char *mount_namespace;
    uint32_t timeout_ms;
};

/* Called when all is ready for the dump, from another thread: what has to hold still, holds still when it returns 0. */
typedef int dump_ready(void *user, struct error *e);

/* Into `image_dir`, which is made. The container goes on. `us`: the dump alone. After a failure `*ret_harmed` says whether CRIU was cut in the middle: then
 * the container may stand still, or be in a state that nobody meant: dump_settle() it, and end its app. */
int dump_container(const struct dump_options *o, const char *id, const char *image_dir, dump_ready *ready, void *user, uint64_t *ret_us, bool *ret_harmed,
                   struct error *e);

/* Has an earlier life of ours left a dump of that container in the middle? */
bool dump_left(const struct dump_options *o, const char *id);

/* Waits until no command of an earlier life works on the container, and lets it run if it was left frozen. `*ret_harmed`: CRIU was cut in the middle. */
int dump_settle(const struct dump_options *o, const char *id, bool *ret_harmed, struct error *e);

#endif
