/* Directory trees: making, removing and syncing them (one folder: common/file.h). Removing never follows a symbolic link.
 *
 * Thread: any but the loop's, as they block; mkdirs is short enough for a start-up. */
#ifndef CRSC_CHECKPOINT_TREE_H
#define CRSC_CHECKPOINT_TREE_H

#include <stddef.h>

#include "common/error.h"

/* Makes a directory and the missing ones above it, mode 0700. One that is there already is no failure. */
int tree_make(const char *path, struct error *e);

/* Removes a file, or a directory with all that is in it. Nothing there is no failure. A mount in it, bind
 * mounts too, is not entered and makes it fail: what is shown there belongs to somebody else. */
int tree_remove(const char *path, struct error *e);

/* fsyncs the directory that contains `path`. */
int tree_sync_parent(const char *path, struct error *e);

/* The file has these bytes from now on, mode 0600, in one step and on disk: written and fsynced beside, as `path`.tmp, renamed, its directory fsynced. A failure leaves
 * the old one; a crash may leave the .tmp. -ERROR_NOSPACE, -ERROR_IO, -ERROR_INVALID: the path is too long. */
int tree_replace_file(const char *path, const void *data, size_t len, struct error *e);

#endif
