#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[ERROR_CODE_MAX] = {
    [ERROR_NONE] = "ok",
    [ERROR_NOMEM] = "out-of-memory",
    [ERROR_IO] = "io",
    [ERROR_CORRUPT] = "corrupt",
    [ERROR_INVALID] = "invalid",
    [ERROR_NOT_FOUND] = "not-found",
    [ERROR_EXISTS] = "exists",
    [ERROR_NOT_LEADER] = "not-leader",
    [ERROR_UNAVAILABLE] = "unavailable",
    [ERROR_FENCED] = "fenced",
    [ERROR_SEQUENCE] = "sequence",
    [ERROR_CONFLICT] = "conflict",
    [ERROR_TOO_LARGE] = "too-large",
    [ERROR_BUSY] = "busy",
    [ERROR_CANCELED] = "canceled",
    [ERROR_PROTOCOL] = "protocol",
    [ERROR_TIMEOUT] = "timeout",
    [ERROR_NOSPACE] = "no-space",
    [ERROR_INTERNAL] = "internal",
    [ERROR_DENIED] = "denied",
    [ERROR_REMOVED] = "removed",
};

const char *error_name(int code)
{
    if (code < 0) code = -code;
    return code < ERROR_CODE_MAX ? names[code] : "unknown";
}

static void fill(struct error *e, enum error_code code, const char *format, va_list args)
{
    e->code = code;
    vsnprintf(e->text, sizeof e->text, format, args);
}

static void add(struct error *e, const char *reason)
{
    size_t used = strlen(e->text);
    snprintf(e->text + used, sizeof e->text - used, ": %s", reason);
}

int error_set(struct error *e, enum error_code code, const char *format, ...)
{
    if (e != NULL) {
        va_list args;
        va_start(args, format);
        fill(e, code, format, args);
        va_end(args);
    }
    return -(int)code;
}

int error_errno(struct error *e, enum error_code code, int errno_value, const char *format, ...)
{
    if (e != NULL) {
        va_list args;
        va_start(args, format);
        fill(e, code, format, args);
        va_end(args);
        char reason[128];
        add(e, strerror_r(errno_value, reason, sizeof reason));
    }
    return -(int)code;
}

int error_prefix(struct error *e, const char *format, ...)
{
    char old[ERROR_TEXT_MAX];
    va_list args;
    memcpy(old, e->text, sizeof old);
    va_start(args, format);
    fill(e, e->code, format, args);
    va_end(args);
    add(e, old);
    return -(int)e->code;
}
