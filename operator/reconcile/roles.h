/* Who of a workload's replicas on Kubernetes takes clients (crsc.io/standby: N): as many as there are to be, less N, at least one. For protect.c only.
 *
 * A role is a label of the pod, and nothing that its interceptor knows of: Services that lead to the workload choose by it. Whoever is asked answers
 * right, as the log is the order of all, so a label that is late, or two that serve for a moment, cost nothing but that. A standby is a replica like
 * the others: it follows, is compared, is ready when it has caught up (so that rollouts and disruption budgets count it), and is promoted by one write.
 *
 * Pods are born serving, by the webhook, and the operator makes standbys of those that are too many: while there is no operator, a pod that is new
 * takes clients as soon as it is ready. One without a role takes clients as long as no Service chooses; it gets one in any case.
 * Whose turn it is to change is decided by group.h, from what is there now; and in a rollout clients go to the new pods when these have been
 * ready for a while (settle_ms), so that it is standbys whose deletion follows; not to one whose app died meanwhile: it would have them again after each of its crashes. Such a one serves when it must,
 * as those from before are gone. Who is suspected only (its agent is silent) loses its role to one that is well, and keeps it while there is none: a
 * promotion too many does no harm. Who is certainly gone is replaced by one that is well or, where none is, by one that is ready and whose agent is silent. Pure. Thread: any. */
#ifndef CRSC_OPERATOR_RECONCILE_ROLES_H
#define CRSC_OPERATOR_RECONCILE_ROLES_H

#include "operator/reconcile/protect.h"

struct roles_plan {
    uint32_t n;
    uint64_t look_ms; /* a role is handed over then, if all stays as it is; UINT64_MAX: none is */
    /* Either PROTECT_PROMOTE or PROTECT_DEMOTE, of those that may serve one: until a plan is carried out, who is to serve instead may have died, which the next
     * one sees. Where all that are to be promoted are such that it failed of, who is too many all the same steps back first. */
    struct protect_action actions[PROTECT_PODS_MAX];
};

/* The changes that are due. */
void roles_plan(const struct protect_world *w, struct roles_plan *ret_plan);

/* Nothing that the API server and its agent say is against it, and that agent is not silent: it keeps a role that it has. To be given one takes more. */
bool roles_can_serve(const struct protect_world *w, uint32_t pod);

/* One that can serve has the label: a Service that chooses has somebody to lead to. */
bool roles_somebody_serves(const struct protect_world *w);

#endif
