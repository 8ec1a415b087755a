/* The data directory's memory of whose it is: a server started on another's data, or for another cluster, would vote with
 * a log that is not its own. Blocking; start-up only. */
#ifndef CRSC_LOGD_SERVER_IDENTITY_H
#define CRSC_LOGD_SERVER_IDENTITY_H

#include <stdint.h>

#include "common/error.h"

/* Makes the directory (and its parents) if it is missing. Reads DIR/identity; writes it, durably, when there is none.
 * -ERROR_INVALID when it names another server or cluster, -ERROR_CORRUPT when it cannot be understood, -ERROR_IO. */
int identity_check(const char *dir, uint64_t id, const char *cluster, struct error *e);

#endif
