/* TLS of this server's sockets: what it shows to clients, to other servers, and whom it believes. All of it is in the settings; without
 * tls-cert there is no TLS, and each function here does nothing.
 *
 * One port serves both: who connects says by its protocol (ALPN) which it is, and is shown that certificate and measured by those CAs
 * (access.h). Files are looked at again every few seconds and on SIGHUP. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_TRANSPORT_H
#define CRSC_LOGD_SERVER_TRANSPORT_H

#include <stdint.h>
#include <uv.h>

#include "common/conn.h"
#include "common/error.h"
#include "common/tls.h"
#include "logd/server/settings.h"

struct transport;

int transport_new(uv_loop_t *loop, const struct settings *settings, struct transport **ret_transport, struct error *e);
/* After the last connection. Takes NULL. The loop must run once more. */
struct transport *transport_free(struct transport *t);

/* For a connection that was accepted just now. */
int transport_accept(struct transport *t, struct conn *c, struct error *e);
/* For one that was begun just now, to another server. Its name is not looked at: its id is, by transport_check_server(). */
int transport_dial(struct transport *t, struct conn *c, struct error *e);
/* The other side of an open connection is server `id`. */
int transport_check_server(const struct transport *t, const struct conn *c, uint64_t id, struct error *e);

/* What the metrics' port serves under; NULL: plain HTTP. */
struct tls_context *transport_monitor(struct transport *t);
/* When the first of our certificates ends, in seconds since 1970; 0: there are none. */
int64_t transport_expiry(const struct transport *t);

#endif
