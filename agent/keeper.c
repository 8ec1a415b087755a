#include "agent/keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "agent/aftermath.h"
#include "agent/choose.h"
#include "agent/dump.h"
#include "agent/ear.h"
#include "agent/found.h"
#include "agent/images.h"
#include "agent/sidecar.h"
#include "checkpoint/tree.h"
#include "common/log.h"
#include "common/loop.h"

enum { LOOK_MS = 300, ATTACH_AGAIN_MS = 20, SETTLE_MS = 1000, LOST_MS = 1500, CONFIG_MAX = 4 << 20, FILE_MAX = 16 << 10, MARK_MAX = 128 };

struct watched {
    struct agent *agent;
    struct container *container;
};

/* A whole small file, zero-terminated; NULL. The caller frees it. */
static char *read_file(const char *path, size_t max, size_t *ret_len)
{
    FILE *f = fopen(path, "re");
    char *text = f != NULL ? malloc(max + 1) : NULL;
    size_t len = text != NULL ? fread(text, 1, max, f) : 0;
    if (f != NULL) fclose(f);
    if (text == NULL || len == max) {
        free(text);
        return NULL;
    }
    text[len] = '\0';
    *ret_len = len;
    return text;
}

static void file_of(const struct agent *a, const char *id, const char *suffix, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.2000s/started/%.200s%s", a->settings.run, id, suffix);
}

static void copy(char *to, size_t cap, yyjson_val *v)
{
    snprintf(to, cap, "%s", yyjson_is_str(v) ? yyjson_get_str(v) : "");
}

/* Reads what the runtime left and the bundle that it names. NULL: not a protected container, or not readable. */
static struct container *read_started(const struct agent *a, const char *id, struct error *e)
{
    char path[PATH_MAX];
    size_t len = 0;
    struct container *c = calloc(1, sizeof *c);
    file_of(a, id, ".json", path);
    char *text = c != NULL ? read_file(path, FILE_MAX, &len) : NULL;
    yyjson_doc *doc = text != NULL ? yyjson_read(text, len, YYJSON_READ_NOFLAG) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc), *bundle = yyjson_obj_get(root, "bundle");
    char *config = NULL;
    int rc = doc == NULL ? error_set(e, ERROR_NOT_FOUND, "%s cannot be read", path) : 0;
    if (rc == 0) {
        snprintf(path, sizeof path, "%.3000s/config.json", yyjson_is_str(bundle) ? yyjson_get_str(bundle) : "");
        config = read_file(path, CONFIG_MAX, &len);
        rc = config == NULL ? error_set(e, ERROR_NOT_FOUND, "%s cannot be read", path) : pod_read(config, len, &c->pod, e);
    }
    if (rc == 0) {
        snprintf(c->id, sizeof c->id, "%s", id);
        c->process = (struct process){.pid = (int32_t)yyjson_get_sint(yyjson_obj_get(root, "pid")),
            .start_time = yyjson_get_uint(yyjson_obj_get(root, "start_time"))};
        c->restored = yyjson_equals_str(yyjson_obj_get(root, "began"), "restored");
        copy(c->snapshot, sizeof c->snapshot, yyjson_obj_get(root, "snapshot"));
        copy(c->tried, sizeof c->tried, yyjson_obj_get(root, "tried"));
        copy(c->reason, sizeof c->reason, yyjson_obj_get(root, "reason"));
        c->offset = yyjson_get_uint(yyjson_obj_get(root, "offset"));
        c->criu_us = yyjson_get_uint(yyjson_obj_get(root, "criu_us"));
        c->created_us = yyjson_get_uint(yyjson_obj_get(root, "created_us"));
    }
    yyjson_doc_free(doc);
    free(text);
    free(config);
    if (rc == 0) return c;
    free(c);
    return NULL;
}

/* ---- one container ----------------------------------------------------------------------------------------------- */

/* Which interceptor was, or was about to be, told of this container, and with which offset that began; false: that is not noted. */
static bool read_mark(const struct agent *a, const char *id, char instance[SIDECAR_INSTANCE_MAX], uint64_t *ret_offset)
{
    char path[PATH_MAX];
    size_t len = 0;
    file_of(a, id, ".attached", path);
    char *text = read_file(path, MARK_MAX, &len);
    size_t end = text != NULL ? strcspn(text, "\n") : 0;
    snprintf(instance, SIDECAR_INSTANCE_MAX, "%.*s", (int)end, text != NULL ? text : "");
    bool has_offset = text != NULL && text[end] == '\n' && sscanf(text + end + 1, "%" SCNu64, ret_offset) == 1;
    free(text);
    return has_offset;
}

static bool write_mark(const struct agent *a, const struct container *c, const char *instance)
{
    const char *id = c->id;
    char path[PATH_MAX], aside[PATH_MAX];
    file_of(a, id, ".attached", path);
    file_of(a, id, ".mark", aside);
    FILE *f = fopen(aside, "we");
    if (f == NULL) return false;
    fputs(instance, f);
    if (c->found) fprintf(f, "\n%" PRIu64 "\n", c->offset); /* not where an agent of an earlier version would read the mark */
    return fclose(f) == 0 && rename(aside, path) == 0;
}

static void note_status(struct agent *a, struct container *c, struct sidecar_status *st, bool attached)
{
    pthread_mutex_lock(&a->lock);
    char *old = c->status;
    if (c->silent || c->attached != attached || strcmp(c->word, st->word) != 0) agent_changed(a);
    c->status = st->json;
    st->json = old; /* freed by the caller */
    memcpy(c->word, st->word, sizeof c->word);
    c->silent = false;
    if (attached && !c->attached) c->attached_us = loop_wall_us();
    c->attached = attached;
    pthread_mutex_unlock(&a->lock);
}

/* What it said last stays, for those who want to know how it was. */
static void note_silence(struct agent *a, struct container *c)
{
    pthread_mutex_lock(&a->lock);
    if (!c->silent) agent_changed(a);
    c->silent = true;
    pthread_mutex_unlock(&a->lock);
}

/* A drain that an earlier life of ours began, and that nobody will end before its lease does: requests wait for nothing. */
static void end_orphaned_drain(struct agent *a, const struct sidecar *sidecar, const char *token)
{
    bool ours = false, unbroken;
    pthread_mutex_lock(&a->lock);
    for (struct job *j = a->jobs; j != NULL; j = j->next) ours |= strcmp(j->id, token) == 0;
    pthread_mutex_unlock(&a->lock);
    if (ours) return;
    log_warn("a drain that nobody goes on with is ended", "token=%s", token);
    sidecar_resume(sidecar, token, &unbroken, NULL);
}

/* Another interceptor than the one that was told of this app. What it proves from the log counts; the mark follows only when it has taken
 * that, as what is marked is attached with the offset that the container began with. True: it knows its app. */
static bool attach_again(struct agent *a, const struct container *c, const struct sidecar *sidecar, const struct sidecar_status *st, const char *identity)
{
    struct error e;
    if (st->reading) return false;
    if (strcmp(st->proven, identity) != 0) {
        agent_end_app(c, "its interceptor was restarted, and the log does not prove its state");
        return false;
    }
    int rc = sidecar_attach(sidecar, identity, st->proven_offset, c->pod.upstream, true, &e);
    if (rc == 0) {
        log_info("attached again: the log proves its state", "pod=%s/%s container=%s offset=%" PRIu64, c->pod.namespace, c->pod.name, c->id, st->proven_offset);
        write_mark(a, c, st->instance);
    } else if (rc == -ERROR_CONFLICT) {
        agent_end_app(c, "its interceptor was restarted, and would not take it");
    } else {
        log_warn("the interceptor cannot be told of its app; trying on", "pod=%s/%s reason=%s", c->pod.namespace, c->pod.name, e.text);
    }
    return rc == 0;
}

/* Where the pod's own rules lead clients to the interceptor, none may be missing when it begins to serve: they would go past it. crsc-runtime has made them
 * already, if it could. */
static bool lead(struct container *c)
{
    struct error e;
    if (c->pod.redirect.n == 0 || redirect_set(c->process.pid, &c->pod.redirect, &e) == 0) return true;
    if (!c->refused) log_error("clients cannot be led to the interceptor: it is not told of its app; trying on", "pod=%s/%s reason=%s", c->pod.namespace, c->pod.name, e.text);
    c->refused = true;
    return false;
}

/* The interceptor does not know its app. True: now it does. */
static bool tell(struct agent *a, const struct container *c, const struct sidecar *sidecar, const struct sidecar_status *st, const char *identity)
{
    char marked[SIDECAR_INSTANCE_MAX];
    struct error e;
    uint64_t unused;
    read_mark(a, c->id, marked, &unused);
    if (*marked != '\0' && strcmp(marked, st->instance) != 0) return attach_again(a, c, sidecar, st, identity);
    if (!write_mark(a, c, st->instance)) return false;
    int rc = sidecar_attach(sidecar, identity, c->offset, c->pod.upstream, false, &e);
    if (rc == 0)
        log_info("attached", "pod=%s/%s container=%s began=%s snapshot=%s offset=%" PRIu64 " criu_ms=%" PRIu64, c->pod.namespace, c->pod.name, c->id,
                 c->restored ? "restored" : "fresh", c->snapshot, c->offset, c->criu_us / 1000);
    else
        log_warn("the interceptor cannot be told of its app; trying on", "pod=%s/%s reason=%s", c->pod.namespace, c->pod.name, e.text);
    return rc == 0;
}

static bool is_settled(struct agent *a, const struct container *c)
{
    pthread_mutex_lock(&a->lock);
    bool is = c->settled;
    pthread_mutex_unlock(&a->lock);
    return is;
}

/* One look at the interceptor. True: it knows its app. */
static bool look(struct agent *a, struct container *c, uint64_t *lost_since_ms)
{
    char identity[PROCESS_IDENTITY_MAX];
    struct sidecar sidecar = {.admin = c->pod.admin, .pid = c->process.pid};
    struct sidecar_status st;
    struct error e;
    if (sidecar_status(&sidecar, &st, &e) != 0) {
        note_silence(a, c);
        return false;
    }
    if (*st.drain != '\0') end_orphaned_drain(a, &sidecar, st.drain);
    process_identity(&c->process, identity);
    bool knows = strcmp(st.identity, identity) == 0, settled = is_settled(a, c);
    if (!settled || c->doubt) { /* an offset is never guessed */
        if (settled || !knows) note_status(a, c, &st, false); /* one that serves is not called unattached for as long as the log is asked */
        sidecar_status_fini(&st);
        return false;
    }
    if (!knows) {
        knows = lead(c) && tell(a, c, &sidecar, &st, identity);
    } else if (st.diverged) {
        /* left as it is, out of service: the kubelet would have it restored from what it took itself, until the operator has said which of that is no way back */
    } else if (st.suspect) {
        agent_end_app(c, "a request was cut off half-way");
    } else if (!st.lost) {
        *lost_since_ms = 0;
    } else if (*lost_since_ms == 0) {
        *lost_since_ms = loop_monotonic_us() / 1000;
    } else if (loop_monotonic_us() / 1000 - *lost_since_ms > LOST_MS) {
        agent_end_app(c, "it lives, and its connection to the interceptor ended");
    }
    note_status(a, c, &st, knows);
    sidecar_status_fini(&st);
    return knows;
}

/* ---- what may take long ------------------------------------------------------------------------------------------ */

/* The log and the registry may be away for as long as they like: whoever watches a container goes on watching it. */
struct aside {
    struct agent *agent;
    struct container *container;
    void (*run)(struct agent *a, struct container *c);
};

static void *run_aside(void *user)
{
    struct aside *s = user;
    s->run(s->agent, s->container);
    agent_let_go(s->agent, s->container);
    free(s);
    return NULL;
}

static void aside(struct agent *a, struct container *c, void (*run)(struct agent *a, struct container *c))
{
    struct error e;
    struct aside *s = malloc(sizeof *s);
    pthread_mutex_lock(&a->lock);
    c->refs++;
    pthread_mutex_unlock(&a->lock);
    if (s != NULL) *s = (struct aside){a, c, run};
    if (s != NULL && agent_thread(run_aside, s, &e) == 0) return;
    free(s);
    run(a, c);
    agent_let_go(a, c);
}

/* A restore that CRIU could not do is held against its checkpoint; after the second the log hears of it. */
static void judge_start(struct agent *a, const struct container *c)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/restore/%.200s", a->settings.store, c->id);
    tree_remove(path, NULL); /* the images: the process has them now, or could not use them */
    if (c->doubt) log_error("nobody knows which state a container began with", "pod=%s/%s container=%s reason=%s", c->pod.namespace, c->pod.name, c->id, c->reason);
    else if (c->restored) log_info("restored", "pod=%s/%s snapshot=%s offset=%" PRIu64 " criu_ms=%" PRIu64, c->pod.namespace, c->pod.name, c->snapshot, c->offset, c->criu_us / 1000);
    else log_info("started fresh", "pod=%s/%s tried=%s reason=%s", c->pod.namespace, c->pod.name, c->tried, c->reason);
    if (c->restored || *c->tried == '\0' || agent_note_failure(a, c->pod.stream, c->tried) < CHOOSE_FAILURES_MAX) return;
    struct crsc_snapshot s = {.stream = c->pod.stream, .id = c->tried, .state = CRSC_FAILED, .node = a->settings.node,
        .template_hash = c->pod.template_hash, .reason = c->reason};
    ledger_record(&a->ledger, &s, NULL);
}

static void note_settled(struct agent *a, struct container *c)
{
    pthread_mutex_lock(&a->lock);
    c->settled = true;
    pthread_mutex_unlock(&a->lock);
}

static void learn_beginning(struct agent *a, struct container *c)
{
    if (!is_settled(a, c) && !found_ask(a, c)) return; /* it is gone */
    note_settled(a, c);
    judge_start(a, c);
}

/* A checkpoint that we were taking when we ended, and that nobody goes on with. */
static void end_orphans(struct agent *a, struct container *c)
{
    struct ledger_snapshot *all = NULL;
    size_t n = 0;
    uint64_t first, last;
    if (ledger_read(&a->ledger, c->pod.stream, &all, &n, &first, &last, NULL) != 0) return;
    for (size_t i = 0; i < n; i++) {
        if (all[i].state != CRSC_TAKING || strcmp(all[i].node, a->settings.node) != 0) continue;
        pthread_mutex_lock(&a->lock);
        struct job *j = a->jobs;
        while (j != NULL && (strcmp(j->id, all[i].id) != 0 || strcmp(j->stream, c->pod.stream) != 0)) j = j->next;
        pthread_mutex_unlock(&a->lock);
        if (j != NULL) continue;
        struct crsc_snapshot s = {.stream = c->pod.stream, .id = all[i].id, .state = CRSC_FAILED, .node = a->settings.node,
            .template_hash = all[i].template_hash, .image = all[i].image, .reason = "the agent ended while it was taken"};
        struct error e;
        ledger_record(&a->ledger, &s, NULL);
        store_remove(a->store, c->pod.stream, all[i].id, NULL);
        if (*all[i].image != '\0' && images_unpush(a, all[i].image, &e) != 0)
            log_warn("a failed checkpoint's image stays in the registry", "image=%s reason=%s", all[i].image, e.text);
    }
    free(all);
}

/* An agent that ended in the middle of a dump may have left the container frozen, or CRIU's code in its app: in a pod, what the agent had started ends
 * with it. */
static void settle(struct agent *a, const struct container *c)
{
    char work[PATH_MAX];
    struct dump_options options = agent_dump_options(a, 0, work);
    struct error e = {0};
    bool harmed = false;
    if (!dump_left(&options, c->id)) return;
    if (dump_settle(&options, c->id, &harmed, &e) != 0) log_warn("a container that was being dumped cannot be thawed", "container=%s reason=%s", c->id, e.text);
    if (harmed) agent_end_app(c, "the agent ended while it was being dumped");
}

static void unlist(struct agent *a, struct container *c)
{
    pthread_mutex_lock(&a->lock);
    c->gone = true;
    struct container **p = &a->containers;
    while (*p != c) p = &(*p)->next;
    *p = c->next;
    agent_changed(a);
    pthread_mutex_unlock(&a->lock);
}

/* An earlier life of ours was certain of how it began, and its interceptor was told: nobody need be asked again, whatever became of the checkpoint since. */
static bool is_attached(struct agent *a, struct container *c)
{
    char identity[PROCESS_IDENTITY_MAX], marked[SIDECAR_INSTANCE_MAX];
    struct sidecar sidecar = {.admin = c->pod.admin, .pid = c->process.pid};
    struct sidecar_status st;
    uint64_t offset = 0;
    if (!c->found || !read_mark(a, c->id, marked, &offset) || sidecar_status(&sidecar, &st, NULL) != 0) return false;
    bool is = strcmp(st.instance, marked) == 0 && strcmp(st.identity, process_identity(&c->process, identity)) == 0;
    sidecar_status_fini(&st);
    if (!is) return false;
    pthread_mutex_lock(&a->lock);
    c->doubt = false;
    c->restored = *c->pod.checkpoint != '\0';
    c->offset = offset;
    snprintf(c->snapshot, sizeof c->snapshot, "%s", c->pod.checkpoint);
    pthread_mutex_unlock(&a->lock);
    return true;
}

/* Until the next look at one that is not attached. What it began with is mostly known a few milliseconds after it came; when the log is away that takes its time. */
static int until_next_look(struct agent *a, const struct container *c, bool alive, uint64_t begun_ms)
{
    if (!alive) return LOOK_MS;
    if (!is_settled(a, c)) return loop_monotonic_us() / 1000 - begun_ms < SETTLE_MS ? ATTACH_AGAIN_MS : LOOK_MS;
    return c->doubt ? LOOK_MS : ATTACH_AGAIN_MS;
}

static void *stay_with(void *user)
{
    struct watched *w = user;
    struct agent *a = w->agent;
    struct container *c = w->container;
    char path[PATH_MAX], mark[PATH_MAX];
    uint64_t lost_since_ms = 0, begun_ms = loop_monotonic_us() / 1000;
    bool orphans_ended = false;
    const struct sidecar sidecar = {.admin = c->pod.admin, .pid = c->process.pid};
    struct ear ear;
    free(w);
    ear_init(&ear, &c->process);
    if (c->found) aftermath_resume(a, c);
    else settle(a, c);
    if (is_attached(a, c) || !c->found || !c->restored) note_settled(a, c);
    aside(a, c, learn_beginning);
    file_of(a, c->id, ".json", path);
    file_of(a, c->id, ".attached", mark);
    while (!a->stopping && (c->found || access(path, F_OK) == 0)) {
        bool alive = process_alive(&c->process);
        if (c->found && !alive) break;
        aftermath_sweep(a, c);
        bool knows = alive && look(a, c, &lost_since_ms);
        if ((knows || !alive) && !orphans_ended) { /* not before it serves: nobody is kept waiting; one that ended has nobody who waits */
            aside(a, c, end_orphans);
            orphans_ended = true;
        }
        if (!alive) note_silence(a, c);
        if (knows) ear_wait(&ear, &sidecar, LOOK_MS);
        else poll(NULL, 0, until_next_look(a, c, alive, begun_ms));
    }
    ear_fini(&ear);
    if (!a->stopping) unlink(mark);
    unlist(a, c);
    agent_let_go(a, c);
    return NULL;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static bool is_known(struct agent *a, const char *id)
{
    struct container *known = agent_find_id(a, id);
    if (known != NULL) agent_let_go(a, known);
    return known != NULL;
}

static void begin(struct agent *a, const char *id)
{
    struct error e = {0};
    struct container *c = is_known(a, id) ? NULL : read_started(a, id, &e);
    if (c != NULL && c->pod.is_protected) keeper_take(a, c);
    else free(c); /* asked about while we were away; or unreadable: next time, perhaps */
}

bool keeper_take(struct agent *a, struct container *c)
{
    struct error e = {0};
    struct container *known = agent_find_id(a, c->id);
    struct watched *w = known == NULL ? malloc(sizeof *w) : NULL;
    bool same = known != NULL && known->process.pid == c->process.pid && known->process.start_time == c->process.start_time;
    if (known != NULL) agent_let_go(a, known);
    if (w == NULL) {
        free(c);
        return same;
    }
    *w = (struct watched){a, c};
    c->refs = 1;
    pthread_mutex_lock(&a->lock);
    c->next = a->containers;
    a->containers = c;
    agent_changed(a);
    pthread_mutex_unlock(&a->lock);
    if (agent_thread(stay_with, w, &e) == 0) return true;
    unlist(a, c); /* others may have come before it since */
    agent_let_go(a, c);
    free(w);
    return false;
}

static void *look_around(void *user)
{
    struct agent *a = user;
    char folder[PATH_MAX], id[AGENT_CONTAINER_MAX], events[4096] __attribute__((aligned(8)));
    snprintf(folder, sizeof folder, "%.2000s/started", a->settings.run);
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd >= 0) inotify_add_watch(fd, folder, IN_MOVED_TO);
    while (!a->stopping) {
        DIR *dir = opendir(folder);
        struct dirent *entry;
        while (dir != NULL && (entry = readdir(dir)) != NULL) {
            size_t len = strlen(entry->d_name);
            if (len <= 5 || len - 5 >= sizeof id || strcmp(entry->d_name + len - 5, ".json") != 0) continue;
            memcpy(id, entry->d_name, len - 5);
            id[len - 5] = '\0';
            begin(a, id);
        }
        if (dir != NULL) closedir(dir);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, fd >= 0 ? 1 : 0, LOOK_MS);
        while (fd >= 0 && read(fd, events, sizeof events) > 0) {}
    }
    if (fd >= 0) close(fd);
    return NULL;
}

int keeper_start(struct agent *a, struct error *e)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.2000s/started", a->settings.run);
    int rc = tree_make(folder, e);
    return rc == 0 ? agent_thread(look_around, a, e) : rc;
}
