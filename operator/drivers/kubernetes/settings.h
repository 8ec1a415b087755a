/* The settings of `crsc-operator kubernetes`. docs/KUBERNETES.md describes them. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_SETTINGS_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_SETTINGS_H

#include "common/config.h"
#include "common/log.h"

struct kube_settings {
    char *servers, *cluster, *kubeconfig, *space, *identity;
    char *webhook_listen, *webhook_names, *webhook_configuration;
    char *interceptor_image, *interceptor_servers, *pull_policy, *runtime_class;
    char *log_tls_ca, *log_tls_cert, *log_tls_key, *log_secret, *logd_secret, *logd_names, *tls_dir;
    bool log_tls;
    char *ca_secret, *agent_secret, *agent_ca, *agent_cert, *agent_key;
    char *log_level;
    uint64_t agent_port, node_grace, agent_poll;
    bool leader_elect;
    enum log_level level;
};

int kube_settings_load(int argc, char **argv, struct kube_settings *s, enum config_action *ret_action, struct error *e);
void kube_settings_free(struct kube_settings *s);

#endif
