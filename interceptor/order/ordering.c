#include "interceptor/order/ordering.h"

#include <string.h>
#include <strings.h>

/* ---- the setting ---------------------------------------------------------------------------------------------- */

static int check_pattern(const char *pattern, struct error *e)
{
    bool keyed = false;
    for (const char *p = pattern; *p == '/';) {
        size_t len = strcspn(++p, "/");
        keyed = keyed || (len > 2 && p[0] == '{' && p[len - 1] == '}');
        p += len;
    }
    if (keyed && strpbrk(pattern, "?# ") == NULL) return 0;
    return error_set(e, ERROR_INVALID, "ordering: a path pattern is like /accounts/{id}, with at least one {...}, not \"%.100s\"",
                     pattern);
}

static int check_header(const char *name, struct error *e)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~");
    if (len > 0 && name[len] == '\0') return 0;
    return error_set(e, ERROR_INVALID, "ordering: \"%.100s\" is neither a header's name nor a path pattern", name);
}

int ordering_parse(const char *text, struct ordering *ret, struct error *e)
{
    struct ordering o = {.mode = ORDER_SERIAL};
    int rv = 0;
    if (strncmp(text, "keyed:", 6) == 0) {
        const char *by = text + 6;
        if (strlen(by) > ORDERING_TEXT_MAX) return error_set(e, ERROR_INVALID, "ordering: at most %d bytes", ORDERING_TEXT_MAX);
        o.mode = ORDER_KEYED;
        strncpy(by[0] == '/' ? o.pattern : o.header, by, ORDERING_TEXT_MAX);
        rv = by[0] == '/' ? check_pattern(by, e) : check_header(by, e);
    } else if (strcmp(text, "concurrent") == 0) {
        o.mode = ORDER_CONCURRENT;
    } else if (strcmp(text, "serial") != 0) {
        rv = error_set(e, ERROR_INVALID, "ordering: serial, concurrent or keyed:<header or path pattern> is wanted, not \"%.100s\"", text);
    }
    if (rv == 0) *ret = o;
    return rv;
}

/* ---- the key -------------------------------------------------------------------------------------------------- */

/* FNV-1a, with something between parts so that "ab","c" is not "a","bc". */
static uint64_t hash(uint64_t h, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    return (h ^ 0xff) * UINT64_C(0x100000001b3);
}

static uint64_t finish(uint64_t h)
{
    h ^= h >> 32; /* the core looks at the low bits */
    return h != 0 ? h : 1;
}

enum { START = 0x2325 };

/* One part of a path, up to the next slash; how much of the path it took. */
static size_t segment(const char *path, const char *end)
{
    size_t len = 0;
    while (path + len < end && path[len] != '/' && path[len] != '?') len++;
    return len;
}

static uint64_t path_key(const char *pattern, const char *path, const char *end)
{
    uint64_t h = START;
    while (*pattern == '/') {
        size_t want = strcspn(++pattern, "/");
        if (path >= end || *path != '/') return 0;
        size_t have = segment(++path, end);
        bool key = want > 2 && pattern[0] == '{' && pattern[want - 1] == '}';
        bool any = key || (want == 1 && pattern[0] == '*');
        if (key && have == 0) return 0;
        if (!any && (want != have || memcmp(pattern, path, want) != 0)) return 0;
        if (key) h = hash(h, path, have);
        pattern += want;
        path += have;
    }
    return finish(h);
}

/* All values of the field, in their order: two lines with one name are one value to an app. */
static uint64_t header_key(const char *name, const char *line, const char *end)
{
    size_t n = strlen(name);
    uint64_t h = START;
    bool found = false;
    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (stop == NULL || stop - line <= 1) break; /* the empty line */
        if ((size_t)(stop - line) > n && line[n] == ':' && strncasecmp(line, name, n) == 0) {
            const char *value = line + n + 1, *last = stop;
            while (value < last && (*value == ' ' || *value == '\t')) value++;
            while (last > value && (last[-1] == '\r' || last[-1] == ' ' || last[-1] == '\t')) last--;
            h = hash(h, value, (size_t)(last - value));
            found = true;
        }
        line = stop + 1;
    }
    return found ? finish(h) : 0;
}

uint64_t ordering_key(const struct ordering *o, const void *message, size_t len)
{
    const char *text = message, *end = text + len;
    const char *line_end = memchr(text, '\n', len), *target = memchr(text, ' ', len);
    if (o->mode != ORDER_KEYED || line_end == NULL || target == NULL || target > line_end) return 0;
    if (o->header[0] != '\0') return header_key(o->header, line_end + 1, end);
    target++;
    const char *stop = memchr(target, ' ', (size_t)(line_end - target));
    return path_key(o->pattern, target, stop != NULL ? stop : line_end);
}
