#include "operator/drivers/kubernetes/agents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <uthash.h>

#include "common/log.h"
#include "common/loop.h"
#include "operator/kube/object.h"

enum { ENTRIES_MAX = 1024 /* containers or checkpoints that one agent may list */, HURRIES_MAX = 50 };

struct node {
    UT_hash_handle hh;
    struct agents *agents;
    char name[AGENTS_NODE_MAX], address[64];
    bool marked, wanted, complained, was_lost;
    uint64_t asked_ms, heard_ms, listed_ms; /* when it was first asked there, when it answered last; 0: never */
    uint64_t version;  /* of the containers, as it counts; 0: it does not */
    unsigned hurries;  /* questions since the last beat of the timer: a bound, should it not wait at all */
    struct http_call *containers_call, *checkpoints_call;
    struct agent_container *containers;
    size_t n_containers;
    char kubelet[AGENTS_REASON_MAX]; /* why it takes no checkpoints for its agent */
    struct agent_checkpoint *checkpoints;
    size_t n_checkpoints;
};

struct agents {
    struct http_client *http;
    struct node *nodes;
    char *ca, *cert, *key;
    uint16_t port;
    uint32_t poll_ms;
    uv_timer_t timer;
    void (*on_change)(void *user, const char *node, bool matters);
    void *user;
    LIST_HEAD(, call) calls;
    bool closing;
    unsigned open;
    void (*done)(void *user);
    void *done_user;
};

struct call {
    LIST_ENTRY(call) entry;
    agents_cb *cb;
    void *user;
};

static uint64_t now_ms(void)
{
    return loop_monotonic_us() / 1000;
}

static struct node *find(const struct agents *a, const char *name)
{
    struct node *n;
    HASH_FIND_STR(a->nodes, name, n);
    return n;
}

static bool is_heard(const struct node *n)
{
    return n->heard_ms != 0 && now_ms() - n->heard_ms < AGENTS_SILENCE_MS;
}

static bool is_lost(const struct node *n)
{
    uint64_t since = n->heard_ms > n->asked_ms ? n->heard_ms : n->asked_ms, poll_ms = n->agents->poll_ms;
    return since != 0 && now_ms() - since >= AGENTS_LOST_MS + (poll_ms > AGENTS_WAIT_MS ? poll_ms : 0);
}

static void url_of(const struct node *n, const char *path, char *to, size_t cap)
{
    const char *format = strchr(n->address, ':') != NULL ? "https://[%s]:%u%s" : "https://%s:%u%s";
    snprintf(to, cap, format, n->address, n->agents->port, path);
}

static struct http_tls tls_of(const struct node *n)
{
    return (struct http_tls){.ca = n->agents->ca, .cert = n->agents->cert, .key = n->agents->key, .name = n->name};
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

#define COPY(to, o, path) snprintf(to, sizeof to, "%s", object_text(o, path))

static void read_container(yyjson_val *o, const struct node *n, struct agent_container *c)
{
    static const char before[] = "the log begins at offset "; /* interceptor/replay/reader.c */
    memset(c, 0, sizeof *c);
    COPY(c->id, o, "id");
    COPY(c->pod_uid, o, "pod_uid");
    COPY(c->identity, o, "identity");
    COPY(c->began, o, "began");
    COPY(c->snapshot, o, "snapshot");
    COPY(c->reason, o, "reason");
    snprintf(c->node, sizeof c->node, "%s", n->name);
    c->offset = object_number(o, "offset");
    c->attached = object_true(o, "attached");
    c->silent = object_true(o, "silent");
    c->restored_us = object_number(o, "restored_us");
    c->attached_us = object_number(o, "attached_us");
    c->executed = object_number(o, "interceptor.offsets.executed");
    c->last = object_number(o, "interceptor.offsets.last");
    c->replayed = object_number(o, "interceptor.replay.done");
    c->lost_us = object_number(o, "interceptor.times.lost_us");
    c->active_us = object_number(o, "interceptor.times.active_us");
    c->shared = strcmp(object_text(o, "interceptor.replication"), "log") == 0;
    c->replicas = (uint32_t)object_number(o, "interceptor.replicas");
    c->lost = object_true(o, "interceptor.app.lost");
    c->suspect = object_true(o, "interceptor.app.suspect");
    c->leaving = object_true(o, "interceptor.leaving");
    c->diverged = object_number(o, "interceptor.app.diverged");
    c->agreed = object_number(o, "interceptor.app.agreed");
    c->disagreement = object_number(o, "interceptor.app.disagreement");
    const char *state = object_text(o, "interceptor.state"); /* draining: a checkpoint is being taken of an app that is well */
    c->active = strcmp(state, "active") == 0 || strcmp(state, "draining") == 0;
    c->fenced = object_true(o, "interceptor.fenced");
    c->gap = c->suspect && strncmp(object_text(o, "interceptor.detail"), before, strlen(before)) == 0;
}

static void read_checkpoint(yyjson_val *o, const struct node *n, struct agent_checkpoint *c)
{
    memset(c, 0, sizeof *c);
    COPY(c->id, o, "id");
    COPY(c->stream, o, "stream");
    COPY(c->phase, o, "phase");
    COPY(c->image, o, "image");
    COPY(c->digest, o, "digest");
    COPY(c->hash, o, "template_hash");
    COPY(c->error, o, "error");
    snprintf(c->node, sizeof c->node, "%s", n->name);
    c->offset = object_number(o, "offset");
    c->size = object_number(o, "size");
    c->started_us = object_number(o, "started_us");
    c->finished_us = object_number(o, "finished_us");
    c->pause_ms = yyjson_get_num(object_get(o, "pause_ms"));
    c->dump_ms = yyjson_get_num(object_get(o, "dump_ms"));
    c->push_ms = yyjson_get_num(object_get(o, "push_ms"));
}

static void heard(struct node *n, const struct http_reply *reply)
{
    if (reply->status == 0 && reply->code == 200) {
        if (n->complained) log_info("an agent answers again", "node=%s", n->name);
        n->complained = false;
        n->heard_ms = now_ms();
        return;
    }
    if (!n->complained)
        log_warn("an agent does not answer", "node=%s code=%d reason=%s", n->name, reply->code, reply->status != 0 ? reply->error.text : "it refuses");
    n->complained = true;
}

static bool differs(const void *a, size_t n_a, const void *b, size_t n_b, size_t size)
{
    return n_a != n_b || (n_a > 0 && memcmp(a, b, n_a * size) != 0);
}

/* Of two lists: is there somebody else, or can somebody serve who could not, or the other way round? */
static bool matters(const struct agent_container *a, size_t n_a, const struct agent_container *b, size_t n_b)
{
    if (n_a != n_b) return true;
    for (size_t i = 0; i < n_a; i++) {
        bool same = strcmp(a[i].id, b[i].id) == 0 && strcmp(a[i].pod_uid, b[i].pod_uid) == 0 && a[i].attached == b[i].attached && a[i].active == b[i].active &&
                    a[i].fenced == b[i].fenced && a[i].silent == b[i].silent && a[i].shared == b[i].shared && a[i].lost == b[i].lost &&
                    a[i].suspect == b[i].suspect && a[i].leaving == b[i].leaving && a[i].diverged == b[i].diverged;
        if (!same) return true;
    }
    return false;
}

static void tell(const struct node *n, bool matters)
{
    n->agents->on_change(n->agents->user, n->name, matters);
}

static void follow(struct node *n);

static void on_containers(void *user, const struct http_reply *reply)
{
    struct node *n = user;
    size_t i, max, count = 0;
    yyjson_val *one;
    n->containers_call = NULL;
    bool was = is_heard(n);
    heard(n, reply);
    if (reply->status != 0 || reply->code != 200) {
        n->version = 0; /* the one that is there next may be another one */
        if (was != is_heard(n)) tell(n, true);
        return;
    }
    yyjson_doc *doc = yyjson_read(reply->body, reply->len, YYJSON_READ_NOFLAG);
    yyjson_val *all = yyjson_obj_get(yyjson_doc_get_root(doc), "containers");
    size_t size = yyjson_arr_size(all) < ENTRIES_MAX ? yyjson_arr_size(all) : ENTRIES_MAX;
    struct agent_container *list = calloc(size + 1, sizeof *list);
    if (list != NULL && yyjson_is_arr(all)) {
        yyjson_arr_foreach(all, i, max, one)
        {
            if (count < size) read_container(one, n, &list[count++]);
        }
        const char *kubelet = object_text(yyjson_doc_get_root(doc), "kubelet");
        bool changed = !was || strncmp(n->kubelet, kubelet, sizeof n->kubelet - 1) != 0 || differs(list, count, n->containers, n->n_containers, sizeof *list);
        snprintf(n->kubelet, sizeof n->kubelet, "%s", kubelet);
        bool roles = !was || matters(list, count, n->containers, n->n_containers);
        free(n->containers);
        n->containers = list;
        n->n_containers = count;
        n->version = object_number(yyjson_doc_get_root(doc), "version");
        if (changed) tell(n, roles);
    } else {
        free(list);
    }
    yyjson_doc_free(doc);
    if (n->version != 0 && n->hurries++ < HURRIES_MAX) follow(n);
}

static void on_checkpoints(void *user, const struct http_reply *reply)
{
    struct node *n = user;
    size_t i, max, count = 0;
    yyjson_val *one;
    n->checkpoints_call = NULL;
    if (reply->status != 0 || reply->code != 200) return;
    yyjson_doc *doc = yyjson_read(reply->body, reply->len, YYJSON_READ_NOFLAG);
    yyjson_val *all = yyjson_obj_get(yyjson_doc_get_root(doc), "checkpoints");
    size_t size = yyjson_arr_size(all) < ENTRIES_MAX ? yyjson_arr_size(all) : ENTRIES_MAX;
    struct agent_checkpoint *list = calloc(size + 1, sizeof *list);
    if (list != NULL && yyjson_is_arr(all)) {
        yyjson_arr_foreach(all, i, max, one)
        {
            if (count < size) read_checkpoint(one, n, &list[count++]);
        }
        bool changed = differs(list, count, n->checkpoints, n->n_checkpoints, sizeof *list);
        free(n->checkpoints);
        n->checkpoints = list;
        n->listed_ms = now_ms();
        n->n_checkpoints = count;
        if (changed) tell(n, false);
    } else {
        free(list);
    }
    yyjson_doc_free(doc);
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static void ask(struct node *n, const char *path, http_call_cb *cb, struct http_call **call)
{
    char url[512];
    struct http_tls tls = tls_of(n);
    struct error e;
    const struct http_call_options o = {.method = "GET", .url = url, .timeout_ms = AGENTS_SILENCE_MS, .tls = &tls};
    url_of(n, path, url, sizeof url);
    if (*call == NULL && http_client_call(n->agents->http, &o, cb, n, call, &e) != 0) *call = NULL;
}

static bool is_asked(const struct node *n)
{
    return n->wanted && n->address[0] != '\0' && n->agents->ca != NULL && !n->agents->closing;
}

static void follow(struct node *n)
{
    char path[96] = "/v1/containers";
    uint32_t wait_ms = n->agents->poll_ms < AGENTS_WAIT_MS ? n->agents->poll_ms : AGENTS_WAIT_MS;
    if (!is_asked(n)) return;
    if (n->version != 0) snprintf(path, sizeof path, "/v1/containers?after=%llu&wait_ms=%u", (unsigned long long)n->version, wait_ms);
    ask(n, path, on_containers, &n->containers_call);
}

static void on_timer(uv_timer_t *timer)
{
    struct agents *a = timer->data;
    for (struct node *n = a->nodes; n != NULL; n = n->hh.next) {
        if (!is_asked(n)) continue;
        if (n->asked_ms == 0) n->asked_ms = now_ms();
        n->hurries = 0;
        follow(n);
        ask(n, "/v1/checkpoints", on_checkpoints, &n->checkpoints_call);
        bool was_lost = n->was_lost;
        n->was_lost = is_lost(n);
        if (n->was_lost != was_lost) tell(n, true);
    }
}

/* What it said, and what it is being asked: it is as if it had never been wanted. */
static void forget(struct node *n)
{
    if (n->containers_call != NULL) http_call_cancel(n->containers_call);
    if (n->checkpoints_call != NULL) http_call_cancel(n->checkpoints_call);
    n->containers_call = n->checkpoints_call = NULL;
    free(n->containers);
    free(n->checkpoints);
    n->containers = NULL;
    n->checkpoints = NULL;
    n->n_containers = n->n_checkpoints = 0;
    n->asked_ms = n->heard_ms = n->listed_ms = n->version = 0;
    n->was_lost = n->complained = false;
    n->kubelet[0] = '\0';
}

static void remove_node(struct agents *a, struct node *n)
{
    HASH_DEL(a->nodes, n);
    free(n->containers);
    free(n->checkpoints);
    free(n);
}

void agents_node(struct agents *a, const char *name, const char *address)
{
    struct node *n = find(a, name);
    if (n == NULL) {
        if (address[0] == '\0' || (n = calloc(1, sizeof *n)) == NULL) return;
        n->agents = a;
        snprintf(n->name, sizeof n->name, "%s", name);
        HASH_ADD_STR(a->nodes, name, n);
    }
    if (strcmp(n->address, address) == 0) return;
    forget(n);
    snprintf(n->address, sizeof n->address, "%s", address);
    if (address[0] != '\0') {
        log_debug("a node is there", "node=%s address=%s", name, address);
        return;
    }
    log_debug("an agent is asked no more", "node=%s reason=its node is gone", name);
    remove_node(a, n);
}

void agents_mark(struct agents *a, const char *node)
{
    struct node *n = find(a, node);
    if (n != NULL) n->marked = true;
}

void agents_want_marked(struct agents *a)
{
    for (struct node *n = a->nodes; n != NULL; n = n->hh.next) {
        if (n->wanted && !n->marked) {
            log_debug("an agent is asked no more", "node=%s reason=nothing of ours is there", n->name);
            forget(n);
        }
        n->wanted = n->marked;
        n->marked = false;
    }
}

bool agents_answers(const struct agents *a, const char *node)
{
    const struct node *n = find(a, node);
    return n != NULL && is_heard(n);
}

bool agents_lost(const struct agents *a, const char *node)
{
    const struct node *n = find(a, node);
    return n != NULL && is_lost(n);
}

bool agents_lists(const struct agents *a, const char *node)
{
    const struct node *n = find(a, node);
    return n != NULL && is_heard(n) && n->listed_ms != 0 && now_ms() - n->listed_ms < AGENTS_SILENCE_MS;
}

static struct agent_container *find_container(const struct agents *a, const char *pod_uid)
{
    for (struct node *n = a->nodes; n != NULL; n = n->hh.next)
        for (size_t i = 0; is_heard(n) && i < n->n_containers; i++)
            if (strcmp(n->containers[i].pod_uid, pod_uid) == 0) return &n->containers[i];
    return NULL;
}

const char *agents_kubelet(const struct agents *a, const char *node)
{
    const struct node *n = find(a, node);
    return n != NULL && is_heard(n) ? n->kubelet : "";
}

const struct agent_container *agents_container(const struct agents *a, const char *pod_uid)
{
    return find_container(a, pod_uid);
}

void agents_note_replicas(struct agents *a, const char *pod_uid, uint32_t replicas)
{
    struct agent_container *c = find_container(a, pod_uid);
    if (c != NULL) c->replicas = replicas;
}

const struct agent_checkpoint *agents_checkpoint(const struct agents *a, const char *node, const char *stream, const char *id)
{
    const struct node *n = find(a, node);
    for (size_t i = 0; n != NULL && is_heard(n) && i < n->n_checkpoints; i++)
        if (strcmp(n->checkpoints[i].id, id) == 0 && strcmp(n->checkpoints[i].stream, stream) == 0) return &n->checkpoints[i];
    return NULL;
}

/* ---- calling -------------------------------------------------------------------------------------------------- */

static void on_called(void *user, const struct http_reply *reply)
{
    struct call call = *(struct call *)user;
    struct error e = {0};
    int status = 0;
    LIST_REMOVE((struct call *)user, entry);
    free(user);
    yyjson_doc *doc = reply->status == 0 ? yyjson_read(reply->body, reply->len, YYJSON_READ_NOFLAG) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (reply->status != 0)
        status = error_set(&e, ERROR_UNAVAILABLE, "the agent does not answer: %.180s", reply->error.text);
    else if (reply->code < 200 || reply->code > 299)
        status = error_set(&e,
                           reply->code == 404   ? ERROR_NOT_FOUND
                           : reply->code == 409 ? ERROR_CONFLICT
                           : reply->code >= 500 ? ERROR_UNAVAILABLE
                                                : ERROR_INVALID,
                           "the agent says: %.180s (%d)", object_text(root, "error"), reply->code);
    call.cb(call.user, status, &e, root);
    yyjson_doc_free(doc);
}

int agents_call(struct agents *a, const char *node, const char *method, const char *path, const char *body, agents_cb *cb, void *user,
                struct error *e)
{
    char url[2048];
    struct node *n = find(a, node);
    struct http_call *unused;
    if (a->closing) return error_set(e, ERROR_CANCELED, "the end");
    if (n == NULL || n->address[0] == '\0' || a->ca == NULL) return error_set(e, ERROR_NOT_FOUND, "node %.60s has no agent that we know of", node);
    struct call *call = malloc(sizeof *call);
    if (call == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    *call = (struct call){.cb = cb, .user = user};
    struct http_tls tls = tls_of(n);
    const struct http_call_options o = {.method = method, .url = url, .body = body, .timeout_ms = AGENTS_CALL_MS, .tls = &tls};
    url_of(n, path, url, sizeof url);
    int rv = http_client_call(a->http, &o, on_called, call, &unused, e);
    if (rv != 0)
        free(call);
    else
        LIST_INSERT_HEAD(&a->calls, call, entry);
    return rv;
}

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static bool set(char **place, const char *text)
{
    char *copy = text != NULL ? strdup(text) : NULL;
    if (text != NULL && copy == NULL) return false;
    free(*place);
    *place = copy;
    return true;
}

int agents_set_tls(struct agents *a, const struct http_tls *tls)
{
    return set(&a->ca, tls->ca) && set(&a->cert, tls->cert) && set(&a->key, tls->key) ? 0 : -ERROR_NOMEM;
}

int agents_new(uv_loop_t *loop, const struct agents_options *o, struct agents **ret_agents, struct error *e)
{
    struct agents *a = calloc(1, sizeof *a);
    if (a == NULL || agents_set_tls(a, &o->tls) != 0) {
        free(a);
        return error_set(e, ERROR_NOMEM, "no memory");
    }
    int rv = http_client_new(loop, &a->http, e);
    if (rv != 0) {
        free(a);
        return rv;
    }
    a->port = o->port;
    a->poll_ms = o->poll_ms;
    a->on_change = o->on_change;
    a->user = o->user;
    uv_timer_init(loop, &a->timer);
    a->timer.data = a;
    uv_timer_start(&a->timer, on_timer, 0, a->poll_ms);
    *ret_agents = a;
    return 0;
}

static void let_go(struct agents *a)
{
    struct node *n, *next;
    if (--a->open > 0) return;
    HASH_ITER(hh, a->nodes, n, next) {
        remove_node(a, n);
    }
    void (*done)(void *user) = a->done;
    void *user = a->done_user;
    free(a->ca);
    free(a->cert);
    free(a->key);
    free(a);
    if (done != NULL) done(user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    let_go(handle->data);
}

static void on_http_closed(void *user)
{
    let_go(user);
}

void agents_close(struct agents *a, void (*done)(void *user), void *user)
{
    struct call *call;
    const struct error e = {.code = ERROR_CANCELED, .text = "the end"};
    a->done = done;
    a->done_user = user;
    a->open = 2;
    a->closing = true;
    while ((call = LIST_FIRST(&a->calls)) != NULL) {
        agents_cb *cb = call->cb;
        void *cb_user = call->user;
        LIST_REMOVE(call, entry);
        free(call);
        cb(cb_user, -ERROR_CANCELED, &e, NULL);
    }
    uv_close((uv_handle_t *)&a->timer, on_timer_closed);
    http_client_close(a->http, on_http_closed, a);
}
