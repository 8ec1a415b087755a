/* A server that lacks entries which its leader's log no longer has fetches another server's state, and goes on from there.
 *
 * Crash-only: the running node notes what it needs (rebuild_mark()), and starts itself again; the fetching happens in that start, before
 * log and index are opened, and is repeated at each start until it is done. So nothing of a live state is ever replaced.
 *
 *   DATA/rebuild          the note: "INDEX ID ADDRESS": entry that is needed, server that said so and where it is
 *   DATA/staging/...      what was fetched; it is kept when the fetching begins again (fetch.h)
 *   DATA/staging/complete all was fetched, verified and synced: from here on the exchange is only renames, and is finished by the next start
 *
 * What is kept of the old state: term and vote (this server never votes twice in a term), and its identity. Every event that the
 * fetched index points to is read and its checksum verified before the old state goes; a damaged file is fetched again.
 *
 * While it fetches this server takes no part: the others must be a majority without it (which they were: one of them leads).
 * Thread: start-up; runs the loop by itself. Source: Raft, section 5 ("Log compaction"); Candea and Fox, "Crash-only software", 2003. */
#ifndef CRSC_LOGD_SERVER_REBUILD_H
#define CRSC_LOGD_SERVER_REBUILD_H

#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "logd/server/settings.h"

/* Notes, durably, that the state at entry `index` or later has to be fetched. */
int rebuild_mark(const char *data_dir, uint64_t index, uint64_t from, const char *address, struct error *e);

/* Does what was noted; returns at once when nothing was. Tries the other servers in turn until one gives its state, for ever: errors
 * are of this machine only (ERROR_IO, ERROR_CORRUPT, ERROR_NOMEM, ERROR_EXISTS: another process has the data). */
int rebuild_run(uv_loop_t *loop, const struct settings *settings, uint64_t instance, struct error *e);

#endif
