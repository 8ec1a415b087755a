/* The data directory's memory of whose it is: a server started on another's data, or for another cluster, would vote with
 * a log that is not its own. Blocking; start-up only. */
#ifndef CRSC_LOGD_SERVER_IDENTITY_H
#define CRSC_LOGD_SERVER_IDENTITY_H

#include <stdint.h>

#include "common/error.h"

/* ret_instance: of this very directory, drawn at random when it is made: by it the others know a server whose data are lost from the one
 * that they know (logd/consensus/membership.h). Never 0.
 *
 * Makes the directory (and its parents) if it is missing. Reads DIR/identity; writes it, durably, when there is none.
 * -ERROR_INVALID when it names another server or cluster, -ERROR_CORRUPT when it cannot be understood, -ERROR_IO. */
int identity_check(const char *dir, uint64_t id, const char *cluster, uint64_t *ret_instance, struct error *e);

/* A new instance: of a directory whose log turned out to be empty, whatever was in it before. */
int identity_renew(const char *dir, uint64_t id, const char *cluster, uint64_t *ret_instance, struct error *e);

#endif
