/* What a person on this machine can tell the operator: a Unix socket in the state directory, STATE/control, which only who may read that can reach (mode
 * 0600 in 0700: nothing else is asked for). One command on a connection, one line of JSON for each thing that there is to say about it:
 *
 *   migrate TO FROM MS   moves the app to the spare TO; FROM "-": the one that serves, if there is only one; within MS milliseconds.
 *                        {"step":"start","stream":...,"from":...,"to":...} for each step; the last is "done" or "failed", or {"error":...}: nothing was begun.
 *
 * Who goes away before the end gives the move up. Thread: the loop's. */
#ifndef CRSC_OPERATOR_CONTROL_H
#define CRSC_OPERATOR_CONTROL_H

#include "operator/workload.h"

struct control;

enum {
    CONTROL_CONNECTIONS = 16,
    CONTROL_LINE_MAX = 512,          /* bytes of a command */
    CONTROL_MOVE_MAX_MS = 3600000,
};

/* The socket of a state directory. -ERROR_INVALID: its path is too long for one. */
int control_path(const char *state_dir, char *path, size_t size, struct error *e);

/* `workloads` is borrowed until control_close(). */
int control_start(uv_loop_t *loop, const char *state_dir, struct workload *const *workloads, size_t n, struct control **ret_control, struct error *e);
/* Moves under way are given up, as far as that goes before the workloads are let go. `done` from the loop; NULL is nothing, and `done` comes at once. */
void control_close(struct control *c, void (*done)(void *user), void *user);

#endif
