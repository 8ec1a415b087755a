/* One protected workload: the shell around the reconcile core. It shows the core what the log, the machine and the interceptor
 * say, does what the core decides, and tells people about it. It decides nothing itself.
 *
 * Thread: the loop's. Settings and client are borrowed until workload_free() has called back. */
#ifndef CRSC_OPERATOR_WORKLOAD_H
#define CRSC_OPERATOR_WORKLOAD_H

#include <uv.h>

#include "client/crsc.h"
#include "operator/settings.h"

struct workload;

struct workload_parts {
    uv_loop_t *loop;
    struct crsc_client *client;
    const struct settings *settings;
    const struct workload_settings *words;
    bool checkpoints; /* CRIU is used */
    struct workload *sibling; /* one of the same stream that there is already; NULL: the first */
};

/* Makes the driver too: blocks on the disk for a moment. A workload that could not be made left nothing behind, except that the
 * program must end now (the loop may still have to close something). */
int workload_new(const struct workload_parts *parts, struct workload **ret_workload, struct error *e);

/* Ends what is under way (a drain is not left in force), then lets go of interceptor and containers (which go on, or with `stop` are
 * removed); `done` from the loop. Then the client is closed by its owner, and then workload_free(). */
void workload_stop(struct workload *w, bool stop_containers, void (*done)(void *user), void *user);
void workload_free(struct workload *w, void (*done)(void *user), void *user);

#endif
