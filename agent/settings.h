/* crsc-agent's settings: docs/AGENT.md and --help. */
#ifndef CRSC_AGENT_SETTINGS_H
#define CRSC_AGENT_SETTINGS_H

#include "common/config.h"
#include "common/error.h"
#include "common/log.h"

struct settings {
    char *listen, *node, *servers, *store, *run, *runc, *criu, *runc_root, *mount_namespace, *install_runtime;
    char *tls_ca, *tls_cert, *tls_key, *api_clients;
    char *log_tls_ca, *log_tls_cert, *log_tls_key;
    char *registry, *plain_registries, *peers;
    char *kubelet, *kubelet_ca, *kubelet_token, *kubelet_cert, *kubelet_key, *kubelet_archives;
    bool kubelet_insecure;
    uint64_t store_budget, replay_cost_us, restore_cost, log_timeout, precopy_rounds;
    char *log_level;
    enum log_level level;
};

int settings_load(int argc, char **argv, struct settings *ret_settings, enum config_action *ret_action, struct error *e);
void settings_free(struct settings *s);

#endif
