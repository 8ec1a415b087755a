/* What the API server sends the operator: an AdmissionReview to the webhook; objects of every kind, of which view_make() makes the facts that the
 * core decides upon. Any review gets an answer that allows the pod; counts stay within their arrays; a plan can be made of every view. */
#include <stdlib.h>
#include <string.h>

#include "operator/drivers/kubernetes/view.h"
#include "operator/kube/object.h"
#include "operator/reconcile/protect.h"
#include "operator/webhook/review.h"
#include "tests/fuzz/fuzz.h"

/* ---- caches that hold what the input says --------------------------------------------------------------------- */

struct kube_watch { yyjson_val *objects; };
struct agents { yyjson_val *answers; };

yyjson_val *kube_watch_get(const struct kube_watch *w, const char *space, const char *name)
{
    yyjson_arr_iter it = yyjson_arr_iter_with(w->objects);
    for (yyjson_val *o; (o = yyjson_arr_iter_next(&it)) != NULL;)
        if (strcmp(object_space(o), space) == 0 && strcmp(object_name(o), name) == 0) return o;
    return NULL;
}

void kube_watch_each(const struct kube_watch *w, bool (*each)(void *user, yyjson_val *object), void *user)
{
    yyjson_arr_iter it = yyjson_arr_iter_with(w->objects);
    for (yyjson_val *o; (o = yyjson_arr_iter_next(&it)) != NULL;)
        if (!each(user, o)) return;
}

bool kube_watch_synced(const struct kube_watch *w)
{
    return w->objects != NULL;
}

bool agents_answers(const struct agents *a, const char *node)
{
    return node[0] == object_text(a->answers, "node")[0];
}

const struct agent_container *agents_container(const struct agents *a, const char *pod_uid)
{
    static struct agent_container c = {.active = true, .offset = 5};
    if (strcmp(pod_uid, object_text(a->answers, "uid")) != 0) return NULL;
    c.executed = object_number(a->answers, "executed");
    return &c;
}

bool agents_lists(const struct agents *a, const char *node)
{
    (void)a, (void)node;
    return true;
}

bool agents_lost(const struct agents *a, const char *node)
{
    return node[0] == object_text(a->answers, "lost")[0];
}

const struct agent_checkpoint *agents_checkpoint(const struct agents *a, const char *node, const char *stream, const char *id)
{
    (void)a, (void)node, (void)stream, (void)id;
    return NULL;
}

/* ---- the targets ---------------------------------------------------------------------------------------------- */

static void one_annotation(void *user, const char *key, const char *value)
{
    (void)user;
    FUZZ_CHECK(strncmp(key, "crsc.io/", 8) == 0 && value != NULL);
}

static void check_view(const struct view *v)
{
    struct protect_plan plan;
    const struct protect_world *w = &v->world;
    FUZZ_CHECK(w->n_pods <= PROTECT_PODS_MAX && w->n_services <= PROTECT_SERVICES_MAX && w->n_checkpoints <= PROTECT_CHECKPOINTS_MAX);
    FUZZ_CHECK(v->n_streams <= PROTECT_STREAMS_MAX);
    for (uint32_t i = 0; i < w->n_pods; i++)
        FUZZ_CHECK(!w->pods[i].injected || (w->pods[i].stream < v->n_streams && strcmp(v->streams[w->pods[i].stream], v->pods[i].stream) == 0));
    for (uint32_t i = 0; i < w->n_services; i++) FUZZ_CHECK(v->services[i][0] != '\0' || w->services[i].matches);
    view_template_annotations(v, one_annotation, NULL);
    protect_plan(w, &plan);
    protect_plan_roles(w, &plan);
    FUZZ_CHECK(plan.n <= w->n_pods);
}

static void views(yyjson_val *root)
{
    enum { KINDS = 9 };
    static const char *const names[KINDS] = {"deployments", "statefulsets", "pods", "services", "nodes", "records", "checkpoints", "restores", "migrations"};
    struct kube_watch w[KINDS];
    struct agents agents = {object_get(root, "agents")};
    for (size_t i = 0; i < KINDS; i++) w[i].objects = object_get(root, names[i]);
    struct caches c = {&w[0], &w[1], &w[2], &w[3], &w[4], &w[5], &w[6], &w[7], &w[8], &agents, 1000, 0};
    static struct view v;
    char key[VIEW_KEY_MAX];
    if (view_make(&c, object_text(root, "key"), object_number(root, "now"), &v)) check_view(&v);
    for (size_t i = 0; i < KINDS; i++) { /* and of all that any object belongs to */
        yyjson_arr_iter it = yyjson_arr_iter_with(w[i].objects);
        for (yyjson_val *o; (o = yyjson_arr_iter_next(&it)) != NULL;)
            if (view_key_of(&c, &w[i], o, key) && view_make(&c, key, object_number(root, "now"), &v)) check_view(&v);
    }
}

static void review(const uint8_t *data, size_t size)
{
    static const struct inject_settings settings = {.image = "i:1", .pull_policy = "IfNotPresent", .servers = "logd:7400", .log_secret = "tls",
                                                    .cluster = "c", .runtime_class = "crsc"};
    enum inject_outcome outcome;
    struct error reason = {0};
    char *answer = review_answer(data, size, &settings, NULL, NULL, &outcome, &reason);
    if (answer == NULL) return;
    yyjson_doc *doc = yyjson_read(answer, strlen(answer), YYJSON_READ_NOFLAG);
    yyjson_val *response = yyjson_obj_get(yyjson_doc_get_root(doc), "response");
    FUZZ_CHECK(object_true(response, "allowed"));
    bool patched = object_text(response, "patch")[0] != '\0'; /* a refused pod is given the reason, where it may be touched */
    FUZZ_CHECK(outcome == INJECT_PATCHED ? patched : outcome == INJECT_REFUSED || !patched);
    FUZZ_CHECK((outcome == INJECT_REFUSED) == yyjson_is_arr(yyjson_obj_get(response, "warnings")));
    yyjson_doc_free(doc);
    free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    review(data, size);
    yyjson_doc *doc = yyjson_read((const char *)data, size, YYJSON_READ_NOFLAG);
    views(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return 0;
}
