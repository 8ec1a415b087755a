/* What a checkpoint depends on in a pod's spec: what the app would see of it. */
#include "operator/webhook/inject.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operator/kube/object.h"

static bool does_not_count(const char *volume)
{
    return strncmp(volume, "kube-api-access-", 16) == 0 || strcmp(volume, INJECT_VOLUME) == 0 || strcmp(volume, INJECT_DATA_VOLUME) == 0;
}

static void add_text(EVP_MD_CTX *md, const char *text)
{
    EVP_DigestUpdate(md, text, strlen(text) + 1);
}

static bool add_value(EVP_MD_CTX *md, const char *name, yyjson_val *v)
{
    if (v == NULL) return true;
    size_t len;
    char *text = yyjson_val_write(v, YYJSON_WRITE_NOFLAG, &len);
    if (text == NULL) return false;
    add_text(md, name);
    EVP_DigestUpdate(md, text, len + 1);
    free(text);
    return true;
}

/* Mounts and volumes without our own, and without the service account's, whose name is made up anew for each pod. */
static bool add_named(EVP_MD_CTX *md, const char *name, yyjson_val *list)
{
    size_t i, max;
    yyjson_val *one;
    yyjson_arr_foreach(list, i, max, one)
    {
        if (!does_not_count(object_text(one, "name")) && !add_value(md, name, one)) return false;
    }
    return true;
}

static bool add_containers(EVP_MD_CTX *md, const char *kind, yyjson_val *list)
{
    static const char *const fields[] = {"name", "image", "command", "args", "workingDir", "env", "envFrom", "ports", "securityContext", "stdin", "tty"};
    size_t i, max;
    yyjson_val *one;
    yyjson_arr_foreach(list, i, max, one)
    {
        if (strcmp(object_text(one, "name"), INJECT_SIDECAR) == 0) continue;
        add_text(md, kind);
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++)
            if (!add_value(md, fields[k], yyjson_obj_get(one, fields[k]))) return false;
        if (!add_named(md, "mount", yyjson_obj_get(one, "volumeMounts"))) return false;
    }
    return true;
}

int inject_template_hash(yyjson_val *spec, const char *backend, char ret_hash[INJECT_HASH_MAX])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 && add_containers(md, "init", yyjson_obj_get(spec, "initContainers")) &&
              add_containers(md, "container", yyjson_obj_get(spec, "containers")) && add_named(md, "volume", yyjson_obj_get(spec, "volumes")) &&
              add_value(md, "securityContext", yyjson_obj_get(spec, "securityContext"));
    if (ok && strcmp(backend, "runtime") != 0) { /* the default adds nothing: hashes of before it was there stay */
        add_text(md, "backend");
        add_text(md, backend);
    }
    ok = ok && EVP_DigestFinal_ex(md, sum, &n) == 1;
    EVP_MD_CTX_free(md);
    if (!ok) return -ERROR_NOMEM;
    int at = snprintf(ret_hash, INJECT_HASH_MAX, "sha256:");
    for (unsigned int i = 0; i < n; i++) at += snprintf(ret_hash + at, INJECT_HASH_MAX - (size_t)at, "%02x", sum[i]);
    return 0;
}
