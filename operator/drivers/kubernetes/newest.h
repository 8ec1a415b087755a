/* For the webhook, with backend: kubelet: which checkpoint's image a new pod's container gets. Thread: the loop's. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_NEWEST_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_NEWEST_H

#include "operator/drivers/kubernetes/view.h"

/* An inject_newest_cb; `caches` is a struct caches. Of those that are valid, of that stream and template, and in a registry: the one of the highest offset. One that a pod
 * could not begin with is passed over for PROTECT_WINDOW_MS. None when PROTECT_UNUSABLE_MAX of the stream were in vain within that time, or all that there are: what pods need
 * for it is missing, and a pod has to come up. But that only where the log has everything from its beginning on: else those that were in vain are tried again in turns. */
bool newest_choose(void *caches, const char *space, const char *stream, const char *hash, const char *wanted, struct inject_checkpoint *ret_checkpoint);

/* Pure: "host:port/name:tag" and a digest as "host:port/name@digest". False: it is no such reference. */
bool newest_reference(const char *image, const char *digest, char ret_reference[INJECT_IMAGE_MAX]);

#endif
