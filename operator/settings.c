#include "operator/settings.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/precopy.h"

/* ---- the program's -------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(struct settings, field)

static const struct config_setting table[] = {
    {"servers", CONFIG_STRING, AT(servers), NULL, 0, 0,
     "The log's servers: host:port, separated by commas; any of the cluster."},
    {"log-tls-ca", CONFIG_STRING, AT(log_tls_ca), "", 0, 0,
     "PEM file of the CAs that the log's servers' certificates come from. Empty, all three: no TLS."},
    {"log-tls-cert", CONFIG_STRING, AT(log_tls_cert), "", 0, 0,
     "PEM file of our certificate, with the role operator. Read again when it changes."},
    {"log-tls-key", CONFIG_STRING, AT(log_tls_key), "", 0, 0, "PEM file of its key, without a password."},
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
    {"pre-copy-rounds", CONFIG_UINT, AT(precopy_rounds), "2", 0, PRECOPY_ROUNDS_MAX,
     "Before a checkpoint, copy the memory so often while the app serves, as long as each round has much less to write than the one before; 0: never. Only where "
     "the kernel tracks written pages (criu check --feature mem_dirty_track)."},
    {"stop-containers", CONFIG_BOOL, AT(stop_containers), "false", 0, 0,
     "At SIGTERM, kill and remove the containers. Else they go on, and the next operator takes them over."},
    {"metrics-listen", CONFIG_STRING, AT(metrics_listen), "", 0, 0,
     "Where /metrics and /healthz are served: host:port, numeric. Plain HTTP. Default: nowhere."},
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
              "Several files of one stream are replicas of one app, each with its own bundle and interceptor.\n"
              "docs/OPERATOR.md describes every word of it.\n\n"
              "crsc-operator migrate NAME moves an app to a spare one; crsc-operator migrate --help.\n\n"
              "Exit status: 0 after SIGTERM or SIGINT; 1 when it cannot start or go on; 2 when a setting or a workload file is "
              "wrong.\n",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
};

int settings_make_absolute(char **path, struct error *e)
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
    int rv = settings_make_absolute(&s->state_dir, e);
    if (rv == 0 && s->node[0] == '\0') {
        gethostname(host, sizeof host - 1);
        rv = set_text(&s->node, host[0] != '\0' ? host : "localhost", e);
    }
    if (rv == 0 && s->runc_root[0] == '\0') {
        snprintf(text, sizeof text, "%s/runc", s->state_dir);
        rv = set_text(&s->runc_root, text, e);
    }
    if (rv == 0) rv = settings_make_absolute(&s->runc_root, e);
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
