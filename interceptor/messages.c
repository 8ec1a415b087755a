/* A client's request as it is logged and forwarded. */
#include <string.h>
#include <strings.h>

#include "interceptor/engine_internal.h"

static int write_upgrade(struct buf *out, const struct http_message *m)
{
    int rv = buf_add(out, "Connection: Upgrade\r\n", 21);
    for (unsigned i = 0; i < m->n_fields && rv == 0; i++) {
        if (strcasecmp(m->fields[i].name, "Upgrade") != 0) continue;
        rv = buf_add(out, "Upgrade: ", 9);
        if (rv == 0) rv = buf_add(out, m->fields[i].value, strlen(m->fields[i].value));
        if (rv == 0) rv = buf_add(out, "\r\n", 2);
    }
    return rv;
}

/* As it is logged and forwarded. */
static int write_message(struct engine *engine, const struct session *s, const struct http_message *m, bool head_only, struct buf *out)
{
    const char *without[FORWARDED_NAMES + 1];
    struct buf *extra = &engine->extra;
    extra->len = 0;
    int rv = forwarded_write(extra, engine->settings->forwards, m, session_peer(s), session_secure(s), without);
    unsigned n = 0;
    while (without[n] != NULL) n++;
    without[n] = "Crsc-Replay"; /* ours to say */
    without[n + 1] = NULL;
    if (rv == 0 && m->upgrade) rv = write_upgrade(extra, m);
    if (rv == 0 && http_field(m, "Host") == NULL) rv = buf_add(extra, "Host: localhost\r\n", 17);
    if (rv == 0) rv = buf_add(extra, "", 1);
    if (rv == 0) rv = (head_only ? http_write_request_head : http_write_request)(out, m, (const char *)extra->data, without);
    if (extra->cap > ENGINE_SCRATCH) buf_fini(extra);
    return rv;
}

int engine_write_message(struct engine *engine, const struct session *s, const struct http_message *m, struct buf *out)
{
    return write_message(engine, s, m, false, out);
}

int engine_write_head(struct engine *engine, const struct session *s, const struct http_message *m, struct buf *out)
{
    return write_message(engine, s, m, true, out);
}
