#include "operator/kube/config.h"

#include <errno.h>
#include <libfyaml.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount/"

int kube_read_file(const char *path, char **ret_text, struct error *e)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) return error_errno(e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, errno, "%s", path);
    char *text = malloc(KUBE_FILE_MAX + 1);
    size_t len = text != NULL ? fread(text, 1, KUBE_FILE_MAX + 1, f) : 0;
    bool bad = ferror(f) != 0;
    fclose(f);
    if (text == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    if (bad || len > KUBE_FILE_MAX) {
        free(text);
        return error_set(e, ERROR_INVALID, "%s: cannot be read, or is larger than %d bytes", path, KUBE_FILE_MAX);
    }
    text[len] = '\0';
    *ret_text = text;
    return 0;
}

static void strip(char *text)
{
    size_t len = strlen(text);
    while (len > 0 && strchr(" \r\n\t", text[len - 1]) != NULL) text[--len] = '\0';
}

/* ---- inside a pod --------------------------------------------------------------------------------------------- */

static int load_account(struct kube_config *c, struct error *e)
{
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    if (host == NULL || port == NULL)
        return error_set(e, ERROR_NOT_FOUND, "this is not a pod (KUBERNETES_SERVICE_HOST is not set): give --kubeconfig FILE");
    if (asprintf(&c->server, strchr(host, ':') != NULL ? "https://[%s]:%s" : "https://%s:%s", host, port) < 0) c->server = NULL;
    if ((c->token_file = strdup(ACCOUNT "token")) == NULL || c->server == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    int rv = kube_read_file(ACCOUNT "ca.crt", &c->ca, e);
    if (rv == 0) rv = kube_read_file(ACCOUNT "namespace", &c->space, e);
    if (rv == 0) rv = kube_read_file(c->token_file, &c->token, e);
    if (rv == 0) {
        strip(c->space);
        strip(c->token);
    }
    return rv;
}

/* ---- a kubeconfig --------------------------------------------------------------------------------------------- */

/* The mapping called `name` in a list of {name: ..., KEY: {...}}. */
static struct fy_node *named(struct fy_node *root, const char *list, const char *name, const char *key)
{
    struct fy_node *all = fy_node_mapping_lookup_by_string(root, list, FY_NT), *item;
    void *at = NULL;
    while (all != NULL && (item = fy_node_sequence_iterate(all, &at)) != NULL) {
        const char *its = fy_node_get_scalar0(fy_node_mapping_lookup_by_string(item, "name", FY_NT));
        if (its != NULL && strcmp(its, name) == 0) return fy_node_mapping_lookup_by_string(item, key, FY_NT);
    }
    return NULL;
}

static const char *word(struct fy_node *of, const char *name)
{
    return of != NULL ? fy_node_get_scalar0(fy_node_mapping_lookup_by_string(of, name, FY_NT)) : NULL;
}

static int decode(const char *text, char **ret, struct error *e)
{
    size_t len = strlen(text);
    unsigned char *out = len < KUBE_FILE_MAX ? malloc(len + 4) : NULL;
    int n = out != NULL ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)len) : -1;
    if (n < 0) {
        free(out);
        return error_set(e, ERROR_INVALID, "certificate data is not base64, or too long");
    }
    out[n] = '\0'; /* padding was decoded to zeros: PEM has none of its own */
    *ret = (char *)out;
    return 0;
}

/* NAME-data as base64, or NAME as a file (relative to the kubeconfig). */
static int pem(struct fy_node *of, const char *name, const char *path, char **ret, struct error *e)
{
    char key[64], file[4096];
    const char *slash = strrchr(path, '/'), *text;
    snprintf(key, sizeof key, "%s-data", name);
    if ((text = word(of, key)) != NULL) return decode(text, ret, e);
    if ((text = word(of, name)) == NULL) return 0;
    int dir = text[0] == '/' || slash == NULL ? 0 : (int)(slash - path) + 1;
    snprintf(file, sizeof file, "%.*s%s", dir, path, text);
    return kube_read_file(file, ret, e);
}

static int copy(const char *text, char **ret, struct error *e)
{
    if (text == NULL) return 0;
    return (*ret = strdup(text)) != NULL ? 0 : error_set(e, ERROR_NOMEM, "no memory");
}

static int take(struct fy_node *root, const char *path, struct kube_config *c, struct error *e)
{
    const char *current = word(root, "current-context");
    struct fy_node *context = current != NULL ? named(root, "contexts", current, "context") : NULL;
    const char *cluster_name = word(context, "cluster"), *user_name = word(context, "user");
    struct fy_node *cluster = cluster_name != NULL ? named(root, "clusters", cluster_name, "cluster") : NULL;
    struct fy_node *user = user_name != NULL ? named(root, "users", user_name, "user") : NULL;
    if (word(cluster, "server") == NULL)
        return error_set(e, ERROR_INVALID, "its current-context names no cluster with a server");
    if (fy_node_mapping_lookup_by_string(user, "exec", FY_NT) != NULL)
        return error_set(e, ERROR_INVALID, "user \"%.60s\" gets its credentials from a program (exec): certificates, token and tokenFile are understood", user_name);
    int rv = copy(word(cluster, "server"), &c->server, e);
    if (rv == 0) rv = pem(cluster, "certificate-authority", path, &c->ca, e);
    if (rv == 0) rv = pem(user, "client-certificate", path, &c->cert, e);
    if (rv == 0) rv = pem(user, "client-key", path, &c->key, e);
    if (rv == 0) rv = copy(word(user, "token"), &c->token, e);
    if (rv == 0) rv = copy(word(user, "tokenFile"), &c->token_file, e);
    if (rv == 0) rv = copy(word(context, "namespace") != NULL ? word(context, "namespace") : "default", &c->space, e);
    return rv;
}

static int load_file(const char *path, struct kube_config *c, struct error *e)
{
    static const struct fy_parse_cfg quiet = {.flags = FYPCF_QUIET};
    char *text = NULL;
    int rv = kube_read_file(path, &text, e);
    if (rv != 0) return rv;
    struct fy_document *doc = fy_document_build_from_string(&quiet, text, FY_NT);
    struct fy_node *root = doc != NULL ? fy_document_root(doc) : NULL;
    if (root == NULL || !fy_node_is_mapping(root))
        rv = error_set(e, ERROR_INVALID, "it is no YAML mapping");
    else
        rv = take(root, path, c, e);
    fy_document_destroy(doc);
    free(text);
    return rv == 0 ? 0 : error_prefix(e, "kubeconfig %s", path);
}

int kube_config_load(const char *path, struct kube_config *ret_config, struct error *e)
{
    struct kube_config c = {0};
    int rv = path[0] != '\0' ? load_file(path, &c, e) : load_account(&c, e);
    if (rv != 0) {
        kube_config_free(&c);
        return rv;
    }
    for (size_t len = strlen(c.server); len > 0 && c.server[len - 1] == '/'; len--) c.server[len - 1] = '\0';
    *ret_config = c;
    return 0;
}

void kube_config_free(struct kube_config *c)
{
    if (c->key != NULL) explicit_bzero(c->key, strlen(c->key));
    if (c->token != NULL) explicit_bzero(c->token, strlen(c->token));
    char **all[] = {&c->server, &c->ca, &c->cert, &c->key, &c->token, &c->token_file, &c->space};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(*all[i]);
        *all[i] = NULL;
    }
}

const char *kube_config_token(struct kube_config *c, uint64_t now_ms, int force)
{
    char *text;
    bool old = c->token == NULL || force || now_ms - c->token_read_ms >= KUBE_TOKEN_AGE_MS;
    if (c->token_file == NULL || !old || kube_read_file(c->token_file, &text, NULL) != 0) return c->token;
    strip(text);
    free(c->token);
    c->token = text;
    c->token_read_ms = now_ms;
    return c->token;
}
