/* Leader election over a coordination.k8s.io Lease: the decision alone. kube/elector.c reads and writes the object.
 *
 * As client-go does it: a lease that was not renewed for its duration, *by our own clock since we saw it change*, is up for taking, so that
 * clocks of nodes need not agree. The holder renews every LEASE_RETRY_MS and stops leading by itself when it could not renew for
 * LEASE_RENEW_MS, which is shorter than LEASE_DURATION_MS: a second one leads only after the first has stopped. Writes carry the
 * resource version that was read; of two that take it, one gets 409. */
#ifndef CRSC_OPERATOR_KUBE_LEASE_H
#define CRSC_OPERATOR_KUBE_LEASE_H

#include <stdbool.h>
#include <stdint.h>

enum { LEASE_DURATION_MS = 15000, LEASE_RENEW_MS = 10000, LEASE_RETRY_MS = 2000, LEASE_TEXT_MAX = 128 };

struct lease_view { /* what the server has; `exists` false: no such object yet */
    bool exists;
    char holder[LEASE_TEXT_MAX];  /* "": released */
    char version[LEASE_TEXT_MAX]; /* its resourceVersion: changes with every renewal */
    uint64_t duration_ms;
};

enum lease_do { LEASE_WAIT, LEASE_CREATE, LEASE_TAKE, LEASE_RENEW };

struct lease {
    char self[LEASE_TEXT_MAX];
    struct lease_view seen;
    uint64_t changed_ms; /* when we first saw it as it is */
    uint64_t renewed_ms; /* when the renewal that succeeded last was begun */
    bool leads;
};

void lease_init(struct lease *l, const char *self);
/* It was read. What to do now. */
enum lease_do lease_seen(struct lease *l, const struct lease_view *view, uint64_t now_ms);
/* A write that was begun at `begun_ms` ended; `version` of the object when it succeeded. */
void lease_written(struct lease *l, bool ok, const char *version, uint64_t begun_ms);
/* Whether this one leads at this moment. Once false, it has to be taken anew. */
bool lease_leads(struct lease *l, uint64_t now_ms);

#endif
