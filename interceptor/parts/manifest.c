#include "interceptor/parts/manifest.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 160 };

void manifest_fini(struct manifest *m)
{
    free(m->runs);
    buf_fini(&m->trailers);
    *m = (struct manifest){.trailers = BUF_INIT};
}

static int add_run(struct manifest *m, uint64_t first, uint64_t last)
{
    if (m->n_runs == m->cap_runs) {
        size_t cap = m->cap_runs > 0 ? 2 * m->cap_runs : 8;
        struct manifest_run *runs = realloc(m->runs, cap * sizeof *runs);
        if (runs == NULL) return -ERROR_NOMEM;
        m->runs = runs;
        m->cap_runs = cap;
    }
    m->runs[m->n_runs++] = (struct manifest_run){first, last};
    return 0;
}

int manifest_add(struct manifest *m, uint64_t offset)
{
    struct manifest_run *last = m->n_runs > 0 ? &m->runs[m->n_runs - 1] : NULL;
    if (last == NULL || last->last + 1 != offset) return add_run(m, offset, offset);
    last->last = offset;
    return 0;
}

int manifest_write(const struct manifest *m, struct buf *out)
{
    char line[LINE_MAX_BYTES], print[2 * MANIFEST_PRINT + 1];
    for (int i = 0; i < MANIFEST_PRINT; i++) snprintf(print + 2 * i, 3, "%02x", m->print[i]);
    int n = snprintf(line, sizeof line, "upload %" PRIu64 "\nbytes %" PRIu64 "\nprint %s\n", m->upload, m->bytes, print);
    int rv = buf_add(out, line, (size_t)n);
    for (size_t i = 0; i < m->n_runs && rv == 0; i++) {
        n = snprintf(line, sizeof line, "parts %" PRIu64 "-%" PRIu64 "\n", m->runs[i].first, m->runs[i].last);
        rv = buf_add(out, line, (size_t)n);
    }
    n = snprintf(line, sizeof line, "trailers %zu\n", m->trailers.len);
    if (rv == 0) rv = buf_add(out, line, (size_t)n);
    return rv == 0 ? buf_add(out, m->trailers.data, m->trailers.len) : rv;
}

static bool parse_print(struct manifest *m, const char *hex)
{
    if (strlen(hex) != 2 * MANIFEST_PRINT || strspn(hex, "0123456789abcdef") != 2 * MANIFEST_PRINT) return false;
    for (int i = 0; i < MANIFEST_PRINT; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        m->print[i] = (uint8_t)byte;
    }
    return true;
}

/* Digits alone: no sign, no space, no overflow. */
static bool parse_number(const char **at, uint64_t *ret)
{
    uint64_t n = 0;
    const char *p = *at;
    if (!isdigit((unsigned char)*p)) return false;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n)) return false;
    *at = p;
    *ret = n;
    return true;
}

static int parse_line(struct manifest *m, const char *line, uint64_t *trailers)
{
    const char *value = strchr(line, ' ');
    uint64_t first, last;
    if (value++ == NULL) return -ERROR_CORRUPT;
    if (strncmp(line, "print ", 6) == 0) return parse_print(m, value) ? 0 : -ERROR_CORRUPT;
    if (!parse_number(&value, &first)) return -ERROR_CORRUPT;
    if (strncmp(line, "parts ", 6) == 0) {
        uint64_t before = m->n_runs > 0 ? m->runs[m->n_runs - 1].last : 0;
        bool good = *value++ == '-' && parse_number(&value, &last) && *value == '\0' && first > before && first <= last;
        return good ? add_run(m, first, last) : -ERROR_CORRUPT;
    }
    if (*value != '\0') return -ERROR_CORRUPT;
    if (strncmp(line, "upload ", 7) == 0)
        m->upload = first;
    else if (strncmp(line, "bytes ", 6) == 0)
        m->bytes = first;
    else if (strncmp(line, "trailers ", 9) == 0)
        *trailers = first;
    else
        return -ERROR_CORRUPT;
    return 0;
}

static int parse(struct manifest *m, const char *at, size_t len)
{
    char line[LINE_MAX_BYTES];
    uint64_t trailers = UINT64_MAX;
    while (trailers == UINT64_MAX) {
        const char *end = len > 0 ? memchr(at, '\n', len) : NULL;
        size_t n = end != NULL ? (size_t)(end - at) : len;
        if (end == NULL || n >= sizeof line || memchr(at, '\0', n) != NULL) return -ERROR_CORRUPT;
        memcpy(line, at, n);
        line[n] = '\0';
        int rv = parse_line(m, line, &trailers);
        if (rv != 0) return rv;
        at = end + 1;
        len -= n + 1;
    }
    if (len != trailers || m->n_runs == 0 || m->bytes == 0) return -ERROR_CORRUPT;
    return buf_add(&m->trailers, at, len);
}

int manifest_parse(struct manifest *m, const void *text, size_t len)
{
    int rv = parse(m, text, len);
    if (rv != 0) manifest_fini(m);
    return rv;
}
