/* Connections from us to each other server, over which we send; what they send comes in through session.c.
 *
 * A message to be sent waits as a small descriptor (an AppendEntries as its index range) and is filled from the log when the
 * connection has room: a slow or lost peer costs PEERS_QUEUE_MAX descriptors and PEERS_CONN_BYTES, however far it lags. What does
 * not fit is dropped: Raft repeats. An AppendEntries leaves in pieces of about PEERS_MESSAGE_BYTES of payload, each a whole
 * message of its own; one whose term is over, or which the peer has acknowledged meanwhile, is not sent at all.
 * Reconnects with a growing, jittered delay. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_PEERS_H
#define CRSC_LOGD_SERVER_PEERS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "logd/consensus/consensus.h"

struct node;
struct peers;

enum {
    PEERS_QUEUE_MAX = 512,
    PEERS_CONN_BYTES = 4 << 20,
    PEERS_MESSAGE_BYTES = 1 << 20,
    PEERS_RETRY_MIN_MS = 20,
    PEERS_RETRY_MAX_MS = 1000,
    PEERS_CONNECT_MS = 2000,
};

int peers_start(struct node *node, struct peers **ret_peers, struct error *e);
/* `done` is called when every connection is gone; so are the peers. */
void peers_close(struct peers *peers, void (*done)(void *user), void *user);

void peers_send(struct peers *peers, const struct consensus_message *m);
/* Asks every peer for its term (read_index.h). Lost when it is not connected: the caller asks again. */
void peers_probe(struct peers *peers, uint64_t round, uint64_t term);
/* It has just connected to us, so it is up: do not wait out the delay before connecting to it. */
void peers_knocked(struct peers *peers, uint64_t id);
bool peers_reachable(const struct peers *peers, uint64_t id);

#endif
