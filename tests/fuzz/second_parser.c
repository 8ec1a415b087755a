#include "tests/fuzz/second_parser.h"

#include <http_parser.h>
#include <stdlib.h>
#include <string.h>

struct run {
    struct second_message *m;
    bool head;
};

static int on_target(http_parser *p, const char *at, size_t len)
{
    return buf_add(&((struct run *)p->data)->m->target, at, len);
}

static int on_body(http_parser *p, const char *at, size_t len)
{
    return buf_add(&((struct run *)p->data)->m->body, at, len);
}

static int on_headers(http_parser *p)
{
    struct run *run = p->data;
    const char *method = p->type == HTTP_REQUEST ? http_method_str((enum http_method)p->method) : "";
    run->m->status = p->status_code;
    if (buf_add(&run->m->method, method, strlen(method)) != 0) return -1;
    return run->head ? 1 : 0;
}

static int on_field(http_parser *p, const char *at, size_t len)
{
    (void)at, (void)len;
    ((struct run *)p->data)->m->n_fields++;
    return 0;
}

static int on_complete(http_parser *p)
{
    ((struct run *)p->data)->m->complete = true;
    http_parser_pause(p, 1);
    return 0;
}

bool second_parse(bool request, bool head, const uint8_t *data, size_t len, struct second_message *m)
{
    http_parser p;
    struct run run = {m, head};
    const http_parser_settings settings = {.on_url = on_target, .on_body = on_body, .on_headers_complete = on_headers,
                                           .on_header_field = on_field, .on_message_complete = on_complete};
    memset(m, 0, sizeof *m);
    http_parser_init(&p, request ? HTTP_REQUEST : HTTP_RESPONSE);
    p.data = &run;
    m->used = http_parser_execute(&p, &settings, (const char *)data, len);
    enum http_errno code = HTTP_PARSER_ERRNO(&p);
    if (code == HPE_OK && !m->complete && m->used == len) { /* an answer may end with the connection */
        http_parser_execute(&p, &settings, NULL, 0);
        code = HTTP_PARSER_ERRNO(&p);
    }
    return code == HPE_OK || code == HPE_PAUSED;
}

void second_message_fini(struct second_message *m)
{
    buf_fini(&m->method);
    buf_fini(&m->target);
    buf_fini(&m->body);
}
