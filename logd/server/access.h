/* Who may do what: the roles in a certificate's names, and the table of requests that each role may make.
 *
 *   URI:crsc://role/peer/ID            another server, of that id; or any, where ID is "*"
 *   URI:crsc://role/admin              everything that a client can ask for
 *   URI:crsc://role/operator           checkpoints: snapshot records, fencing, trimming; reads every stream; opens, appends
 *                                      to and reads those whose names end with "/restores", its account of recoveries
 *   URI:crsc://role/producer/PATTERN   opens, appends to and reads the streams that match
 *   URI:crsc://role/reader/PATTERN     reads the streams that match
 *
 * A pattern is a stream's name in which "*" stands for any characters, "/" included. A certificate may have several
 * roles; what none of them allows is refused (default deny), also what this table does not know. Names of other forms grant nothing.
 *
 * Peers speak the protocol "crsc-peer" (ALPN), everybody else "crsc": a certificate of the clients' CA cannot be a server, nor the other way
 * round, when they are separate. Pure. Thread: any. Source of the rule "deny unless granted": Saltzer and Schroeder, 1975, "fail-safe defaults". */
#ifndef CRSC_LOGD_SERVER_ACCESS_H
#define CRSC_LOGD_SERVER_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/tls.h"

#define ACCESS_PROTOCOL "crsc"
#define ACCESS_PEER_PROTOCOL "crsc-peer"

struct access;

/* Of a connection whose other side is `peer`. NULL without memory. Everywhere below a NULL access is a server without TLS: it allows everything. */
struct access *access_new(const struct tls_peer *peer);
struct access *access_free(struct access *a);

/* It may be server `id`. 0, or -ERROR_DENIED with a text that says what would be needed. */
int access_check_peer(const struct access *a, uint64_t id, struct error *e);
/* It may be a client: it has some role for that. */
int access_check_client(const struct access *a, struct error *e);
/* It may make this request: type and stream are looked at. */
int access_check(const struct access *a, const struct frame *f, struct error *e);
/* A list of streams may show it this one. */
bool access_sees(const struct access *a, const char *stream);

/* "producer" and so on, as a mask for tests and messages. */
enum access_role { ACCESS_PEER = 1, ACCESS_ADMIN = 2, ACCESS_OPERATOR = 4, ACCESS_PRODUCER = 8, ACCESS_READER = 16 };

/* Does the name match the pattern? Its own function for its own test. */
bool access_match(const char *pattern, const char *name, size_t len);

#endif
