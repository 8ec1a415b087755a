#include "operator/drivers/kubernetes/controller.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/drivers/kubernetes/wishes.h"
#include "operator/kube/object.h"
#include "operator/kube/queue.h"

enum { JOBS_MAX = 8 /* in each lane */, ROLES_AGAIN_MS = 200, FAILED_MS = 10000 };

/* Changes of roles have a lane of their own: clients wait for who is promoted, and that must not wait for an agent that hangs, nor for the pause
 * after something else failed. A workload is in it as long as it has roles. */
enum lane { LANE_MAIN, LANE_ROLES, LANES };

struct job {
    LIST_ENTRY(job) entry;
    struct controller *controller;
    enum lane lane;
    char key[VIEW_KEY_MAX];
    uint64_t begun_ms;
    struct view view;
    struct protect_plan plan;
    uint32_t next;
    bool failed; /* an action that the others did not depend on */
};

/* A pod whose promotion failed, and until when that is held against it. */
struct failed {
    LIST_ENTRY(failed) entry;
    uint64_t until_ms;
    char uid[64];
};

struct controller {
    struct act_parts parts;
    struct queue *queues[LANES];
    uv_timer_t timer;
    LIST_HEAD(, job) jobs;
    LIST_HEAD(, failed) failed; /* few, if any */
    unsigned n_jobs[LANES];
    bool leads, closing;
    bool moved; /* a pod, a checkpoint or a node came or went: other agents may be those that are to be asked */
    uint64_t looks, role_looks, actions, failures;
    void (*done)(void *user);
    void *done_user;
};

static void wake(struct controller *c);

/* When something is due; what the world says of times is by the wall clock. */
static uint64_t now_ms(void)
{
    return loop_monotonic_us() / 1000;
}

/* ---- a job: one look at one workload -------------------------------------------------------------------------- */

/* Something was done: look again soon at what it led to; else when the plan says so. */
static uint64_t next_look(const struct job *j)
{
    uint64_t seen_ms = j->view.world.now_ms, pause_ms = j->plan.look_ms > seen_ms ? j->plan.look_ms - seen_ms : 0;
    return j->plan.n > 0 ? now_ms() + 50 : j->begun_ms + pause_ms;
}

static void job_end(struct job *j, bool ok)
{
    struct controller *c = j->controller;
    struct queue *q = c->queues[j->lane];
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0) random = loop_monotonic_us();
    if (!ok) c->failures++;
    if (j->lane == LANE_ROLES) { /* its pauses do not grow */
        if (protect_has_roles(&j->view.world)) queue_add(q, j->key, ok ? next_look(j) : now_ms() + ROLES_AGAIN_MS);
        queue_done(q, j->key, true, now_ms(), random);
    } else {
        bool alive = j->view.world.record || (j->view.world.exists && j->view.world.annotated);
        if (ok && alive) queue_add(q, j->key, next_look(j));
        queue_done(q, j->key, ok, now_ms(), random);
    }
    LIST_REMOVE(j, entry);
    c->n_jobs[j->lane]--;
    free(j);
    wake(c);
}

static void on_status(void *user, int status, const struct error *e)
{
    struct job *j = user;
    if (status != 0 && status != -ERROR_CANCELED) log_warn("the status cannot be written", "workload=%s reason=%s", j->key, e->text);
    job_end(j, status == 0);
}

static void on_wish(void *user, int status, const struct error *e)
{
    struct job *j = user;
    (void)e;
    if (j->controller->closing)
        job_end(j, status == 0);
    else
        act_status(&j->controller->parts, &j->view, j->plan.state, on_status, j);
}

static void on_restores(void *user, int status, const struct error *e)
{
    struct job *j = user;
    (void)e;
    if (j->controller->closing)
        job_end(j, status == 0);
    else
        wishes_go_on(&j->controller->parts, &j->view, on_wish, j);
}

static void on_acted(void *user, int status, const struct error *e);

static void go_on(struct job *j)
{
    struct controller *c = j->controller;
    if (j->next == j->plan.n && !c->closing && c->leads && j->lane == LANE_MAIN) {
        act_restores(&c->parts, &j->view, on_restores, j);
        return;
    }
    if (!c->leads || c->closing || j->next == j->plan.n) {
        job_end(j, !j->failed);
        return;
    }
    struct protect_action action = j->plan.actions[j->next++];
    c->actions++;
    log_debug("action", "workload=%s action=%s which=%u", j->key, protect_do_name(action.what), action.which);
    act_run(&c->parts, &j->view, action, on_acted, j);
}

/* ---- promotions that failed ------------------------------------------------------------------------------------- */

static void note_failed(struct controller *c, const char *uid)
{
    struct failed *f;
    LIST_FOREACH(f, &c->failed, entry)
        if (strcmp(f->uid, uid) == 0) break;
    if (f == NULL && (f = calloc(1, sizeof *f)) != NULL) {
        snprintf(f->uid, sizeof f->uid, "%s", uid);
        LIST_INSERT_HEAD(&c->failed, f, entry);
    }
    if (f != NULL) f->until_ms = now_ms() + FAILED_MS;
}

static void forget_failed(struct controller *c, uint64_t until_ms)
{
    struct failed *f, *next;
    for (f = LIST_FIRST(&c->failed); f != NULL; f = next) {
        next = LIST_NEXT(f, entry);
        if (f->until_ms > until_ms) continue;
        LIST_REMOVE(f, entry);
        free(f);
    }
}

static void recall_failed(struct controller *c, struct view *v)
{
    struct failed *f;
    forget_failed(c, now_ms());
    for (uint32_t i = 0; i < v->world.n_pods; i++)
        LIST_FOREACH(f, &c->failed, entry)
            if (strcmp(f->uid, v->pods[i].uid) == 0) v->world.pods[i].role_failed = true;
}

/* ---- a job, gone on with ---------------------------------------------------------------------------------------- */

static void on_acted(void *user, int status, const struct error *e)
{
    struct job *j = user;
    if (status == 0) {
        go_on(j);
        return;
    }
    const char *name = protect_do_name(j->plan.actions[j->next - 1].what);
    bool gone = j->lane == LANE_ROLES && status == -ERROR_NOT_FOUND; /* its pod: the watch will say so */
    if (status == -ERROR_CONFLICT || status == -ERROR_BUSY || gone)
        log_debug("not now; looking again", "workload=%s action=%s reason=%s", j->key, name, e->text);
    else if (status != -ERROR_CANCELED)
        log_warn("action failed", "workload=%s action=%s code=%s reason=%s", j->key, name, error_name(status), e->text);
    j->failed = true;
    struct protect_action action = j->plan.actions[j->next - 1];
    if (action.what != PROTECT_PROMOTE) {
        job_end(j, false);
        return;
    }
    if (status != -ERROR_CANCELED) note_failed(j->controller, j->view.pods[action.which].uid);
    go_on(j); /* there may be others to be promoted; who steps back did so before */
}

static void begin(struct controller *c, const char *key, enum lane lane)
{
    struct job *j = calloc(1, sizeof *j);
    if (j == NULL || strlen(key) >= sizeof j->key) {
        free(j);
        queue_done(c->queues[lane], key, j != NULL, now_ms(), 0);
        return;
    }
    memcpy(j->key, key, strlen(key) + 1);
    j->controller = c;
    j->lane = lane;
    j->begun_ms = now_ms();
    c->n_jobs[lane]++;
    c->looks++;
    log_debug("look", "workload=%s roles=%d", key, lane == LANE_ROLES);
    c->role_looks += lane == LANE_ROLES;
    LIST_INSERT_HEAD(&c->jobs, j, entry);
    if (!view_make(c->parts.caches, j->key, loop_wall_us() / 1000, &j->view)) {
        job_end(j, true);
        return;
    }
    if (lane == LANE_ROLES) {
        recall_failed(c, &j->view);
        protect_plan_roles(&j->view.world, &j->plan);
    } else {
        protect_plan(&j->view.world, &j->plan);
        if (protect_has_roles(&j->view.world) && !queue_hasten(c->queues[LANE_ROLES], j->key, UINT64_MAX)) queue_add(c->queues[LANE_ROLES], j->key, now_ms());
    }
    go_on(j);
}

/* ---- the queue ------------------------------------------------------------------------------------------------ */

static bool is_synced(const struct caches *k)
{
    return kube_watch_synced(k->deployments) && kube_watch_synced(k->statefulsets) && kube_watch_synced(k->pods) && kube_watch_synced(k->services) &&
           kube_watch_synced(k->nodes) && kube_watch_synced(k->records) && kube_watch_synced(k->checkpoints) && kube_watch_synced(k->restores) &&
           kube_watch_synced(k->migrations);
}

static void mark(void *user, const char *node, const char *key)
{
    (void)key;
    agents_mark(user, node);
}

static void want_agents(struct controller *c)
{
    struct agents *agents = c->parts.caches->agents;
    if (!c->moved) return;
    c->moved = false;
    view_each_heard(c->parts.caches, NULL, mark, agents);
    agents_want_marked(agents);
}

static void on_timer(uv_timer_t *timer)
{
    struct controller *c = timer->data;
    const char *key;
    if (c->closing || !c->leads) return;
    if (!is_synced(c->parts.caches)) { /* on half a world nothing is decided */
        uv_timer_start(&c->timer, on_timer, 50, 0);
        return;
    }
    want_agents(c);
    for (int lane = LANES - 1; lane >= 0; lane--) /* roles first */
        while (c->n_jobs[lane] < JOBS_MAX && (key = queue_take(c->queues[lane], now_ms())) != NULL) begin(c, key, (enum lane)lane);
    wake(c);
}

static void wake(struct controller *c)
{
    uint64_t next = UINT64_MAX, now = now_ms();
    if (c->moved) next = now;
    for (int lane = 0; lane < LANES; lane++) {
        uint64_t at = c->n_jobs[lane] < JOBS_MAX ? queue_next(c->queues[lane]) : UINT64_MAX;
        if (at < next) next = at;
    }
    if (c->closing || !c->leads || next == UINT64_MAX) return;
    uv_timer_start(&c->timer, on_timer, next > now ? next - now : 0, 0);
}

static void look_soon(struct controller *c, const char *key)
{
    queue_add(c->queues[LANE_MAIN], key, now_ms());
    queue_hasten(c->queues[LANE_ROLES], key, now_ms());
}

struct each {
    struct controller *controller;
    const struct kube_watch *kind;
    const char *space; /* NULL: any */
};

static bool each_record(void *user, yyjson_val *o)
{
    struct each *e = user;
    char key[VIEW_KEY_MAX];
    if ((e->space == NULL || strcmp(object_space(o), e->space) == 0) && view_key_of(e->controller->parts.caches, e->kind, o, key))
        look_soon(e->controller, key);
    return true;
}

static bool is_of_interest(const struct caches *k, const struct kube_watch *kind, yyjson_val *o)
{
    if (kind == k->records || kind == k->pods) return true;
    return object_get(o, "metadata.annotations") != NULL && object_annotation(o, "crsc.io/checkpoint-restore")[0] != '\0';
}

struct search {
    const struct caches *caches;
    const char *key;
    bool found;
};

static bool each_searched(void *user, yyjson_val *o)
{
    struct search *s = user;
    char key[VIEW_KEY_MAX];
    s->found = view_key_of(s->caches, s->caches->records, o, key) && strcmp(key, s->key) == 0;
    return !s->found;
}

/* It may be protected without its own word: by a record that was made by hand, or until that has ended. */
static bool has_record(const struct caches *k, const char *key)
{
    struct search s = {.caches = k, .key = key};
    kube_watch_each(k->records, each_searched, &s);
    return s.found;
}

/* The key of the workload that an object belongs to; false: that is none of ours. */
static bool belongs_to(const struct caches *k, const struct kube_watch *kind, yyjson_val *o, char key[VIEW_KEY_MAX])
{
    if (kind != k->checkpoints && kind != k->restores && kind != k->migrations)
        return view_key_of(k, kind, o, key) && (is_of_interest(k, kind, o) || has_record(k, key));
    yyjson_val *record = kube_watch_get(k->records, object_space(o), object_text(o, "spec.workload"));
    bool own_note = kind == k->restores && object_text(o, "spec.cause")[0] != '\0';
    return !own_note && record != NULL && view_key_of(k, k->records, record, key);
}

/* What belongs to one workload is a matter of that one; a node may be anybody's, and a Service anybody's of its namespace. */
void controller_changed(struct controller *c, const struct kube_watch *kind, yyjson_val *o)
{
    const struct caches *k = c->parts.caches;
    char key[VIEW_KEY_MAX];
    if (o == NULL || k->records == NULL) return;
    c->moved = c->moved || kind == k->pods || kind == k->checkpoints || kind == k->nodes;
    if (kind == k->nodes || kind == k->services)
        kube_watch_each(k->records, each_record, &(struct each){.controller = c, .kind = k->records, .space = kind == k->services ? object_space(o) : NULL});
    else if (belongs_to(k, kind, o, key))
        look_soon(c, key);
    wake(c);
}

struct heard {
    struct controller *controller;
    bool roles;
};

static void each_heard(void *user, const char *node, const char *key)
{
    struct heard *h = user;
    (void)node;
    if (h->roles) look_soon(h->controller, key);
    else queue_add(h->controller->queues[LANE_MAIN], key, now_ms());
}

void controller_heard(struct controller *c, const char *node, bool roles)
{
    view_each_heard(c->parts.caches, node, each_heard, &(struct heard){c, roles});
    wake(c);
}

static bool each_annotated(void *user, yyjson_val *o)
{
    struct each *e = user;
    char key[VIEW_KEY_MAX];
    if (is_of_interest(e->controller->parts.caches, e->kind, o) && view_key_of(e->controller->parts.caches, e->kind, o, key))
        look_soon(e->controller, key);
    return true;
}

void controller_lead(struct controller *c, bool leads)
{
    const struct caches *k = c->parts.caches;
    const struct kube_watch *kinds[] = {k->deployments, k->statefulsets, k->pods, k->records};
    c->leads = leads;
    if (!leads) {
        agents_want_marked(k->agents);
        return;
    }
    c->moved = true;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) kube_watch_each(kinds[i], each_annotated, &(struct each){.controller = c, .kind = kinds[i]});
    wake(c);
}

void controller_counts(const struct controller *c, struct controller_counts *ret)
{
    *ret = (struct controller_counts){.looks = c->looks, .role_looks = c->role_looks, .actions = c->actions, .failures = c->failures, .waiting = queue_waiting(c->queues[LANE_MAIN])};
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

int controller_new(uv_loop_t *loop, const struct act_parts *parts, struct controller **ret_controller, struct error *e)
{
    struct controller *c = calloc(1, sizeof *c);
    for (int lane = 0; c != NULL && lane < LANES; lane++) c->queues[lane] = queue_new();
    if (c == NULL || c->queues[LANE_MAIN] == NULL || c->queues[LANE_ROLES] == NULL) {
        for (int lane = 0; c != NULL && lane < LANES; lane++) queue_free(c->queues[lane]);
        free(c);
        return error_set(e, ERROR_NOMEM, "no memory");
    }
    c->parts = *parts;
    LIST_INIT(&c->jobs);
    LIST_INIT(&c->failed);
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    *ret_controller = c;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct controller *c = handle->data;
    void (*done)(void *user) = c->done;
    void *user = c->done_user;
    for (int lane = 0; lane < LANES; lane++) queue_free(c->queues[lane]);
    forget_failed(c, UINT64_MAX);
    free(c);
    if (done != NULL) done(user);
}

void controller_stop(struct controller *c)
{
    c->closing = true;
    c->leads = false;
    uv_timer_stop(&c->timer);
}

void controller_close(struct controller *c, void (*done)(void *user), void *user)
{
    assert(c->closing && LIST_EMPTY(&c->jobs));
    c->done = done;
    c->done_user = user;
    uv_close((uv_handle_t *)&c->timer, on_closed);
}
