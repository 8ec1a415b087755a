/* A JSON text in the making: the body of a request. What it is given is copied. Thread: any. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_BODY_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_BODY_H

#include <stdint.h>
#include <yyjson.h>

struct body {
    yyjson_mut_doc *doc;
    yyjson_mut_val *root; /* an object */
};

struct body body_new(void);
yyjson_mut_val *body_map(struct body *j, yyjson_mut_val *of, const char *name);
yyjson_mut_val *body_array(struct body *j, yyjson_mut_val *of, const char *name);
void body_text(struct body *j, yyjson_mut_val *of, const char *name, const char *value);
void body_number(struct body *j, yyjson_mut_val *of, const char *name, uint64_t value);
void body_time(struct body *j, yyjson_mut_val *of, const char *name, uint64_t ms); /* nothing for 0 */
char *body_end(struct body *j); /* the text, freed by the caller, and the end of `j`; NULL without memory */

#endif
