/* What the annotations of a workload or pod ask for. docs/ANNOTATIONS.md is their table for people, and a test compares the two.
 *
 * Pure. An annotation of ours that is not understood is an error, never ignored: somebody thought that it does something. */
#ifndef CRSC_OPERATOR_POLICY_POLICY_H
#define CRSC_OPERATOR_POLICY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define POLICY_PREFIX "crsc.io/"

enum { POLICY_REPLICAS_MAX = 15 /* that can be told apart by their votes: interceptor/replica/verdict.h */ };
enum { POLICY_NAME_MAX = 64, POLICY_TEXT_MAX = 256, POLICY_ANNOTATIONS = 19 };

struct policy {
    bool enabled;                      /* checkpoint-restore */
    uint64_t interval_ms, objective_ms; /* objective 0: none */
    uint32_t retain, port;             /* port 0: the container's only one */
    uint32_t app_pipeline;
    uint32_t standby;                  /* so many of the replicas take no clients; 0: all do */
    bool log_safe_methods;
    char container[POLICY_NAME_MAX];   /* "": the pod's only one, or its first */
    char registry[POLICY_TEXT_MAX];    /* "-" when it is to be nowhere; "": the agents' own setting */
    char ordering[POLICY_TEXT_MAX], logging[POLICY_NAME_MAX], reads[POLICY_NAME_MAX], traffic[POLICY_NAME_MAX], upgrade[POLICY_NAME_MAX];
    char replication[POLICY_NAME_MAX];
    char backend[POLICY_NAME_MAX];     /* runtime, kubelet: how checkpoints are taken and restored */
    char tls_secret[POLICY_TEXT_MAX];    /* a Secret with the data port's certificate; "": no TLS */
    char tls_client_ca[POLICY_TEXT_MAX]; /* policy_client_ca() takes it apart; "": clients show no certificate */
};

/* Where the CAs of the data port's clients are: a key of an object in the pod's namespace. */
struct policy_source {
    bool secret; /* else a ConfigMap */
    char name[POLICY_TEXT_MAX], key[POLICY_TEXT_MAX];
};

enum policy_kind { POLICY_BOOL, POLICY_DURATION, POLICY_NUMBER, POLICY_WORD, POLICY_NAME, POLICY_TEXT, POLICY_ORDERING, POLICY_OBJECT, POLICY_SOURCE };

struct policy_annotation {
    const char *name;    /* behind the prefix */
    enum policy_kind kind;
    size_t at;           /* offsetof() in struct policy */
    const char *initial; /* as one would write it; "" where there is none */
    const char *values;  /* POLICY_WORD: those that are there, separated by | ; else what may be written, for people */
    uint64_t min, max;
    bool in_pod;         /* a change of it changes the pods: a rollout */
};

/* All of them, POLICY_ANNOTATIONS in number. */
const struct policy_annotation *policy_table(void);

/* Its name as a field of a ProtectedWorkload's spec: "checkpoint-interval" is checkpointInterval. */
void policy_field(const struct policy_annotation *a, char to[POLICY_NAME_MAX]);

void policy_defaults(struct policy *p);
/* One annotation. `key` without the prefix "crsc.io/" is passed over, as are those that CRSC itself writes (policy_is_ours()). 0, or
 * -ERROR_INVALID with a sentence that names it. */
int policy_set(struct policy *p, const char *key, const char *value, struct error *e);
/* After all of them: what only makes sense together. 0, or -ERROR_INVALID with a sentence. */
int policy_check(const struct policy *p, struct error *e);
/* replication: log, several pods with one stream. */
bool policy_replicated(const struct policy *p);
/* backend: kubelet: by the kubelet's API and the container runtime, not by crsc-runtime. */
bool policy_by_kubelet(const struct policy *p);
/* Whether a Deployment of that many replicas (or a StatefulSet, or a pod) can be protected so. 0, or -ERROR_INVALID with a sentence that says what to do. */
int policy_check_replicas(const struct policy *p, bool deployment, uint64_t replicas, struct error *e);
/* tls-client-ca; false: there is none. */
bool policy_client_ca(const struct policy *p, struct policy_source *ret_source);
/* Written by the operator or the webhook, not by people: crsc.io/workload, stream, upstream, admin, template-hash, injected, ... */
bool policy_is_ours(const char *key);
/* The value as text, as an annotation would have it; in `to`. */
void policy_text(const struct policy *p, const struct policy_annotation *a, char *to, size_t cap);

#endif
