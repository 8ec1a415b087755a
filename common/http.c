#include "common/http.h"

#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct http_parser {
    llhttp_t parser;
    llhttp_settings_t settings;
    struct http_limits limits;
    struct buf text; /* method, target, reason, fields: zero-terminated one behind the other */
    struct buf body;
    struct {
        size_t name, value;
    } * places; /* offsets into text */
    struct http_field *fields;
    unsigned n_fields; /* with the trailers, which follow the headers */
    unsigned n_headers;
    size_t target_at;
    struct http_message message;
    uint64_t body_bytes; /* so far */
    uint64_t wire_bytes; /* that they, and what frames them, came in; those that came with the head's last do not count */
    http_part_cb *on_part;
    void *part_user;
    int refusal;
    bool request, expect_head, started, complete, wants_continue;
    bool head_done, reason_given;
};

enum { FRAMING_SPARE = 16 << 10, FRAMING_TIMES = 16 }; /* a chunk of one byte takes six */

enum { NO_BODY = 1 }; /* llhttp: on_headers_complete says that no body follows */

static int refuse(struct http_parser *p, int status)
{
    p->refusal = status;
    return HPE_USER;
}

static int add_text(struct http_parser *p, const char *at, size_t len)
{
    if (p->text.len + len > p->limits.head_bytes) return refuse(p, 431);
    return buf_add(&p->text, at, len) == 0 ? 0 : refuse(p, 413);
}

static int end_text(struct http_parser *p)
{
    return buf_add(&p->text, "", 1) == 0 ? 0 : refuse(p, 413);
}

static struct http_parser *of(llhttp_t *parser)
{
    return parser->data;
}

static int on_begin(llhttp_t *parser)
{
    struct http_parser *p = of(parser);
    p->text.len = p->body.len = 0;
    p->n_fields = 0;
    p->started = true;
    p->complete = p->wants_continue = p->head_done = p->reason_given = false;
    p->target_at = 0;
    p->body_bytes = p->wire_bytes = 0;
    p->n_headers = 0;
    p->places[0].name = SIZE_MAX;
    memset(&p->message, 0, sizeof p->message);
    return 0;
}

static int on_text(llhttp_t *parser, const char *at, size_t len)
{
    return add_text(of(parser), at, len);
}

static int on_text_end(llhttp_t *parser)
{
    return end_text(of(parser));
}

static int on_method_end(llhttp_t *parser)
{
    struct http_parser *p = of(parser);
    int rv = end_text(p);
    p->target_at = p->text.len;
    return rv;
}

static int on_reason_end(llhttp_t *parser)
{
    of(parser)->reason_given = true;
    return end_text(of(parser));
}

static int on_name(llhttp_t *parser, const char *at, size_t len)
{
    struct http_parser *p = of(parser);
    bool begins = p->text.len == 0 || p->places[p->n_fields].name == SIZE_MAX;
    if (begins) {
        if (p->n_fields == p->limits.headers) return refuse(p, 431);
        p->places[p->n_fields].name = p->text.len;
    }
    return add_text(p, at, len);
}

static int on_name_end(llhttp_t *parser)
{
    struct http_parser *p = of(parser);
    int rv = end_text(p);
    p->places[p->n_fields].value = p->text.len;
    return rv;
}

/* A value is kept as a zero-terminated string, so it must not hold what would end it, or end its line, elsewhere. */
static int on_value(llhttp_t *parser, const char *at, size_t len)
{
    struct http_parser *p = of(parser);
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)at[i] < ' ' && at[i] != '\t') || at[i] == 0x7f) return refuse(p, 400);
    return add_text(p, at, len);
}

static int on_value_end(llhttp_t *parser)
{
    struct http_parser *p = of(parser);
    while (p->text.len > p->places[p->n_fields].value && strchr(" \t", p->text.data[p->text.len - 1]) != NULL)
        p->text.len--;
    p->n_fields++;
    p->places[p->n_fields].name = SIZE_MAX;
    return end_text(p);
}

/* In a trailer these would come too late to be believed, or concern one connection only (RFC 9110, 6.5.1). */
static bool is_trailer(const char *name)
{
    static const char *const no[] = {
        "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Content-Length", "Content-Type",
        "Content-Encoding", "Content-Range", "Host", "Expect", "Max-Forwards", "Cache-Control", "Authorization", "Proxy-Authorization",
        "Proxy-Authenticate", "WWW-Authenticate", "Cookie", "Set-Cookie", "Age", "Expires", "Date", "Location", "Retry-After", "Vary",
        "Idempotency-Key", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Crsc-Replay"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (http_same_name(name, no[i])) return false;
    return true;
}

static void point_trailers(struct http_parser *p)
{
    struct http_message *m = &p->message;
    unsigned kept = p->n_headers;
    for (unsigned i = p->n_headers; i < p->n_fields; i++)
        if (is_trailer(p->fields[i].name)) p->fields[kept++] = p->fields[i];
    m->n_fields = p->n_headers;
    m->trailers = p->fields + p->n_headers;
    m->n_trailers = kept - p->n_headers;
}

/* Pointers are made only now, because `text` moves while it grows. */
static void point(struct http_parser *p)
{
    const char *text = (const char *)p->text.data;
    struct http_message *m = &p->message;
    for (unsigned i = 0; i < p->n_fields; i++)
        p->fields[i] = (struct http_field){text + p->places[i].name, text + p->places[i].value};
    m->fields = p->fields;
    m->n_fields = p->n_fields;
    m->method = p->request ? text : NULL;
    m->target = p->request ? text + p->target_at : NULL;
    m->reason = p->request || !p->reason_given ? NULL : text;
    m->status = p->request ? 0 : llhttp_get_status_code(&p->parser);
    m->minor = llhttp_get_http_minor(&p->parser);
}

static unsigned count_fields(const struct http_message *m, const char *name)
{
    unsigned n = 0;
    for (unsigned i = 0; i < m->n_fields; i++) n += http_same_name(m->fields[i].name, name);
    return n;
}

/* RFC 3986, 3.2.2, and a port. (Not strspn(): that makes a table of its set each time, for every request.) */
static bool is_host_text(const char *host)
{
    for (; *host != '\0'; host++) {
        bool letter = (unsigned char)((*host | 0x20) - 'a') < 26, digit = (unsigned char)(*host - '0') < 10;
        if (!letter && !digit && strchr("-._~%!$&'()*+,;=:[]", *host) == NULL) return false;
    }
    return true;
}

/* RFC 9112, 3.2: of a host's characters only, and where the target names one too, the same. */
static bool is_host_wrong(const struct http_message *m, const char *host)
{
    if (!is_host_text(host)) return true;
    if (m->target[0] == '/') return false;
    const char *at = strstr(m->target, "://");
    if (at == NULL) return false;
    size_t len = strcspn(at + 3, "/?#");
    return strlen(host) != len || strncasecmp(host, at + 3, len) != 0;
}

/* What llhttp lets pass, and two readers might take for two things. */
static bool is_ambiguous(const struct http_message *m)
{
    const char *coding = http_field(m, "Transfer-Encoding");
    unsigned codings = count_fields(m, "Transfer-Encoding"), hosts = count_fields(m, "Host");
    if (codings > 1 || (coding != NULL && (strcasecmp(coding, "chunked") != 0 || m->minor == 0))) return true;
    if (count_fields(m, "Content-Length") > 1) return true;
    if (hosts == 1 && is_host_wrong(m, http_field(m, "Host"))) return true;
    return hosts > 1 || (hosts == 0 && m->minor > 0);
}

/* Several protocols may be offered; h2c alone is not worth a refusal. */
static bool asks_h2c_only(const struct http_message *m)
{
    for (unsigned i = 0; i < m->n_fields; i++)
        if (http_same_name(m->fields[i].name, "Upgrade") && strcasecmp(m->fields[i].value, "h2c") != 0) return false;
    return true;
}

static int check_request(struct http_parser *p)
{
    const char *expect = http_field(&p->message, "Expect");
    if (is_ambiguous(&p->message)) return refuse(p, 400);
    if (p->parser.upgrade && p->parser.method != HTTP_CONNECT && asks_h2c_only(&p->message)) p->parser.upgrade = 0;
    if (expect == NULL) return 0;
    if (strcasecmp(expect, "100-continue") != 0) return refuse(p, 417);
    p->wants_continue = p->message.minor > 0;
    return 0;
}

static uint64_t body_most(const struct http_parser *p)
{
    return p->on_part == NULL ? p->limits.body_bytes : p->limits.stream_bytes;
}

static int on_head(llhttp_t *parser)
{
    struct http_parser *p = of(parser);
    if (llhttp_get_http_major(parser) != 1 || llhttp_get_http_minor(parser) > 1) return refuse(p, 505);
    point(p);
    p->n_headers = p->n_fields;
    p->head_done = true;
    bool sized = (parser->flags & F_CONTENT_LENGTH) != 0;
    p->message.length = sized && parser->content_length <= INT64_MAX ? (int64_t)parser->content_length : -1;
    int rv = p->request ? check_request(p) : 0;
    if (rv != 0) return rv;
    if (sized && !p->expect_head && parser->content_length > body_most(p)) return refuse(p, 413);
    return !p->request && p->expect_head ? NO_BODY : 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct http_parser *p = of(parser);
    p->body_bytes += len;
    if (p->body_bytes > body_most(p)) return refuse(p, 413);
    if (!p->message.streamed && p->body.len + len <= p->limits.body_bytes)
        return buf_add(&p->body, at, len) == 0 ? 0 : refuse(p, 413);
    if (!p->message.streamed) {
        p->message.streamed = true;
        if (p->body.len > 0) p->on_part(p->part_user, &p->message, p->body.data, p->body.len);
        p->body.len = 0;
    }
    p->on_part(p->part_user, &p->message, at, len);
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    struct http_parser *p = of(parser);
    point(p); /* trailers may have moved the text */
    point_trailers(p);
    p->message.keep_alive = llhttp_should_keep_alive(parser) != 0;
    p->message.upgrade = parser->upgrade != 0;
    p->message.body = p->body.data;
    p->message.body_len = p->body.len;
    p->complete = true;
    p->started = false;
    return HPE_PAUSED;
}

struct http_parser *http_parser_new(bool request, const struct http_limits *limits)
{
    struct http_parser *p = calloc(1, sizeof *p);
    if (p == NULL) return NULL;
    p->request = request;
    p->limits = *limits;
    p->places = calloc(limits->headers + 1, sizeof *p->places);
    p->fields = calloc(limits->headers + 1, sizeof *p->fields);
    if (p->places == NULL || p->fields == NULL) return http_parser_free(p);
    llhttp_settings_init(&p->settings);
    p->settings.on_message_begin = on_begin;
    p->settings.on_method = on_text;
    p->settings.on_method_complete = on_method_end;
    p->settings.on_url = on_text;
    p->settings.on_url_complete = on_text_end;
    p->settings.on_status = on_text;
    p->settings.on_status_complete = on_reason_end;
    p->settings.on_header_field = on_name;
    p->settings.on_header_field_complete = on_name_end;
    p->settings.on_header_value = on_value;
    p->settings.on_header_value_complete = on_value_end;
    p->settings.on_headers_complete = on_head;
    p->settings.on_body = on_body;
    p->settings.on_message_complete = on_complete;
    http_parser_reset(p);
    return p;
}

struct http_parser *http_parser_free(struct http_parser *p)
{
    if (p == NULL) return NULL;
    buf_fini(&p->text);
    buf_fini(&p->body);
    free(p->places);
    free(p->fields);
    free(p);
    return NULL;
}

void http_parser_reset(struct http_parser *p)
{
    llhttp_init(&p->parser, p->request ? HTTP_REQUEST : HTTP_RESPONSE, &p->settings);
    p->parser.data = p;
    p->text.len = p->body.len = 0;
    p->n_fields = 0;
    p->places[0].name = SIZE_MAX;
    p->started = p->complete = p->wants_continue = false;
    p->refusal = 400;
}

void http_parser_stream(struct http_parser *p, http_part_cb *on_part, void *user)
{
    p->on_part = on_part;
    p->part_user = user;
}

void http_parser_expect_head(struct http_parser *p, bool head)
{
    p->expect_head = head;
}

static int outcome(struct http_parser *p, llhttp_errno_t status, struct error *e)
{
    if (status == HPE_PAUSED_UPGRADE || p->complete) return 1;
    if (status == HPE_OK) return 0;
    if (status != HPE_USER)
        return error_set(e, ERROR_PROTOCOL, "not HTTP/1.1: %s", llhttp_get_error_reason(&p->parser));
    if (p->refusal == 413 || p->refusal == 431) return error_set(e, ERROR_TOO_LARGE, "%s", http_reason(p->refusal));
    return error_set(e, ERROR_PROTOCOL, "%s",
                     p->refusal == 400 ? "ambiguous or forbidden: length, coding, Host or a control character"
                                       : http_reason(p->refusal));
}

int http_parser_feed(struct http_parser *p, const void *data, size_t len, size_t *ret_used, struct error *e)
{
    if (p->complete) { /* the message before was taken: go on behind it */
        llhttp_resume(&p->parser);
        llhttp_resume_after_upgrade(&p->parser);
        p->complete = false;
    }
    bool in_body = http_parser_in_body(p);
    llhttp_errno_t status = llhttp_execute(&p->parser, data, len);
    *ret_used = len;
    int rv = outcome(p, status, e);
    if (in_body) p->wire_bytes += len;
    if (rv == 0 && p->request && p->wire_bytes > p->body_bytes * FRAMING_TIMES + p->limits.head_bytes + FRAMING_SPARE) {
        p->refusal = 400; /* extensions, zeros: they are kept nowhere, and would come for ever */
        return error_set(e, ERROR_PROTOCOL, "more framing than body");
    }
    if (rv == 1) *ret_used = (size_t)(llhttp_get_error_pos(&p->parser) - (const char *)data);
    return rv;
}

int http_parser_finish(struct http_parser *p, struct error *e)
{
    if (!p->started) return 0;
    llhttp_errno_t status = llhttp_finish(&p->parser);
    if (p->complete) return 1;
    if (status == HPE_OK) return error_set(e, ERROR_PROTOCOL, "the connection ended inside a message");
    return outcome(p, status, e);
}

const struct http_message *http_parser_message(const struct http_parser *p)
{
    return &p->message;
}

int http_parser_refusal(const struct http_parser *p)
{
    return p->refusal;
}

bool http_parser_started(const struct http_parser *p)
{
    return p->started;
}

bool http_parser_in_body(const struct http_parser *p)
{
    return p->started && p->head_done;
}

bool http_parser_wants_continue(struct http_parser *p)
{
    bool wants = p->wants_continue && !p->complete;
    p->wants_continue = false;
    return wants;
}

const char *http_field(const struct http_message *m, const char *name)
{
    for (unsigned i = 0; i < m->n_fields; i++)
        if (http_same_name(m->fields[i].name, name)) return m->fields[i].value;
    return NULL;
}

bool http_is_safe(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 || strcmp(method, "OPTIONS") == 0 ||
           strcmp(method, "TRACE") == 0;
}
