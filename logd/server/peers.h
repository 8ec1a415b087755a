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
    PEERS_GREETING_MS = 5000, /* from the beginning of connecting to the answer of our HELLO */
};

int peers_start(struct node *node, struct peers **ret_peers, struct error *e);
/* `done` is called when every connection is gone; so are the peers. */
void peers_close(struct peers *peers, void (*done)(void *user), void *user);

void peers_send(struct peers *peers, const struct consensus_message *m);
/* Tells every peer whom this server has met (founding.h); `asks`: and that it has not heard the same from all of them. Lost when it is not connected:
 * the caller tells again. */
void peers_tell_founders(struct peers *peers, const struct blob *entry, bool asks);
/* Asks every peer for its term (read_index.h). Lost when it is not connected: the caller asks again. */
void peers_probe(struct peers *peers, uint64_t round, uint64_t term);
/* Asks server `id` to confirm that it leads (canary.h); `question` comes back with the answer. Lost when it is not connected. */
void peers_ask(struct peers *peers, uint64_t id, uint64_t question);
/* Asks every server what is wrong with it; what they said: "" nothing, NULL: not heard for PEERS_ALARM_MS. A change is logged. */
enum { PEERS_ALARM_MS = 5000, PEERS_ALARM = 128 };
void peers_ask_alarms(struct peers *peers);
/* The one that we are connected to answered such a question, asked after `since_ms`: it is not the memory of a machine that is gone. */
bool peers_alive_since(const struct peers *peers, uint64_t id, uint64_t since_ms);
const char *peers_alarm(const struct peers *peers, uint64_t id);
/* Asks server `id` for a record (scrub.h), whose answer goes to scrub_answer() with the question. False: it is not connected. */
struct state_record;
bool peers_fetch_record(struct peers *peers, uint64_t id, uint64_t question, const struct state_record *r);
/* For those who watch. All zero for a stranger. */
struct peers_state {
    bool ready;
    uint64_t messages, bytes; /* that wait */
    uint64_t dropped;
};
void peers_state(const struct peers *peers, uint64_t id, struct peers_state *ret_state);
/* It has just connected to us, so it is up, and says where: do not wait out the delay before connecting to it. One that we did not know is
 * known from now on. */
void peers_knocked(struct peers *peers, uint64_t id, const char *address);
/* Another membership is in force: connections to those that are in it, and to nobody else who is not needed to hear of a newer one. */
void peers_follow(struct peers *peers, const struct membership *m);
const char *peers_address(const struct peers *peers, uint64_t id); /* as it said itself; NULL: unknown */
bool peers_reachable(const struct peers *peers, uint64_t id);
uint64_t peers_instance(const struct peers *peers, uint64_t id); /* that it says it is, over our connection to it; 0: there is none */

#endif
