/* The operator's certificates: a CA in a Secret, made by whoever comes first; from it the webhook's serving certificate and this
 * operator's own for the agents (in memory: each operator has its own), and the agents' certificate, in a Secret that they mount. All are
 * renewed when two thirds of their life are over, the agents' also when nodes come. The CA's successor is made as long before its end as its certificates
 * live; until then both are in the bundle that others trust.
 *
 * The webhook configuration gets the bundle. Thread: the loop's. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_PKI_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_PKI_H

#include <stdbool.h>
#include <uv.h>

#include "operator/kube/client.h"
#include "operator/kube/watch.h"
#include "operator/webhook/certs.h"

struct pki;

struct pki_options {
    struct kube_client *client;
    const char *space, *ca_secret, *agent_secret, *webhook_configuration; /* agent_secret, webhook_configuration: "" for none */
    const char *webhook_names;       /* separated by commas */
    const char *logd_secret, *logd_names; /* of crsc-logd; logd_secret "": none */
    const char *log_secret;          /* in each namespace with a record, for its interceptors; "": none */
    const char *cluster;             /* first part of the streams that those may write */
    const struct kube_watch *records;
    const struct kube_watch *nodes;  /* whose names and addresses the agents' certificate has */
    /* There are new ones: of the webhook, and ours for the agents. `bundle`: whom to trust. Borrowed. */
    void (*on_ready)(void *user, const char *bundle, const struct certs_pair *serving, const struct certs_pair *client);
    void *user;
};

int pki_new(uv_loop_t *loop, const struct pki_options *options, struct pki **ret_pki, struct error *e);
void pki_lead(struct pki *p, bool leads); /* only the leader writes the agents' Secret and the webhook configuration */
/* Whether the interceptors of this namespace have their Secret; if not, it is made now. */
bool pki_serves(struct pki *p, const char *space);
void pki_nodes_changed(struct pki *p);
void pki_close(struct pki *p, void (*done)(void *user), void *user);

#endif
