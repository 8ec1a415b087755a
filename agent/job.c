#include "agent/job.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/aftermath.h"
#include "agent/images.h"
#include "agent/keeper.h"
#include "agent/sidecar.h"
#include "checkpoint/dumped.h"
#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"

enum { JOBS_MAX = 256, RECORD_TRIES = 5, ASK_MS = 100, ASK_MAX_MS = 5000, TIMEOUT_MS = 30000, KUBELET_TIMEOUT_MS = 120000, LATE_MAX = 2, REST_MS = 600000 };

struct work {
    struct agent *agent;
    struct container *container; /* with a reference; NULL for a fetch */
    struct job *job;             /* stays in the list while it runs */
    struct ledger_snapshot wanted; /* of a fetch */
    char *from[8];
};

/* Under the lock. */
static struct job *find(struct agent *a, const char *stream, const char *id)
{
    struct job *j = a->jobs;
    while (j != NULL && (strcmp(j->id, id) != 0 || strcmp(j->stream, stream) != 0)) j = j->next;
    return j;
}

static bool ended(const struct job *j)
{
    return j->phase == PHASE_VALID || j->phase == PHASE_FAILED;
}

bool job_find(struct agent *a, const char *stream, const char *id, struct job *ret_job)
{
    pthread_mutex_lock(&a->lock);
    struct job *j = find(a, stream, id);
    if (j != NULL) *ret_job = *j;
    pthread_mutex_unlock(&a->lock);
    return j != NULL;
}

/* Under the lock: the one that ended, and its place. */
static void unlist(struct agent *a, struct job *j)
{
    struct job **p = &a->jobs;
    while (*p != j) p = &(*p)->next;
    *p = j->next;
    free(j);
}

void job_forget(struct agent *a, const char *stream, const char *id)
{
    pthread_mutex_lock(&a->lock);
    struct job *j = find(a, stream, id);
    if (j != NULL && ended(j)) unlist(a, j);
    pthread_mutex_unlock(&a->lock);
}

static void enter(struct work *w, enum phase phase)
{
    pthread_mutex_lock(&w->agent->lock);
    w->job->phase = phase;
    pthread_mutex_unlock(&w->agent->lock);
}

/* Adds a job; the oldest that has ended makes room. Under the lock. */
static struct job *add(struct agent *a, const char *stream, const char *id)
{
    struct job *j = calloc(1, sizeof *j), *oldest = NULL;
    unsigned n = 0;
    if (j == NULL) return NULL;
    for (struct job *i = a->jobs; i != NULL; i = i->next, n++)
        if (ended(i)) oldest = i;
    if (n >= JOBS_MAX && oldest != NULL) unlist(a, oldest);
    snprintf(j->id, sizeof j->id, "%s", id);
    snprintf(j->stream, sizeof j->stream, "%s", stream);
    j->started_us = loop_wall_us();
    j->next = a->jobs;
    a->jobs = j;
    return j;
}

/* ---- a checkpoint ------------------------------------------------------------------------------------------------ */

static int record(struct work *w, enum crsc_snapshot_state state, const char *reason, struct error *e)
{
    const struct job *j = w->job; /* only this thread writes it */
    struct crsc_snapshot s = {.stream = j->stream, .id = j->id, .offset = j->offset, .state = state, .node = w->agent->settings.node,
        .template_hash = j->template_hash, .reason = reason, .started_us = j->started_us, .image = j->reference};
    if (state == CRSC_VALID) {
        s.sha256 = j->image.digest;
        s.size = j->image.size;
    }
    if (state != CRSC_TAKING) s.finished_us = loop_wall_us();
    int rc = ledger_record(&w->agent->ledger, &s, e);
    for (int i = 1; i < RECORD_TRIES && rc != 0 && !ledger_refused(rc); i++) rc = ledger_record(&w->agent->ledger, &s, e);
    return rc;
}

/* `valid`, for certain: an answer that did not come may have been recorded all the same, and what the log calls valid stays. While the log does not answer,
 * nothing is decided. */
static int record_valid(struct work *w, struct error *e)
{
    int rc = record(w, CRSC_VALID, NULL, e);
    for (unsigned pause_ms = ASK_MS; rc != 0 && !ledger_refused(rc); pause_ms = pause_ms < ASK_MAX_MS ? pause_ms * 2 : pause_ms) {
        struct ledger_snapshot there;
        log_warn("was the checkpoint recorded? the log is asked", "stream=%s checkpoint=%s reason=%s", w->job->stream, w->job->id, e->text);
        rc = ledger_find(&w->agent->ledger, w->job->stream, w->job->id, &there, e);
        if (rc == 0 && there.state == CRSC_VALID) return 0;
        if (rc == 0 && there.state != CRSC_TAKING) return error_set(e, ERROR_CONFLICT, "meanwhile somebody gave the checkpoint up");
        if (rc == 0) rc = record(w, CRSC_VALID, NULL, e);
        else poll(NULL, 0, (int)pause_ms);
    }
    return rc;
}

static void note_dump(struct work *w, uint64_t offset, uint64_t drain_us, const struct dump_outcome *o, uint64_t pause_us)
{
    pthread_mutex_lock(&w->agent->lock);
    w->job->rounds = o->rounds;
    memcpy(w->job->round_bytes, o->round_bytes, sizeof o->round_bytes);
    w->job->offset = offset;
    w->job->drain_us = drain_us;
    w->job->dump_us = o->us;
    w->job->pause_us = pause_us;
    pthread_mutex_unlock(&w->agent->lock);
}

struct drain {
    struct work *work;
    struct sidecar sidecar;
    uint64_t offset, begun, drained; /* 0: not begun */
};

/* Requests wait from here until the interceptor has resumed. */
static int drain(void *user, struct error *e)
{
    struct drain *d = user;
    const struct job *j = d->work->job;
    enter(d->work, PHASE_DRAINING);
    d->begun = loop_monotonic_us();
    int rc = sidecar_drain(&d->sidecar, j->id, (uint32_t)j->drain_ms, (uint32_t)(j->drain_ms + j->timeout_ms), &d->offset, e);
    d->drained = loop_monotonic_us();
    if (rc == 0) enter(d->work, PHASE_DUMPING);
    return rc;
}

/* The kubelet knows containers by name: when ours has ended, what is called so is another one, which began with less than the drain says. */
static int lives(const struct container *c, struct error *e)
{
    return process_alive(&c->process) ? 0 : error_set(e, ERROR_CONFLICT, "the app ended while its checkpoint was taken: the kubelet may have dumped the next one");
}

/* A pause that is as long as the kubelet's bound, and for nothing, is not had again and again. */
static int rests(struct agent *a, const struct container *c, struct error *e)
{
    pthread_mutex_lock(&a->lock);
    uint64_t now_ms = loop_monotonic_us() / 1000, rest_ms = c->late >= LATE_MAX && now_ms < c->rest_ms ? c->rest_ms - now_ms : 0;
    unsigned late = c->late;
    pthread_mutex_unlock(&a->lock);
    return rest_ms == 0 ? 0 : error_set(e, ERROR_UNAVAILABLE, "not tried: the last %u did not end in time; again in %" PRIu64 " s", late, rest_ms / 1000 + 1);
}

static void note_kubelet(struct agent *a, struct container *c, int rc, const struct error *e)
{
    pthread_mutex_lock(&a->lock);
    snprintf(a->kubelet_why, sizeof a->kubelet_why, "%.250s", rc == 0 ? "" : e->text);
    c->late = rc == -ERROR_TIMEOUT ? c->late + 1 : 0;
    c->rest_ms = loop_monotonic_us() / 1000 + REST_MS;
    pthread_mutex_unlock(&a->lock);
}

/* The kubelet is asked whether it is there before anybody waits, and told nothing of the drain: the container runtime's whole work is within it. The path of the archive
 * comes into `dump`. */
static int drain_and_ask_kubelet(struct drain *d, char *dump, uint64_t *ret_us, struct error *e)
{
    const struct work *w = d->work;
    struct container *c = w->container;
    struct agent *a = w->agent;
    enum kubelet_end end;
    if (*w->job->reference == '\0')
        return error_set(e, ERROR_INVALID, "crsc.io/backend: kubelet wants a registry, from which the node pulls the image: crsc.io/image-registry, or the agent's --image-registry");
    int rc = rests(a, c, e);
    if (rc == 0) rc = kubelet_reach(&a->kubelet, e);
    if (rc == 0) rc = drain(d, e);
    if (rc == 0) rc = lives(c, e);
    if (rc != 0) return rc;
    aftermath_note(a, c);
    rc = kubelet_checkpoint(&a->kubelet, c->pod.namespace, c->pod.name, c->pod.container, w->job->timeout_ms, dump, &end, e);
    *ret_us = loop_monotonic_us() - d->drained;
    note_kubelet(a, c, rc, e);
    if (rc != 0 && end != KUBELET_REFUSED) aftermath_see(a, c, end == KUBELET_ANSWERED); /* before a request comes to it again */
    else aftermath_forget(a, c);
    return rc != 0 ? rc : lives(c, e);
}

/* How many rounds of pre-copy may be made. */
static unsigned rounds_for(struct work *w)
{
    struct container *c = w->container;
    pthread_mutex_lock(&w->agent->lock);
    bool rests = c->rest > 0;
    if (rests) c->rest--;
    pthread_mutex_unlock(&w->agent->lock);
    return rests ? 0 : (unsigned)w->agent->settings.precopy_rounds;
}

static void note_rounds(struct work *w, const struct dump_outcome *o, int rc)
{
    struct container *c = w->container;
    bool failed = rc != 0 && o->rounds > 0;
    if (!failed && !o->futile) return;
    pthread_mutex_lock(&w->agent->lock);
    c->rest = failed ? 1 : PRECOPY_REST;
    pthread_mutex_unlock(&w->agent->lock);
    log_info(failed ? "the dump upon rounds of pre-copy failed: the next one is plain" : "pre-copy came to nothing: the next dumps are plain",
             "container=%s checkpoint=%s dumps=%u", c->id, w->job->id, failed ? 1 : PRECOPY_REST);
}

/* `dump` names the folder that a dump goes to; with the kubelet it comes to name its archive, "" : there is none. */
static int drain_and_dump(struct work *w, char dump[PATH_MAX], struct error *e)
{
    const struct container *c = w->container;
    struct drain d = {.work = w, .sidecar = {.admin = c->pod.admin, .pid = c->process.pid}};
    char logs[PATH_MAX];
    struct error second;
    bool unbroken = false;
    struct dump_outcome outcome = {0};
    struct dump_options options = agent_dump_options(w->agent, w->job->timeout_ms, logs);
    options.precopy_rounds = rounds_for(w);
    int rc = c->pod.by_kubelet ? drain_and_ask_kubelet(&d, dump, &outcome.us, e)
                               : dump_container(&options, c->id, dump, drain, &d, &outcome, e);
    if (outcome.harmed) { /* before a request comes to it again; a frozen one does not even die */
        bool unused;
        if (dump_settle(&options, c->id, &unused, &second) != 0) log_warn("a container cannot be thawed", "container=%s reason=%s", c->id, second.text);
        agent_end_app(c, "its dump was cut in the middle");
    }
    if (d.begun == 0) return rc;
    note_rounds(w, &outcome, rc);
    int resumed = sidecar_resume(&d.sidecar, w->job->id, &unbroken, rc == 0 ? e : &second);
    note_dump(w, d.offset, d.drained - d.begun, &outcome, loop_monotonic_us() - d.begun);
    if (rc == 0) rc = resumed;
    if (rc == 0 && !unbroken) rc = error_set(e, ERROR_CONFLICT, "the drain did not hold: the dump may contain requests after offset %" PRIu64, d.offset);
    return rc;
}

/* The archive that the kubelet left on the host. */
static int wrap(struct agent *a, const struct container *c, const char *archive, const char *path, struct oci_image_labels *labels, struct oci_image *ret_image, struct error *e)
{
    int fd;
    char id[DUMPED_ID_MAX];
    memcpy(labels->user, c->pod.user, sizeof labels->user);
    int rc = kubelet_open(&a->kubelet, archive, &fd, e);
    if (rc != 0) return rc;
    rc = dumped_container(fd, id, e);
    if (rc == 0 && strcmp(id, c->id) != 0) rc = error_set(e, ERROR_CONFLICT, "the kubelet dumped container %.70s, and not %.70s, which was drained", id, c->id);
    if (rc == 0) rc = oci_image_wrap(fd, path, labels, ret_image, e);
    close(fd);
    return rc;
}

/* What was packed, or will not be. */
static void remove_dump(struct agent *a, const struct container *c, const char *dump)
{
    struct error e = {0};
    if (!c->pod.by_kubelet) tree_remove(dump, NULL);
    else if (*dump != '\0' && kubelet_remove(&a->kubelet, dump, &e) != 0) log_warn("the kubelet's archive stays on the node", "reason=%s", e.text);
}

static int pack(struct work *w, const char *dump, char path[PATH_MAX], struct error *e)
{
    struct agent *a = w->agent;
    struct job *j = w->job;
    struct oci_image_labels labels = {.offset = j->offset};
    struct oci_image image;
    uint64_t begun = loop_monotonic_us();
    snprintf(labels.container, sizeof labels.container, "%s", w->container->pod.container);
    memcpy(labels.stream, j->stream, sizeof labels.stream);
    memcpy(labels.spec, w->container->pod.spec, sizeof labels.spec);
    int rc = store_place(a->store, j->stream, j->id, path, e);
    if (rc == 0) rc = w->container->pod.by_kubelet ? wrap(a, w->container, dump, path, &labels, &image, e) : oci_image_pack(dump, path, &labels, &image, e);
    if (rc == 0) rc = store_add(a->store, j->id, &image, e);
    if (rc != 0) return rc;
    pthread_mutex_lock(&a->lock);
    j->image = image;
    j->pack_us = loop_monotonic_us() - begun;
    pthread_mutex_unlock(&a->lock);
    return 0;
}

/* To the registry that the reference names; nowhere when there is none. */
static int push(struct work *w, const char *path, struct error *e)
{
    struct job *j = w->job;
    char base[300], repository[700];
    struct registry r;
    if (*j->reference == '\0') return 0;
    uint64_t begun = loop_monotonic_us();
    int rc = agent_registry(w->agent, j->reference, base, repository, &r, e);
    for (int i = 0; rc == 0; i++) {
        rc = registry_push(&r, path, j->image.digest, j->id, e);
        if (rc == 0 || i == 2 || (rc != -ERROR_UNAVAILABLE && rc != -ERROR_TIMEOUT)) break;
        log_warn("pushing again", "checkpoint=%s reason=%s", j->id, e->text);
        rc = 0;
    }
    pthread_mutex_lock(&w->agent->lock);
    j->push_us = loop_monotonic_us() - begun;
    pthread_mutex_unlock(&w->agent->lock);
    return rc;
}

static uint64_t copied_ahead(const struct job *j)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < j->rounds; i++) bytes += j->round_bytes[i];
    return bytes;
}

static void say_how(const struct work *w, int rc, const struct error *e)
{
    const struct job *j = w->job;
    if (rc == 0)
        log_info("checkpoint valid", "stream=%s checkpoint=%s offset=%" PRIu64 " size=%" PRIu64 " pause_ms=%.1f dump_ms=%.1f pack_ms=%.1f push_ms=%.1f rounds=%u copied_ahead=%" PRIu64, j->stream,
                 j->id, j->offset, j->image.size, (double)j->pause_us / 1000, (double)j->dump_us / 1000, (double)j->pack_us / 1000, (double)j->push_us / 1000, j->rounds,
                 copied_ahead(j));
    else
        log_error("checkpoint failed", "stream=%s checkpoint=%s phase=%s reason=%s", j->stream, j->id, phase_name(j->phase), e->text);
}

static void finish(struct work *w, int rc, const struct error *e)
{
    struct agent *a = w->agent;
    pthread_mutex_lock(&a->lock);
    w->job->phase = rc == 0 ? PHASE_VALID : PHASE_FAILED;
    if (rc != 0) w->job->error = *e;
    w->job->finished_us = loop_wall_us();
    if (w->container != NULL) w->container->busy = false;
    pthread_mutex_unlock(&a->lock);
    if (w->container != NULL) agent_let_go(a, w->container);
    for (size_t i = 0; w->from[i] != NULL; i++) free(w->from[i]);
    free(w);
}

static void *take(void *user)
{
    struct work *w = user;
    struct agent *a = w->agent;
    struct job *j = w->job;
    struct error e = {0};
    char dump[PATH_MAX], path[PATH_MAX];
    struct store_image held;
    snprintf(dump, sizeof dump, "%.3000s/dumps/%.64s-%.64s", a->settings.store, w->container->id, j->id);
    int rc = record(w, CRSC_TAKING, NULL, &e);
    bool recorded = !ledger_refused(rc);
    if (rc == 0) rc = tree_remove(dump, &e);
    if (w->container->pod.by_kubelet) *dump = '\0';
    if (rc == 0) rc = drain_and_dump(w, dump, &e);
    enter(w, PHASE_PACKING);
    if (rc == 0) rc = pack(w, dump, path, &e);
    bool packed = rc == 0;
    remove_dump(a, w->container, dump);
    if (rc == 0) enter(w, PHASE_PUSHING);
    if (rc == 0) rc = push(w, path, &e);
    if (rc == 0) enter(w, PHASE_RECORDING);
    if (rc == 0) rc = record_valid(w, &e);
    say_how(w, rc, &e);
    if (packed && store_hold(a->store, j->stream, j->id, &held)) { /* ours from store_add(), and this one */
        store_release(a->store, &held);
        store_release(a->store, &held);
    }
    if (rc != 0 && packed) {
        struct error left;
        store_remove(a->store, j->stream, j->id, NULL);
        if (*j->reference != '\0' && images_unpush(a, j->reference, &left) != 0)
            log_warn("a failed checkpoint's image stays in the registry", "image=%s reason=%s", j->reference, left.text);
    }
    if (rc != 0 && recorded) record(w, CRSC_FAILED, e.text, NULL);
    store_evict(a->store);
    finish(w, rc, &e);
    return NULL;
}

int job_checkpoint(struct agent *a, const struct job_request *r, struct error *e)
{
    struct error local, *why = e != NULL ? e : &local;
    struct job *j = NULL;
    char reference[AGENT_REFERENCE_MAX];
    if (!pod_snapshot_id_valid(r->id)) return error_set(why, ERROR_INVALID, "\"%.64s\" is no id: 1 to 64 of a-z 0-9 . - are wanted", r->id);
    struct container *c = agent_find(a, r->namespace, r->pod);
    struct work *w = calloc(1, sizeof *w);
    pthread_mutex_lock(&a->lock);
    bool known = find(a, r->stream, r->id) != NULL;
    int rc = known ? 1 : w == NULL ? error_set(why, ERROR_NOMEM, "no memory for a checkpoint")
             : c == NULL ? error_set(why, ERROR_NOT_FOUND, "no protected container of pod %.100s/%.100s runs on this node", r->namespace, r->pod)
             : r->pod_uid != NULL && strcmp(r->pod_uid, c->pod.uid) != 0 ? error_set(why, ERROR_CONFLICT, "the pod of that name is another one")
             : strcmp(r->stream, c->pod.stream) != 0 ? error_set(why, ERROR_CONFLICT, "that pod is of stream %.150s", c->pod.stream)
             : c->busy ? error_set(why, ERROR_CONFLICT, "another checkpoint of that container is under way")
             : !c->attached ? error_set(why, ERROR_CONFLICT, "the container's interceptor does not know its app yet") : 0;
    if (rc == 0) rc = images_reference(a, &c->pod, r->id, reference, why);
    if (rc == 0 && (j = add(a, r->stream, r->id)) == NULL) rc = error_set(why, ERROR_NOMEM, "no memory for a checkpoint");
    if (rc == 0) {
        memcpy(j->reference, reference, sizeof j->reference);
        memcpy(j->namespace, c->pod.namespace, sizeof j->namespace);
        memcpy(j->pod, c->pod.name, sizeof j->pod);
        memcpy(j->template_hash, c->pod.template_hash, sizeof j->template_hash);
        memcpy(j->container, c->id, sizeof j->container);
        j->drain_ms = r->drain_ms;
        j->phase = c->pod.by_kubelet || a->settings.precopy_rounds == 0 ? PHASE_DRAINING : PHASE_COPYING;
        j->timeout_ms = r->timeout_ms != 0 ? r->timeout_ms : c->pod.by_kubelet ? KUBELET_TIMEOUT_MS : TIMEOUT_MS;
        c->busy = true;
        *w = (struct work){.agent = a, .container = c, .job = j};
    }
    pthread_mutex_unlock(&a->lock);
    if (rc == 0 && agent_thread(take, w, why) != 0) {
        rc = -ERROR_NOMEM;
        finish(w, rc, why);
        return rc;
    }
    if (rc != 0) {
        free(w);
        if (c != NULL) agent_let_go(a, c);
    }
    return rc;
}

/* ---- a fetch ----------------------------------------------------------------------------------------------------- */

static void *fetch(void *user)
{
    struct work *w = user;
    struct error e = {0};
    struct store_image held;
    int rc = images_fetch(w->agent, w->job->stream, &w->wanted, (const char *const *)w->from, &held, &e);
    if (rc == 0) {
        pthread_mutex_lock(&w->agent->lock);
        w->job->image = held.image;
        pthread_mutex_unlock(&w->agent->lock);
        store_release(w->agent->store, &held);
    } else {
        log_warn("a checkpoint cannot be fetched", "stream=%s checkpoint=%s reason=%s", w->job->stream, w->job->id, e.text);
    }
    finish(w, rc, &e);
    return NULL;
}

/* The offset is in the image itself: the fetch compares it with what is recorded at the container's start. */
int job_prefetch(struct agent *a, const struct job_fetch *f, struct error *e)
{
    struct ledger_snapshot *all = NULL;
    size_t n = 0, at = 0;
    uint64_t first, last;
    if (!pod_snapshot_id_valid(f->id)) return error_set(e, ERROR_INVALID, "\"%.64s\" is no id", f->id);
    int rc = ledger_read(&a->ledger, f->stream, &all, &n, &first, &last, e);
    if (rc != 0) return rc;
    while (at < n && strcmp(all[at].id, f->id) != 0) at++;
    struct work *w = at < n ? calloc(1, sizeof *w) : NULL;
    if (w != NULL) w->wanted = all[at];
    free(all);
    if (w == NULL) return error_set(e, ERROR_NOT_FOUND, "the log has no checkpoint %.64s of %.100s", f->id, f->stream);
    for (size_t i = 0; i < 7 && f->from[i] != NULL; i++) w->from[i] = strdup(f->from[i]);
    w->agent = a;
    pthread_mutex_lock(&a->lock);
    struct job *old = find(a, f->stream, f->id);
    if (old != NULL && ended(old)) {
        unlist(a, old);
        old = NULL;
    }
    if (old == NULL && (w->job = add(a, f->stream, f->id)) != NULL) {
        w->job->phase = PHASE_FETCHING;
        w->job->offset = w->wanted.offset;
        memcpy(w->job->template_hash, w->wanted.template_hash, sizeof w->job->template_hash);
        memcpy(w->job->reference, w->wanted.image, sizeof w->wanted.image);
    }
    pthread_mutex_unlock(&a->lock);
    if (w->job == NULL) {
        for (size_t i = 0; w->from[i] != NULL; i++) free(w->from[i]);
        free(w);
        return old != NULL ? 1 : error_set(e, ERROR_NOMEM, "no memory for a fetch");
    }
    rc = agent_thread(fetch, w, e);
    if (rc != 0) finish(w, rc, e);
    return rc;
}
