#include "operator/kube/object.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

yyjson_val *object_get(yyjson_val *o, const char *path)
{
    while (o != NULL && *path != '\0') {
        size_t len = strcspn(path, ".");
        o = yyjson_obj_getn(o, path, len);
        path += len + (path[len] == '.');
    }
    return o;
}

const char *object_text(yyjson_val *o, const char *path)
{
    const char *text = yyjson_get_str(object_get(o, path));
    return text != NULL ? text : "";
}

uint64_t object_number(yyjson_val *o, const char *path)
{
    return yyjson_get_uint(object_get(o, path));
}

bool object_true(yyjson_val *o, const char *path)
{
    return yyjson_is_true(object_get(o, path));
}

const char *object_name(yyjson_val *o)
{
    return object_text(o, "metadata.name");
}

const char *object_space(yyjson_val *o)
{
    return object_text(o, "metadata.namespace");
}

static const char *entry(yyjson_val *map, const char *key)
{
    const char *text = yyjson_get_str(yyjson_obj_get(map, key));
    return text != NULL ? text : "";
}

const char *object_annotation(yyjson_val *o, const char *key)
{
    return entry(object_get(o, "metadata.annotations"), key);
}

const char *object_label(yyjson_val *o, const char *key)
{
    return entry(object_get(o, "metadata.labels"), key);
}

bool object_deleting(yyjson_val *o)
{
    return yyjson_is_str(object_get(o, "metadata.deletionTimestamp"));
}

bool object_has_finalizer(yyjson_val *o, const char *finalizer)
{
    size_t i, max;
    yyjson_val *one, *all = object_get(o, "metadata.finalizers");
    yyjson_arr_foreach(all, i, max, one)
    {
        if (yyjson_equals_str(one, finalizer)) return true;
    }
    return false;
}

static yyjson_val *with(yyjson_val *list, const char *key, const char *value)
{
    size_t i, max;
    yyjson_val *one;
    yyjson_arr_foreach(list, i, max, one)
    {
        if (yyjson_equals_str(yyjson_obj_get(one, key), value)) return one;
    }
    return NULL;
}

yyjson_val *object_condition(yyjson_val *o, const char *type)
{
    return with(object_get(o, "status.conditions"), "type", type);
}

yyjson_val *object_named(yyjson_val *list, const char *name)
{
    return with(list, "name", name);
}

bool object_selects(yyjson_val *selector, yyjson_val *labels)
{
    size_t i, max;
    yyjson_val *key, *value;
    if (yyjson_obj_size(selector) == 0) return false;
    yyjson_obj_foreach(selector, i, max, key, value)
    {
        yyjson_val *has = yyjson_obj_get(labels, yyjson_get_str(key));
        if (!yyjson_is_str(value) || !yyjson_is_str(has) || strcmp(yyjson_get_str(value), yyjson_get_str(has)) != 0) return false;
    }
    return true;
}

uint64_t object_time_ms(const char *text)
{
    struct tm tm = {0};
    char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    uint64_t ms = 0, scale = 100;
    if (end == NULL) return 0;
    if (*end == '.')
        for (end++; *end >= '0' && *end <= '9'; end++, scale /= 10) ms += (uint64_t)(*end - '0') * scale;
    time_t s = *end == 'Z' ? timegm(&tm) : -1;
    return s > 0 ? (uint64_t)s * 1000 + ms : 0;
}

void object_time_text(uint64_t ms, char to[OBJECT_TIME_MAX])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    strftime(to, OBJECT_TIME_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm);
}
