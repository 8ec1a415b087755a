/* The retention policy of a stream: which of its events may go by themselves (the rule is at message Retention of proto/rpc.proto).
 *
 * What snapshots need is decided here, on every replica, when a trim is applied (L5: nothing goes that a valid snapshot of the policy
 * needs). Age and bytes are looked at by the leader only (server/due.h), which proposes the trim: it has a clock, and the places of old events.
 * Pure. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_POLICY_H
#define CRSC_LOGD_STREAMS_POLICY_H

#include "logd/streams/stream.h"

bool policy_equal(const struct streams_policy *a, const struct streams_policy *b);

/* 0, or -ERROR_INVALID when it contradicts itself. */
int policy_check(const struct streams_policy *p, struct error *e);

/* The last event that the stream's policy lets go as far as its snapshots are concerned; false: none. */
bool policy_bound(const struct stream *t, uint64_t *ret_offset);

#endif
