/* TLS 1.3 for streams: bytes in, bytes out (OpenSSL 3). No sockets here: conn.c puts it below frames, an HTTP server below requests.
 *
 *   what the socket gave ──► tls_receive() ──► plain bytes          plain bytes ──► tls_send() ──► tls_outgoing() ──► the socket
 *
 * A context is a certificate, its key, and the CAs that the other side's certificate must come from, read from PEM files. tls_context_reload() reads
 * them again: new sessions use the new ones, sessions that are up go on; when something is wrong with the files the old ones stay in use.
 * Whoever watches the files is tls_watch.h. Both sides always show a certificate, unless a server's context says otherwise.
 *
 * What is fixed: TLS 1.3 only, no tickets and no early data (each session proves its certificates anew), no password-protected keys.
 *
 * Who the other side is: its certificate's subject alternative names, in tls_peer(). A client compares the server's with the name it
 * dialled (DNS or IP), or leaves that to its caller, who then has to look at tls_peer() himself.
 *
 * Thread: one per context and its sessions (the loop's). Reading files blocks. */
#ifndef CRSC_COMMON_TLS_H
#define CRSC_COMMON_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

struct tls_context;
struct tls;

enum tls_side { TLS_SERVER, TLS_CLIENT };
enum { TLS_NAMES_MAX = 64, TLS_PROTOCOL_MAX = 32 };

struct tls_options {
    enum tls_side side;
    const char *ca, *cert, *key; /* paths of PEM files: CAs; own certificate with its chain; own key. Copied.
                                    A client's cert and key may be "" (both): it then shows none */
    const char *protocol;        /* ALPN: what a client asks for; NULL or "": nothing */
    bool anyone;                 /* a server: clients need no certificate; one that is shown must be good all the same. `ca` may be "": none is asked for */
};

/* 0; -ERROR_INVALID or -ERROR_IO with a text that names the file and what is wrong with it. */
int tls_context_new(const struct tls_options *options, struct tls_context **ret_context, struct error *e);
struct tls_context *tls_context_free(struct tls_context *c); /* takes NULL; sessions that are ready may outlive it, others not */

/* A server for two kinds of clients: who asks for `other`'s protocol gets `other`'s certificate, and is measured by its CAs. `other` is borrowed. */
void tls_context_also(struct tls_context *c, struct tls_context *other);

/* Reads the files again. On an error everything stays as it was. */
int tls_context_reload(struct tls_context *c, struct error *e);
/* The same, if a file is another one than at the last attempt, good or bad. */
int tls_context_refresh(struct tls_context *c, bool *ret_reloaded, struct error *e);

/* When the own certificate ends, in seconds since 1970; 0: it has none. */
int64_t tls_context_expiry(const struct tls_context *c);

/* ---- one connection ------------------------------------------------------------------------------------------- */

/* What is known of the other side. Names are "DNS:host", "IP:192.0.2.1", "URI:scheme://...", in the certificate's order. */
struct tls_peer {
    const char *subject;          /* "" when it showed no certificate */
    const char *const *names;     /* only of a certificate that was verified */
    unsigned n_names;
    const char *protocol;         /* agreed by ALPN; "": none */
};

/* `name`: host or address that a server has to prove; NULL: any server with a certificate from our CAs. NULL without memory. A client's
 * session has its first bytes in tls_outgoing() at once. */
struct tls *tls_new(struct tls_context *c, const char *name, struct error *e);
struct tls *tls_free(struct tls *t);

/* Takes bytes that came from the socket; decrypted ones are appended to `plain`. May leave bytes in tls_outgoing() also when it fails: an alert, which
 * tells the other side why. -ERROR_DENIED: a certificate is missing, not good, or not the right one, here or there; -ERROR_PROTOCOL; -ERROR_NOMEM. */
int tls_receive(struct tls *t, const void *bytes, size_t len, struct buf *plain, struct error *e);
/* Encrypts bytes into tls_outgoing(). Only when tls_ready(). */
int tls_send(struct tls *t, const void *plain, size_t len, struct error *e);
/* Says that nothing more will be sent. */
void tls_finish(struct tls *t);

bool tls_ready(const struct tls *t);  /* both sides are known to each other */
bool tls_ended(const struct tls *t);  /* the other side said that it sends nothing more */
struct buf *tls_outgoing(struct tls *t); /* for the socket: who writes them takes them away */
const struct tls_peer *tls_peer(const struct tls *t); /* once ready, as long as the session lives */

#endif
