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

enum { POLICY_NAME_MAX = 64, POLICY_TEXT_MAX = 256, POLICY_ANNOTATIONS = 12 };

struct policy {
    bool enabled;                      /* checkpoint-restore */
    uint64_t interval_ms, objective_ms; /* objective 0: none */
    uint32_t retain, port;             /* port 0: the container's only one */
    bool log_safe_methods;
    char container[POLICY_NAME_MAX];   /* "": the pod's only one, or its first */
    char registry[POLICY_TEXT_MAX];    /* "-" when it is to be nowhere; "": the agents' own setting */
    char ordering[POLICY_TEXT_MAX], logging[POLICY_NAME_MAX], reads[POLICY_NAME_MAX], traffic[POLICY_NAME_MAX];
};

enum policy_kind { POLICY_BOOL, POLICY_DURATION, POLICY_NUMBER, POLICY_WORD, POLICY_NAME, POLICY_TEXT, POLICY_ORDERING };

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
/* Written by the operator or the webhook, not by people: crsc.io/workload, stream, upstream, admin, template-hash, injected, ... */
bool policy_is_ours(const char *key);
/* The value as text, as an annotation would have it; in `to`. */
void policy_text(const struct policy *p, const struct policy_annotation *a, char *to, size_t cap);

#endif
