/* Carries out streams' retention policies (streams/policy.h): on the leader, every retention-interval, each stream that has one is looked at, and where
 * events may go a trim is proposed. The trim is an entry of the log, so that all replicas stay equal, and is judged again, as to snapshots, when it is
 * applied; age and bytes are judged here, once, by this server's clock and the places of the events.
 *
 * A few streams at a time, so that a million of them do not hold the loop. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_TRIMMER_H
#define CRSC_LOGD_SERVER_TRIMMER_H

#include <stdbool.h>
#include <stdint.h>

struct node;

struct trimmer {
    uint64_t next_id;     /* of the stream that is looked at next; 0: the round is over */
    uint64_t next_round_ms;
    uint64_t proposed;    /* trims, since the start */
};

/* About once a second; true: the round goes on, call it again soon. */
bool trimmer_tick(struct trimmer *t, struct node *node);

#endif
