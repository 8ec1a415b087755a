/* Work in the mount namespace of the host, where the container runtime's and the kubelet's files are. A thread that entered it cannot share its root and working folder with the
 * others any more, so each piece of work has one of its own, which ends with it. Blocking. Thread: any. */
#ifndef CRSC_AGENT_MNTNS_H
#define CRSC_AGENT_MNTNS_H

#include "common/error.h"

/* What `work` answers, done in the mount namespace that the file `mount_namespace` stands for; "": our own. `e`, which is work's too, may be NULL. -ERROR_IO: it cannot be entered;
 * -ERROR_NOMEM: no thread. */
int mntns_do(const char *mount_namespace, int (*work)(void *user, struct error *e), void *user, struct error *e);

#endif
