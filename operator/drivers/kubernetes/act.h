/* The actions of operator/reconcile/protect.h on a real cluster: each is one or a few calls of the API server, an agent or the log, and
 * ends with one callback (-ERROR_CANCELED: this operator leads no more). Each is idempotent, and what the server answered goes into the caches, so that the next look sees it.
 *
 * Thread: the loop's. The view is borrowed until the callback. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_ACT_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_ACT_H

#include "client/crsc.h"
#include "operator/drivers/kubernetes/pki.h"
#include "operator/drivers/kubernetes/view.h"
#include "operator/kube/client.h"

struct act_parts {
    struct kube_client *client;
    struct crsc_client *const *log; /* points to NULL while there is none yet */
    struct pki *const *pki;
    const struct caches *caches;
    const char *identity; /* of this operator, in events */
    bool (*leads)(void *user); /* by the clock, now: asked right before each write, of which none is begun any more when it does not */
    void *user;
};

typedef void act_cb(void *user, int status, const struct error *e);

void act_run(const struct act_parts *parts, const struct view *v, struct protect_action action, act_cb *cb, void *user);

/* Brings status of the ProtectedWorkload up to date, if it says something else than `state` and what the view has. */
void act_status(const struct act_parts *parts, const struct view *v, enum protect_state state, act_cb *cb, void *user);

/* Makes the Restore objects (and events) of recoveries that the agents tell of and nobody noted yet. `cb` at the end. */
void act_restores(const struct act_parts *parts, const struct view *v, act_cb *cb, void *user);

/* A Kubernetes Event about the workload; nobody waits for it. `type` "Normal" or "Warning". */
void act_event(const struct act_parts *parts, const struct view *v, const char *type, const char *reason, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
