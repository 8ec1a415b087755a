/* The snapshots of one stream, as the log has them: read once at the start, then kept in step by recording through here (no
 * other node touches this node's records).
 *
 * Thread: the loop's. Ownership: strings are copied; what it shows is borrowed until the loop goes on. */
#ifndef CRSC_OPERATOR_RECORDS_H
#define CRSC_OPERATOR_RECORDS_H

#include <uv.h>

#include "client/crsc.h"
#include "operator/reconcile/world.h"

struct records;

/* Begins to read, and goes on trying until the log answers; then, and after each record, `on_change`. `client` is borrowed. */
int records_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *node, void (*on_change)(void *user),
                void *user, struct records **ret_records, struct error *e);
/* The client is closed already: no call of it is under way. `done` from the loop. */
void records_free(struct records *r, void (*done)(void *user), void *user);

/* Which records fit `spec`, and `has`: which are on disk. */
struct records_view {
    const char *spec;
    bool (*has)(const void *user, const char *id);
    const void *user;
    void (*judge)(const void *user, struct world_snapshot *s); /* of one of our node: the last word about it. NULL: nobody */
    const void *judge_user;
};
void records_see(struct records *r, const struct records_view *view, struct world_log *ret_log);

/* Two of the same stream tell each other what they record, from now on until they are freed. */
void records_share(struct records *r, struct records *with);

/* What the log has of one; NULL: nothing. */
const struct crsc_snapshot *records_find(const struct records *r, const char *id);

/* Records a snapshot of this node; stream and node are filled in, fields that are NULL or 0 keep what was recorded before. One at a time:
 * a second gets -ERROR_BUSY. `e` NULL: done, and seen; -ERROR_CONFLICT and the like: refused for good. */
typedef void records_cb(void *user, const struct error *e);
int records_put(struct records *r, const struct crsc_snapshot *snapshot, records_cb *cb, void *user);

#endif
