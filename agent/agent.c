#include "agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/loop.h"

const char *phase_name(enum phase p)
{
    static const char *const names[] = {"copying", "draining", "dumping", "packing", "pushing", "recording", "fetching", "valid", "failed"};
    return names[p];
}

int agent_thread(void *(*run)(void *user), void *user, struct error *e)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attributes, run, user);
    pthread_attr_destroy(&attributes);
    return failed == 0 ? 0 : error_errno(e, ERROR_NOMEM, failed, "no thread");
}

/* Is `word` one of the comma-separated `list`? */
static bool listed(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = list; *p != '\0'; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == len && memcmp(p, word, len) == 0) return true;
    return false;
}

int agent_registry(const struct agent *a, const char *reference, char base[300], char repository[700], struct registry *ret_registry,
                   struct error *e)
{
    char host[256];
    const char *slash = strchr(reference, '/');
    if (slash == NULL || slash == reference || (size_t)(slash - reference) >= sizeof host || slash[1] == '\0' || strlen(slash + 1) >= 700)
        return error_set(e, ERROR_INVALID, "\"%.150s\" is no image's place: host[:port]/name is wanted", reference);
    memcpy(host, reference, (size_t)(slash - reference));
    host[slash - reference] = '\0';
    strcpy(repository, slash + 1);
    char *tag = strrchr(repository, ':');
    if (tag != NULL) *tag = '\0';
    bool plain = listed(a->settings.plain_registries, host);
    snprintf(base, 300, "%s://%s", plain ? "http" : "https", host);
    *ret_registry = (struct registry){.base = base, .repository = repository};
    return 0;
}

void agent_changed(struct agent *a)
{
    a->changes++;
    pthread_cond_broadcast(&a->changed);
}

void agent_wait_change(struct agent *a, uint64_t seen, uint64_t ms)
{
    uint64_t until_us = loop_monotonic_us() + ms * 1000;
    const struct timespec until = {.tv_sec = (time_t)(until_us / 1000000), .tv_nsec = (long)(until_us % 1000000) * 1000};
    while (a->changes == seen && pthread_cond_timedwait(&a->changed, &a->lock, &until) == 0) {}
}

/* Under the lock. */
static struct failure *failure_of(struct agent *a, const char *stream, const char *id)
{
    struct failure *f = a->failures;
    while (f != NULL && (strcmp(f->id, id) != 0 || strcmp(f->stream, stream) != 0)) f = f->next;
    return f;
}

unsigned agent_failures(struct agent *a, const char *stream, const char *id)
{
    pthread_mutex_lock(&a->lock);
    struct failure *f = failure_of(a, stream, id);
    unsigned n = f != NULL ? f->n : 0;
    pthread_mutex_unlock(&a->lock);
    return n;
}

unsigned agent_note_failure(struct agent *a, const char *stream, const char *id)
{
    pthread_mutex_lock(&a->lock);
    struct failure *f = failure_of(a, stream, id);
    if (f == NULL && (f = calloc(1, sizeof *f)) != NULL) {
        snprintf(f->stream, sizeof f->stream, "%s", stream);
        snprintf(f->id, sizeof f->id, "%s", id);
        f->next = a->failures;
        a->failures = f;
    }
    unsigned n = f != NULL ? ++f->n : 1;
    pthread_mutex_unlock(&a->lock);
    return n;
}

struct dump_options agent_dump_options(const struct agent *a, uint64_t timeout_ms, char work[PATH_MAX])
{
    const struct settings *s = &a->settings;
    snprintf(work, PATH_MAX, "%.3000s/work", s->store);
    return (struct dump_options){.runc = s->runc, .criu = s->criu, .runc_root = s->runc_root, .work = work, .mount_namespace = s->mount_namespace,
        .timeout_ms = (uint32_t)timeout_ms};
}

void agent_end_app(const struct container *c, const char *why)
{
    int fd;
    if (process_open(&c->process, &fd) != 0) return;
    log_warn("the app is killed, to be restored: nobody knows its state", "pod=%s/%s reason=%s", c->pod.namespace, c->pod.name, why);
    process_signal(fd, SIGKILL);
    close(fd);
}

struct container *agent_find(struct agent *a, const char *namespace, const char *pod)
{
    pthread_mutex_lock(&a->lock);
    struct container *c = a->containers;
    while (c != NULL && (c->gone || strcmp(c->pod.namespace, namespace) != 0 || strcmp(c->pod.name, pod) != 0)) c = c->next;
    if (c != NULL) c->refs++;
    pthread_mutex_unlock(&a->lock);
    return c;
}

struct container *agent_find_id(struct agent *a, const char *id)
{
    pthread_mutex_lock(&a->lock);
    struct container *c = a->containers;
    while (c != NULL && (c->gone || strcmp(c->id, id) != 0)) c = c->next;
    if (c != NULL) c->refs++;
    pthread_mutex_unlock(&a->lock);
    return c;
}

void agent_let_go(struct agent *a, struct container *c)
{
    pthread_mutex_lock(&a->lock);
    bool last = --c->refs == 0;
    pthread_mutex_unlock(&a->lock);
    if (!last) return;
    free(c->status);
    free(c);
}
