#include "operator/settings.h"

#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/conn.h"
#include "operator/reconcile/reconcile.h"

/* ---- the program's -------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(struct settings, field)

static const struct config_setting table[] = {
    {"servers", CONFIG_STRING, AT(servers), NULL, 0, 0,
     "The log's servers: host:port, separated by commas; any of the cluster."},
    {"workload", CONFIG_STRING, AT(workload), NULL, 0, 0,
     "What to protect: a workload file, or a directory of them (*.yaml). Read at the start."},
    {"state-dir", CONFIG_STRING, AT(state_dir), "/var/lib/crsc/operator", 0, 0,
     "Where checkpoints and the records of containers are kept. Keep it on a disk that survives a restart."},
    {"node", CONFIG_STRING, AT(node), "", 0, 0,
     "This machine's name in the log. Checkpoints are restored where they were taken. Default: the host's name."},
    {"runc", CONFIG_STRING, AT(runc), "runc", 0, 0, "The program, by path or from PATH."},
    {"criu", CONFIG_STRING, AT(criu), "criu", 0, 0, "The program, by path or from PATH."},
    {"runc-root", CONFIG_STRING, AT(runc_root), "", 0, 0,
     "Where runc keeps its containers' states (its --root). Default: \"runc\" in the state directory."},
    {"command-timeout", CONFIG_DURATION, AT(command_timeout), "30s", 100, 3600000,
     "A run of runc or CRIU that takes longer is killed."},
    {"stop-containers", CONFIG_BOOL, AT(stop_containers), "false", 0, 0,
     "At SIGTERM, kill and remove the containers. Else they go on, and the next operator takes them over."},
    {"log-level", CONFIG_STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static const struct config_program program = {
    .name = "crsc-operator",
    .summary = "Keeps workloads alive with their state: starts each in a runc container, checkpoints it with CRIU from time to "
               "time, records each checkpoint in the log with the offset that it contains, and after a death restores the "
               "newest valid one, so that the interceptor replays only what came after it.",
    .epilog = "A workload file:\n"
              "  name: pushgateway\n"
              "  stream: cluster/namespace/kind/pushgateway\n"
              "  bundle: /srv/pushgateway           # an OCI bundle: config.json and rootfs\n"
              "  upstream: 127.0.0.1:9091           # where the app listens\n"
              "  interceptor: 127.0.0.1:8081        # the interceptor's admin port\n"
              "  checkpoint-interval: 30s\n"
              "  retain: 3\n"
              "docs/OPERATOR.md describes every word of it.\n\n"
              "Exit status: 0 after SIGTERM or SIGINT; 1 when it cannot start or go on; 2 when a setting or a workload file is "
              "wrong.\n",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
};

/* Replaces an allocated relative path by an absolute one; it need not exist. */
static int make_absolute(char **path, struct error *e)
{
    char *here, *whole = NULL;
    if (**path == '/') return 0;
    if ((here = getcwd(NULL, 0)) == NULL) return error_errno(e, ERROR_IO, errno, "the current directory has no name");
    if (asprintf(&whole, "%s/%s", here, *path) < 0) whole = NULL;
    free(here);
    if (whole == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    free(*path);
    *path = whole;
    return 0;
}

static int set_text(char **place, const char *text, struct error *e)
{
    char *copy = strdup(text);
    if (copy == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    free(*place);
    *place = copy;
    return 0;
}

static int fill_in(struct settings *s, struct error *e)
{
    char text[4096], host[256] = "";
    int rv = make_absolute(&s->state_dir, e);
    if (rv == 0 && s->node[0] == '\0') {
        gethostname(host, sizeof host - 1);
        rv = set_text(&s->node, host[0] != '\0' ? host : "localhost", e);
    }
    if (rv == 0 && s->runc_root[0] == '\0') {
        snprintf(text, sizeof text, "%s/runc", s->state_dir);
        rv = set_text(&s->runc_root, text, e);
    }
    if (rv == 0) rv = make_absolute(&s->runc_root, e);
    if (rv == 0 && log_level_parse(s->log_level, &s->level) != 0)
        rv = error_set(e, ERROR_INVALID, "log-level: debug, info, warn or error is wanted, not \"%.40s\"", s->log_level);
    return rv;
}

int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e)
{
    int rv = config_load(&program, argc, argv, s, ret_action, e);
    if (rv == 0 && *ret_action == CONFIG_RUN) rv = fill_in(s, e);
    return rv;
}

void settings_free(struct settings *s)
{
    config_free(&program, s);
}

/* ---- a workload's --------------------------------------------------------------------------------------------- */

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
    if (rv == 0) rv = make_absolute(&w->bundle, e);
    if (rv != 0) return rv;
    while (mode <= WORKLOAD_REPLAY && strcmp(w->mode_text, modes[mode]) != 0) mode++;
    if (mode > WORKLOAD_REPLAY)
        return error_set(e, ERROR_INVALID, "mode: criu, replay or auto is wanted, not \"%.40s\"", w->mode_text);
    w->mode = (enum workload_mode)mode;
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
        if (strcmp(l->all[i].name, w->name) == 0 || strcmp(l->all[i].stream, w->stream) == 0)
            return error_set(e, ERROR_INVALID, "%s: another file has the name \"%s\" or the stream \"%s\" already", path,
                             w->name, w->stream);
    return 0;
}

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
