/* Which events of a stream its retention policy lets go now: the part of the decision that needs a time and the places of old events. What
 * snapshots need is decided in streams/policy.h. Decides only; thread: any. */
#ifndef CRSC_LOGD_SERVER_DUE_H
#define CRSC_LOGD_SERVER_DUE_H

#include "logd/streams/streams.h"

/* Where a run is: 0, or an error. */
typedef int due_find_cb(void *user, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e);

/* The last event of the stream that its policy lets go at `now_us`, at most `bound` (streams_policy_bound()); 0: none. Runs are asked for by bisection:
 * about log2 of the events; one when nothing goes. An error is `find`'s. */
int due_offset(const struct streams_info *info, uint64_t bound, uint64_t now_us, due_find_cb *find, void *user, uint64_t *ret_offset, struct error *e);

#endif
