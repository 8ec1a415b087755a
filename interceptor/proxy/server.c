#include "interceptor/proxy/server.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "common/conn.h"
#include "interceptor/proxy/internal.h"

enum { SWEEP_MS = 250, BACKLOG = 1024 };

void server_handle_gone(struct server *server)
{
    if (--server->handles > 0 || !server->closing) return;
    if (server->done != NULL) server->done(server->done_user);
    free(server);
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status == 0) session_accept(listener->data, listener);
}

/* ---- time ----------------------------------------------------------------------------------------------------- */

static void on_sweep(uv_timer_t *timer)
{
    struct server *server = timer->data;
    struct session *s, *next;
    uint64_t now = uv_now(server->loop);
    for (s = TAILQ_FIRST(&server->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, entry);
        session_check_time(s, now);
    }
}

/* ---- the server ----------------------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
    server_handle_gone(handle->data);
}

static int server_listen(struct server *server, const char *address, struct error *e)
{
    struct sockaddr_storage where;
    int rv = address_numeric(address, &where, e);
    if (rv != 0) return rv;
    rv = uv_tcp_bind(&server->listener, (struct sockaddr *)&where, 0);
    if (rv == 0) rv = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    return rv == 0 ? 0 : error_uv(e, ERROR_IO, rv, "cannot listen on %s", address);
}

int server_start(uv_loop_t *loop, const struct server_options *options, const struct server_handlers *handlers,
                 void *user, struct server **ret_server, struct error *e)
{
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL) return error_set(e, ERROR_NOMEM, "no memory for a listener");
    server->loop = loop;
    server->options = *options;
    server->options.address = NULL;
    server->handlers = *handlers;
    server->user = user;
    TAILQ_INIT(&server->sessions);
    uv_tcp_init(loop, &server->listener);
    uv_timer_init(loop, &server->sweep);
    server->listener.data = server->sweep.data = server;
    server->handles = 2;
    int rv = server_listen(server, options->address, e);
    if (rv != 0) {
        server_close(server, NULL, NULL);
        return rv;
    }
    uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    *ret_server = server;
    return 0;
}

unsigned server_sessions(const struct server *server)
{
    return server->n_sessions;
}

void server_stop(struct server *server)
{
    struct session *s, *next;
    if (server->stopped) return;
    server->stopped = true;
    uv_close((uv_handle_t *)&server->listener, on_handle_closed);
    for (s = TAILQ_FIRST(&server->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, entry);
        session_stop(s);
    }
}

void server_abandon(struct server *server)
{
    struct session *s;
    while ((s = TAILQ_FIRST(&server->sessions)) != NULL) session_lost(s);
}

void server_close(struct server *server, void (*done)(void *user), void *user)
{
    struct session *s;
    server->closing = true;
    server->done = done;
    server->done_user = user;
    if (!server->stopped) uv_close((uv_handle_t *)&server->listener, on_handle_closed);
    server->stopped = true;
    uv_close((uv_handle_t *)&server->sweep, on_handle_closed);
    while ((s = TAILQ_FIRST(&server->sessions)) != NULL) session_abort(s);
}
