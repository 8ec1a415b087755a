/* Notices the end of a process at once, through a pidfd (pidfd_open(2)): no polling, and no mistake when the pid is used again.
 *
 * Thread: the loop's. */
#ifndef CRSC_OPERATOR_DRIVERS_WATCH_H
#define CRSC_OPERATOR_DRIVERS_WATCH_H

#include <uv.h>

#include "checkpoint/process.h"
#include "common/error.h"

struct watch;

/* `on_end` comes once, from the loop. -ERROR_NOT_FOUND: it has ended already; -ERROR_IO: the system refuses. */
int watch_start(uv_loop_t *loop, const struct process *p, void (*on_end)(void *user), void *user, struct watch **ret_watch,
                struct error *e);

/* No callback after this; what it holds is given back when the loop has run once more. NULL is nothing; returns NULL. */
struct watch *watch_stop(struct watch *w);

#endif
