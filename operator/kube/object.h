/* Small helpers to read Kubernetes objects in JSON. Thread: any. What is returned points into the object. */
#ifndef CRSC_OPERATOR_KUBE_OBJECT_H
#define CRSC_OPERATOR_KUBE_OBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yyjson.h>

/* By a path of keys: object_get(o, "status.phase"). Keys with dots cannot be reached this way. */
yyjson_val *object_get(yyjson_val *o, const char *path);
const char *object_text(yyjson_val *o, const char *path);     /* "" when it is not there, or no string */
uint64_t object_number(yyjson_val *o, const char *path);      /* 0 */
bool object_true(yyjson_val *o, const char *path);
const char *object_name(yyjson_val *o);
const char *object_space(yyjson_val *o);
const char *object_annotation(yyjson_val *o, const char *key); /* "" */
const char *object_label(yyjson_val *o, const char *key);      /* "" */
bool object_deleting(yyjson_val *o);
bool object_has_finalizer(yyjson_val *o, const char *finalizer);
yyjson_val *object_condition(yyjson_val *o, const char *type);  /* of status.conditions; NULL */
yyjson_val *object_named(yyjson_val *list, const char *name);   /* the element whose "name" it is; NULL */
bool object_selects(yyjson_val *selector, yyjson_val *labels);   /* every pair of the selector; an empty one selects nothing */

/* RFC 3339, as metav1.Time and MicroTime are; 0: not one. */
uint64_t object_time_ms(const char *text);
enum { OBJECT_TIME_MAX = 40 };
void object_time_text(uint64_t ms, char to[OBJECT_TIME_MAX]);

#endif
