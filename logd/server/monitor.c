#include "logd/server/monitor.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/http_listener.h"
#include "logd/server/canary.h"
#include "logd/server/metrics.h"
#include "logd/server/node.h"
#include "logd/server/transport.h"

static const char plain[] = "text/plain; charset=utf-8", prometheus[] = "text/plain; version=0.0.4; charset=utf-8";

struct monitor {
    struct node *node;
    struct http_listener *listener; /* NULL: none */
    uv_signal_t signal;
    unsigned open;
    void (*done)(void *user);
    void *user;
};

static void reply(struct http_exchange *x, int status, const char *text)
{
    http_exchange_reply(x, status, plain, text, strlen(text));
}

static void on_ready(void *user, bool ready, const char *why)
{
    char text[256];
    snprintf(text, sizeof text, "%s%s\n", ready ? "ready" : "not ready: ", ready ? "" : why);
    reply(user, ready ? 200 : 503, text);
}

static void reply_metrics(struct monitor *m, struct http_exchange *x)
{
    struct buf text = BUF_INIT;
    if (metrics_render(m->node, &text) == 0) http_exchange_reply(x, 200, prometheus, text.data, text.len);
    else reply(x, 500, "no memory\n");
    buf_fini(&text);
}

static void on_request(void *user, struct http_exchange *x, const char *target)
{
    struct monitor *m = user;
    size_t len = strcspn(target, "?");
    if (len == 8 && memcmp(target, "/metrics", len) == 0) reply_metrics(m, x);
    else if (len == 8 && memcmp(target, "/healthz", len) == 0) reply(x, 200, "ok\n");
    else if (len == 7 && memcmp(target, "/readyz", len) == 0) canary_ask(m->node->canary, on_ready, x);
    else reply(x, 404, "/metrics, /healthz, /readyz\n");
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct monitor *m = signal->data;
    (void)number;
    metrics_dump(m->node);
}

int monitor_start(struct node *node, struct monitor **ret_monitor, struct error *e)
{
    const char *address = node->settings->metrics_listen;
    struct monitor *m = calloc(1, sizeof *m);
    if (m == NULL) return error_set(e, ERROR_NOMEM, "no memory for the metrics");
    m->node = node;
    uv_signal_init(node->loop, &m->signal);
    m->signal.data = m;
    /* A failed start ends the process: the handle goes with it. */
    int rv = uv_signal_start(&m->signal, on_signal, SIGUSR1);
    if (rv != 0) return error_uv(e, ERROR_INTERNAL, rv, "SIGUSR1 cannot be handled");
    if (address[0] != '\0' && (rv = http_listener_start(node->loop, address, transport_monitor(node->transport), on_request, m, &m->listener, e)) != 0) {
        error_prefix(e, "metrics-listen");
        return rv;
    }
    *ret_monitor = m;
    return 0;
}

const char *monitor_address(const struct monitor *m)
{
    return m->listener != NULL ? http_listener_address(m->listener) : "";
}

static void part_closed(void *user)
{
    struct monitor *m = user;
    if (--m->open > 0) return;
    void (*done)(void *user) = m->done;
    void *done_user = m->user;
    free(m);
    done(done_user);
}

static void on_signal_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void monitor_close(struct monitor *m, void (*done)(void *user), void *user)
{
    m->done = done;
    m->user = user;
    m->open = m->listener != NULL ? 2 : 1;
    uv_close((uv_handle_t *)&m->signal, on_signal_closed);
    if (m->listener != NULL) http_listener_close(m->listener, part_closed, m);
    canary_cancel(m->node->canary);
}
