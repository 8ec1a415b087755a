/* What protection changes in a pod, as a JSON patch: the pure half of the webhook.
 *
 * The interceptor becomes a native sidecar (an init container with restartPolicy Always), the pod gets the RuntimeClass of crsc-runtime
 * and the annotations of docs/AGENT.md, and the probes of the protected container are made to outlast a checkpoint. With `crsc.io/traffic: redirect` the
 * app's port leads to the interceptor within the pod (common/redirect.h), and what the kubelet asks the app, by a probe of any container or native sidecar, goes to a port that leads past it: a probe that waited
 * for a replay would have the app killed. Our scheduling gate is taken off in any case. Nothing else of the pod changes, and a pod that cannot be protected is left as it is, with the reason.
 * With `crsc.io/backend: kubelet` there is no RuntimeClass; the container's image becomes that of the newest checkpoint, where there is one that fits.
 * Pure: no I/O. Thread: any. */
#ifndef CRSC_OPERATOR_WEBHOOK_INJECT_H
#define CRSC_OPERATOR_WEBHOOK_INJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <yyjson.h>

#include "common/error.h"
#include "operator/policy/policy.h"

enum { INJECT_DATA_PORT = 15020, INJECT_ADMIN_PORT = 15021, INJECT_PROBE_PORT = 15022, INJECT_DIRECT_PORT = 15023, INJECT_STREAM_MAX = 255, INJECT_HASH_MAX = 80 };

#define INJECT_SIDECAR "crsc-interceptor"
#define INJECT_PORT_NAME "crsc-data"
#define INJECT_POD_NAME "CRSC_POD" /* in the sidecar's environment, with replication: log: the pod's name */
#define INJECT_VOLUME "crsc-log-tls"
#define INJECT_TLS_PATH "/etc/crsc/log-tls"
#define INJECT_DATA_VOLUME "crsc-data-tls"
#define INJECT_DATA_PATH "/etc/crsc/data-tls" /* tls.crt, tls.key, client-ca.crt */
#define INJECT_LABEL "crsc.io/protected"        /* on our templates and pods: the operator follows those */
#define INJECT_CHECKPOINT "crsc.io/checkpoint"    /* annotation of a pod whose container's image is that of a checkpoint (backend: kubelet) */
#define INJECT_GATE "crsc.io/injection"          /* scheduling gate of templates whose pods redirect: a pod that nobody asked us about is not started */
#define INJECT_ROLE "crsc.io/role"               /* label of replicas, where there are standbys: who takes clients */
#define INJECT_SERVING "serving"
#define INJECT_STANDBY "standby"
#define INJECT_REFUSAL "crsc.io/refused"        /* annotation of a pod that cannot be protected: why */

enum { INJECT_CHECKPOINT_MAX = 65, INJECT_IMAGE_MAX = 900 };

/* What a pod with backend: kubelet begins with. */
struct inject_checkpoint {
    char name[INJECT_CHECKPOINT_MAX], image[INJECT_IMAGE_MAX]; /* image: repository@digest */
};

/* The newest one for pods of that stream and template hash; `wanted`: "auto", "fresh" (none), or a name: that one or none. False: none. */
typedef bool inject_newest_cb(void *user, const char *space, const char *stream, const char *hash, const char *wanted, struct inject_checkpoint *ret_checkpoint);

struct inject_settings {
    const char *image;         /* of the interceptor */
    const char *pull_policy;   /* "IfNotPresent" */
    const char *servers;       /* of the log */
    const char *log_secret;    /* Secret with ca.crt, tls.crt, tls.key for it; "": no TLS */
    const char *cluster;       /* first part of stream names */
    const char *runtime_class; /* "crsc" */
    const char *restore;       /* for crsc.io/restore: NULL: auto */
    const char *role;          /* a replica's, as it begins: NULL: none */
    const char *node;          /* where the pod has to run (a migration): NULL: anywhere */
    inject_newest_cb *newest;  /* NULL: there are none */
    void *newest_user;
};

enum inject_outcome {
    INJECT_PATCHED, /* `*ret_patch` is the patch */
    INJECT_SKIPPED, /* not asked for, or there already: admit as it is */
    INJECT_REFUSED, /* asked for and impossible: admit it without, and say `reason`; `*ret_patch` notes that on the pod (NULL: it may not be changed) */
};

/* `space`: the request's namespace (a pod being created often has none of its own). The patch is freed by the caller. */
enum inject_outcome inject_pod(yyjson_val *pod, const char *space, const struct inject_settings *s, char **ret_patch, struct error *reason);

/* The policy in an object's annotations, checked (policy_check()). 0 or -ERROR_INVALID. */
int inject_policy(yyjson_val *annotations, struct policy *ret_policy, struct error *e);
/* What a checkpoint depends on in a pod's spec, and how it is restored, as "sha256:..."; our own additions do not count. */
int inject_template_hash(yyjson_val *spec, const char *backend, char ret_hash[INJECT_HASH_MAX]);
/* The protected container of a pod's spec and the port it serves on. NULL with the reason. */
yyjson_val *inject_container(yyjson_val *spec, const struct policy *p, uint32_t *ret_port, struct error *reason);

#endif
