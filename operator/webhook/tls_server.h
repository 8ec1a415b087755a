/* A small HTTPS server for the API server's calls: TLS 1.2 or newer, HTTP/1.1, one bounded request at a time on a connection.
 *
 * A connection that says nothing for TLS_SERVER_IDLE_MS is closed. The certificate can be changed while it runs: new connections get the
 * new one. Thread: the loop's. */
#ifndef CRSC_OPERATOR_WEBHOOK_TLS_SERVER_H
#define CRSC_OPERATOR_WEBHOOK_TLS_SERVER_H

#include <uv.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/http.h"

enum { TLS_SERVER_IDLE_MS = 60000, TLS_SERVER_BODY_MAX = 4 << 20, TLS_SERVER_SESSIONS_MAX = 256 };

struct tls_server;

/* Answers at once: writes a whole HTTP answer to `out` (http_write_plain()). `m` is borrowed until it returns. */
typedef void tls_server_cb(void *user, const struct http_message *m, struct buf *out);

int tls_server_start(uv_loop_t *loop, const char *address, const char *cert, const char *key, tls_server_cb *on_request, void *user,
                     struct tls_server **ret_server, struct error *e);
int tls_server_set_certificate(struct tls_server *s, const char *cert, const char *key, struct error *e);
void tls_server_close(struct tls_server *s, void (*done)(void *user), void *user);

#endif
