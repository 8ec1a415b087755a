/* What a container runtime's archive of a checkpoint (a tar file) says of itself, in its member config.dump. Thread: any. */
#ifndef CRSC_CHECKPOINT_DUMPED_H
#define CRSC_CHECKPOINT_DUMPED_H

#include "common/error.h"

enum { DUMPED_ID_MAX = 128 };

/* The id of the container whose checkpoint it is. Reads `fd` from its beginning, and leaves it there. -ERROR_INVALID: it is no tar file, or says nothing of that;
 * -ERROR_IO; -ERROR_NOMEM. */
int dumped_container(int fd, char ret_id[DUMPED_ID_MAX], struct error *e);

#endif
