/* What the actions (act_*.c) share: an action under way, its calls and its ends. For those files only. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_ACT_INTERNAL_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_ACT_INTERNAL_H

#include <stdlib.h>

#include "operator/drivers/kubernetes/act.h"
#include "operator/drivers/kubernetes/body.h"

#define RECORDS "/apis/crsc.io/v1alpha1/namespaces/%s/protectedworkloads"
#define CHECKPOINTS "/apis/crsc.io/v1alpha1/namespaces/%s/checkpoints"

/* One action under way. */
struct act {
    const struct act_parts *parts;
    const struct view *view;
    struct protect_action action;
    struct kube_watch *into; /* the cache that the answer goes to; NULL: none */
    bool gone_is_good;       /* 404: it was done before */
    bool names_uid;          /* the body does: an answer that the object has another one is a conflict */
    uint32_t timeout_ms;     /* of a call of the API server; 0: KUBE_CALL_MS */
    void (*then)(struct act *a); /* next step; NULL: done */
    act_cb *cb;
    void *user;
};

/* Its end: it is gone then. */
void act_finish(struct act *a, int status, const struct error *e);
void act_fail(struct act *a, enum error_code code, const char *text);

/* Whether anything may still be written; if not, the action ends. */
bool act_may_write(struct act *a);
/* A call of a node's agent, which changes something there; and a record of a snapshot. Without it the action ends. */
void act_ask(struct act *a, const char *node, const char *method, const char *path, const char *body, agents_cb *cb);
void act_record(struct act *a, const struct crsc_snapshot *s, crsc_snapshots_cb *cb);

/* A call of the API server; then `then`, or the end. */
void act_call(struct act *a, const char *method, const char *type, const char *body, const char *format, ...) __attribute__((format(printf, 5, 6)));

#define ACT_SEND(a, j, method, type, ...)                          \
    do {                                                            \
        char *body_ = body_end(j);                                  \
        if (body_ == NULL)                                          \
            act_fail(a, ERROR_NOMEM, "no memory");                      \
        else                                                        \
            act_call(a, method, type, body_, __VA_ARGS__);              \
        free(body_);                                                \
    } while (0)

/* Puts our finalizer on an object, or takes it off. */
void act_finalizer(struct act *a, struct kube_watch *cache, const char *plural, const char *name, bool on);

const char *act_api_of(const struct view *v); /* of the workload: "apps/v1" */
const char *act_kind_of(const struct view *v);

/* Each is one action, by the name of its enum protect_do. */
void act_make_record(struct act *a);
void act_delete_record(struct act *a);
void act_apply_template(struct act *a, bool on);
void act_set_service(struct act *a, bool on);

const struct view_checkpoint *act_checkpoint(const struct act *a); /* the one that the action is about */
void act_new_checkpoint(struct act *a);
void act_start_checkpoint(struct act *a);
void act_end_checkpoint(struct act *a);
void act_note_failed(struct act *a, const char *message);
void act_delete_checkpoint(struct act *a);
void act_distrust_checkpoint(struct act *a);
void act_pass_checkpoint(struct act *a);
void act_refuse_checkpoint(struct act *a);
void act_forget_checkpoint(struct act *a);
void act_abandon_checkpoint(struct act *a);

void act_replace_pod(struct act *a);
void act_remove_pod(struct act *a);
void act_fence(struct act *a);
void act_count_replicas(struct act *a);
void act_set_role(struct act *a);

#endif
