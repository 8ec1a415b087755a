/* Between struct consensus_message and libraft's struct raft_message; private to this folder. Pure; thread: any. */
#ifndef CRSC_LOGD_CONSENSUS_RAFT_BRIDGE_H
#define CRSC_LOGD_CONSENSUS_RAFT_BRIDGE_H

#include <raft.h>

#include "logd/consensus/consensus.h"

/* Without entries: those are the caller's business in both directions. -ERROR_INTERNAL for a type we never ask for. */
int raft_bridge_to(const struct consensus_message *m, struct raft_message *ret_message);
int raft_bridge_from(const struct raft_message *r, uint64_t from, struct consensus_message *ret_message);

/* What libraft takes for granted about any message (its Debian build has no assertions). -ERROR_PROTOCOL. */
int raft_bridge_check(const struct consensus_message *m, struct error *e);

/* A membership as libraft knows one: 0 or RAFT_NOMEM. The result is the caller's: raft_configuration_close(), raft_free(base). */
int raft_bridge_configuration(const struct membership *m, struct raft_configuration *ret_configuration);
int raft_bridge_encode(const struct membership *m, struct raft_buffer *ret_encoded);

/* Term of the entry at `index`, 0 when there is none: libraft has this function but does not export it. */
uint64_t raft_bridge_term_at(const struct raft *r, uint64_t index);
uint64_t raft_bridge_last_index(const struct raft *r);

#endif
