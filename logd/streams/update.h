/* Filling a struct streams_update (streams.h). Pure. Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_UPDATE_H
#define CRSC_LOGD_STREAMS_UPDATE_H

#include "logd/streams/streams.h"

/* Empties it, keeping its memory. */
void update_reset(struct streams_update *u);

/* One more outcome, zeroed, borrowed until the next call; NULL without memory. */
struct streams_outcome *update_outcome(struct streams_update *u);

/* One more write, sealed (records.h); value_len 0 deletes. 0 or -ERROR_NOMEM. */
int update_put(struct streams_update *u, enum streams_table table, const void *key, size_t key_len, const void *value,
               size_t value_len);

#endif
