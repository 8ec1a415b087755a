/* The settings of crsc-operator, and the workload files that it is given. docs/OPERATOR.md describes each word. */
#ifndef CRSC_OPERATOR_SETTINGS_H
#define CRSC_OPERATOR_SETTINGS_H

#include "common/config.h"
#include "common/log.h"

struct settings {
    char *servers, *state_dir, *workload, *node, *runc, *criu, *runc_root, *log_level, *metrics_listen;
    char *log_tls_ca, *log_tls_cert, *log_tls_key;
    uint64_t command_timeout; /* ms */
    uint64_t precopy_rounds;
    bool stop_containers;
    enum log_level level;
};

/* 0, or -ERROR_INVALID with a sentence for the user. Relative paths are made absolute. */
int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e);
void settings_free(struct settings *s);

/* Replaces an allocated relative path by an absolute one; it need not exist. */
int settings_make_absolute(char **path, struct error *e);

enum workload_mode { WORKLOAD_AUTO, WORKLOAD_CRIU, WORKLOAD_REPLAY };

/* One workload file: the same words as the annotations crsc.io/... of a pod, and where its parts are. */
struct workload_settings {
    char *name, *stream, *bundle, *upstream, *interceptor, *mode_text, *ordering, *logging;
    bool checkpoint_restore, standby, spare;
    uint64_t checkpoint_interval, drain_timeout, checkpoint_timeout; /* ms */
    uint64_t retain;
    enum workload_mode mode;
};

/* The files of --workload: that file, or every *.yaml of that directory, sorted. Several of one stream are replicas of one app. `ret_all` is an
 * array of `*ret_n`, owned by the caller. An error names the file, or the workloads that do not go together, and the word. */
int workload_settings_load(const char *path, struct workload_settings **ret_all, size_t *ret_n, struct error *e);
void workload_settings_free(struct workload_settings *all, size_t n);

#endif
