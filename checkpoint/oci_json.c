#include "checkpoint/oci_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include <yyjson.h>

#include "checkpoint/digest.h"

#define TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define TYPE_CONFIG "application/vnd.oci.image.config.v1+json"
#define TYPE_LAYER "application/vnd.oci.image.layer.v1.tar"

#define LABEL_CONTAINERD "org.criu.checkpoint.container.name"
#define LABEL_CRIO "io.kubernetes.cri-o.annotations.checkpoint.name"
#define LABEL_STREAM "crsc.io/stream"
#define LABEL_OFFSET "crsc.io/offset"
#define LABEL_SPEC "crsc.io/spec"

/* --- writing: yyjson's calls take a NULL document's values without harm, so memory is checked once, at the end */

static yyjson_mut_val *descriptor(yyjson_mut_doc *doc, const char *type, const struct oci_blob *blob)
{
    yyjson_mut_val *object = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_str(doc, object, "mediaType", type);
    yyjson_mut_obj_add_str(doc, object, "digest", blob->digest);
    yyjson_mut_obj_add_uint(doc, object, "size", blob->size);
    return object;
}

static bool add_annotations(yyjson_mut_doc *doc, yyjson_mut_val *to, const struct oci_image_labels *labels)
{
    char offset[24];
    snprintf(offset, sizeof offset, "%" PRIu64, labels->offset);
    yyjson_mut_val *object = yyjson_mut_obj_add_obj(doc, to, "annotations");
    return object != NULL && yyjson_mut_obj_add_str(doc, object, LABEL_CONTAINERD, labels->container) &&
           yyjson_mut_obj_add_str(doc, object, LABEL_CRIO, labels->container) &&
           yyjson_mut_obj_add_str(doc, object, LABEL_STREAM, labels->stream) &&
           yyjson_mut_obj_add_strcpy(doc, object, LABEL_OFFSET, offset) &&
           (*labels->spec == '\0' || yyjson_mut_obj_add_str(doc, object, LABEL_SPEC, labels->spec));
}

static char *finish(yyjson_mut_doc *doc, bool complete, size_t *ret_len)
{
    char *text = complete ? yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, ret_len) : NULL;
    yyjson_mut_doc_free(doc);
    return text;
}

static const char *architecture(char machine[65])
{
    struct utsname names;
    if (uname(&names) != 0) return "unknown";
    if (strcmp(names.machine, "x86_64") == 0) return "amd64";
    if (strcmp(names.machine, "aarch64") == 0) return "arm64";
    snprintf(machine, 65, "%.64s", names.machine);
    return machine;
}

char *oci_write_config(const struct oci_blob *layer, const char *user, size_t *ret_len)
{
    char machine[65];
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    if (doc == NULL) return NULL;
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    bool ok = yyjson_mut_obj_add_strcpy(doc, root, "architecture", architecture(machine));
    ok = ok && yyjson_mut_obj_add_str(doc, root, "os", "linux");
    yyjson_mut_val *config = ok ? yyjson_mut_obj_add_obj(doc, root, "config") : NULL;
    ok = config != NULL && (*user == '\0' || yyjson_mut_obj_add_str(doc, config, "User", user));
    yyjson_mut_val *rootfs = ok ? yyjson_mut_obj_add_obj(doc, root, "rootfs") : NULL;
    yyjson_mut_val *ids = NULL;
    if (rootfs != NULL && yyjson_mut_obj_add_str(doc, rootfs, "type", "layers"))
        ids = yyjson_mut_obj_add_arr(doc, rootfs, "diff_ids");
    ok = ids != NULL && yyjson_mut_arr_add_str(doc, ids, layer->digest);
    return finish(doc, ok, ret_len);
}

char *oci_write_manifest(const struct oci_manifest *m, size_t *ret_len)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    if (doc == NULL) return NULL;
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    bool ok = yyjson_mut_obj_add_uint(doc, root, "schemaVersion", 2) && yyjson_mut_obj_add_str(doc, root, "mediaType", TYPE_MANIFEST) &&
              yyjson_mut_obj_add_val(doc, root, "config", descriptor(doc, TYPE_CONFIG, &m->config));
    yyjson_mut_val *layers = ok ? yyjson_mut_obj_add_arr(doc, root, "layers") : NULL;
    ok = layers != NULL && yyjson_mut_arr_append(layers, descriptor(doc, TYPE_LAYER, &m->layer)) && add_annotations(doc, root, &m->labels);
    return finish(doc, ok, ret_len);
}

char *oci_write_index(const struct oci_blob *manifest, const struct oci_image_labels *labels, size_t *ret_len)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    if (doc == NULL) return NULL;
    yyjson_mut_val *root = yyjson_mut_obj(doc), *entry = descriptor(doc, TYPE_MANIFEST, manifest);
    yyjson_mut_doc_set_root(doc, root);
    bool ok = yyjson_mut_obj_add_uint(doc, root, "schemaVersion", 2) && yyjson_mut_obj_add_str(doc, root, "mediaType", TYPE_INDEX);
    yyjson_mut_val *manifests = ok ? yyjson_mut_obj_add_arr(doc, root, "manifests") : NULL;
    ok = manifests != NULL && add_annotations(doc, entry, labels) && yyjson_mut_arr_append(manifests, entry) &&
         add_annotations(doc, root, labels);
    return finish(doc, ok, ret_len);
}

/* --- reading */

static yyjson_doc *read_object(const char *text, size_t len, const char *what, struct error *e)
{
    yyjson_read_err failure;
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text, len, YYJSON_READ_NOFLAG, NULL, &failure);
    if (doc == NULL) {
        error_set(e, failure.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION ? ERROR_NOMEM : ERROR_INVALID,
            "the image's %s is no JSON: %s at byte %zu", what, failure.msg, failure.pos);
        return NULL;
    }
    if (yyjson_is_obj(yyjson_doc_get_root(doc))) return doc;
    yyjson_doc_free(doc);
    error_set(e, ERROR_INVALID, "the image's %s is no JSON object", what);
    return NULL;
}

static bool read_descriptor(yyjson_val *object, const char *type, struct oci_blob *blob)
{
    const char *digest = yyjson_get_str(yyjson_obj_get(object, "digest"));
    yyjson_val *size = yyjson_obj_get(object, "size");
    if (!yyjson_equals_str(yyjson_obj_get(object, "mediaType"), type) || !digest_valid(digest) || !yyjson_is_uint(size)) return false;
    memcpy(blob->digest, digest, strlen(digest) + 1);
    blob->size = yyjson_get_uint(size);
    return true;
}

static bool read_label(yyjson_val *annotations, const char *name, char text[OCI_LABEL_MAX])
{
    yyjson_val *value = yyjson_obj_get(annotations, name);
    size_t len = yyjson_get_len(value);
    if (!yyjson_is_str(value) || len >= OCI_LABEL_MAX || memchr(yyjson_get_str(value), '\0', len) != NULL) return false;
    memcpy(text, yyjson_get_str(value), len + 1);
    return true;
}

static int read_labels(yyjson_val *annotations, struct oci_image_labels *labels, struct error *e)
{
    char offset[OCI_LABEL_MAX], *end;
    if (!read_label(annotations, LABEL_CONTAINERD, labels->container))
        return error_set(e, ERROR_INVALID, "the image has no annotation " LABEL_CONTAINERD ": it is not a checkpoint");
    if (!read_label(annotations, LABEL_STREAM, labels->stream) || !read_label(annotations, LABEL_OFFSET, offset))
        return error_set(e, ERROR_INVALID, "the image has no annotation " LABEL_STREAM " or " LABEL_OFFSET ": it is not one of ours");
    if (*offset == '\0' || strlen(offset) > 20 || strspn(offset, "0123456789") != strlen(offset))
        return error_set(e, ERROR_INVALID, "annotation " LABEL_OFFSET " is no number: \"%.40s\"", offset);
    labels->offset = strtoull(offset, &end, 10);
    yyjson_val *spec = yyjson_obj_get(annotations, LABEL_SPEC);
    if (spec == NULL) return 0;
    if (!digest_valid(yyjson_get_str(spec))) return error_set(e, ERROR_INVALID, "annotation " LABEL_SPEC " is no digest");
    memcpy(labels->spec, yyjson_get_str(spec), yyjson_get_len(spec) + 1);
    return 0;
}

int oci_read_manifest(const char *text, size_t len, struct oci_manifest *ret_manifest, struct error *e)
{
    yyjson_doc *doc = read_object(text, len, "manifest", e);
    if (doc == NULL) return -(int)e->code;
    struct oci_manifest m = {0};
    yyjson_val *root = yyjson_doc_get_root(doc), *layers = yyjson_obj_get(root, "layers");
    int rc = 0;
    if (yyjson_get_uint(yyjson_obj_get(root, "schemaVersion")) != 2)
        rc = error_set(e, ERROR_INVALID, "the image's manifest is not of schema version 2");
    else if (!read_descriptor(yyjson_obj_get(root, "config"), TYPE_CONFIG, &m.config))
        rc = error_set(e, ERROR_INVALID, "the image's manifest names no proper config");
    else if (yyjson_arr_size(layers) != 1 || !read_descriptor(yyjson_arr_get_first(layers), TYPE_LAYER, &m.layer))
        rc = error_set(e, ERROR_INVALID, "the image's manifest names not exactly one uncompressed layer");
    else
        rc = read_labels(yyjson_obj_get(root, "annotations"), &m.labels, e);
    yyjson_doc_free(doc);
    if (rc == 0) *ret_manifest = m;
    return rc;
}

int oci_check_config(const char *text, size_t len, const struct oci_blob *layer, struct error *e)
{
    yyjson_doc *doc = read_object(text, len, "config", e);
    if (doc == NULL) return -(int)e->code;
    yyjson_val *ids = yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(doc), "rootfs"), "diff_ids");
    bool same = yyjson_arr_size(ids) == 1 && yyjson_equals_str(yyjson_arr_get_first(ids), layer->digest);
    yyjson_doc_free(doc);
    return same ? 0 : error_set(e, ERROR_INVALID, "the image's config is of another layer than its manifest");
}

int oci_read_index(const char *text, size_t len, char ret_digest[OCI_DIGEST_MAX], struct error *e)
{
    yyjson_doc *doc = read_object(text, len, "index.json", e);
    if (doc == NULL) return -(int)e->code;
    struct oci_blob manifest = {0};
    yyjson_val *manifests = yyjson_obj_get(yyjson_doc_get_root(doc), "manifests");
    bool one = yyjson_arr_size(manifests) == 1 && read_descriptor(yyjson_arr_get_first(manifests), TYPE_MANIFEST, &manifest);
    yyjson_doc_free(doc);
    if (!one) return error_set(e, ERROR_INVALID, "the image's index.json names not exactly one manifest");
    memcpy(ret_digest, manifest.digest, sizeof manifest.digest);
    return 0;
}
