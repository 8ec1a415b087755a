/* Restores and Migrations made by hand, carried out: operator/reconcile/wish.h decides, this does it and notes it. One at a time for a workload, the oldest
 * first. Thread: the loop's. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_WISHES_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_WISHES_H

#include "operator/drivers/kubernetes/act.h"
#include "operator/webhook/inject.h"

/* The next step of the workload's oldest wish that has not ended. `cb` at the end; what fails is tried again at the next look. */
void wishes_go_on(const struct act_parts *parts, const struct view *v, act_cb *cb, void *user);

/* For the webhook: what a pod that is being made has to begin with, where, and in which role. Texts point into the caches. */
void wishes_choose(const struct caches *c, yyjson_val *pod, const char *space, struct inject_settings *s);

#endif
