#include "agent/aftermath.h"

#include <dirent.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/loop.h"

enum { GO_ON_MS = 10000, WORK_MS = 120000, LOOK_MS = 100, SWEEP_MS = 5000, SWEEP_FOR_MS = 600000 };

static void note_path(const struct agent *a, const char *id, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.2000s/started/%.200s.dumping", a->settings.run, id);
}

/* ---- the note ---------------------------------------------------------------------------------------------------- */

void aftermath_note(struct agent *a, const struct container *c)
{
    char path[PATH_MAX], prefix[KUBELET_PREFIX_MAX];
    pthread_mutex_lock(&a->lock);
    uint64_t since_us = c->left_us != 0 ? c->left_us : loop_wall_us();
    pthread_mutex_unlock(&a->lock);
    note_path(a, c->id, path);
    kubelet_prefix(c->pod.namespace, c->pod.name, c->pod.container, prefix);
    FILE *f = fopen(path, "we");
    if (f != NULL) fprintf(f, "%" PRIu64 " %s\n", since_us, prefix);
    if (f != NULL) fclose(f);
}

void aftermath_forget(struct agent *a, const struct container *c)
{
    char path[PATH_MAX];
    pthread_mutex_lock(&a->lock);
    bool waits = c->left_us != 0; /* for files of an earlier one */
    pthread_mutex_unlock(&a->lock);
    note_path(a, c->id, path);
    if (!waits) unlink(path);
}

static bool read_note(const char *path, uint64_t *ret_since_us, char prefix[KUBELET_PREFIX_MAX])
{
    FILE *f = fopen(path, "re");
    bool good = f != NULL && fscanf(f, "%" SCNu64 " %799s", ret_since_us, prefix) == 2;
    if (f != NULL) fclose(f);
    return good;
}

/* ---- the container ----------------------------------------------------------------------------------------------- */

static void thaw(struct agent *a, const struct container *c)
{
    char work[PATH_MAX];
    struct dump_options options = agent_dump_options(a, 0, work);
    struct error e = {0};
    bool unused;
    if (dump_settle(&options, c->id, &unused, &e) != 0) log_warn("a container that was being dumped cannot be thawed", "container=%s reason=%s", c->id, e.text);
}

/* Who did not answer may be at work for as long as it was given. */
static void see(struct agent *a, const struct container *c, bool answered, uint64_t since_us)
{
    uint64_t began_ms = since_us / 1000, now_ms = loop_wall_us() / 1000, rest_ms = GO_ON_MS;
    if (!answered && now_ms >= began_ms && now_ms - began_ms < WORK_MS) rest_ms += WORK_MS - (now_ms - began_ms);
    uint64_t until = loop_monotonic_us() / 1000 + rest_ms;
    thaw(a, c);
    while (!a->stopping && process_stopped(&c->process) && loop_monotonic_us() / 1000 < until) poll(NULL, 0, LOOK_MS);
    if (a->stopping) return;
    if (process_stopped(&c->process)) agent_end_app(c, "it stands still since the kubelet's checkpoint");
}

/* ---- the archives ------------------------------------------------------------------------------------------------ */

static void sweep(struct agent *a, const char *prefix, uint64_t since_us)
{
    struct error e = {0};
    unsigned n = 0;
    if (kubelet_sweep(&a->kubelet, prefix, since_us, &n, &e) != 0) log_warn("what a failed checkpoint left stays on the node", "prefix=%s reason=%s", prefix, e.text);
    if (n > 0) log_info("what a failed checkpoint left is removed", "prefix=%s files=%u", prefix, n);
}

/* Not while a checkpoint of it is under way, whose archive is called so as well; and none begins meanwhile. */
void aftermath_sweep(struct agent *a, struct container *c)
{
    char prefix[KUBELET_PREFIX_MAX];
    uint64_t now_ms = loop_monotonic_us() / 1000;
    pthread_mutex_lock(&a->lock);
    uint64_t since_us = c->left_us;
    bool due = since_us != 0 && !c->busy && now_ms >= c->sweep_ms, last = now_ms >= c->sweep_until_ms;
    if (due) c->busy = true;
    pthread_mutex_unlock(&a->lock);
    if (!due) return;
    kubelet_prefix(c->pod.namespace, c->pod.name, c->pod.container, prefix);
    sweep(a, prefix, since_us);
    pthread_mutex_lock(&a->lock);
    c->busy = false;
    c->sweep_ms = now_ms + SWEEP_MS;
    if (last) c->left_us = 0;
    pthread_mutex_unlock(&a->lock);
    if (last) aftermath_forget(a, c);
}

/* The one that has the name of one that is over, if it lives here: its archives are called like the other's. False: not now, one is being made. */
static bool hold_namesake(struct agent *a, const char *prefix, struct container **ret_held)
{
    char its[KUBELET_PREFIX_MAX];
    bool good = true;
    *ret_held = NULL;
    pthread_mutex_lock(&a->lock);
    for (struct container *c = a->containers; c != NULL && *ret_held == NULL; c = c->next) {
        kubelet_prefix(c->pod.namespace, c->pod.name, c->pod.container, its);
        if (c->gone || strcmp(its, prefix) != 0) continue;
        good = good && !c->busy;
        if (good) *ret_held = c;
    }
    if (*ret_held != NULL) (*ret_held)->busy = true, (*ret_held)->refs++;
    pthread_mutex_unlock(&a->lock);
    return good;
}

static void let_go(struct agent *a, struct container *c)
{
    if (c == NULL) return;
    pthread_mutex_lock(&a->lock);
    c->busy = false;
    pthread_mutex_unlock(&a->lock);
    agent_let_go(a, c);
}

static bool sweep_orphan(struct agent *a, const char *note)
{
    char prefix[KUBELET_PREFIX_MAX];
    struct container *namesake;
    uint64_t since_us;
    if (!read_note(note, &since_us, prefix)) return true;
    if (!hold_namesake(a, prefix, &namesake)) return false;
    sweep(a, prefix, since_us);
    let_go(a, namesake);
    return loop_wall_us() / 1000 > since_us / 1000 + SWEEP_FOR_MS;
}

void aftermath_orphans(struct agent *a)
{
    char folder[PATH_MAX], path[PATH_MAX], state[PATH_MAX];
    struct dirent *entry;
    struct stat st;
    snprintf(folder, sizeof folder, "%.2000s/started", a->settings.run);
    DIR *dir = opendir(folder);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        size_t len = strlen(entry->d_name), tail = strlen(".dumping");
        if (len <= tail || len >= AGENT_CONTAINER_MAX || strcmp(entry->d_name + len - tail, ".dumping") != 0) continue;
        snprintf(path, sizeof path, "%.2300s/%.200s", folder, entry->d_name);
        snprintf(state, sizeof state, "%.3000s/%.*s/state.json", a->settings.runc_root, (int)(len - tail), entry->d_name);
        if (stat(state, &st) != 0 && sweep_orphan(a, path)) unlink(path); /* else it is found, and seen to */
    }
    if (dir != NULL) closedir(dir);
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

void aftermath_see(struct agent *a, struct container *c, bool answered)
{
    char path[PATH_MAX], prefix[KUBELET_PREFIX_MAX];
    uint64_t since_us = 0, now_ms;
    note_path(a, c->id, path);
    bool noted = read_note(path, &since_us, prefix);
    see(a, c, answered, since_us);
    if (!noted) return;
    sweep(a, prefix, since_us);
    now_ms = loop_monotonic_us() / 1000;
    pthread_mutex_lock(&a->lock);
    c->left_us = since_us;
    c->sweep_ms = now_ms + SWEEP_MS;
    c->sweep_until_ms = now_ms + SWEEP_FOR_MS;
    pthread_mutex_unlock(&a->lock);
}

void aftermath_resume(struct agent *a, struct container *c)
{
    char path[PATH_MAX];
    note_path(a, c->id, path);
    if (access(path, F_OK) == 0) aftermath_see(a, c, false);
}
