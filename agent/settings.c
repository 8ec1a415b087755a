#include "agent/settings.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/precopy.h"

#define AT(field) offsetof(struct settings, field)

static const struct config_setting table[] = {
    {"node", CONFIG_STRING, AT(node), NULL, 0, 0, "This node's name, as Kubernetes has it."},
    {"servers", CONFIG_STRING, AT(servers), NULL, 0, 0, "The log's servers: host:port, separated by commas; any of the cluster."},
    {"log-tls-ca", CONFIG_STRING, AT(log_tls_ca), "", 0, 0, "PEM file of the CAs that the log's servers are certified by; empty: no TLS to the log."},
    {"log-tls-cert", CONFIG_STRING, AT(log_tls_cert), "", 0, 0, "PEM file of our certificate for the log, which names URI:crsc://role/operator."},
    {"log-tls-key", CONFIG_STRING, AT(log_tls_key), "", 0, 0, "PEM file of its key, without a password."},
    {"listen", CONFIG_STRING, AT(listen), "0.0.0.0:7443", 0, 0, "Address of the API: host:port, numeric."},
    {"tls-ca", CONFIG_STRING, AT(tls_ca), NULL, 0, 0, "File with the certificates of those who sign clients' and agents' certificates."},
    {"tls-cert", CONFIG_STRING, AT(tls_cert), NULL, 0, 0, "File with our certificate. Read again when it changes."},
    {"tls-key", CONFIG_STRING, AT(tls_key), NULL, 0, 0, "File with our key."},
    {"api-clients", CONFIG_STRING, AT(api_clients), "crsc-operator", 0, 0,
     "Common names, separated by commas, of the certificates that may use the API. \"crsc-agent\" may read images."},
    {"store", CONFIG_STRING, AT(store), "/var/lib/crsc", 0, 0, "Folder for images, dumps and restores: the same path in the agent's container and on the host."},
    {"store-budget", CONFIG_SIZE, AT(store_budget), "10GiB", 1 << 20, UINT64_C(1) << 50,
     "Bytes of images kept on this node; each stream's newest stays in any case."},
    {"run", CONFIG_STRING, AT(run), "/run/crsc", 0, 0, "Folder of the socket and of what crsc-runtime leaves: the same path as on the host."},
    {"runc", CONFIG_STRING, AT(runc), "", 0, 0, "The runc that the node's container runtime uses; empty: from PATH."},
    {"criu", CONFIG_STRING, AT(criu), "", 0, 0, "CRIU; empty: from PATH."},
    {"runc-root", CONFIG_STRING, AT(runc_root), "/run/containerd/runc/k8s.io", 0, 0, "Where the node's container runtime keeps runc's state."},
    {"mount-namespace", CONFIG_STRING, AT(mount_namespace), "", 0, 0,
     "The host's mount namespace, in which runc is run: /proc/1/ns/mnt for an agent in a pod with hostPID. Empty: our own."},
    {"pre-copy-rounds", CONFIG_UINT, AT(precopy_rounds), "2", 0, PRECOPY_ROUNDS_MAX,
     "Before a checkpoint, copy the memory so often while the app serves, as long as each round has much less to write than the one before; 0: never. Only where "
     "the kernel tracks written pages (criu check --feature mem_dirty_track), and not by the kubelet."},
    {"install-runtime", CONFIG_STRING, AT(install_runtime), "", 0, 0,
     "Folder of the host, as seen by the agent, into which crsc-runtime, which lies beside crsc-agent, is copied at the start; empty: it is there already."},
    {"kubelet", CONFIG_STRING, AT(kubelet), "", 0, 0,
     "https://address:10250 of this node's kubelet, which takes the checkpoints of pods with crsc.io/backend: kubelet; empty: there are none of them here."},
    {"kubelet-ca", CONFIG_STRING, AT(kubelet_ca), "", 0, 0, "PEM file of the CAs that the kubelet is certified by: nobody else gets the token. Wanted with kubelet, but for kubelet-insecure."},
    {"kubelet-insecure", CONFIG_BOOL, AT(kubelet_insecure), "false", 0, 0, "true: without kubelet-ca; whoever answers at the kubelet's address is believed, and gets the token."},
    {"kubelet-archives", CONFIG_STRING, AT(kubelet_archives), "/var/lib/kubelet/checkpoints", 0, 0,
     "The kubelet's folder of checkpoints, as the host has it: what a failed one of ours leaves there is removed."},
    {"kubelet-token", CONFIG_STRING, AT(kubelet_token), "", 0, 0, "File with a service account's token for the kubelet: it wants create on nodes/checkpoint. Read at each call."},
    {"kubelet-cert", CONFIG_STRING, AT(kubelet_cert), "", 0, 0, "Instead of a token: PEM file of our certificate for the kubelet."},
    {"kubelet-key", CONFIG_STRING, AT(kubelet_key), "", 0, 0, "PEM file of its key."},
    {"image-registry", CONFIG_STRING, AT(registry), "", 0, 0, "host[:port]/prefix where checkpoints are pushed, for pods that do not say; empty: nowhere."},
    {"plain-registries", CONFIG_STRING, AT(plain_registries), "", 0, 0, "host:port, separated by commas, of registries that speak plain HTTP."},
    {"peers", CONFIG_STRING, AT(peers), "", 0, 0,
     "host[:port], separated by commas, of other agents, which are asked for images that are not here and not in the registry; a name may have many addresses."},
    {"replay-cost", CONFIG_UINT, AT(replay_cost_us), "75", 0, 1000000, "Microseconds that a request's replay takes: full replay against restore."},
    {"restore-cost", CONFIG_DURATION, AT(restore_cost), "300ms", 0, 3600000, "What a restore takes, besides its bytes."},
    {"log-timeout", CONFIG_DURATION, AT(log_timeout), "10s", 100, 60000,
     "How long the log is asked at a container's start; without an answer the newest image on this node is taken."},
    {"log-level", CONFIG_STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static const struct config_program program = {
    .name = "crsc-agent",
    .summary = "Takes checkpoints of this node's protected containers, keeps and moves their images, answers crsc-runtime, and tells each pod's "
               "interceptor which state its app began with.",
    .epilog = "Its API and files are described in docs/AGENT.md.\n\n"
              "Exit status: 0 after SIGTERM or SIGINT; 1 when it cannot start; 2 when a setting is wrong.\n",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
};

static int check(struct settings *s, struct error *e)
{
    const char *const folders[] = {s->store, s->run, s->runc_root}, *const files[] = {s->tls_ca, s->tls_cert, s->tls_key};
    if (log_level_parse(s->log_level, &s->level) != 0) return error_set(e, ERROR_INVALID, "log-level: debug, info, warn or error, not \"%.20s\"", s->log_level);
    if (*s->node == '\0' || strpbrk(s->node, "\"\\/") != NULL) return error_set(e, ERROR_INVALID, "node: a node's name is wanted");
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (folders[i][0] != '/') return error_set(e, ERROR_INVALID, "store, run and runc-root are absolute paths, not \"%.100s\"", folders[i]);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (access(files[i], R_OK) != 0) return error_set(e, ERROR_INVALID, "tls-ca, tls-cert, tls-key: \"%.150s\" cannot be read", files[i]);
    if (*s->kubelet != '\0' && (strncmp(s->kubelet, "https://", 8) != 0 || strlen(s->kubelet) > 300 || strpbrk(s->kubelet + 8, "/?# ") != NULL))
        return error_set(e, ERROR_INVALID, "kubelet: https://address:port is wanted, not \"%.100s\"", s->kubelet);
    if (*s->kubelet != '\0' && (*s->kubelet_ca == '\0') == !s->kubelet_insecure)
        return error_set(e, ERROR_INVALID, "kubelet wants kubelet-ca, to know the kubelet by, or kubelet-insecure: not both, and not neither");
    if (*s->kubelet_ca != '\0' && access(s->kubelet_ca, R_OK) != 0) return error_set(e, ERROR_INVALID, "kubelet-ca: \"%.150s\" cannot be read", s->kubelet_ca);
    if (s->kubelet_archives[0] != '/') return error_set(e, ERROR_INVALID, "kubelet-archives is an absolute path, not \"%.100s\"", s->kubelet_archives);
    if ((*s->kubelet_cert == '\0') != (*s->kubelet_key == '\0')) return error_set(e, ERROR_INVALID, "kubelet-cert and kubelet-key go together");
    return 0;
}

int settings_load(int argc, char **argv, struct settings *ret_settings, enum config_action *ret_action, struct error *e)
{
    struct settings s = {0};
    int rc = config_load(&program, argc, argv, &s, ret_action, e);
    if (rc == 0 && *ret_action == CONFIG_RUN) rc = check(&s, e);
    if (rc != 0) config_free(&program, &s);
    else *ret_settings = s;
    return rc;
}

void settings_free(struct settings *s)
{
    config_free(&program, s);
}
