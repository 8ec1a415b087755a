/* HTTP messages written: end-to-end fields only, a length of our own. */
#include "common/http.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Is `name` one of the comma-separated tokens of `list`? */
static bool has_token(const char *list, const char *name)
{
    size_t len = strlen(name);
    while (list != NULL && *list != '\0') {
        list += strspn(list, " \t,");
        size_t token = strcspn(list, " \t,");
        if (token == len && strncasecmp(list, name, len) == 0) return true;
        list += token;
    }
    return false;
}

/* Fields that concern one connection only, or that we write ourselves. `Trailer` goes where the trailers go. */
static bool is_hop(const struct http_message *m, const char *name, bool chunked)
{
    static const char *const hops[] = {"Connection", "Keep-Alive",         "Proxy-Connection",    "Transfer-Encoding", "TE",
                                       "Upgrade",    "Proxy-Authenticate", "Proxy-Authorization", "Content-Length",    "Expect"};
    if (http_same_name(name, "Trailer")) return !chunked;
    if (http_same_name(name, "Host")) return false; /* whatever `Connection` says of it */
    for (size_t i = 0; i < sizeof hops / sizeof *hops; i++)
        if (http_same_name(name, hops[i])) return true;
    for (unsigned i = 0; i < m->n_fields; i++)
        if (http_same_name(m->fields[i].name, "Connection") && has_token(m->fields[i].value, name)) return true;
    return false;
}

/* `_` is as good as `-`: whoever makes variables of fields (CGI, WSGI, PHP) does not tell them apart. */
static bool is_like(const char *ours, const char *name)
{
    if (((*ours ^ *name) & ~0x20) != 0) return false; /* as http_same_name(): most are told apart here */
    for (; *ours != '\0' && *name != '\0'; ours++, name++)
        if (*ours == '-' ? *name != '-' && *name != '_' : strncasecmp(ours, name, 1) != 0) return false;
    return *ours == *name;
}

static bool is_among(const char *const *names, const char *name)
{
    for (; names != NULL && *names != NULL; names++)
        if (is_like(*names, name)) return true;
    return false;
}

static int add_string(struct buf *out, const char *text)
{
    return buf_add(out, text, strlen(text));
}

static void put(struct buf *out, const void *bytes, size_t len)
{
    memcpy(out->data + out->len, bytes, len); /* reserved */
    out->len += len;
}

static int add_line(struct buf *out, const char *name, const char *value)
{
    size_t name_len = strlen(name), value_len = strlen(value);
    int rv = buf_reserve(out, name_len + value_len + 4);
    if (rv != 0) return rv;
    put(out, name, name_len);
    put(out, ": ", 2);
    put(out, value, value_len);
    put(out, "\r\n", 2);
    return 0;
}

enum { NUMBER_MAX = 24 };

/* In decimal, zero-terminated, at the end of `text`: printf costs more than all the rest of a header. */
static const char *number(uint64_t n, char text[static NUMBER_MAX])
{
    char *at = text + NUMBER_MAX - 1;
    *at = '\0';
    do *--at = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    return at;
}

static int add_fields(struct buf *out, const struct http_message *m, const char *const *without, bool chunked)
{
    int rv = 0;
    for (unsigned i = 0; i < m->n_fields && rv == 0; i++)
        if (!is_hop(m, m->fields[i].name, chunked) && !is_among(without, m->fields[i].name))
            rv = add_line(out, m->fields[i].name, m->fields[i].value);
    return rv;
}

int http_write_trailers(struct buf *out, const struct http_message *m)
{
    int rv = 0;
    for (unsigned i = 0; i < m->n_trailers && rv == 0; i++) rv = add_line(out, m->trailers[i].name, m->trailers[i].value);
    return rv;
}

static int add_length(struct buf *out, size_t len)
{
    char text[NUMBER_MAX];
    return add_line(out, "Content-Length", number(len, text));
}

/* One chunk with all of it, and the trailers. */
static int add_chunked(struct buf *out, const struct http_message *m)
{
    struct buf trailers = BUF_INIT;
    int rv = m->body_len > 0 ? http_write_chunk(out, m->body, m->body_len) : 0;
    if (rv == 0) rv = http_write_trailers(&trailers, m);
    if (rv == 0) rv = http_write_end(out, trailers.data, trailers.len);
    buf_fini(&trailers);
    return rv;
}

int http_write_request_head(struct buf *out, const struct http_message *m, const char *extra, const char *const *without)
{
    bool chunked = m->n_trailers > 0;
    int rv = add_string(out, m->method);
    if (rv == 0) rv = add_string(out, " ");
    if (rv == 0) rv = add_string(out, m->target);
    if (rv == 0) rv = add_string(out, " HTTP/1.1\r\n");
    if (rv == 0) rv = add_string(out, extra);
    if (rv == 0) rv = add_fields(out, m, without, chunked);
    if (rv == 0 && has_token(http_field(m, "TE"), "trailers")) rv = add_string(out, "TE: trailers\r\nConnection: TE\r\n");
    /* A GET without a body says nothing of its length (RFC 9110, 8.6); the others always do. */
    if (rv == 0 && chunked)
        rv = add_line(out, "Transfer-Encoding", "chunked");
    else if (rv == 0 && (m->body_len > 0 || !http_is_safe(m->method)))
        rv = add_length(out, m->body_len);
    return rv == 0 ? add_string(out, "\r\n") : rv;
}

int http_write_request(struct buf *out, const struct http_message *m, const char *extra, const char *const *without)
{
    int rv = http_write_request_head(out, m, extra, without);
    if (rv != 0) return rv;
    return m->n_trailers > 0 ? add_chunked(out, m) : buf_add(out, m->body, m->body_len);
}

/* Status line and fields, without what says where the body ends. */
static int add_answer(struct buf *out, const struct http_message *m, const struct http_reader *reader, bool chunked)
{
    char text[NUMBER_MAX];
    int rv = add_string(out, "HTTP/1.1 ");
    if (rv == 0) rv = add_string(out, number((uint64_t)m->status, text));
    if (rv == 0) rv = add_string(out, " ");
    if (rv == 0) rv = add_string(out, m->reason == NULL || *m->reason == '\0' ? http_reason(m->status) : m->reason);
    if (rv == 0) rv = add_string(out, "\r\n");
    if (rv == 0) rv = add_string(out, reader->extra);
    return rv == 0 ? add_fields(out, m, NULL, chunked) : rv;
}

int http_write_answer(struct buf *out, const struct http_message *m, const struct http_reader *reader)
{
    bool bodiless = m->status == 204 || m->status == 304 || m->status / 100 == 1;
    bool chunked = m->n_trailers > 0 && reader->minor > 0 && !reader->head && !bodiless;
    int rv = add_answer(out, m, reader, chunked);
    const char *length = http_field(m, "Content-Length");
    if (rv == 0 && chunked)
        rv = add_line(out, "Transfer-Encoding", "chunked");
    else if (rv == 0 && (reader->head || m->status == 304) && length != NULL)
        rv = add_line(out, "Content-Length", length);
    else if (rv == 0 && !reader->head && !bodiless)
        rv = add_length(out, m->body_len);
    if (rv == 0) rv = add_line(out, "Connection", reader->keep_alive ? "keep-alive" : "close");
    if (rv == 0) rv = add_string(out, "\r\n");
    if (rv == 0 && chunked) return add_chunked(out, m);
    return rv == 0 && !reader->head && !bodiless ? buf_add(out, m->body, m->body_len) : rv;
}

int http_write_answer_head(struct buf *out, const struct http_message *m, const struct http_reader *reader, bool *ret_chunked)
{
    bool chunked = m->length < 0 && reader->minor > 0;
    int rv = add_answer(out, m, reader, chunked);
    if (rv == 0 && m->length >= 0) rv = add_length(out, (size_t)m->length);
    if (rv == 0 && chunked) rv = add_line(out, "Transfer-Encoding", "chunked");
    if (rv == 0) rv = add_line(out, "Connection", reader->keep_alive ? "keep-alive" : "close");
    if (rv != 0) return rv;
    *ret_chunked = chunked;
    return add_string(out, "\r\n");
}

int http_write_upgraded(struct buf *out, const struct http_message *m)
{
    static const struct http_reader reader = {.minor = 1, .extra = "Connection: Upgrade\r\n"};
    const char *to = http_field(m, "Upgrade");
    int rv = add_answer(out, m, &reader, false);
    if (rv == 0 && to != NULL) rv = add_line(out, "Upgrade", to);
    return rv == 0 ? add_string(out, "\r\n") : rv;
}

int http_write_chunk(struct buf *out, const void *data, size_t len)
{
    char line[24];
    snprintf(line, sizeof line, "%zx\r\n", len);
    int rv = add_string(out, line);
    if (rv == 0) rv = buf_add(out, data, len);
    return rv == 0 ? add_string(out, "\r\n") : rv;
}

int http_write_end(struct buf *out, const void *trailers, size_t len)
{
    int rv = add_string(out, "0\r\n");
    if (rv == 0) rv = buf_add(out, trailers, len);
    return rv == 0 ? add_string(out, "\r\n") : rv;
}

int http_write_plain(struct buf *out, int status, const char *type, const void *body, size_t len, const char *extra,
                     bool keep_alive)
{
    char line[160];
    snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\n", status, http_reason(status), type);
    int rv = add_string(out, line);
    if (rv == 0) rv = add_string(out, extra);
    if (rv == 0) rv = add_length(out, len);
    if (rv == 0) rv = add_line(out, "Connection", keep_alive ? "keep-alive" : "close");
    if (rv == 0) rv = add_string(out, "\r\n");
    return rv == 0 ? buf_add(out, body, len) : rv;
}

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } known[] = {
        {100, "Continue"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].reason;
    return "Unknown";
}
