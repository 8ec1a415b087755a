#include "operator/webhook/review.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *base64(const char *text)
{
    size_t len = strlen(text);
    unsigned char *out = malloc((len + 2) / 3 * 4 + 1);
    if (out != NULL) EVP_EncodeBlock(out, (const unsigned char *)text, (int)len);
    return (char *)out;
}

static char *write_answer(const char *uid, const char *patch, const char *warning)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *answer = yyjson_mut_obj(doc);
    char text[ERROR_TEXT_MAX + 64], *encoded = patch != NULL ? base64(patch) : NULL, *whole = NULL;
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "admission.k8s.io/v1");
    yyjson_mut_obj_add_str(doc, root, "kind", "AdmissionReview");
    yyjson_mut_obj_add_val(doc, root, "response", answer);
    yyjson_mut_obj_add_strcpy(doc, answer, "uid", uid);
    yyjson_mut_obj_add_bool(doc, answer, "allowed", true);
    if (encoded != NULL) {
        yyjson_mut_obj_add_str(doc, answer, "patchType", "JSONPatch");
        yyjson_mut_obj_add_str(doc, answer, "patch", encoded);
    }
    if (warning != NULL) {
        yyjson_mut_val *all = yyjson_mut_arr(doc);
        snprintf(text, sizeof text, "crsc: this pod is not protected: %s", warning);
        yyjson_mut_arr_add_strcpy(doc, all, text);
        yyjson_mut_obj_add_val(doc, answer, "warnings", all);
    }
    if (patch == NULL || encoded != NULL) whole = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, NULL);
    yyjson_mut_doc_free(doc);
    free(encoded);
    return whole;
}

char *review_answer(const void *body, size_t len, const struct inject_settings *s, review_choose_cb *choose, void *user,
                    enum inject_outcome *ret_outcome, struct error *reason)
{
    yyjson_doc *doc = yyjson_read(body, len, YYJSON_READ_NOFLAG);
    yyjson_val *request = yyjson_obj_get(yyjson_doc_get_root(doc), "request"), *pod = yyjson_obj_get(request, "object");
    const char *uid = yyjson_get_str(yyjson_obj_get(request, "uid")), *space = yyjson_get_str(yyjson_obj_get(request, "namespace"));
    struct inject_settings settings = *s;
    char *patch = NULL, *answer = NULL;
    if (uid != NULL && space != NULL && yyjson_is_obj(pod)) {
        if (choose != NULL) choose(user, pod, space, &settings);
        *ret_outcome = inject_pod(pod, space, &settings, &patch, reason);
        answer = write_answer(uid, patch, *ret_outcome == INJECT_REFUSED ? reason->text : NULL);
    } else {
        error_set(reason, ERROR_INVALID, "it is no AdmissionReview of a pod");
    }
    free(patch);
    yyjson_doc_free(doc);
    return answer;
}
