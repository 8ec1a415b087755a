/* Looks at workloads and does what protect_plan() says, a few at a time: the shell between caches, queue and actions.
 * Only while `leads`. Thread: the loop's. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_CONTROLLER_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_CONTROLLER_H

#include <uv.h>

#include "operator/drivers/kubernetes/act.h"

struct controller;

struct controller_counts {
    uint64_t looks, role_looks, actions, failures; /* role_looks: of the looks those at roles */
    size_t waiting;
};

int controller_new(uv_loop_t *loop, const struct act_parts *parts, struct controller **ret_controller, struct error *e);
void controller_lead(struct controller *c, bool leads);
/* This object changed, came or went. */
void controller_changed(struct controller *c, const struct kube_watch *kind, yyjson_val *object);
/* The agent of that node said something new, of the workloads that have something there; `roles`: of who can serve. */
void controller_heard(struct controller *c, const char *node, bool roles);
void controller_counts(const struct controller *c, struct controller_counts *ret_counts);
/* Begins nothing more. Then the clients are closed, which ends the actions under way, then this. */
void controller_stop(struct controller *c);
void controller_close(struct controller *c, void (*done)(void *user), void *user);

#endif
