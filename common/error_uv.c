/* Apart from error.c, so that a program without libuv (crsc-runtime) can have the rest. */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

int error_uv(struct error *e, enum error_code code, int status, const char *format, ...)
{
    char reason[128];
    if (e == NULL) return -(int)code;
    e->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    size_t used = strlen(e->text);
    snprintf(e->text + used, sizeof e->text - used, ": %s", uv_strerror_r(status, reason, sizeof reason));
    return -(int)code;
}
