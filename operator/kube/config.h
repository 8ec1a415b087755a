/* Where the API server is and how to be let in: from a kubeconfig file, or, inside a pod, from its service account.
 *
 * A token that is in a file is read again when it is older than KUBE_TOKEN_AGE_MS: the kubelet replaces it before it expires.
 * Blocking file access, of small local files. Thread: the loop's. */
#ifndef CRSC_OPERATOR_KUBE_CONFIG_H
#define CRSC_OPERATOR_KUBE_CONFIG_H

#include <stdint.h>

#include "common/error.h"

enum { KUBE_TOKEN_AGE_MS = 60000, KUBE_FILE_MAX = 1 << 20 };

struct kube_config {
    char *server;             /* "https://10.96.0.1:443", no slash at the end */
    char *ca, *cert, *key;    /* PEM; NULL: none */
    char *token, *token_file; /* NULL: none; with a file, `token` is what it had when it was read */
    char *space;              /* the namespace of the context or pod, "default" when nothing says */
    uint64_t token_read_ms;
};

/* `path` "": the pod's service account. 0, or -ERROR_INVALID, -ERROR_NOT_FOUND with what is wrong and where. */
int kube_config_load(const char *path, struct kube_config *ret_config, struct error *e);
void kube_config_free(struct kube_config *c);

/* The token to send now, or NULL; `force`: it was just refused, so read the file whatever its age. Borrowed until the next call. */
const char *kube_config_token(struct kube_config *c, uint64_t now_ms, int force);

/* A whole small file, zero-terminated. */
int kube_read_file(const char *path, char **ret_text, struct error *e);

#endif
