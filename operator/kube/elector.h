/* Leader election by a Lease object: the shell around kube/lease.h. `on_change` says when leading begins and ends. */
#ifndef CRSC_OPERATOR_KUBE_ELECTOR_H
#define CRSC_OPERATOR_KUBE_ELECTOR_H

#include <stdbool.h>
#include <uv.h>

#include "operator/kube/client.h"

struct elector;

int elector_new(uv_loop_t *loop, struct kube_client *client, const char *space, const char *name, const char *self,
                void (*on_change)(void *user, bool leads), void *user, struct elector **ret_elector, struct error *e);
bool elector_leads(struct elector *el); /* by the clock, now */
/* Gives a lease that is held back, so that another need not wait for its end; `done` from the loop, within KUBE_CALL_MS. */
void elector_close(struct elector *el, void (*done)(void *user), void *user);

#endif
