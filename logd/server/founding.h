/* How a new cluster begins: with an empty data directory, initial-cluster-state new and others in initial-cluster, a server has no log yet and takes part in
 * nothing. It meets the others; when it has met all it remembers them in DATA-DIR/founders and tells them (roll.h says why all, and what follows from it). When
 * they all have said the same, or one that has founded, entry 1 is written, and the server is one of the cluster's voters. Ends as well when entry 1 comes from
 * a leader. From the note on initial-cluster has to name the same servers until there is a log.
 *
 * node->founding is NULL before and after. A member of one founds at once, without any of this.
 * Thread: the loop's; writes its small file there, once, while nothing else is to be done. */
#ifndef CRSC_LOGD_SERVER_FOUNDING_H
#define CRSC_LOGD_SERVER_FOUNDING_H

#include <stdbool.h>

#include "common/error.h"
#include "common/frame.h"
#include "logd/server/rpc_codec.h"

struct node;
struct founding;

/* Reads what is remembered. -ERROR_INVALID: initial-cluster is another one than then; -ERROR_CORRUPT, -ERROR_IO, -ERROR_NOMEM. */
int founding_open(struct node *node, struct founding **ret_founding, struct error *e);
struct founding *founding_free(struct founding *f);
/* What another life remembered of whom it had met goes: the data directory's identity is a new one. -ERROR_IO. */
int founding_forget(const char *data_dir, struct error *e);

/* The others do nothing without a founding (NULL), but for founding_told(). */

/* Another server said HELLO. One with another data directory than it had on a full roll is listened to (it may lead a cluster that was founded meanwhile, and
 * in which it was replaced), but is none of the founders. -ERROR_NOMEM. A note that cannot be written ends the process. */
int founding_met(struct founding *f, const struct rpc_hello *hello, struct error *e);
/* It cannot be reached. */
void founding_left(struct founding *f, uint64_t id);
/* A connection to another server is ready, or the second has passed: the roll is told to all, once it is full. */
void founding_tell(struct founding *f);
/* FRAME_FOUNDERS of a server that was met. Once there is a log, one that tells its first entry has not heard from us that it is: it is told again. */
void founding_told(struct node *node, uint64_t id, uint64_t instance, const struct frame *frame);
/* Entry 1 is being written: nothing that the other servers send is taken until it is there. */
bool founding_writes(const struct founding *f);

void founding_tick(struct founding *f); /* each second */

#endif
