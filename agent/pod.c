#include "agent/pod.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "checkpoint/digest.h"

static const char *word(yyjson_val *annotations, const char *name)
{
    yyjson_val *v = yyjson_obj_get(annotations, name);
    const char *text = yyjson_get_str(v);
    return text != NULL && strlen(text) == yyjson_get_len(v) ? text : NULL;
}

/* containerd's name for it, or CRI-O's. */
static const char *either(yyjson_val *annotations, const char *containerd, const char *crio)
{
    const char *text = word(annotations, containerd);
    return text != NULL ? text : word(annotations, crio);
}

static int copy(char *to, size_t cap, const char *name, const char *text, struct error *e)
{
    if (text == NULL) text = "";
    if (strlen(text) >= cap) return error_set(e, ERROR_INVALID, "annotation %s is longer than %zu bytes", name, cap - 1);
    strcpy(to, text);
    return 0;
}

bool pod_snapshot_id_valid(const char *id)
{
    static const char all[] = "abcdefghijklmnopqrstuvwxyz0123456789.-";
    size_t len = strlen(id);
    return len > 0 && len <= 64 && id[0] != '.' && id[0] != '-' && strspn(id, all) == len;
}

/* ---- the specification's digest --------------------------------------------------------------------------------- */

static void put(yyjson_mut_doc *doc, yyjson_mut_val *to, yyjson_val *from, const char *const *names)
{
    for (; *names != NULL; names++) {
        yyjson_val *v = yyjson_obj_get(from, *names);
        yyjson_mut_obj_add_val(doc, to, *names, v != NULL ? yyjson_val_mut_copy(doc, v) : yyjson_mut_null(doc));
    }
}

/* Without sources: those are another pod's. */
static void put_mounts(yyjson_mut_doc *doc, yyjson_mut_val *to, yyjson_val *mounts)
{
    static const char *const names[] = {"destination", "type", "options", NULL};
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, to, "mounts");
    yyjson_arr_iter it = yyjson_arr_iter_with(mounts);
    for (yyjson_val *m; (m = yyjson_arr_iter_next(&it)) != NULL;) put(doc, yyjson_mut_arr_add_obj(doc, list), m, names);
}

static void put_namespaces(yyjson_mut_doc *doc, yyjson_mut_val *to, yyjson_val *namespaces)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, to, "namespaces");
    yyjson_arr_iter it = yyjson_arr_iter_with(namespaces);
    for (yyjson_val *n; (n = yyjson_arr_iter_next(&it)) != NULL;) {
        yyjson_val *type = yyjson_obj_get(n, "type");
        if (yyjson_is_str(type)) yyjson_mut_arr_add_str(doc, list, yyjson_get_str(type));
    }
}

static int digest_spec(yyjson_val *root, char ret_digest[OCI_DIGEST_MAX], struct error *e)
{
    static const char *const of_process[] = {"terminal", "user", "args", "cwd", "capabilities", "rlimits", "noNewPrivileges",
        "apparmorProfile", "selinuxLabel", NULL};
    static const char *const of_linux[] = {"seccomp", "maskedPaths", "readonlyPaths", "mountLabel", "rootfsPropagation", "uidMappings",
        "gidMappings", "personality", NULL};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *all = yyjson_mut_obj(doc);
    yyjson_val *os = yyjson_obj_get(root, "linux"), *annotations = yyjson_obj_get(root, "annotations");
    const char *image = either(annotations, "io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName");
    size_t len = 0;
    yyjson_mut_doc_set_root(doc, all);
    put(doc, yyjson_mut_obj_add_obj(doc, all, "process"), yyjson_obj_get(root, "process"), of_process);
    put(doc, yyjson_mut_obj_add_obj(doc, all, "linux"), os, of_linux);
    yyjson_mut_obj_add_bool(doc, all, "readonly", yyjson_get_bool(yyjson_obj_get(yyjson_obj_get(root, "root"), "readonly")));
    yyjson_mut_obj_add_str(doc, all, "image", image != NULL ? image : "");
    put_mounts(doc, all, yyjson_obj_get(root, "mounts"));
    put_namespaces(doc, all, yyjson_obj_get(os, "namespaces"));
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, &len);
    yyjson_mut_doc_free(doc);
    int rc = text == NULL || digest_of(text, len, ret_digest) != 0 ? error_set(e, ERROR_NOMEM, "no memory for a configuration") : 0;
    free(text);
    return rc;
}

/* ---- the words --------------------------------------------------------------------------------------------------- */

/* crsc.io/backend: kubelet. The webhook writes which checkpoint the image is of, containerd (and CRI-O) what was restored. */
static int read_backend(yyjson_val *a, struct pod *p, struct error *e)
{
    const char *backend = word(a, "crsc.io/backend");
    p->by_kubelet = backend != NULL && strcmp(backend, "kubelet") == 0;
    if (backend != NULL && !p->by_kubelet && strcmp(backend, "runtime") != 0)
        return error_set(e, ERROR_INVALID, "annotation crsc.io/backend is \"runtime\" or \"kubelet\", not \"%.60s\"", backend);
    int rc = copy(p->checkpoint, sizeof p->checkpoint, "crsc.io/checkpoint", word(a, "crsc.io/checkpoint"), e);
    if (rc == 0) rc = copy(p->checkpoint_image, sizeof p->checkpoint_image, "checkpointImage", word(a, "checkpointImage"), e);
    if (rc == 0 && *p->checkpoint != '\0' && !pod_snapshot_id_valid(p->checkpoint)) rc = error_set(e, ERROR_INVALID, "annotation crsc.io/checkpoint is no id");
    return rc;
}

static void read_user(yyjson_val *root, struct pod *p)
{
    yyjson_val *user = yyjson_obj_get(yyjson_obj_get(root, "process"), "user"), *uid = yyjson_obj_get(user, "uid"), *gid = yyjson_obj_get(user, "gid");
    if (yyjson_is_uint(uid) && yyjson_get_uint(uid) <= UINT32_MAX)
        snprintf(p->user, sizeof p->user, "%u:%u", (unsigned)yyjson_get_uint(uid), yyjson_get_uint(gid) <= UINT32_MAX ? (unsigned)yyjson_get_uint(gid) : 0);
}

static int read_protection(yyjson_val *a, struct pod *p, struct error *e)
{
    const char *container = word(a, "crsc.io/container"), *restore = word(a, "crsc.io/restore"), *registry = word(a, "crsc.io/image-registry"),
               *redirect = word(a, "crsc.io/redirect");
    p->is_protected = container != NULL && *p->container != '\0' && strcmp(container, p->container) == 0;
    p->has_registry = registry != NULL;
    int rc = copy(p->upstream, sizeof p->upstream, "crsc.io/upstream", word(a, "crsc.io/upstream"), e);
    if (rc == 0) rc = copy(p->admin, sizeof p->admin, "crsc.io/admin", word(a, "crsc.io/admin"), e);
    if (rc == 0) rc = copy(p->template_hash, sizeof p->template_hash, "crsc.io/template-hash", word(a, "crsc.io/template-hash"), e);
    if (rc == 0) rc = copy(p->restore, sizeof p->restore, "crsc.io/restore", restore != NULL ? restore : "auto", e);
    if (rc == 0) rc = copy(p->registry, sizeof p->registry, "crsc.io/image-registry", registry, e);
    if (rc == 0) rc = read_backend(a, p, e);
    /* containerd 2.2.9 calls every container that it restores "containerd"; in such a pod only the protected one's image is a checkpoint's */
    if (rc == 0 && p->by_kubelet && *p->container != '\0' && *p->checkpoint != '\0' && *p->checkpoint_image != '\0' && container != NULL) {
        rc = copy(p->container, sizeof p->container, "crsc.io/container", container, e);
        p->is_protected = true;
    }
    if (rc != 0 || !p->is_protected) return rc;
    if (redirect != NULL && redirect_parse(redirect, &p->redirect, e) != 0) return -ERROR_INVALID;
    if (*p->upstream == '\0' || *p->admin == '\0')
        return error_set(e, ERROR_INVALID, "a protected pod needs the annotations crsc.io/upstream and crsc.io/admin");
    if (!pod_snapshot_id_valid(p->restore)) return error_set(e, ERROR_INVALID, "annotation crsc.io/restore is \"auto\", \"fresh\" or an id");
    return 0;
}

int pod_read(const char *config, size_t len, struct pod *ret_pod, struct error *e)
{
    struct pod p = {0};
    yyjson_doc *doc = yyjson_read(config, len, YYJSON_READ_NOFLAG);
    yyjson_val *root = yyjson_doc_get_root(doc), *a = yyjson_obj_get(root, "annotations");
    if (!yyjson_is_obj(root)) {
        yyjson_doc_free(doc);
        return error_set(e, ERROR_INVALID, "config.json is no JSON object");
    }
    int rc = copy(p.namespace, sizeof p.namespace, "namespace", either(a, "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"), e);
    if (rc == 0) rc = copy(p.name, sizeof p.name, "name", either(a, "io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"), e);
    if (rc == 0) rc = copy(p.uid, sizeof p.uid, "uid", either(a, "io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"), e);
    const char *type = either(a, "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType");
    if (rc == 0 && type != NULL && strcmp(type, "container") == 0)
        rc = copy(p.container, sizeof p.container, "container", either(a, "io.kubernetes.cri.container-name", "io.kubernetes.container.name"), e);
    if (rc == 0) rc = copy(p.stream, sizeof p.stream, "crsc.io/stream", word(a, "crsc.io/stream"), e);
    if (rc == 0 && *p.stream != '\0') rc = read_protection(a, &p, e);
    if (rc == 0) rc = digest_spec(root, p.spec, e);
    read_user(root, &p);
    yyjson_doc_free(doc);
    if (rc == 0) *ret_pod = p;
    return rc;
}
