/* One workload as it is now: the facts that operator/reconcile/protect.h decides upon, read from the caches, and the names that its
 * actions need. A plain value: it goes on being true of the moment in which it was made. No I/O. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_VIEW_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_VIEW_H

#include "operator/drivers/kubernetes/agents.h"
#include "operator/kube/watch.h"
#include "operator/policy/policy.h"
#include "operator/reconcile/protect.h"
#include "operator/webhook/inject.h"

enum { VIEW_NAME_MAX = 254, VIEW_STREAM_MAX = 256, VIEW_KEY_MAX = 600, VIEW_IMAGE_MAX = 768 };

#define VIEW_FINALIZER "crsc.io/protection"
#define VIEW_SCHEDULED "crsc.io/scheduled" /* label of the Checkpoints that we make */
#define VIEW_COST "controller.kubernetes.io/pod-deletion-cost"
#define VIEW_PORTS "crsc.io/original-ports" /* annotation of a switched Service */

struct caches {
    struct kube_watch *deployments, *statefulsets, *pods, *services, *nodes, *records, *checkpoints, *restores, *migrations;
    struct agents *agents;
    uint64_t node_grace_ms;
    uint64_t leads_ms; /* since when this operator leads, wall clock */
};

struct view_pod {
    char name[VIEW_NAME_MAX], uid[64], node[VIEW_NAME_MAX], container[64], hash[130], stream[VIEW_STREAM_MAX];
    char begins[INJECT_CHECKPOINT_MAX]; /* its image is that of this checkpoint; "": of the app */
    char unable[256];  /* why it does not come to run, or why nobody knows what it began with */
    bool by_kubelet;   /* backend: kubelet */
    uint64_t running_ms; /* since when its app's container runs; 0: it does not */
    char revision[64], cost[16]; /* which ReplicaSet is its; how dear a scale-down holds it, as annotated */
    char refusal[256]; /* why the webhook gave it no interceptor; "": it did, or was not asked */
    struct agent_container seen; /* what its agent says; seen.pod_uid "" for nothing */
};

struct view_checkpoint {
    char name[VIEW_NAME_MAX], node[VIEW_NAME_MAX], stream[VIEW_STREAM_MAX], image[VIEW_IMAGE_MAX], digest[80], hash[130];
    uint64_t offset, finished_ms;
    uint64_t unusable_ms; /* when a pod could not begin with it; 0: none tried in vain */
    char message[256];
};

struct view {
    char space[64], kind[16], name[VIEW_NAME_MAX]; /* of the workload */
    char record[VIEW_NAME_MAX];                    /* name of its ProtectedWorkload, there or not */
    char uid[64], record_uid[64];
    uint64_t generation;                           /* of the record */
    struct policy policy;                          /* of the record, or of the annotations when there is none */
    struct policy annotated;                       /* of the annotations */
    struct error invalid;                          /* why the policy is not valid */
    uint32_t app_port;
    char app_container[64];
    bool publishes_unready; /* switched Services are to: where interceptors hold requests while their app is away */
    char services[PROTECT_SERVICES_MAX][VIEW_NAME_MAX];
    struct view_pod pods[PROTECT_PODS_MAX];
    struct view_checkpoint checkpoints[PROTECT_CHECKPOINTS_MAX];
    char streams[PROTECT_STREAMS_MAX][VIEW_STREAM_MAX];
    uint32_t n_streams;
    struct protect_world world;
};

/* `key` is "namespace/kind/name", kind deployment, statefulset or pod. False: it is not one. */
bool view_make(const struct caches *c, const char *key, uint64_t now_ms, struct view *ret_view);

/* The key of the workload that an object belongs to: itself, or by annotation, or what a record names. False: none of ours. */
bool view_key_of(const struct caches *c, const struct kube_watch *kind, yyjson_val *object, char ret_key[VIEW_KEY_MAX]);

/* Whose views an agent has a part in: `each` for every node (or that one alone; NULL: all) with something of a workload that its agent tells of, a pod or a checkpoint under way; more than once for
 * several of them. */
void view_each_heard(const struct caches *c, const char *only, void (*each)(void *user, const char *node, const char *key), void *user);

/* The annotations that a policy puts into a pod template, one by one. */
void view_template_annotations(const struct view *v, void (*each)(void *user, const char *key, const char *value), void *user);

/* Whether a node is not ready for longer than the grace, or is there no more. */
bool view_node_lost(const struct caches *c, const char *node, uint64_t now_ms);

/* Whether a port of a Service leads to the app's port. */
bool view_port_matches(const struct view *v, yyjson_val *port, yyjson_val *containers);

#endif
