/* The workload files: words, bounds, and what does not go together. */
#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/conn.h"
#include "operator/reconcile/reconcile.h"
#include "operator/settings.h"

#define OF(field) offsetof(struct workload_settings, field)

static const struct config_setting workload_table[] = {
    {"name", CONFIG_STRING, OF(name), NULL, 0, 0, "The workload's name: letters, digits, - and _."},
    {"stream", CONFIG_STRING, OF(stream), NULL, 0, 0, "Its stream in the log: cluster/namespace/kind/name."},
    {"bundle", CONFIG_STRING, OF(bundle), NULL, 0, 0, "Its OCI bundle, a directory with config.json and rootfs."},
    {"upstream", CONFIG_STRING, OF(upstream), NULL, 0, 0, "Where the app listens: host:port, numeric."},
    {"interceptor", CONFIG_STRING, OF(interceptor), NULL, 0, 0, "The interceptor's admin address: host:port, numeric."},
    {"checkpoint-restore", CONFIG_BOOL, OF(checkpoint_restore), "true", 0, 0, "false: this file is passed over."},
    {"mode", CONFIG_STRING, OF(mode_text), "auto", 0, 0,
     "criu: checkpoints; replay: a fresh start and every request again; auto: criu where it works."},
    {"checkpoint-interval", CONFIG_DURATION, OF(checkpoint_interval), "30s", 10, 86400000, "Between checkpoints."},
    {"retain", CONFIG_UINT, OF(retain), "3", 1, RECONCILE_RETAIN_MAX,
     "How many valid checkpoints are kept."},
    {"checkpoint-timeout", CONFIG_DURATION, OF(checkpoint_timeout), "30s", 100, 3600000,
     "Bound of drain and dump together; requests wait that long at most."},
    {"drain-timeout", CONFIG_DURATION, OF(drain_timeout), "5s", 1, 3600000,
     "How long a checkpoint waits for requests in flight."},
    {"standby", CONFIG_BOOL, OF(standby), "false", 0, 0,
     "true: one of the replicas of its stream takes no clients until another one is lost."},
    {"spare", CONFIG_BOOL, OF(spare), "false", 0, 0,
     "true: nothing of it runs until the app is moved to it (crsc-operator migrate)."},
    {"ordering", CONFIG_STRING, OF(ordering), "serial", 0, 0, "serial: one request at a time, in the log's order."},
    {"logging", CONFIG_STRING, OF(logging), "pessimistic", 0, 0, "pessimistic: durable, then to the app."},
};

static const struct config_program workload_program = {
    .name = "workload",
    .settings = workload_table,
    .n_settings = sizeof workload_table / sizeof *workload_table,
};

static int check_word(const char *word, const char *value, const char *only, struct error *e)
{
    if (strcmp(value, only) == 0) return 0;
    return error_set(e, ERROR_INVALID, "%s: only \"%s\" is there yet, not \"%.40s\"", word, only, value);
}

static int check_name(const char *name, struct error *e)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    if (name[len] == '\0' && len >= 1 && len <= 63 && name[0] != '-') return 0;
    return error_set(e, ERROR_INVALID, "name: 1 to 63 letters, digits, - and _ are wanted, not \"%.80s\"", name);
}

static int check_address(const char *word, const char *address, struct error *e)
{
    struct sockaddr_storage where;
    return address_numeric(address, &where, e) == 0 ? 0 : error_prefix(e, "%s", word);
}

static int check_workload(struct workload_settings *w, struct error *e)
{
    static const char *const modes[] = {[WORKLOAD_AUTO] = "auto", [WORKLOAD_CRIU] = "criu", [WORKLOAD_REPLAY] = "replay"};
    int rv = check_name(w->name, e), mode = WORKLOAD_AUTO;
    if (rv == 0) rv = check_address("upstream", w->upstream, e);
    if (rv == 0) rv = check_address("interceptor", w->interceptor, e);
    if (rv == 0) rv = check_word("ordering", w->ordering, "serial", e);
    if (rv == 0) rv = check_word("logging", w->logging, "pessimistic", e);
    if (rv == 0) rv = settings_make_absolute(&w->bundle, e);
    if (rv != 0) return rv;
    while (mode <= WORKLOAD_REPLAY && strcmp(w->mode_text, modes[mode]) != 0) mode++;
    if (mode > WORKLOAD_REPLAY)
        return error_set(e, ERROR_INVALID, "mode: criu, replay or auto is wanted, not \"%.40s\"", w->mode_text);
    w->mode = (enum workload_mode)mode;
    if (w->spare && w->standby) return error_set(e, ERROR_INVALID, "spare: what runs nowhere is no standby");
    if (w->drain_timeout > w->checkpoint_timeout)
        return error_set(e, ERROR_INVALID, "drain-timeout is part of checkpoint-timeout: it cannot be longer");
    return 0;
}

struct list {
    struct workload_settings *all;
    size_t n;
};

static int load_one(struct list *l, const char *path, struct error *e)
{
    struct workload_settings *grown = realloc(l->all, (l->n + 1) * sizeof *grown);
    if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    l->all = grown;
    struct workload_settings *w = &grown[l->n++];
    memset(w, 0, sizeof *w);
    int rv = config_load_file(&workload_program, path, w, e);
    if (rv != 0) return rv;
    if ((rv = check_workload(w, e)) != 0) return error_prefix(e, "%s", path);
    for (size_t i = 0; i + 1 < l->n; i++)
        if (strcmp(l->all[i].name, w->name) == 0)
            return error_set(e, ERROR_INVALID, "%s: another file has the name \"%s\" already", path, w->name);
    return 0;
}

/* ---- replicas: several of one stream -------------------------------------------------------------------------- */

/* Two that are protected at the same time. */
static int check_pair(const struct workload_settings *a, const struct workload_settings *b, struct error *e)
{
    if (strcmp(a->stream, b->stream) != 0) return 0;
    const char *same = strcmp(a->interceptor, b->interceptor) == 0 ? "interceptor" : strcmp(a->bundle, b->bundle) == 0 ? "bundle" : NULL;
    if (same != NULL) return error_set(e, ERROR_INVALID, "workloads %s and %s are replicas of one stream: each has its own %s", a->name, b->name, same);
    const char *other = a->retain != b->retain                             ? "retain"
                        : a->mode != b->mode                               ? "mode"
                        : a->checkpoint_interval != b->checkpoint_interval ? "checkpoint-interval"
                                                                           : NULL;
    if (other == NULL) return 0;
    return error_set(e, ERROR_INVALID, "workloads %s and %s are replicas of one stream, and differ in %s", a->name, b->name, other);
}

static int check_standby(const struct list *l, const struct workload_settings *w, struct error *e)
{
    size_t serving = 0;
    for (size_t i = 0; i < l->n; i++) {
        const struct workload_settings *o = &l->all[i];
        if (o->checkpoint_restore && !o->standby && !o->spare && strcmp(o->stream, w->stream) == 0) serving++;
    }
    if ((!w->standby && !w->spare) || serving > 0) return 0;
    return error_set(e, ERROR_INVALID, "workload %s is a %s, and no other file of its stream serves", w->name, w->standby ? "standby" : "spare");
}

static int check_together(const struct list *l, struct error *e)
{
    int rv = 0;
    for (size_t i = 0; rv == 0 && i < l->n; i++) {
        if (!l->all[i].checkpoint_restore) continue;
        for (size_t k = 0; rv == 0 && k < i; k++)
            if (l->all[k].checkpoint_restore) rv = check_pair(&l->all[k], &l->all[i], e);
        if (rv == 0) rv = check_standby(l, &l->all[i], e);
    }
    return rv;
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static int is_yaml(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');
    return end != NULL && end != entry->d_name && (strcmp(end, ".yaml") == 0 || strcmp(end, ".yml") == 0);
}

static int load_directory(struct list *l, const char *path, struct error *e)
{
    struct dirent **names;
    int n = scandir(path, &names, is_yaml, alphasort), rv = 0;
    if (n < 0) return error_errno(e, ERROR_INVALID, errno, "%s", path);
    if (n == 0) rv = error_set(e, ERROR_INVALID, "%s: no *.yaml in this directory", path);
    for (int i = 0; i < n; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (rv == 0) rv = load_one(l, file, e);
        free(names[i]);
    }
    free(names);
    return rv;
}

int workload_settings_load(const char *path, struct workload_settings **ret_all, size_t *ret_n, struct error *e)
{
    struct list l = {0};
    struct stat st;
    if (stat(path, &st) != 0) return error_errno(e, ERROR_INVALID, errno, "workload: %s", path);
    int rv = S_ISDIR(st.st_mode) ? load_directory(&l, path, e) : load_one(&l, path, e);
    if (rv == 0) rv = check_together(&l, e);
    if (rv != 0) {
        workload_settings_free(l.all, l.n);
        return rv;
    }
    *ret_all = l.all;
    *ret_n = l.n;
    return 0;
}

void workload_settings_free(struct workload_settings *all, size_t n)
{
    for (size_t i = 0; i < n; i++) config_free(&workload_program, &all[i]);
    free(all);
}
