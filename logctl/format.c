#include "logctl/format.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *format_time(uint64_t us, char out[static FORMAT_TIME_MAX])
{
    struct tm tm;
    char date[24], zone[8];
    time_t seconds = (time_t)(us / 1000000);
    if (us == 0 || localtime_r(&seconds, &tm) == NULL || strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm) == 0 ||
        strftime(zone, sizeof zone, "%z", &tm) != 5) {
        snprintf(out, FORMAT_TIME_MAX, "-");
        return out;
    }
    snprintf(out, FORMAT_TIME_MAX, "%s.%03u%.3s:%s", date, (unsigned)(us / 1000 % 1000), zone, zone + 3);
    return out;
}

const char *format_size(uint64_t bytes, char out[static FORMAT_SIZE_MAX])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, FORMAT_SIZE_MAX, "%" PRIu64 " B", bytes);
        return out;
    }
    double size = (double)bytes / 1024;
    unsigned unit = 0;
    while (size >= 1023.95 && unit < 5) size /= 1024, unit++;
    snprintf(out, FORMAT_SIZE_MAX, "%.1f %s", size, units[unit]);
    return out;
}

const char *format_duration(uint64_t ms, char out[static FORMAT_SIZE_MAX])
{
    uint64_t s = ms / 1000;
    if (ms < 1000)
        snprintf(out, FORMAT_SIZE_MAX, "%ums", (unsigned)ms);
    else if (s < 60)
        snprintf(out, FORMAT_SIZE_MAX, "%u.%us", (unsigned)s, (unsigned)(ms % 1000 / 100));
    else if (s < 3600)
        snprintf(out, FORMAT_SIZE_MAX, "%um%02us", (unsigned)(s / 60), (unsigned)(s % 60));
    else if (s < 86400)
        snprintf(out, FORMAT_SIZE_MAX, "%uh%02um", (unsigned)(s / 3600), (unsigned)(s % 3600 / 60));
    else
        snprintf(out, FORMAT_SIZE_MAX, "%ud%02uh", (unsigned)(s / 86400 % 1000000), (unsigned)(s % 86400 / 3600));
    return out;
}

/* Bytes of the well-formed UTF-8 character at p (Unicode 15, table 3-7); 0 for anything else. */
static size_t utf8(const uint8_t *p, size_t len)
{
    if (len == 0) return 0;
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf   ? 2
               : p[0] >= 0xe0 && p[0] <= 0xef ? 3
               : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                              : 0;
    if (n == 0 || n > len) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* C0, DEL, and C1 (U+0080 to U+009F, which some terminals obey as well). */
static bool is_control(const uint8_t *p, size_t n)
{
    return (n == 1 && (p[0] < 0x20 || p[0] == 0x7f)) || (n == 2 && p[0] == 0xc2 && p[1] < 0xa0);
}

bool format_is_text(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    for (size_t at = 0, n; at < len; at += n) {
        n = utf8(p + at, len - at);
        if (n == 0 || (is_control(p + at, n) && strchr("\t\r\n", p[at]) == NULL) || p[at] == '\0') return false;
    }
    return true;
}

void format_print_safe(FILE *to, const void *bytes, size_t len, bool lines)
{
    const uint8_t *p = bytes;
    for (size_t at = 0, n; at < len; at += n) {
        n = utf8(p + at, len - at);
        bool keep = n > 0 && !is_control(p + at, n);
        if (lines && n == 1 && (p[at] == '\n' || p[at] == '\t')) keep = true;
        if (lines && n == 1 && p[at] == '\r' && at + 1 < len && p[at + 1] == '\n') continue; /* HTTP's line end */
        if (n == 0) n = 1;
        if (keep)
            fwrite(p + at, 1, n, to);
        else
            for (size_t i = 0; i < n; i++) fprintf(to, "\\x%02x", p[at + i]);
    }
}

char *format_base64(const void *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = bytes;
    char *out = malloc((len + 2) / 3 * 4 + 1), *to = out;
    if (out == NULL) return NULL;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16;
        if (i + 1 < len) v |= (uint32_t)p[i + 1] << 8;
        if (i + 2 < len) v |= p[i + 2];
        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < len ? digits[v & 63] : '=';
    }
    *to = '\0';
    return out;
}

bool format_request(const void *payload, size_t len, struct format_request *ret_request)
{
    const char *p = payload, *end = len > 0 ? memchr(p, '\n', len) : NULL;
    if (end == NULL || end == p || end[-1] != '\r') return false;
    size_t line = (size_t)(end - 1 - p);
    const char *space = memchr(p, ' ', line);
    if (space == NULL || space == p) return false;
    struct format_request r = {.method = p, .method_len = (size_t)(space - p), .target = space + 1};
    for (size_t i = 0; i < r.method_len; i++)
        if (memchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", p[i], 77) == NULL)
            return false; /* not a token of RFC 9110 */
    const char *version = memchr(r.target, ' ', line - r.method_len - 1);
    if (version == NULL || version == r.target) return false;
    r.target_len = (size_t)(version - r.target);
    if (line - (size_t)(version + 1 - p) != 8 || memcmp(version + 1, "HTTP/1.", 7) != 0) return false;
    *ret_request = r;
    return true;
}

/* ---- tables --------------------------------------------------------------------------------------------------- */

struct table {
    const bool *right;
    unsigned columns;
    size_t rows;
    char **cells; /* safe to print; the headers are the first row */
};

static void *must(void *memory)
{
    if (memory != NULL) return memory;
    fputs("crsc-logctl: out of memory\n", stderr);
    exit(1);
}

struct table *table_new(const char *const *headers, const bool *right, unsigned columns)
{
    struct table *t = must(calloc(1, sizeof *t));
    t->right = right;
    t->columns = columns;
    table_add(t, headers);
    return t;
}

void table_add(struct table *t, const char *const *cells)
{
    t->cells = must(realloc(t->cells, (t->rows + 1) * t->columns * sizeof *t->cells));
    for (unsigned i = 0; i < t->columns; i++) {
        char *safe = NULL;
        size_t len = 0;
        FILE *to = must(open_memstream(&safe, &len));
        format_print_safe(to, cells[i], strlen(cells[i]), false);
        if (fclose(to) != 0) free(safe), safe = NULL;
        t->cells[t->rows * t->columns + i] = must(safe);
    }
    t->rows++;
}

/* Columns on the screen: characters, not bytes. */
static size_t width(const char *cell)
{
    size_t n = 0;
    for (; *cell != '\0'; cell++) n += ((unsigned char)*cell & 0xc0) != 0x80;
    return n;
}

static void print_cell(FILE *to, const char *cell, size_t widest, bool right, bool last)
{
    int pad = (int)(widest - width(cell));
    if (right) fprintf(to, "%*s", pad, "");
    fputs(cell, to);
    if (!right && !last) fprintf(to, "%*s", pad, "");
    fputs(last ? "\n" : "  ", to);
}

void table_print(struct table *t, FILE *to)
{
    size_t *widest = must(calloc(t->columns, sizeof *widest));
    for (size_t i = 0; i < t->rows * t->columns; i++) {
        size_t w = width(t->cells[i]);
        if (w > widest[i % t->columns]) widest[i % t->columns] = w;
    }
    for (size_t row = 0; row < t->rows; row++)
        for (unsigned i = 0; i < t->columns; i++)
            print_cell(to, t->cells[row * t->columns + i], widest[i], t->right[i], i + 1 == t->columns);
    free(widest);
}

struct table *table_free(struct table *t)
{
    if (t == NULL) return NULL;
    for (size_t i = 0; i < t->rows * t->columns; i++) free(t->cells[i]);
    free(t->cells);
    free(t);
    return NULL;
}
