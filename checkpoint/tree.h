/* Directory trees: making, removing and syncing them. Removing never follows a symbolic link.
 *
 * Thread: any but the loop's, as they block; mkdirs is short enough for a start-up. */
#ifndef CRSC_CHECKPOINT_TREE_H
#define CRSC_CHECKPOINT_TREE_H

#include "common/error.h"

/* Makes a directory and the missing ones above it, mode 0700. One that is there already is no failure. */
int tree_make(const char *path, struct error *e);

/* Removes a file, or a directory with all that is in it. Nothing there is no failure. A mount in it, bind
 * mounts too, is not entered and makes it fail: what is shown there belongs to somebody else. */
int tree_remove(const char *path, struct error *e);

/* fsyncs a directory: its names are on disk then. */
int tree_sync_directory(const char *path, struct error *e);

/* fsyncs the directory that contains `path`. */
int tree_sync_parent(const char *path, struct error *e);

#endif
