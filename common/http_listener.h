/* A small HTTP/1.1 server for small documents: metrics and health on a port of their own. One request at a time per connection, bodies of requests
 * are refused, GET and HEAD only; plain or over TLS (without asking for a certificate, if the context says so).
 *
 * The handler owes each exchange exactly one answer, at once or later: also when the client has gone, or the listener was closed (nobody gets
 * it then). Bounded: connections, a request's head (8 KiB), its time, an idle connection's time. Thread: the loop's. */
#ifndef CRSC_COMMON_HTTP_LISTENER_H
#define CRSC_COMMON_HTTP_LISTENER_H

#include <uv.h>

#include "common/error.h"
#include "common/http.h"
#include "common/tls.h"

struct http_listener;
struct http_exchange;

enum { HTTP_LISTENER_CONNECTIONS = 64, HTTP_LISTENER_IDLE_MS = 60000, HTTP_LISTENER_REQUEST_MS = 10000 };

/* `target` is the path with its query, as asked for. */
typedef void http_listener_cb(void *user, struct http_exchange *x, const char *target);

/* `address`: host:port, numeric. `tls` NULL: plain; else borrowed until the listener is closed. */
int http_listener_start(uv_loop_t *loop, const char *address, struct tls_context *tls, http_listener_cb *on_request, void *user,
                        struct http_listener **ret_listener, struct error *e);
const char *http_listener_address(const struct http_listener *l); /* with the port that the system chose */
/* `done` (may be NULL) comes from the loop, when every connection is closed and every exchange answered; the listener is gone by then. */
void http_listener_close(struct http_listener *l, void (*done)(void *user), void *user);

void http_exchange_reply(struct http_exchange *x, int status, const char *type, const void *body, size_t len);

#endif
