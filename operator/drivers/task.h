/* One function at a time on a worker thread of the loop, and a callback on the loop afterwards.
 *
 * The owner embeds a struct task and does not touch what `run` uses until `done`. Thread: the loop's, except `run`. */
#ifndef CRSC_OPERATOR_DRIVERS_TASK_H
#define CRSC_OPERATOR_DRIVERS_TASK_H

#include <stdbool.h>
#include <uv.h>

#include "common/error.h"

typedef int task_run(void *owner, struct error *e); /* blocks; 0 or the negated error code */
typedef void task_done(void *owner, int status, const struct error *e);

struct task {
    uv_work_t request;
    void *owner;
    task_run *run;
    task_done *done;
    int status;
    struct error error;
    bool active;
};

/* It must not be active. Never fails. */
void task_start(uv_loop_t *loop, struct task *t, void *owner, task_run *run, task_done *done);

#endif
