#include "interceptor/admin/probe.h"

#include <stdio.h>
#include <string.h>

static void on_request(void *user, struct http_exchange *x, const char *target)
{
    char text[512];
    int status = 200;
    struct engine_status s;
    if (strcmp(target, "/healthz") == 0) {
        snprintf(text, sizeof text, "ok\n");
    } else if (strcmp(target, "/readyz") == 0) {
        engine_status(user, &s);
        status = s.ready ? 200 : 503;
        if (s.ready) snprintf(text, sizeof text, "ready\n");
        else snprintf(text, sizeof text, "%s%s%.300s\n", s.reason, s.detail[0] != '\0' ? ": " : "", s.detail);
    } else {
        status = 404;
        snprintf(text, sizeof text, "there are /healthz and /readyz\n");
    }
    http_exchange_reply(x, status, "text/plain", text, strlen(text));
}

int probe_start(uv_loop_t *loop, const char *address, struct engine *engine, struct http_listener **ret_listener, struct error *e)
{
    return http_listener_start(loop, address, NULL, on_request, engine, ret_listener, e);
}
