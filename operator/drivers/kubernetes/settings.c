#include "operator/drivers/kubernetes/settings.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(struct kube_settings, field)

static const struct config_setting table[] = {
    {"servers", CONFIG_STRING, AT(servers), NULL, 0, 0, "The log's servers: host:port, separated by commas; any of the cluster."},
    {"log-tls", CONFIG_BOOL, AT(log_tls), "true", 0, 0, "Whether the log is spoken to over TLS, by us and by the interceptors."},
    {"log-tls-ca", CONFIG_STRING, AT(log_tls_ca), "", 0, 0,
     "PEM file of the CAs that the log's servers' certificates come from. Empty, all three: our own CA issues every certificate of the log."},
    {"log-tls-cert", CONFIG_STRING, AT(log_tls_cert), "", 0, 0, "PEM file of our certificate, with the role operator."},
    {"log-tls-key", CONFIG_STRING, AT(log_tls_key), "", 0, 0, "PEM file of its key, without a password."},
    {"log-secret", CONFIG_STRING, AT(log_secret), "crsc-log", 0, 0,
     "The Secret (ca.crt, tls.crt, tls.key) in each namespace with which its interceptors reach the log. With log-tls-ca you make it, else we do."},
    {"logd-secret", CONFIG_STRING, AT(logd_secret), "crsc-logd-tls", 0, 0, "The Secret of crsc-logd's certificate, in our namespace. Empty: somebody else's."},
    {"logd-names", CONFIG_STRING, AT(logd_names), "crsc-logd", 0, 0, "Names and addresses of the log's servers for that certificate, separated by commas."},
    {"tls-dir", CONFIG_STRING, AT(tls_dir), "/run/crsc-operator", 0, 0,
     "A directory for our own certificate towards the log: memory-backed, and ours only."},
    {"cluster", CONFIG_STRING, AT(cluster), "kubernetes", 0, 0, "This cluster's name: the first part of the names of its streams."},
    {"kubeconfig", CONFIG_STRING, AT(kubeconfig), "", 0, 0, "A kubeconfig file. Default: the pod's own service account."},
    {"namespace", CONFIG_STRING, AT(space), "", 0, 0, "Where our Lease and Secrets are. Default: that of the credentials."},
    {"identity", CONFIG_STRING, AT(identity), "", 0, 0, "This operator's name among several. Default: the host's name, which is the pod's."},
    {"leader-elect", CONFIG_BOOL, AT(leader_elect), "true", 0, 0, "Act only while holding the Lease crsc-operator. The webhook answers anyway."},
    {"webhook-listen", CONFIG_STRING, AT(webhook_listen), "0.0.0.0:9443", 0, 0, "Where the API server reaches the webhook, the kubelet /healthz and /readyz, Prometheus /metrics: HTTPS."},
    {"webhook-names", CONFIG_STRING, AT(webhook_names), "crsc-webhook,crsc-webhook.crsc-system.svc", 0, 0,
     "Names and addresses of the webhook for its certificate, separated by commas."},
    {"webhook-configuration", CONFIG_STRING, AT(webhook_configuration), "crsc-webhook", 0, 0,
     "The MutatingWebhookConfiguration that gets our CA. Empty: none; pods are not injected."},
    {"interceptor-image", CONFIG_STRING, AT(interceptor_image), "crsc-interceptor:" CRSC_VERSION, 0, 0, "The sidecar's image."},
    {"interceptor-servers", CONFIG_STRING, AT(interceptor_servers), "", 0, 0, "The log's servers as pods reach them. Default: --servers."},
    {"image-pull-policy", CONFIG_STRING, AT(pull_policy), "IfNotPresent", 0, 0, "Of the sidecar: IfNotPresent, Always or Never."},
    {"runtime-class", CONFIG_STRING, AT(runtime_class), "crsc", 0, 0, "The RuntimeClass of crsc-runtime."},
    {"agent-port", CONFIG_UINT, AT(agent_port), "7443", 1, 65535, "Where the agents listen, at their nodes' addresses."},
    {"agent-poll", CONFIG_DURATION, AT(agent_poll), "1s", 50, 60000, "How often the agents of protected pods are asked; of what happens to a container they tell at once."},
    {"node-grace", CONFIG_DURATION, AT(node_grace), "5s", 0, 3600000,
     "A node that is not ready for longer is taken for lost: its producers are fenced, its protected pods replaced. On top of the cluster's own node-monitor-grace-period."},
    {"ca-secret", CONFIG_STRING, AT(ca_secret), "crsc-ca", 0, 0, "The Secret of our CA; made when it is not there."},
    {"agent-secret", CONFIG_STRING, AT(agent_secret), "crsc-agent-tls", 0, 0, "The Secret with the agents' certificate, which we issue and renew. Empty: somebody else does."},
    {"agent-ca", CONFIG_STRING, AT(agent_ca), "", 0, 0, "PEM file: who signs the agents' certificates. Default: our CA."},
    {"agent-cert", CONFIG_STRING, AT(agent_cert), "", 0, 0, "PEM file: our certificate for the agents. Default: issued by our CA."},
    {"agent-key", CONFIG_STRING, AT(agent_key), "", 0, 0, "PEM file: the key of agent-cert."},
    {"log-level", CONFIG_STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static const struct config_program program = {
    .name = "crsc-operator kubernetes",
    .summary = "Protects annotated Deployments, StatefulSets and pods of a Kubernetes cluster: injects the interceptor, has the nodes' agents take "
               "checkpoints, replaces what is lost, and undoes all of it when the annotation goes.",
    .epilog = "  kubectl annotate deployment/NAME crsc.io/checkpoint-restore=true\n"
              "  kubectl get protectedworkloads\n"
              "docs/KUBERNETES.md has the steps, docs/ANNOTATIONS.md every annotation.\n\n"
              "Exit status: 0 after SIGTERM or SIGINT; 1 when it cannot start or go on; 2 when a setting is wrong.\n",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
};

static int set_text(char **place, const char *text, struct error *e)
{
    char *copy = strdup(text);
    if (copy == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    free(*place);
    *place = copy;
    return 0;
}

static int fill_in(struct kube_settings *s, struct error *e)
{
    char host[256] = "";
    int rv = 0;
    gethostname(host, sizeof host - 1);
    if (s->identity[0] == '\0') rv = set_text(&s->identity, host[0] != '\0' ? host : "crsc-operator", e);
    if (rv == 0 && s->interceptor_servers[0] == '\0') rv = set_text(&s->interceptor_servers, s->servers, e);
    if (rv == 0 && log_level_parse(s->log_level, &s->level) != 0)
        rv = error_set(e, ERROR_INVALID, "log-level: debug, info, warn or error is wanted, not \"%.40s\"", s->log_level);
    if (rv == 0 && s->cluster[strspn(s->cluster, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] != '\0')
        rv = error_set(e, ERROR_INVALID, "cluster: letters, digits, and . _ - are wanted, not \"%.60s\"", s->cluster);
    int log = (s->log_tls_ca[0] != '\0') + (s->log_tls_cert[0] != '\0') + (s->log_tls_key[0] != '\0');
    if (rv == 0 && log != 0 && log != 3)
        rv = error_set(e, ERROR_INVALID, "log-tls-ca, log-tls-cert and log-tls-key go together: give all three, or none");
    int given = (s->agent_ca[0] != '\0') + (s->agent_cert[0] != '\0') + (s->agent_key[0] != '\0');
    if (rv == 0 && given != 0 && given != 3)
        rv = error_set(e, ERROR_INVALID, "agent-ca, agent-cert and agent-key go together: give all three, or none");
    return rv;
}

int kube_settings_load(int argc, char **argv, struct kube_settings *s, enum config_action *ret_action, struct error *e)
{
    int rv = config_load(&program, argc, argv, s, ret_action, e);
    if (rv == 0 && *ret_action == CONFIG_RUN) rv = fill_in(s, e);
    return rv;
}

void kube_settings_free(struct kube_settings *s)
{
    config_free(&program, s);
}
