/* Linearizable reads without a log write: counting who still has our term. (Raft, section 6.4; DESIGN, section 4.)
 *
 * A leader may answer a read at its commit index once a majority has said, after the read arrived, that the current term
 * still is its own: then no newer leader can have committed anything before the read came. One *round* asks all peers
 * once; all reads that wait when a round begins share it, reads that come during a round wait for the next one.
 *
 * The caller adds the other half of the rule: a round begins only with an index that consensus_read_index() gave (the
 * leader has committed a barrier of its own term), and a read of round R is answered when that much is applied.
 *
 * Pure: no clock, no sockets. Thread: one at a time. A plain value: zero it, then read_index_init(). */
#ifndef CRSC_LOGD_CONSENSUS_READ_INDEX_H
#define CRSC_LOGD_CONSENSUS_READ_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "logd/consensus/consensus.h"

struct read_index {
    uint64_t members[CONSENSUS_MEMBERS_MAX]; /* ids, ours included */
    unsigned n_members;
    uint64_t self;
    uint64_t started;   /* newest round begun; 0: none yet */
    uint64_t confirmed; /* newest round a majority confirmed */
    uint64_t term;      /* of the round under way */
    uint64_t index;     /* of the round under way, later of the confirmed one */
    uint32_t yes;       /* bit per member */
    bool flying;        /* a round is under way */
    bool wanted;        /* reads wait for the next one */
};

void read_index_init(struct read_index *r, uint64_t self);

/* Who is to be asked from now on: the voters. A round under way is begun again: its reads belong to the next one. */
void read_index_members(struct read_index *r, const struct membership *m);

/* A read has arrived: the round that will cover it. */
uint64_t read_index_ask(struct read_index *r);

/* Begins the next round when one is wanted and none is under way. Returns its number, to be sent to every peer, or 0.
 * Alone in the cluster it is confirmed at once. */
uint64_t read_index_begin(struct read_index *r, uint64_t term, uint64_t index);

/* A peer's own term, as an answer to `round`. True when that completed the round: reads of rounds <= r->confirmed may be
 * answered once r->index is applied. */
bool read_index_reply(struct read_index *r, uint64_t from, uint64_t round, uint64_t term);

/* The round to ask again about when answers are missing, 0 for none. */
uint64_t read_index_flying(const struct read_index *r);

/* Leadership or term has changed: nothing is under way or wanted any more; the caller refuses the waiting reads. */
void read_index_reset(struct read_index *r);

#endif
