#include "common/tls_watch.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>

#include "common/log.h"

struct tls_watch {
    uv_timer_t timer;
    uv_signal_t hangup;
    struct tls_context *contexts[TLS_WATCH_MAX];
    unsigned n, open_handles;
};

static void told(bool reloaded, int rv, const struct error *e)
{
    if (rv != 0) log_error("TLS files cannot be loaded: the old ones stay in use", "code=%s reason=%s", error_name((int)e->code), e->text);
    else if (reloaded) log_info("TLS files loaded again", NULL);
}

static void on_timer(uv_timer_t *timer)
{
    struct tls_watch *w = timer->data;
    struct error e;
    bool reloaded;
    for (unsigned i = 0; i < w->n; i++) {
        int rv = tls_context_refresh(w->contexts[i], &reloaded, &e);
        told(reloaded, rv, &e);
    }
}

static void on_hangup(uv_signal_t *signal, int number)
{
    struct tls_watch *w = signal->data;
    struct error e;
    (void)number;
    for (unsigned i = 0; i < w->n; i++) {
        int rv = tls_context_reload(w->contexts[i], &e);
        told(true, rv, &e);
    }
}

int tls_watch_start(uv_loop_t *loop, struct tls_context *const *contexts, unsigned n, struct tls_watch **ret_watch, struct error *e)
{
    struct tls_watch *w = calloc(1, sizeof *w);
    assert(n <= TLS_WATCH_MAX);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory for a watch");
    for (unsigned i = 0; i < n; i++)
        if (contexts[i] != NULL) w->contexts[w->n++] = contexts[i];
    uv_timer_init(loop, &w->timer);
    uv_signal_init(loop, &w->hangup);
    w->timer.data = w->hangup.data = w;
    w->open_handles = 2;
    if (w->n > 0) uv_timer_start(&w->timer, on_timer, TLS_WATCH_MS, TLS_WATCH_MS);
    int rv = uv_signal_start(&w->hangup, on_hangup, SIGHUP);
    uv_unref((uv_handle_t *)&w->timer);
    uv_unref((uv_handle_t *)&w->hangup);
    if (rv != 0) {
        tls_watch_stop(w);
        return error_uv(e, ERROR_INTERNAL, rv, "SIGHUP cannot be handled");
    }
    *ret_watch = w;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct tls_watch *w = handle->data;
    if (--w->open_handles == 0) free(w);
}

void tls_watch_stop(struct tls_watch *w)
{
    if (w == NULL) return;
    uv_close((uv_handle_t *)&w->timer, on_closed);
    uv_close((uv_handle_t *)&w->hangup, on_closed);
}
