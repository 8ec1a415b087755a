#include "operator/drivers/kubernetes/body.h"

#include "operator/kube/object.h"

struct body body_new(void)
{
    struct body j = {.doc = yyjson_mut_doc_new(NULL)};
    j.root = yyjson_mut_obj(j.doc);
    yyjson_mut_doc_set_root(j.doc, j.root);
    return j;
}

yyjson_mut_val *body_map(struct body *j, yyjson_mut_val *of, const char *name)
{
    yyjson_mut_val *v = yyjson_mut_obj(j->doc);
    yyjson_mut_obj_add_val(j->doc, of, name, v);
    return v;
}

yyjson_mut_val *body_array(struct body *j, yyjson_mut_val *of, const char *name)
{
    yyjson_mut_val *v = yyjson_mut_arr(j->doc);
    yyjson_mut_obj_add_val(j->doc, of, name, v);
    return v;
}

void body_text(struct body *j, yyjson_mut_val *of, const char *name, const char *value)
{
    /* names that are computed must live as long as the document */
    yyjson_mut_obj_add(of, yyjson_mut_strcpy(j->doc, name), yyjson_mut_strcpy(j->doc, value));
}

void body_number(struct body *j, yyjson_mut_val *of, const char *name, uint64_t value)
{
    yyjson_mut_obj_add_uint(j->doc, of, name, value);
}

void body_time(struct body *j, yyjson_mut_val *of, const char *name, uint64_t ms)
{
    char when[OBJECT_TIME_MAX];
    if (ms == 0) return;
    object_time_text(ms, when);
    body_text(j, of, name, when);
}

char *body_end(struct body *j)
{
    char *body = yyjson_mut_write(j->doc, YYJSON_WRITE_NOFLAG, NULL);
    yyjson_mut_doc_free(j->doc);
    return body;
}
