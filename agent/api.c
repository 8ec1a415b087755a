#include "agent/api.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "agent/images.h"
#include "agent/job.h"
#include "agent/probe.h"
#include "agent/sidecar.h"
#include "checkpoint/digest.h"
#include "checkpoint/tree.h"
#include "common/log.h"

enum { DRAIN_MS = 5000, TIME_MAX_MS = 3600000, WAIT_MAX_MS = 10000 };

static void fail(struct https_answer *a, const struct error *e)
{
    static const struct {
        enum error_code code;
        int status;
    } table[] = {{ERROR_INVALID, 400}, {ERROR_NOT_FOUND, 404}, {ERROR_CONFLICT, 409}, {ERROR_EXISTS, 409}, {ERROR_BUSY, 409}, {ERROR_TOO_LARGE, 413},
        {ERROR_UNAVAILABLE, 503}, {ERROR_TIMEOUT, 503}};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    size_t len = 0;
    a->status = 500;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].code == e->code) a->status = table[i].status;
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "error", e->text);
    yyjson_mut_obj_add_str(doc, root, "code", error_name((int)e->code));
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len);
    if (text != NULL) buf_add(&a->body, text, len);
    free(text);
    yyjson_mut_doc_free(doc);
}

static void fail_with(struct https_answer *a, enum error_code code, const char *text)
{
    struct error e;
    error_set(&e, code, "%s", text);
    fail(a, &e);
}

/* Takes the document. */
static void succeed(struct https_answer *a, int status, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    size_t len = 0;
    yyjson_mut_doc_set_root(doc, root);
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &len);
    yyjson_mut_doc_free(doc);
    if (text == NULL || buf_add(&a->body, text, len) != 0) fail_with(a, ERROR_NOMEM, "no memory for an answer");
    else a->status = status;
    free(text);
}

/* The value of "name=value" in a query, as it stands: ids and streams need no escapes. False: it is not there, or too long. */
static bool parameter(const char *query, const char *name, char *to, size_t cap)
{
    size_t len = strlen(name);
    for (const char *p = query; *p != '\0'; p += strcspn(p, "&"), p += *p == '&') {
        size_t all = strcspn(p, "&");
        if (all <= len || strncmp(p, name, len) != 0 || p[len] != '=' || all - len > cap) continue;
        memcpy(to, p + len + 1, all - len - 1);
        to[all - len - 1] = '\0';
        return true;
    }
    return false;
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

static void add_job(yyjson_mut_doc *doc, yyjson_mut_val *o, const struct agent *a, const struct job *j)
{
    const struct {
        const char *name;
        uint64_t us;
    } times[] = {{"drain_ms", j->drain_us}, {"dump_ms", j->dump_us}, {"pause_ms", j->pause_us}, {"pack_ms", j->pack_us}, {"push_ms", j->push_us}};
    yyjson_mut_obj_add_strcpy(doc, o, "id", j->id);
    yyjson_mut_obj_add_str(doc, o, "phase", phase_name(j->phase));
    yyjson_mut_obj_add_strcpy(doc, o, "stream", j->stream);
    yyjson_mut_obj_add_strcpy(doc, o, "namespace", j->namespace);
    yyjson_mut_obj_add_strcpy(doc, o, "pod", j->pod);
    yyjson_mut_obj_add_strcpy(doc, o, "node", a->settings.node);
    yyjson_mut_obj_add_uint(doc, o, "offset", j->offset);
    yyjson_mut_obj_add_strcpy(doc, o, "image", j->reference);
    yyjson_mut_obj_add_strcpy(doc, o, "digest", j->image.digest);
    yyjson_mut_obj_add_uint(doc, o, "size", j->image.size);
    yyjson_mut_obj_add_strcpy(doc, o, "template_hash", j->template_hash);
    yyjson_mut_obj_add_strcpy(doc, o, "error", j->error.text);
    yyjson_mut_obj_add_real(doc, o, "progress", j->phase >= PHASE_VALID ? 1.0 : (double)j->phase / PHASE_VALID);
    yyjson_mut_obj_add_uint(doc, o, "started_us", j->started_us);
    yyjson_mut_obj_add_uint(doc, o, "finished_us", j->finished_us);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) yyjson_mut_obj_add_real(doc, o, times[i].name, (double)times[i].us / 1000);
    yyjson_mut_val *rounds = yyjson_mut_obj_add_arr(doc, o, "copied_ahead");
    for (unsigned i = 0; i < j->rounds; i++) yyjson_mut_arr_add_uint(doc, rounds, j->round_bytes[i]);
}

/* An image that an earlier life took or fetched, as a state. */
static void from_store(const struct store_image *i, struct job *j)
{
    *j = (struct job){.phase = PHASE_VALID, .image = i->image, .offset = i->image.labels.offset};
    memcpy(j->id, i->id, sizeof j->id);
    memcpy(j->stream, i->image.labels.stream, sizeof j->stream);
}

static bool find_state(struct agent *a, const char *stream, const char *id, struct job *ret_job)
{
    struct store_image held;
    if (job_find(a, stream, id, ret_job)) return true;
    if (!store_hold(a->store, stream, id, &held)) return false;
    store_release(a->store, &held);
    from_store(&held, ret_job);
    return true;
}

static void answer_state(struct agent *a, const char *stream, const char *id, int status, struct https_answer *answer)
{
    struct job j;
    if (!find_state(a, stream, id, &j)) {
        fail_with(answer, ERROR_NOT_FOUND, "no checkpoint of that id is known here");
        return;
    }
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    add_job(doc, root, a, &j);
    succeed(answer, status, doc, root);
}

static void list_checkpoints(struct agent *a, struct https_answer *answer)
{
    size_t n = 0;
    struct store_image *images = store_list(a->store, &n);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *all = yyjson_mut_obj_add_arr(doc, root, "checkpoints");
    pthread_mutex_lock(&a->lock);
    for (struct job *j = a->jobs; j != NULL; j = j->next) add_job(doc, yyjson_mut_arr_add_obj(doc, all), a, j);
    pthread_mutex_unlock(&a->lock);
    for (size_t i = 0; i < n; i++) {
        struct job j;
        if (job_find(a, images[i].image.labels.stream, images[i].id, &j)) continue;
        from_store(&images[i], &j);
        add_job(doc, yyjson_mut_arr_add_obj(doc, all), a, &j);
    }
    free(images);
    succeed(answer, 200, doc, root);
}

static bool get_ms(yyjson_val *root, const char *name, uint64_t initial, uint64_t *ret)
{
    yyjson_val *v = yyjson_obj_get(root, name);
    *ret = v == NULL ? initial : yyjson_get_uint(v);
    return v == NULL || (yyjson_is_uint(v) && *ret > 0 && *ret <= TIME_MAX_MS);
}

static void put_checkpoint(struct agent *a, const char *stream, const char *id, const struct https_request *request, struct https_answer *answer)
{
    struct error e;
    yyjson_doc *doc = yyjson_read(request->body, request->body_len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *uid = yyjson_obj_get(root, "pod_uid");
    struct job_request r = {.stream = stream, .id = id, .namespace = yyjson_get_str(yyjson_obj_get(root, "namespace")), .pod = yyjson_get_str(yyjson_obj_get(root, "pod")),
        .pod_uid = yyjson_get_str(uid)};
    if (r.namespace == NULL || r.pod == NULL || (uid != NULL && r.pod_uid == NULL) || !get_ms(root, "drain_ms", DRAIN_MS, &r.drain_ms) ||
        !get_ms(root, "timeout_ms", 0, &r.timeout_ms)) {
        fail_with(answer, ERROR_INVALID, "wanted: {\"namespace\":\"...\",\"pod\":\"...\"}, and perhaps pod_uid, drain_ms, timeout_ms");
    } else {
        struct job known;
        int rc = find_state(a, stream, id, &known) ? 1 : job_checkpoint(a, &r, &e);
        if (rc < 0) fail(answer, &e);
        else answer_state(a, stream, id, rc == 0 ? 202 : 200, answer);
    }
    yyjson_doc_free(doc);
}

static void verify(struct agent *a, const char *stream, const char *id, struct https_answer *answer)
{
    struct store_image held;
    struct oci_image image;
    struct error e = {0};
    if (!store_hold(a->store, stream, id, &held)) {
        fail_with(answer, ERROR_NOT_FOUND, "no image of that checkpoint is here");
        return;
    }
    int rc = oci_image_verify(held.path, held.image.digest, &image, &e);
    store_release(a->store, &held);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_bool(doc, root, "ok", rc == 0);
    if (rc != 0) yyjson_mut_obj_add_strcpy(doc, root, "error", e.text);
    succeed(answer, 200, doc, root);
}

/* Where it was pushed: what we know ourselves, else what the caller was once told, else what the log says. "" : nowhere. */
static int find_reference(struct agent *a, const struct job *known, const char *stream, const char *id, const char told[AGENT_REFERENCE_MAX],
                          char to[AGENT_REFERENCE_MAX], struct error *e)
{
    struct ledger_snapshot there = {0};
    if (known != NULL || *told != '\0') {
        memcpy(to, known != NULL ? known->reference : told, AGENT_REFERENCE_MAX);
        return 0;
    }
    int rc = ledger_find(&a->ledger, stream, id, &there, e);
    if (rc != 0 && rc != -ERROR_NOT_FOUND) return rc;
    snprintf(to, AGENT_REFERENCE_MAX, "%s", there.image);
    return 0;
}

static void delete_checkpoint(struct agent *a, const char *stream, const char *id, const char *query, struct https_answer *answer)
{
    struct job j;
    struct error e = {0};
    char told[AGENT_REFERENCE_MAX] = "", reference[AGENT_REFERENCE_MAX] = "", word[8];
    bool known = job_find(a, stream, id, &j), pushed = parameter(query, "registry", word, sizeof word) && strcmp(word, "true") == 0;
    parameter(query, "image", told, sizeof told);
    if (known && j.phase < PHASE_VALID) {
        fail_with(answer, ERROR_BUSY, "it is under way");
        return;
    }
    int rc = pushed ? find_reference(a, known ? &j : NULL, stream, id, told, reference, &e) : 0;
    if (rc == 0 && *reference != '\0') rc = images_unpush(a, reference, &e);
    if (rc == 0) rc = store_remove(a->store, stream, id, &e);
    if (rc == -ERROR_NOT_FOUND && (known || *reference != '\0')) rc = 0;
    if (rc != 0) {
        fail(answer, &e);
        return;
    }
    job_forget(a, stream, id);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    succeed(answer, 200, doc, yyjson_mut_obj(doc));
}

static void prefetch(struct agent *a, const struct https_request *request, struct https_answer *answer)
{
    struct error e;
    yyjson_doc *doc = yyjson_read(request->body, request->body_len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *from = yyjson_obj_get(root, "from"), *one;
    struct job_fetch f = {.id = yyjson_get_str(yyjson_obj_get(root, "id")), .stream = yyjson_get_str(yyjson_obj_get(root, "stream"))};
    yyjson_arr_iter it = yyjson_arr_iter_with(from);
    for (size_t i = 0; i < 7 && (one = yyjson_arr_iter_next(&it)) != NULL;)
        if (yyjson_is_str(one)) f.from[i++] = yyjson_get_str(one);
    if (f.id == NULL || f.stream == NULL) {
        fail_with(answer, ERROR_INVALID, "wanted: {\"stream\":\"...\",\"id\":\"...\"}, and perhaps from");
    } else {
        int rc = job_prefetch(a, &f, &e);
        if (rc < 0) fail(answer, &e);
        else answer_state(a, f.stream, f.id, 202, answer);
    }
    yyjson_doc_free(doc);
}

/* ---- containers -------------------------------------------------------------------------------------------------- */

static void add_container(yyjson_mut_doc *doc, yyjson_mut_val *o, const struct container *c)
{
    char identity[PROCESS_IDENTITY_MAX];
    yyjson_mut_obj_add_strcpy(doc, o, "id", c->id);
    yyjson_mut_obj_add_strcpy(doc, o, "namespace", c->pod.namespace);
    yyjson_mut_obj_add_strcpy(doc, o, "pod", c->pod.name);
    yyjson_mut_obj_add_strcpy(doc, o, "pod_uid", c->pod.uid);
    yyjson_mut_obj_add_strcpy(doc, o, "container", c->pod.container);
    yyjson_mut_obj_add_strcpy(doc, o, "stream", c->pod.stream);
    yyjson_mut_obj_add_strcpy(doc, o, "template_hash", c->pod.template_hash);
    yyjson_mut_obj_add_int(doc, o, "pid", c->process.pid);
    yyjson_mut_obj_add_strcpy(doc, o, "identity", process_identity(&c->process, identity));
    yyjson_mut_obj_add_str(doc, o, "began", c->doubt ? "unknown" : c->restored ? "restored" : "fresh");
    yyjson_mut_obj_add_strcpy(doc, o, "snapshot", c->snapshot);
    yyjson_mut_obj_add_uint(doc, o, "offset", c->offset);
    yyjson_mut_obj_add_strcpy(doc, o, "reason", c->reason);
    yyjson_mut_obj_add_bool(doc, o, "attached", c->attached);
    yyjson_mut_obj_add_bool(doc, o, "silent", c->silent);
    yyjson_mut_obj_add_uint(doc, o, "started_us", c->created_us);
    yyjson_mut_obj_add_uint(doc, o, "criu_us", c->criu_us);
    yyjson_mut_obj_add_uint(doc, o, "attached_us", c->attached_us);
    yyjson_doc *status = c->status != NULL ? yyjson_read(c->status, strlen(c->status), YYJSON_READ_NOFLAG) : NULL;
    yyjson_mut_obj_add_val(doc, o, "interceptor",
                           status != NULL ? yyjson_val_mut_copy(doc, yyjson_doc_get_root(status)) : yyjson_mut_null(doc));
    yyjson_doc_free(status);
}

/* With ?after=VERSION it waits for a change of what that answer had, at most wait_ms: the operator hears of a loss at once, and of offsets now and then. */
static void list_containers(struct agent *a, const char *query, struct https_answer *answer)
{
    char after[24], wait[8];
    uint64_t ms = parameter(query, "wait_ms", wait, sizeof wait) ? strtoull(wait, NULL, 10) : 0;
    bool waits = parameter(query, "after", after, sizeof after) && ms > 0;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *all = yyjson_mut_obj_add_arr(doc, root, "containers");
    pthread_mutex_lock(&a->lock);
    if (waits) agent_wait_change(a, strtoull(after, NULL, 10), ms < WAIT_MAX_MS ? ms : WAIT_MAX_MS);
    yyjson_mut_obj_add_uint(doc, root, "version", a->changes);
    yyjson_mut_obj_add_strcpy(doc, root, "kubelet", a->kubelet_why);
    for (struct container *c = a->containers; c != NULL; c = c->next)
        if (!c->gone) add_container(doc, yyjson_mut_arr_add_obj(doc, all), c);
    pthread_mutex_unlock(&a->lock);
    succeed(answer, 200, doc, root);
}

static void kill_container(struct agent *a, const char *id, struct https_answer *answer)
{
    int fd;
    struct container *c = agent_find_id(a, id);
    if (c == NULL || process_open(&c->process, &fd) != 0) {
        fail_with(answer, ERROR_NOT_FOUND, "no protected container of that id lives here");
    } else {
        log_warn("the app is killed, as it was asked for", "pod=%s/%s", c->pod.namespace, c->pod.name);
        process_signal(fd, SIGKILL);
        close(fd);
        yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
        succeed(answer, 200, doc, yyjson_mut_obj(doc));
    }
    if (c != NULL) agent_let_go(a, c);
}

/* The operator's word for that container's interceptor, which only this node reaches. */
static void count_replicas(struct agent *a, const char *id, const char *query, struct https_answer *answer)
{
    char text[8], *end = text;
    struct error e;
    struct container *c = agent_find_id(a, id);
    uint64_t n = parameter(query, "count", text, sizeof text) && *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    if (c == NULL) {
        fail_with(answer, ERROR_NOT_FOUND, "no protected container of that id lives here");
        return;
    }
    const struct sidecar sidecar = {.admin = c->pod.admin, .pid = c->process.pid};
    if (end == text || *end != '\0') {
        fail_with(answer, ERROR_INVALID, "?count=N is wanted");
    } else if (sidecar_replicas(&sidecar, n, &e) != 0) {
        fail(answer, &e);
    } else {
        yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
        succeed(answer, 200, doc, yyjson_mut_obj(doc));
    }
    agent_let_go(a, c);
}

/* ---- images for peers -------------------------------------------------------------------------------------------- */

/* /v2/images/manifests/DIGEST and /v2/images/blobs/DIGEST. Blobs are looked for in all images: they are few. */
static void get_image(struct agent *a, const char *target, struct https_answer *answer)
{
    char kind[16], digest[OCI_DIGEST_MAX], path[PATH_MAX];
    struct stat st;
    size_t n = 0;
    int fd = -1;
    if (sscanf(target, "/v2/images/%15[a-z]/%71[a-z0-9:]", kind, digest) != 2 || !digest_valid(digest)) {
        fail_with(answer, ERROR_NOT_FOUND, "only /v2/images/manifests/DIGEST and /v2/images/blobs/DIGEST are here");
        return;
    }
    struct store_image *images = store_list(a->store, &n);
    for (size_t i = 0; i < n && fd < 0; i++) {
        snprintf(path, sizeof path, "%.3900s/blobs/sha256/%s", images[i].path, digest + strlen("sha256:"));
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    }
    free(images);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0) close(fd);
        fail_with(answer, ERROR_NOT_FOUND, "there is no such blob here");
        return;
    }
    answer->status = 200;
    answer->type = strcmp(kind, "manifests") == 0 ? "application/vnd.oci.image.manifest.v1+json" : "application/octet-stream";
    answer->file_fd = fd;
    answer->file_len = (uint64_t)st.st_size;
}

/* ---- routes ------------------------------------------------------------------------------------------------------ */

static bool named(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *p = list; *p != '\0'; p += strcspn(p, ","), p += *p == ',')
        if (len > 0 && strcspn(p, ",") == len && memcmp(p, name, len) == 0) return true;
    return false;
}

/* "/v1/checkpoints/ID" and "/v1/checkpoints/ID/verify": the id, and whether `tail` follows it. */
static bool part(const char *path, const char *before, const char *tail, char id[AGENT_CONTAINER_MAX])
{
    size_t len = strlen(before), all = strlen(path), end = strlen(tail);
    if (strncmp(path, before, len) != 0 || all < len + end + 1 || strcmp(path + all - end, tail) != 0) return false;
    size_t n = all - len - end;
    if (n >= AGENT_CONTAINER_MAX || memchr(path + len, '/', n) != NULL) return false;
    memcpy(id, path + len, n);
    id[n] = '\0';
    return true;
}

/* /v1/checkpoints/ID: ids are unique within a stream, which has to be said. */
static bool route_checkpoint(struct agent *a, const char *path, const char *query, const struct https_request *r, struct https_answer *answer)
{
    char id[AGENT_CONTAINER_MAX], stream[POD_WORD_MAX];
    bool check = strcmp(r->method, "POST") == 0 && part(path, "/v1/checkpoints/", "/verify", id);
    bool put = strcmp(r->method, "PUT") == 0, get = strcmp(r->method, "GET") == 0, delete = strcmp(r->method, "DELETE") == 0;
    if (!check && !((put || get || delete) && part(path, "/v1/checkpoints/", "", id))) return false;
    if (!parameter(query, "stream", stream, sizeof stream)) fail_with(answer, ERROR_INVALID, "?stream=STREAM is wanted: a checkpoint's id says little without it");
    else if (check) verify(a, stream, id, answer);
    else if (get) answer_state(a, stream, id, 200, answer);
    else if (put) put_checkpoint(a, stream, id, r, answer);
    else delete_checkpoint(a, stream, id, query, answer);
    return true;
}

static void route(struct agent *a, const char *path, const char *query, const struct https_request *r, struct https_answer *answer)
{
    char id[AGENT_CONTAINER_MAX];
    bool get = strcmp(r->method, "GET") == 0, post = strcmp(r->method, "POST") == 0;
    if (get && strcmp(path, "/v1/node") == 0) probe_write(a, &answer->body), answer->status = 200;
    else if (get && strcmp(path, "/v1/containers") == 0) list_containers(a, query, answer);
    else if (get && strcmp(path, "/v1/checkpoints") == 0) list_checkpoints(a, answer);
    else if (post && strcmp(path, "/v1/prefetch") == 0) prefetch(a, r, answer);
    else if (post && part(path, "/v1/containers/", "/kill", id)) kill_container(a, id, answer);
    else if (post && part(path, "/v1/containers/", "/replicas", id)) count_replicas(a, id, query, answer);
    else if (!route_checkpoint(a, path, query, r, answer)) fail_with(answer, ERROR_NOT_FOUND, "there is no such thing; docs/AGENT.md lists what there is");
}

void api_handle(void *agent, const struct https_request *r, struct https_answer *answer)
{
    struct agent *a = agent;
    char path[1024];
    size_t len = strcspn(r->target, "?");
    const char *query = r->target[len] == '?' ? r->target + len + 1 : "";
    snprintf(path, sizeof path, "%.*s", (int)(len < sizeof path ? len : sizeof path - 1), r->target);
    if (strcmp(path, "/healthz") == 0) {
        answer->status = 200;
        answer->type = "text/plain";
        buf_add(&answer->body, "ok\n", 3);
        return;
    }
    bool reads = strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0, operator = named(a->settings.api_clients, r->client);
    if (reads && strncmp(path, "/v2/", 4) == 0 && (operator || strcmp(r->client, "crsc-agent") == 0)) {
        get_image(a, path, answer);
        return;
    }
    if (operator) {
        route(a, path, query, r, answer);
        return;
    }
    log_warn("refused", "client=%s method=%s path=%.100s", *r->client != '\0' ? r->client : "(no certificate)", r->method, path);
    struct error e;
    error_set(&e, ERROR_FENCED, "the certificate's name %s is not one of api-clients", *r->client != '\0' ? r->client : "(none)");
    fail(answer, &e);
    answer->status = 403;
}
