#include "operator/drivers/spec.h"

#include <stdlib.h>
#include <yyjson.h>

#include "checkpoint/digest.h"

/* Removes what only says where it runs; was there anything? */
static bool strip(yyjson_mut_val *root)
{
    yyjson_mut_val *lin = yyjson_mut_obj_get(root, "linux"), *namespace;
    bool found = yyjson_mut_obj_remove_key(lin, "cgroupsPath") != NULL;
    size_t i, n;
    yyjson_mut_arr_foreach(yyjson_mut_obj_get(lin, "namespaces"), i, n, namespace)
        if (yyjson_mut_equals_str(yyjson_mut_obj_get(namespace, "type"), "network") && yyjson_mut_obj_remove_key(namespace, "path") != NULL)
            found = true;
    return found;
}

int spec_digest(const char *path, char ret_digest[OCI_DIGEST_MAX], struct error *e)
{
    int rc = oci_file_digest(path, ret_digest, e);
    if (rc != 0) return rc;
    yyjson_read_err why;
    yyjson_doc *doc = yyjson_read_file(path, YYJSON_READ_NOFLAG, NULL, &why);
    if (doc == NULL) return error_set(e, ERROR_INVALID, "%s is no JSON: %s", path, why.msg);
    yyjson_mut_doc *mut = yyjson_doc_mut_copy(doc, NULL);
    yyjson_doc_free(doc);
    if (mut == NULL) return error_set(e, ERROR_NOMEM, "no memory for %s", path);
    if (strip(yyjson_mut_doc_get_root(mut))) {
        size_t len = 0;
        char *text = yyjson_mut_write(mut, YYJSON_WRITE_NOFLAG, &len);
        rc = text == NULL || digest_of(text, len, ret_digest) != 0 ? error_set(e, ERROR_NOMEM, "no memory for %s", path) : 0;
        free(text);
    }
    yyjson_mut_doc_free(mut);
    return rc;
}
