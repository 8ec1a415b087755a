/* How values look to people, and what a payload is. Pure; thread: any. */
#ifndef CRSC_LOGCTL_FORMAT_H
#define CRSC_LOGCTL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { FORMAT_TIME_MAX = 40, FORMAT_SIZE_MAX = 16 };

/* "2026-01-02T03:04:05.678+01:00" in the local zone; "-" for 0. */
const char *format_time(uint64_t us, char out[static FORMAT_TIME_MAX]);
/* "17 B", "4.2 KiB", "1.0 GiB". */
const char *format_size(uint64_t bytes, char out[static FORMAT_SIZE_MAX]);
/* "350ms", "12.3s", "4m05s", "3h07m", "2d04h" */
const char *format_duration(uint64_t ms, char out[static FORMAT_SIZE_MAX]);

/* Valid UTF-8 without control characters other than tab, newline, carriage return. */
bool format_is_text(const void *bytes, size_t len);
/* Writes bytes so that a terminal cannot be harmed: control characters and bad UTF-8 as \xHH. `lines`: newlines stay.
 */
void format_print_safe(FILE *to, const void *bytes, size_t len, bool lines);
/* Base64 (RFC 4648) with its zero; malloc'd, the caller's; NULL without memory. */
char *format_base64(const void *bytes, size_t len);

/* The request line of an HTTP/1.1 message "METHOD SP TARGET SP HTTP/1.1 CRLF ...": the interceptor's stored request. */
struct format_request {
    const char *method, *target; /* into the payload */
    size_t method_len, target_len;
};
bool format_request(const void *payload, size_t len, struct format_request *ret_request);

/* A table whose columns are as wide as their widest cell; numbers are set to the right. */
struct table;
struct table *table_new(const char *const *headers, const bool *right,
                        unsigned columns);                 /* borrowed; exits without memory */
void table_add(struct table *t, const char *const *cells); /* copied */
void table_print(struct table *t, FILE *to);
struct table *table_free(struct table *t);

#endif
