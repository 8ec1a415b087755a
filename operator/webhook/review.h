/* An AdmissionReview in, an AdmissionReview out: the words of admission.k8s.io/v1 around inject_pod(). Whatever comes, the pod is allowed:
 * a pod that cannot be protected starts unprotected, with a warning that kubectl shows. Pure. */
#ifndef CRSC_OPERATOR_WEBHOOK_REVIEW_H
#define CRSC_OPERATOR_WEBHOOK_REVIEW_H

#include <stddef.h>

#include "operator/webhook/inject.h"

/* `choose` (may be NULL) may change the settings for this very pod: a restore or a migration that waits for it. */
typedef void review_choose_cb(void *user, yyjson_val *pod, const char *space, struct inject_settings *s);

/* The answer as JSON, freed by the caller; NULL: it is no AdmissionReview (or no memory): 400. */
char *review_answer(const void *body, size_t len, const struct inject_settings *s, review_choose_cb *choose, void *user,
                    enum inject_outcome *ret_outcome, struct error *reason);

#endif
