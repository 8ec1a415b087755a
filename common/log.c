#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"

static const char *component = "crsc";
static enum log_level lowest = LOG_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error"};

enum { VALUE_MAX = 512, FORMAT_MAX = 512 };

void log_init(const char *name, enum log_level level)
{
    component = name;
    lowest = level;
}

bool log_enabled(enum log_level level)
{
    return level >= lowest;
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
    for (unsigned i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcmp(text, level_names[i]) != 0) continue;
        *ret_level = (enum log_level)i;
        return 0;
    }
    return -ERROR_INVALID;
}

struct line {
    char text[LOG_LINE_MAX];
    size_t len;
};

/* Adds bytes, leaving room for what must close the line; the rest is cut. */
static void add(struct line *l, const char *bytes, size_t len)
{
    size_t room = sizeof l->text - 4 - l->len;
    if (len > room) len = room;
    memcpy(l->text + l->len, bytes, len);
    l->len += len;
}

static void add_text(struct line *l, const char *text)
{
    add(l, text, strlen(text));
}

static void add_string(struct line *l, const char *text)
{
    add(l, "\"", 1);
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        char escaped[8];
        if (l->len + 16 > sizeof l->text) break; /* never end inside an escape */
        if (c == '"' || c == '\\') {
            add(l, (char[]){'\\', (char)c}, 2);
        } else if (c < 0x20 || c == 0x7f) {
            add(l, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", c));
        } else {
            add(l, p, 1);
        }
    }
    add(l, "\"", 1);
}

static void add_field(struct line *l, char *field, char *value)
{
    char *equals = strchr(field, '=');
    if (equals == NULL) return;
    char conversion = equals[1] == '\0' ? 's' : equals[strlen(equals) - 1];
    *equals = '\0';
    add(l, ",", 1);
    add_string(l, field);
    add(l, ":", 1);
    if (equals[1] == '%' && strchr("diuxfg", conversion) != NULL && conversion != 'x') add_text(l, value);
    else add_string(l, value);
}

/* Formats all values in one go, separated by a byte that no value keeps, then pairs them with the format's names: a
 * va_list can only be walked by vsnprintf. */
static void add_fields(struct line *l, const char *fields, va_list args)
{
    char names[FORMAT_MAX], format[FORMAT_MAX], values[LOG_LINE_MAX];
    size_t n = 0;
    snprintf(names, sizeof names, "%s", fields);
    for (const char *p = strchr(fields, '='); p != NULL; p = strchr(p, '=')) {
        size_t len = strcspn(p + 1, " ");
        if (n + len + 2 > sizeof format) break;
        memcpy(format + n, p + 1, len);
        n += len;
        format[n++] = '\x1e';
        p += 1 + len;
    }
    format[n] = '\0';
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vsnprintf(values, sizeof values, format, args);
    #pragma GCC diagnostic pop
    char *save = NULL, *value = values;
    for (char *field = strtok_r(names, " ", &save); field != NULL; field = strtok_r(NULL, " ", &save)) {
        char *end = strchr(value, '\x1e');
        if (end != NULL) *end = '\0';
        if (strlen(value) > VALUE_MAX) value[VALUE_MAX] = '\0';
        add_field(l, field, value);
        if (end == NULL) break;
        value = end + 1;
    }
}

void log_write(enum log_level level, const char *message, const char *fields, ...)
{
    if (level < lowest) return;
    struct line l = {.len = 0};
    struct timespec now;
    struct tm tm;
    char stamp[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t at = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(stamp + at, sizeof stamp - at, ".%06ldZ", now.tv_nsec / 1000);
    add_text(&l, "{\"ts\":\"");
    add_text(&l, stamp);
    add_text(&l, "\",\"level\":\"");
    add_text(&l, level_names[level]);
    add_text(&l, "\",\"component\":");
    add_string(&l, component);
    add_text(&l, ",\"msg\":");
    add_string(&l, message);
    if (fields != NULL) {
        va_list args;
        va_start(args, fields);
        add_fields(&l, fields, args);
        va_end(args);
    }
    l.text[l.len++] = '}';
    l.text[l.len++] = '\n';
    if (write(STDERR_FILENO, l.text, l.len) < 0) return; /* nowhere left to say it */
}
