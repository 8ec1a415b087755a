#include "interceptor/proxy/forwarded.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

bool forwarded_parse(const char *text, enum forwarded_kind *ret)
{
    static const char *const names[] = {"off", "x-forwarded", "forwarded", "both"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *ret = (enum forwarded_kind)i;
        return true;
    }
    return false;
}

static int put(struct buf *out, const char *text)
{
    return buf_add(out, text, strlen(text));
}

/* A quotation that does not end would take in what comes behind it: ours. */
static bool is_open(const char *value)
{
    bool quoted = false;
    for (; *value != '\0'; value++) {
        if (*value == '\\' && quoted && value[1] != '\0')
            value++;
        else if (*value == '"')
            quoted = !quoted;
    }
    return quoted;
}

/* The name and all values that came with it, each followed by a comma: ours comes behind. */
static int begin(struct buf *out, const char *name, const struct http_message *m)
{
    int rv = put(out, name);
    if (rv == 0) rv = put(out, ": ");
    for (unsigned i = 0; i < m->n_fields && rv == 0; i++) {
        if (!http_same_name(m->fields[i].name, name) || m->fields[i].value[0] == '\0' || is_open(m->fields[i].value)) continue;
        rv = put(out, m->fields[i].value);
        if (rv == 0) rv = put(out, ", ");
    }
    return rv;
}

/* A quoted string. */
static int quote(struct buf *out, const char *text)
{
    int rv = put(out, "\"");
    for (; *text != '\0' && rv == 0; text++) {
        if (*text == '"' || *text == '\\') rv = put(out, "\\");
        if (rv == 0) rv = buf_add(out, text, 1);
    }
    return rv == 0 ? put(out, "\"") : rv;
}

static int write_x(struct buf *out, const struct http_message *m, const char *peer, const char *proto, const char *host)
{
    int rv = begin(out, "X-Forwarded-For", m);
    if (rv == 0) rv = put(out, peer);
    if (rv == 0) rv = put(out, "\r\n");
    if (rv == 0 && http_field(m, "X-Forwarded-Proto") == NULL) {
        rv = put(out, "X-Forwarded-Proto: ");
        if (rv == 0) rv = put(out, proto);
        if (rv == 0) rv = put(out, "\r\n");
    }
    if (rv == 0 && host != NULL && http_field(m, "X-Forwarded-Host") == NULL) {
        rv = put(out, "X-Forwarded-Host: ");
        if (rv == 0) rv = put(out, host);
        if (rv == 0) rv = put(out, "\r\n");
    }
    return rv;
}

static int write_standard(struct buf *out, const struct http_message *m, const char *peer, const char *proto, const char *host)
{
    bool six = strchr(peer, ':') != NULL;
    int rv = begin(out, "Forwarded", m);
    if (rv == 0) rv = put(out, six ? "for=\"[" : "for=");
    if (rv == 0) rv = put(out, peer);
    if (rv == 0) rv = put(out, six ? "]\";proto=" : ";proto=");
    if (rv == 0) rv = put(out, proto);
    if (rv == 0 && host != NULL) {
        rv = put(out, ";host=");
        if (rv == 0) rv = quote(out, host);
    }
    return rv == 0 ? put(out, "\r\n") : rv;
}

int forwarded_write(struct buf *out, enum forwarded_kind kind, const struct http_message *m, const char *peer, bool secure,
                    const char *ret_without[static FORWARDED_NAMES])
{
    const char *host = http_field(m, "Host"), *proto = secure ? "https" : "http";
    unsigned n = 0;
    int rv = 0;
    if ((kind & FORWARDED_X) != 0) {
        rv = write_x(out, m, peer, proto, host);
        ret_without[n++] = "X-Forwarded-For";
    }
    if (rv == 0 && (kind & FORWARDED_STANDARD) != 0) {
        rv = write_standard(out, m, peer, proto, host);
        ret_without[n++] = "Forwarded";
    }
    ret_without[n] = NULL;
    return rv;
}
