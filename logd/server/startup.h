/* Start-up: data directory -> wal, index, streams, consensus, or a refusal that says what to do. Blocking. */
#ifndef CRSC_LOGD_SERVER_STARTUP_H
#define CRSC_LOGD_SERVER_STARTUP_H

#include "common/error.h"
#include "logd/consensus/consensus.h"

struct node;

/* The log's first entry was written: consensus begins anew, with it. `ret_update` as below. */
int startup_founded(struct node *node, struct consensus_update *ret_update, struct error *e);

/* Fills node->wal, index, streams, consensus (their callbacks are node.c's, given here) and gives consensus' first update,
 * to be executed by the caller. Checks that log and index meet: the index may be behind the log, never ahead of it. */
int startup_run(struct node *node, void (*on_persisted)(void *, uint64_t, uint64_t),
                 void (*on_wal_failed)(void *, const struct error *), void (*on_durable)(void *, uint64_t),
                 void (*on_index_failed)(void *, const struct error *), struct consensus_update *ret_update, struct error *e);

#endif
