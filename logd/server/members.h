/* The membership as this server lives it: whom it talks to, what it notes of them, and what an operator asks for.
 *
 *  - AddServer, PromoteServer, RemoveServer, TransferLeadership: the leader proposes and answers when it is committed and applied. One
 *    change at a time; another one that comes meanwhile is told "busy", which a client repeats. A server is promoted only when it has
 *    nearly all of the log; a voter is removed only when those that are left can commit without it (unless forced). A leader
 *    that is to be removed hands leadership over first. libraft sends its request to lead once: it is repeated here.
 *  - Each server has an *instance*, the identity of its data directory. The leader notes that of a member when it first meets it, and the
 *    address that the member gives. A server that comes with another one has lost what it promised (its votes, what it acknowledged) and
 *    is refused, until it is removed and added again: ERROR_REMOVED, as for one that was removed.
 *  - Our own membership may be an old one. Only a leader knows for certain, so another server that is not led listens also to a
 *    server that it does not know, and counts nothing that it says: members_counts().
 *
 * The founders' instances are in the log's first entry (founding.h), and nobody is promoted before his is noted: so every voter's is known to whoever
 * can be elected. Of a cluster that was restored from a backup the first leader notes them, within a second of meeting each; until then a server whose
 * data are lost again is not recognised.
 *
 * Thread: the loop's. Source: Ongaro 2014, sections 3.10 (transfer) and 4. */
#ifndef CRSC_LOGD_SERVER_MEMBERS_H
#define CRSC_LOGD_SERVER_MEMBERS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"
#include "logd/consensus/consensus.h"
#include "logd/server/rpc_codec.h"

struct members;
struct node;
struct session;

struct members *members_new(struct node *node);
void members_close(struct members *m); /* nobody waits any more; its memory goes with its timer, from the loop */

void members_request(struct members *m, struct session *s, const struct frame *f);

/* What happened: a CHANGE entry was applied; another membership is in force; who leads has changed; a second has passed. */
void members_applied(struct members *m, uint64_t index, uint64_t term, const struct blob *payload);
void members_changed(struct members *m);
void members_role_changed(struct members *m);
void members_tick(struct members *m);

/* May this server speak with us? -ERROR_REMOVED: it must stop, see above; -ERROR_UNAVAILABLE: not now. */
int members_admit(const struct node *node, const struct rpc_hello *hello, struct error *e);
/* It said HELLO: the same, and it is remembered. -ERROR_NOMEM: see founding_met(). */
int members_meet(struct node *node, const struct rpc_hello *hello, struct error *e);
/* Is this the member, or one whose instance was not noted yet? Else what it acknowledges or votes means nothing. */
bool members_counts(const struct node *node, uint64_t id, uint64_t instance);

/* Another server says that we are none of the cluster's, on a connection that was opened at `opened_ms` (node_now_ms()). Ends the process with status 4, unless there is
 * no log yet: then we wait to be added; or unless we have learned since that we were added: it is asked again, on another connection. */
void members_refused(struct node *node, uint64_t opened_ms, const struct error *why);

/* The reachable voter that has most of the log; 0: none. libraft's own choice may be one that is down. */
uint64_t members_successor(const struct node *node);
/* The same, of those that have everything that is committed and say that nothing is wrong with them. */
uint64_t members_healthy(const struct node *node);
/* All the other voters are there, say that nothing is wrong with them, and are a majority without this server: it can be spared for a while. */
bool members_well(const struct node *node);
/* Begins to move leadership there. */
int members_move(struct members *m, uint64_t to, struct error *e);
unsigned members_list(const struct node *node, struct rpc_member ret_list[static CONSENSUS_MEMBERS_MAX]);

#endif
