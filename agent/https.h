/* The API's door: HTTP/1.1 over TLS with client certificates, a thread for each connection, at most HTTPS_CONNECTIONS_MAX of them.
 *
 * Who connects has HTTPS_REQUEST_MS for the handshake and the first request together, later so long for each request that has begun, and HTTPS_IDLE_MS between two. Where all
 * places are taken the newcomer gets one: of those that were never answered the oldest goes, then who has said nothing for the longest. Who is being answered stays; when
 * that is all of them, the newcomer is refused.
 *
 * A certificate is wanted and verified, but one that is missing is for the handler to refuse: a health check has none. Certificates are read again when
 * their files change. Thread: the handler is called from many at once. */
#ifndef CRSC_AGENT_HTTPS_H
#define CRSC_AGENT_HTTPS_H

#include <stdint.h>

#include "agent/call.h"
#include "common/buf.h"
#include "common/error.h"
#include "common/http.h"

enum { HTTPS_CONNECTIONS_MAX = 64, HTTPS_CLIENT_MAX = 128, HTTPS_REQUEST_MS = 10000, HTTPS_IDLE_MS = 75000 };

struct https_request {
    const char *method, *target;     /* with query */
    const char *body;                /* zero-terminated */
    size_t body_len;
    char client[HTTPS_CLIENT_MAX];   /* the certificate's common name, "": none was given */
};

struct https_answer {
    int status;
    const char *type; /* static */
    struct buf body;
    int file_fd; /* >= 0: the body is this file's, file_len bytes; closed by the server */
    uint64_t file_len;
};

typedef void https_handler(void *user, const struct https_request *request, struct https_answer *answer);

/* Listens and starts; it ends with the process. `address` is host:port, numeric; `tls` and `user` are borrowed for good. */
int https_start(const char *address, const struct call_tls *tls, https_handler *handler, void *user, struct error *e);

#endif
