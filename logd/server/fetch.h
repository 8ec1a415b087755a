/* Fetches another server's state into the staging folder, whatever happens on the way: a cut connection, a piece that came damaged, a server that
 * was killed, an end of this process. What is there is not fetched again (pieces.h, staging.h), as long as it is of the same server; who has given
 * something is waited for, for FETCH_PATIENCE_MS, before another one is asked, whose state is another and begins anew.
 *
 * Each piece comes in a frame with a checksum: a damaged one ends the connection, and is asked for again on the next. What was damaged before
 * it was sent is found by the events' own checksums (verification.h), when all is there.
 *
 * Thread: start-up; runs the loop by itself. */
#ifndef CRSC_LOGD_SERVER_FETCH_H
#define CRSC_LOGD_SERVER_FETCH_H

#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "logd/consensus/consensus.h"
#include "logd/server/settings.h"
#include "logd/server/staging.h"
#include "logd/server/transport.h"

enum { FETCH_PATIENCE_MS = 30000 };

struct fetch;

struct fetch_options { /* all borrowed, to live as long */
    uv_loop_t *loop;
    const struct settings *settings;
    uint64_t instance;
    struct transport *transport;
    const struct staging *staging;
    uint64_t index; /* the state must contain this entry */
    const struct consensus_member *servers; /* who is asked, in turn; at least one */
    unsigned n, first; /* first: who is asked first */
};

struct fetch *fetch_new(const struct fetch_options *options, struct error *e);
struct fetch *fetch_free(struct fetch *f); /* runs the loop until its timer is closed; takes NULL */

/* Until all of a state is in the staging folder, synced; errors are of this machine only: ERROR_NOSPACE, ERROR_IO, ERROR_NOMEM; or
 * ERROR_REMOVED: it is told again and again that it is none of the cluster's. Repeated, it goes on where it was. */
int fetch_run(struct fetch *f, struct error *e);
const struct state_manifest *fetch_manifest(const struct fetch *f); /* of what was fetched last */
/* That was not good, in spite of all checksums on the way. The second time another server is asked. Who gave it: */
uint64_t fetch_blame(struct fetch *f);

#endif
