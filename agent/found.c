#include "agent/found.h"

#include <dirent.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "agent/aftermath.h"
#include "agent/keeper.h"
#include "common/log.h"
#include "common/loop.h"

enum { LOOK_MS = 300, ORPHANS_EACH = 16, ASK_MS = 200, STATE_MAX = 4 << 20 };

/* ---- words ------------------------------------------------------------------------------------------------------- */

int found_read(const char *text, size_t len, struct found_state *ret_state, struct error *e)
{
    static const char before[] = "bundle=";
    size_t i, max;
    struct found_state s = {0};
    yyjson_doc *doc = yyjson_read(text, len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *one, *labels = yyjson_obj_get(yyjson_obj_get(root, "config"), "labels");
    int64_t pid = yyjson_get_sint(yyjson_obj_get(root, "init_process_pid"));
    s.process.start_time = yyjson_get_uint(yyjson_obj_get(root, "init_process_start"));
    if (pid > 0 && pid <= INT32_MAX) s.process.pid = (int32_t)pid;
    yyjson_arr_foreach(labels, i, max, one)
    {
        const char *label = yyjson_get_str(one);
        if (label != NULL && strncmp(label, before, strlen(before)) == 0 && strlen(label) < sizeof s.bundle) strcpy(s.bundle, label + strlen(before));
    }
    yyjson_doc_free(doc);
    if (s.process.pid == 0 || s.process.start_time == 0 || s.bundle[0] != '/') return error_set(e, ERROR_INVALID, "it is no state of a container with a process");
    *ret_state = s;
    return 0;
}

enum found_how found_how(const struct pod *pod, char reason[AGENT_REASON_MAX])
{
    bool meant = *pod->checkpoint != '\0', is = *pod->checkpoint_image != '\0';
    if (meant && is) return FOUND_RESTORED;
    if (!meant && !is) return FOUND_FRESH;
    if (is)
        snprintf(reason, AGENT_REASON_MAX, "it was restored from %.150s, and nobody said of which checkpoint that is", pod->checkpoint_image);
    else
        snprintf(reason, AGENT_REASON_MAX, "nobody says whether it was restored from checkpoint %.64s: the container runtime's handler wants container_annotations = [\"checkpointImage\"]",
                 pod->checkpoint);
    return FOUND_DOUBT;
}

static void doubt(struct container *c, const char *reason)
{
    c->doubt = true;
    c->restored = false;
    snprintf(c->reason, sizeof c->reason, "%s", reason);
}

bool found_ask(struct agent *a, struct container *c)
{
    struct ledger_snapshot there = {0};
    struct error e = {0};
    int rc;
    if (!c->found || !c->restored) return true;
    while ((rc = ledger_find(&a->ledger, c->pod.stream, c->pod.checkpoint, &there, &e)) != 0 && rc != -ERROR_NOT_FOUND) {
        if (a->stopping || !process_alive(&c->process)) return false;
        log_warn("which state has it? the log is asked", "pod=%s/%s reason=%s", c->pod.namespace, c->pod.name, e.text);
        poll(NULL, 0, ASK_MS);
    }
    const char *at = strchr(c->pod.checkpoint_image, '@');
    pthread_mutex_lock(&a->lock); /* it is shown already */
    if (rc == -ERROR_NOT_FOUND) doubt(c, "the log knows nothing of the checkpoint that it was restored from");
    else if (at == NULL || strcmp(at + 1, there.digest) != 0) doubt(c, "it was restored from another image than the log says that checkpoint is");
    else c->offset = there.offset;
    pthread_mutex_unlock(&a->lock);
    return true;
}

/* ---- looking ------------------------------------------------------------------------------------------------------ */

/* What was looked at, so that it is not read again and again. runc writes a container's state more than once, each time as a new file: while a container is being made, the
 * process in it is one that ends, and not yet the container's. */
struct seen {
    struct seen *next;
    char id[AGENT_CONTAINER_MAX];
    ino_t file;
    struct timespec written;
    bool there;
};

static char *read_whole(const char *path, size_t *ret_len)
{
    FILE *f = fopen(path, "re");
    char *text = f != NULL ? malloc(STATE_MAX + 1) : NULL;
    size_t len = text != NULL ? fread(text, 1, STATE_MAX, f) : 0;
    if (f != NULL) fclose(f);
    if (len > 0 && len < STATE_MAX) {
        text[len] = '\0';
        *ret_len = len;
        return text;
    }
    free(text);
    return NULL;
}

/* A container as the keeper wants it. NULL: it is none of those. */
static struct container *read_container(const char *id, const struct found_state *s, const char *config, size_t len)
{
    struct error e = {0};
    struct container *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    if (pod_read(config, len, &c->pod, &e) != 0) {
        log_error("a pod's words are wrong: it is not protected", "container=%s reason=%s", id, e.text);
        c->pod.is_protected = false;
    }
    if (!c->pod.is_protected || !c->pod.by_kubelet) {
        free(c);
        return NULL;
    }
    snprintf(c->id, sizeof c->id, "%s", id);
    c->found = true;
    c->process = s->process;
    c->created_us = loop_wall_us();
    switch (found_how(&c->pod, c->reason)) {
    case FOUND_RESTORED:
        c->restored = true;
        snprintf(c->snapshot, sizeof c->snapshot, "%s", c->pod.checkpoint);
        break;
    case FOUND_DOUBT: c->doubt = true; break;
    case FOUND_FRESH: snprintf(c->reason, sizeof c->reason, "its image is of no checkpoint"); break;
    }
    return c;
}

/* True: it was understood, and need not be looked at again. */
static bool look_at(struct agent *a, const char *id)
{
    char path[PATH_MAX];
    struct found_state s;
    size_t len = 0;
    snprintf(path, sizeof path, "%.3000s/%.200s/state.json", a->settings.runc_root, id);
    char *text = read_whole(path, &len);
    bool good = text != NULL && found_read(text, len, &s, NULL) == 0;
    free(text);
    if (!good) return false; /* it is being made */
    snprintf(path, sizeof path, "%.3000s/config.json", s.bundle);
    char *config = read_whole(path, &len);
    if (config == NULL) return false;
    struct container *c = read_container(id, &s, config, len);
    free(config);
    return c == NULL || keeper_take(a, c);
}

static bool state_of(const struct agent *a, const char *id, struct stat *ret_stat)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.3000s/%.200s/state.json", a->settings.runc_root, id);
    return stat(path, ret_stat) == 0;
}

static struct seen *find(struct seen *all, const char *id)
{
    while (all != NULL && strcmp(all->id, id) != 0) all = all->next;
    return all;
}

static void look_over(struct agent *a, struct seen **all)
{
    DIR *dir = opendir(a->settings.runc_root);
    struct dirent *entry;
    for (struct seen *s = *all; s != NULL; s = s->next) s->there = false;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        struct seen *s = find(*all, entry->d_name);
        struct stat st;
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= AGENT_CONTAINER_MAX || !state_of(a, entry->d_name, &st)) continue;
        bool news = s == NULL || s->file != st.st_ino || s->written.tv_sec != st.st_mtim.tv_sec || s->written.tv_nsec != st.st_mtim.tv_nsec;
        bool good = !news || look_at(a, entry->d_name);
        if (s == NULL && (s = calloc(1, sizeof *s)) != NULL) {
            strcpy(s->id, entry->d_name);
            s->next = *all;
            *all = s;
        }
        if (s == NULL) continue;
        s->there = true;
        if (!good) continue; /* and not noted: again at the next look */
        s->file = st.st_ino;
        s->written = st.st_mtim;
    }
    if (dir != NULL) closedir(dir);
    for (struct seen **p = all; *p != NULL;) {
        struct seen *s = *p;
        if (s->there) {
            p = &s->next;
        } else {
            *p = s->next;
            free(s);
        }
    }
}

static void *look_around(void *user)
{
    struct agent *a = user;
    struct seen *all = NULL;
    /* in our own mount namespace, where runc's state and the bundles are as on the host: the threads that stay with containers inherit it, and need our files */
    for (unsigned n = 0; !a->stopping; n++) {
        look_over(a, &all);
        if (n % ORPHANS_EACH == 0) aftermath_orphans(a);
        poll(NULL, 0, LOOK_MS);
    }
    return NULL;
}

int found_start(struct agent *a, struct error *e)
{
    return agent_thread(look_around, a, e);
}
