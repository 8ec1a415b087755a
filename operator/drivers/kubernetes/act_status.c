/* The status of a ProtectedWorkload: kubectl get protectedworkloads tells it all at a glance. */
#include "operator/drivers/kubernetes/act_internal.h"

#include <stdio.h>
#include <string.h>

#include "operator/kube/object.h"

enum { UNSEEN_MS = 15000 }; /* an agent looks three times a second */

struct summary {
    uint64_t executed, last;
    uint32_t pods, active, valid;
    const struct view_checkpoint *newest;
    bool newest_fits;
};

static void summarize(const struct view *v, struct summary *s)
{
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < v->world.n_pods; i++) {
        if (!v->world.pods[i].injected || v->world.pods[i].terminating) continue;
        s->pods++;
        s->active += v->world.pods[i].active;
        if (v->pods[i].seen.executed > s->executed) s->executed = v->pods[i].seen.executed;
    }
    for (uint32_t i = 0; i < v->world.n_checkpoints; i++) {
        const struct protect_checkpoint *c = &v->world.checkpoints[i];
        if (c->phase != PROTECT_VALID || c->deleting) continue;
        s->valid++;
        if (s->newest != NULL && c->offset <= s->newest->offset) continue;
        s->newest = &v->checkpoints[i];
        s->newest_fits = c->fits;
    }
}

static void put_condition(struct body *j, yyjson_mut_val *list, yyjson_val *record, uint64_t now_ms, const char *type, bool on, const char *reason,
                          const char *message)
{
    yyjson_val *old = object_condition(record, type);
    yyjson_mut_val *c = yyjson_mut_arr_add_obj(j->doc, list);
    const char *status = on ? "True" : "False", *since = object_text(old, "lastTransitionTime");
    body_text(j, c, "type", type);
    body_text(j, c, "status", status);
    body_text(j, c, "reason", reason);
    body_text(j, c, "message", message);
    body_number(j, c, "observedGeneration", object_number(record, "metadata.generation"));
    if (since[0] != '\0' && strcmp(object_text(old, "status"), status) == 0)
        body_text(j, c, "lastTransitionTime", since);
    else
        body_time(j, c, "lastTransitionTime", now_ms);
}

static const char *explain(enum protect_state state)
{
    switch (state) {
    case PROTECT_INVALID: return "an annotation, or a field of the spec, is not understood";
    case PROTECT_PENDING: return "no pod with an interceptor yet";
    case PROTECT_STARTING: return "the interceptor waits for the app, or nobody tells of it";
    case PROTECT_PROTECTED: return "every request is logged, and the state can be restored";
    case PROTECT_RECOVERING: return "the app is being restored, or catches up";
    case PROTECT_CRASH_LOOP: return "the app dies again and again, also in new pods: its pods are not replaced any more for now";
    case PROTECT_NODE_LOST: return "a node with a pod of it does not answer";
    case PROTECT_ENDING: return "protection ends";
    }
    return "";
}

/* Of replicas: do their answers say the same? Who has diverged is rebuilt; where nobody knows who is wrong, people have to find out. */
static bool find_disagreement(const struct view *v, char *text, size_t cap)
{
    bool found = false;
    for (uint32_t i = 0; i < v->world.n_pods; i++) {
        const struct protect_pod *p = &v->world.pods[i];
        const struct view_pod *pod = &v->pods[i];
        if (!p->heard || p->terminating || (p->diverged == 0 && pod->seen.disagreement == 0)) continue;
        found = true;
        if (p->diverged != 0)
            snprintf(text, cap, "pod %s has diverged: its answer to offset %llu is not that of the majority; it is replaced", pod->name, (unsigned long long)p->diverged);
        else
            snprintf(text, cap, "the answers to offset %llu differ, and no majority says who is wrong", (unsigned long long)pod->seen.disagreement);
        if (p->diverged != 0) break;
    }
    return found;
}

static void put_agreement(struct body *j, yyjson_mut_val *list, const struct act_parts *parts, const struct view *v, yyjson_val *record)
{
    char text[400] = "";
    bool differ = find_disagreement(v, text, sizeof text);
    bool before = strcmp(object_text(object_condition(record, "ReplicasAgree"), "status"), "False") == 0;
    put_condition(j, list, record, v->world.now_ms, "ReplicasAgree", !differ, differ ? "Differ" : "Agree", text);
    if (differ && !before) act_event(parts, v, "Warning", "ReplicasDiffer", "%s", text);
}

/* Pods that the webhook could give no interceptor start unprotected: whoever looks at the workload has to learn why. */
static void put_acceptance(struct body *j, yyjson_mut_val *list, const struct act_parts *parts, const struct view *v, yyjson_val *record)
{
    char text[400] = "";
    for (uint32_t i = 0; i < v->world.n_pods && text[0] == '\0'; i++)
        if (v->world.pods[i].refused && !v->world.pods[i].terminating) snprintf(text, sizeof text, "pod %s is not protected: %s", v->pods[i].name, v->pods[i].refusal);
    bool refused = text[0] != '\0', before = strcmp(object_text(object_condition(record, "PodsAccepted"), "status"), "False") == 0;
    put_condition(j, list, record, v->world.now_ms, "PodsAccepted", !refused, refused ? "Refused" : "NoneRefused", text);
    if (refused && !before) act_event(parts, v, "Warning", "PodRefused", "%s", text);
}

/* backend: kubelet. Checkpoints that were valid and that no pod could begin with: what is asked of the nodes is missing, perhaps. */
static void put_usability(struct body *j, yyjson_mut_val *list, const struct view *v, yyjson_val *record)
{
    const struct view_checkpoint *last = NULL;
    char text[400] = "";
    for (uint32_t i = 0; i < v->world.n_checkpoints; i++) {
        const struct view_checkpoint *c = &v->checkpoints[i];
        if (c->unusable_ms != 0 && c->unusable_ms + PROTECT_WINDOW_MS > v->world.now_ms && (last == NULL || c->unusable_ms > last->unusable_ms)) last = c;
    }
    if (last != NULL) snprintf(text, sizeof text, "checkpoint %.64s: %.250s", last->name, last->message);
    put_condition(j, list, record, v->world.now_ms, "CheckpointsUsable", last == NULL, last == NULL ? "NoneRefused" : "Refused", text);
}

/* The worst of what keeps its pods from being served, or from being checkpointed; "": nothing. */
static void find_hindrance(const struct act_parts *parts, const struct view *v, char *text, size_t cap)
{
    int worst = 0;
    for (uint32_t i = 0; i < v->world.n_pods; i++) {
        const struct protect_pod *p = &v->world.pods[i];
        const struct view_pod *pod = &v->pods[i];
        const char *kubelet = agents_kubelet(parts->caches->agents, pod->node);
        bool unseen = p->agent && pod->seen.pod_uid[0] == '\0' && pod->running_ms != 0 && v->world.now_ms > pod->running_ms + UNSEEN_MS;
        if (!pod->by_kubelet || p->terminating) continue;
        if (p->unknown && worst < 3) {
            snprintf(text, cap, "nobody knows which state pod %.80s began with: %.200s", pod->name, pod->unable);
            worst = 3;
        } else if (unseen && worst < 2) {
            snprintf(text, cap, "pod %.80s runs, and the agent of node %.80s does not find its container: its handler wants pod_annotations = [\"crsc.io/*\"], the agent the right --runc-root",
                     pod->name, pod->node);
            worst = 2;
        } else if (kubelet[0] != '\0' && worst < 1) {
            snprintf(text, cap, "no checkpoints are taken on node %.80s: %.200s", pod->node, kubelet);
            worst = 1;
        }
    }
}

static void put_backend(struct body *j, yyjson_mut_val *list, const struct act_parts *parts, const struct view *v, yyjson_val *record)
{
    char text[512] = "";
    find_hindrance(parts, v, text, sizeof text);
    bool works = text[0] == '\0', said = strcmp(object_text(object_condition(record, "BackendReady"), "message"), text) == 0;
    put_condition(j, list, record, v->world.now_ms, "BackendReady", works, works ? "Works" : "Hindered", text);
    if (!works && !said) act_event(parts, v, "Warning", "BackendHindered", "%s", text);
}

static void put_conditions(struct body *j, yyjson_mut_val *status, const struct act_parts *parts, const struct view *v, yyjson_val *record, enum protect_state state)
{
    yyjson_mut_val *list = body_array(j, status, "conditions");
    uint64_t now = v->world.now_ms;
    const char *name = protect_state_name(state);
    put_condition(j, list, record, now, "Ready", state == PROTECT_PROTECTED, name, explain(state));
    put_condition(j, list, record, now, "PolicyValid", v->world.policy_valid, v->world.policy_valid ? "Understood" : "Refused",
                  v->world.policy_valid ? "" : v->invalid.text);
    put_condition(j, list, record, now, "CrashLoop", state == PROTECT_CRASH_LOOP, state == PROTECT_CRASH_LOOP ? "RepeatedDeaths" : "None", "");
    put_acceptance(j, list, parts, v, record);
    if (policy_by_kubelet(&v->policy)) put_usability(j, list, v, record), put_backend(j, list, parts, v, record);
    if (v->world.shared) put_agreement(j, list, parts, v, record);
}

/* What changes with every request is written every few seconds; the rest at once. */
static bool says_the_same(yyjson_val *old, yyjson_val *now)
{
    static const char *const fields[] = {"phase", "checkpoint", "stream", "pods", "activePods", "validCheckpoints", "conditions", "observedGeneration", "estimatedRecovery"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        yyjson_val *a = yyjson_obj_get(old, fields[i]), *b = yyjson_obj_get(now, fields[i]);
        if (a == NULL && b == NULL) continue;
        if (strcmp(fields[i], "estimatedRecovery") == 0) continue;
        if (a == NULL || b == NULL || !yyjson_equals(a, b)) return false;
    }
    uint64_t before = object_time_ms(object_text(old, "updatedAt")), after = object_time_ms(object_text(now, "updatedAt"));
    return object_number(old, "offset") == object_number(now, "offset") || after - before < 4000;
}

void act_status(const struct act_parts *parts, const struct view *v, enum protect_state state, act_cb *cb, void *user)
{
    yyjson_val *record = kube_watch_get(parts->caches->records, v->space, v->record);
    struct summary s;
    struct body j = body_new();
    char estimate[32];
    summarize(v, &s);
    uint64_t tail = s.executed - (s.newest != NULL && s.newest_fits && s.newest->offset <= s.executed ? s.newest->offset : 0);
    uint64_t ms = protect_estimate(s.newest_fits, tail);
    yyjson_mut_val *status = body_map(&j, j.root, "status");
    body_text(&j, status, "phase", protect_state_name(state));
    body_number(&j, status, "observedGeneration", v->generation);
    body_number(&j, status, "offset", s.executed);
    body_number(&j, status, "pods", s.pods);
    body_number(&j, status, "activePods", s.active);
    body_number(&j, status, "validCheckpoints", s.valid);
    snprintf(estimate, sizeof estimate, "%llu.%llus", (unsigned long long)(ms / 1000), (unsigned long long)(ms % 1000 / 100));
    body_text(&j, status, "estimatedRecovery", estimate);
    if (v->n_streams > 0) body_text(&j, status, "stream", v->streams[0]);
    if (s.newest != NULL) {
        body_text(&j, status, "checkpoint", s.newest->name);
        body_number(&j, status, "checkpointOffset", s.newest->offset);
        body_time(&j, status, "checkpointTime", s.newest->finished_ms);
    }
    body_time(&j, status, "updatedAt", v->world.now_ms);
    put_conditions(&j, status, parts, v, record, state);
    yyjson_doc *now = yyjson_mut_doc_imut_copy(j.doc, NULL);
    bool same = record == NULL || says_the_same(object_get(record, "status"), object_get(yyjson_doc_get_root(now), "status"));
    yyjson_doc_free(now);
    struct act *a = same ? NULL : calloc(1, sizeof *a);
    if (a == NULL) {
        free(body_end(&j));
        cb(user, 0, NULL);
        return;
    }
    const char *before = object_text(record, "status.phase");
    if (strcmp(before, protect_state_name(state)) != 0)
        act_event(parts, v, state == PROTECT_INVALID || state == PROTECT_CRASH_LOOP || state == PROTECT_NODE_LOST ? "Warning" : "Normal",
                  protect_state_name(state), "%s", state == PROTECT_INVALID ? v->invalid.text : explain(state));
    *a = (struct act){.parts = parts, .view = v, .into = parts->caches->records, .gone_is_good = true, .cb = cb, .user = user};
    ACT_SEND(a, &j, "PATCH", KUBE_MERGE, RECORDS "/%s/status", v->space, v->record);
}
