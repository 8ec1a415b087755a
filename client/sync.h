/* The blocking face of libcrsc, for command-line programs: each call runs a loop of its own until it has ended.
 *
 * Results are handed to the given callback, borrowed, only when the call succeeded; the return value and `e` say how
 * it ended, as everywhere. Thread: one at a time. */
#ifndef CRSC_CLIENT_SYNC_H
#define CRSC_CLIENT_SYNC_H

#include "client/crsc.h"

struct crsc_sync;

int crsc_sync_new(const struct crsc_client_options *options, struct crsc_sync **ret_sync, struct error *e);
struct crsc_sync *crsc_sync_free(struct crsc_sync *s);

int crsc_sync_status(struct crsc_sync *s, const char *server, crsc_status_cb *result, void *user, struct error *e);
int crsc_sync_streams(struct crsc_sync *s, const char *prefix, crsc_streams_cb *result, void *user, struct error *e);
int crsc_sync_trim(struct crsc_sync *s, const char *stream, uint64_t offset, bool force, uint64_t *ret_first_offset, struct error *e);
int crsc_sync_set_retention(struct crsc_sync *s, const char *stream, const struct crsc_retention *retention, struct error *e);
int crsc_sync_change_server(struct crsc_sync *s, enum crsc_change change, uint64_t id, const char *address, bool force, crsc_members_cb *result,
                            void *user, struct error *e);
int crsc_sync_snapshots(struct crsc_sync *s, const char *stream, crsc_snapshots_cb *result, void *user,
                        struct error *e);
int crsc_sync_record_snapshot(struct crsc_sync *s, const struct crsc_snapshot *snapshot, struct error *e);
/* One answer of a read, as crsc_read(). */
int crsc_sync_read(struct crsc_sync *s, const char *stream, uint64_t from, uint64_t to, uint32_t max_bytes,
                   crsc_events_cb *result, void *user, struct error *e);

/* Follows until crsc_sync_stop() is called from inside `result` (then 0), SIGINT or SIGTERM (0), or an error. */
int crsc_sync_follow(struct crsc_sync *s, const char *stream, uint64_t from, crsc_events_cb *result, void *user,
                     struct error *e);
void crsc_sync_stop(struct crsc_sync *s);

#endif
