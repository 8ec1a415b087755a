/* Looks at a stopped server's data directory, whole, and changes nothing of the log: what `crsc-logctl check` prints. The log is read by the very code of
 * a start (logd/wal/recovery.h), on a disk that takes no writes; every event that the index knows is compared with its client's checksum
 * (verification.h); log and index must meet. Blocking. Thread: any, one at a time. */
#ifndef CRSC_LOGD_SERVER_CHECK_H
#define CRSC_LOGD_SERVER_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct check {
    void (*on_damage)(void *user, const struct error *e);   /* each, in words */
    void (*on_progress)(void *user, uint64_t bytes);        /* may be NULL */
    void *user;
    /* the result */
    uint64_t first_index, last_index, term, applied; /* of the log (first > last: it is empty), Raft's, of the index */
    uint64_t torn_bytes;                              /* of a write that nobody was told about: the next start cuts it */
    uint64_t log_bytes, appends, events, damages;
    bool rebuild; /* a state is being fetched from another server: the next start goes on with that */
};

/* 0: it was looked at; damage is in c->damages. -ERROR_NOT_FOUND: no data directory; -ERROR_EXISTS: a server uses it; -ERROR_IO, -ERROR_NOMEM. */
int check_run(const char *data_dir, struct check *c, struct error *e);

#endif
