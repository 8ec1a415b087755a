#include "logd/server/transport.h"

#include <stdlib.h>

#include "common/tls_watch.h"
#include "logd/server/access.h"

struct transport {
    struct tls_context *clients, *peers; /* of the listening socket; NULL: no TLS */
    struct tls_context *dialled;         /* to other servers */
    struct tls_context *monitor;
    struct tls_watch *watch;
};

static int add(struct tls_context **ret, enum tls_side side, const char *ca, const char *cert, const char *key, const char *protocol, bool anyone,
               struct error *e)
{
    struct tls_options o = {.side = side, .ca = ca, .cert = cert, .key = key, .protocol = protocol, .anyone = anyone};
    return tls_context_new(&o, ret, e);
}

int transport_new(uv_loop_t *loop, const struct settings *s, struct transport **ret_transport, struct error *e)
{
    struct transport *t = calloc(1, sizeof *t);
    int rv = 0;
    if (t == NULL) return error_set(e, ERROR_NOMEM, "no memory for TLS");
    if (s->tls_cert[0] != '\0') {
        bool separate = s->tls_peer_cert[0] != '\0';
        const char *ca = separate ? s->tls_peer_ca : s->tls_ca, *cert = separate ? s->tls_peer_cert : s->tls_cert;
        const char *key = separate ? s->tls_peer_key : s->tls_key;
        rv = add(&t->clients, TLS_SERVER, s->tls_ca, s->tls_cert, s->tls_key, ACCESS_PROTOCOL, false, e);
        if (rv == 0) rv = add(&t->peers, TLS_SERVER, ca, cert, key, ACCESS_PEER_PROTOCOL, false, e);
        if (rv == 0) rv = add(&t->dialled, TLS_CLIENT, ca, cert, key, ACCESS_PEER_PROTOCOL, false, e);
        if (rv == 0 && s->metrics_tls) rv = add(&t->monitor, TLS_SERVER, s->tls_ca, s->tls_cert, s->tls_key, NULL, true, e);
        if (rv == 0) tls_context_also(t->clients, t->peers);
    }
    /* Also without TLS: a SIGHUP must not end a server that has nothing to read again. */
    struct tls_context *all[] = {t->clients, t->peers, t->dialled, t->monitor};
    if (rv == 0) rv = tls_watch_start(loop, all, sizeof all / sizeof *all, &t->watch, e);
    if (rv != 0) {
        transport_free(t);
        return error_prefix(e, "TLS");
    }
    *ret_transport = t;
    return 0;
}

struct transport *transport_free(struct transport *t)
{
    if (t == NULL) return NULL;
    tls_watch_stop(t->watch);
    tls_context_free(t->clients);
    tls_context_free(t->peers);
    tls_context_free(t->dialled);
    tls_context_free(t->monitor);
    free(t);
    return NULL;
}

int transport_accept(struct transport *t, struct conn *c, struct error *e)
{
    return t->clients == NULL ? 0 : conn_secure(c, t->clients, NULL, e);
}

int transport_dial(struct transport *t, struct conn *c, struct error *e)
{
    return t->dialled == NULL ? 0 : conn_secure(c, t->dialled, NULL, e);
}

int transport_check_server(const struct transport *t, const struct conn *c, uint64_t id, struct error *e)
{
    const struct tls_peer *peer = conn_tls_peer(c);
    if (t->dialled == NULL) return 0;
    if (peer == NULL) return error_set(e, ERROR_DENIED, "the other server did not prove who it is");
    struct access *a = access_new(peer);
    int rv = a == NULL ? error_set(e, ERROR_NOMEM, "no memory for a server's roles") : access_check_peer(a, id, e);
    access_free(a);
    return rv;
}

struct tls_context *transport_monitor(struct transport *t)
{
    return t->monitor;
}

int64_t transport_expiry(const struct transport *t)
{
    if (t->clients == NULL) return 0;
    int64_t a = tls_context_expiry(t->clients), b = tls_context_expiry(t->peers);
    return a < b ? a : b;
}
