/* What a killed caller, or a killed command, leaves behind: commands that still run, and containers that are none. Internal to
 * checkpoint/.
 *
 * Commands outlive their caller: interrupting a dump would harm the container. So that a caller who was started again does not
 * send a second command to the same container, each command's process is noted in a file.
 *
 * A restore that was killed leaves a mount (ROOT/ID/criu-root, which shows the bundle's rootfs), cgroups, and perhaps processes in
 * them. runc (1.1.5, tried) says of it both "does not exist" and "already exists", and its `delete --force` removes the rootfs's
 * files *through that mount*: so the mount goes first. CRIU leaves mounts of cgroups in its work folder. */
#ifndef CRSC_CHECKPOINT_LEFTOVER_H
#define CRSC_CHECKPOINT_LEFTOVER_H

#include <stdint.h>

#include "common/error.h"

/* Notes that this process is about to start a command: if it dies before it can note which, the command is looked for. Thread: any. */
int leftover_note_intent(const char *path);

/* Notes that the process `pid`, leader of its process group, is the command in flight. Thread: any. */
int leftover_note_command(const char *path, int32_t pid);

/* Is the noted command, about the container `id` below `root`, still running? 0: no. -ERROR_BUSY: yes, or not sure yet; if it is
 * older than its bound, its process group is killed, and a later call finds it gone. Thread: any. */
int leftover_command(const char *path, const char *root, const char *id, uint32_t bound_ms, struct error *e);

/* Unmounts what a killed restore left. Before every `runc delete --force`. -ERROR_IO when something stays mounted there: then the
 * delete must not be done. Short. Thread: any. */
int leftover_unmount(const char *root, const char *id, struct error *e);

/* After a `runc delete`: kills what is left in the container's cgroups (of the default name: the id, below the caller's own), and
 * removes them, the mounts at and below its folder in `root` and below `criu`, CRIU's work folder (its logs stay), and the container's
 * folder. Nothing there is no failure. Thread: any but the loop's: waits up to a second for the killed to go. */
int leftover_remove(const char *root, const char *id, const char *criu, struct error *e);

#endif
