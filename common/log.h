/* Structured log: one JSON object per line on stderr, for machines first and people second.
 *
 *   {"ts":"2026-01-02T03:04:05.678901Z","level":"info","component":"logd","msg":"leader elected","term":4,"node":"1"}
 *
 * Only shells log; cores and libraries return errors instead. Lines are bounded (LOG_LINE_MAX; longer values are cut)
 * and escaped, so that nothing a peer sends can forge one. Thread: any (a line is one write). */
#ifndef CRSC_COMMON_LOG_H
#define CRSC_COMMON_LOG_H

#include <inttypes.h>
#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum { LOG_LINE_MAX = 2048 };

/* Component name (borrowed, static) and the lowest level that is written. Call once from main(). */
void log_init(const char *component, enum log_level level);
bool log_enabled(enum log_level level);
int log_level_parse(const char *text, enum log_level *ret_level); /* debug, info, warn, error; 0 or -ERROR_INVALID */

/* log_write(LOG_INFO, "leader elected", "term=%" PRIu64 " address=%s", term, address):
 * `fields` is "name=FORMAT name=FORMAT ..." separated by single spaces in the *format* string; each value is formatted, and written
 * as a JSON number when its conversion is numeric (d i u x f g), else as a JSON string. NULL for none. */
void log_write(enum log_level level, const char *message, const char *fields, ...) __attribute__((format(printf, 3, 4)));

#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif
