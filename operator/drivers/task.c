#include "operator/drivers/task.h"

#include <assert.h>

static void on_thread(uv_work_t *request)
{
    struct task *t = request->data;
    t->status = t->run(t->owner, &t->error);
}

static void on_loop(uv_work_t *request, int status)
{
    struct task *t = request->data;
    (void)status; /* nobody cancels it */
    t->active = false;
    t->done(t->owner, t->status, &t->error);
}

void task_start(uv_loop_t *loop, struct task *t, void *owner, task_run *run, task_done *done)
{
    assert(!t->active);
    *t = (struct task){.owner = owner, .run = run, .done = done, .active = true};
    t->request.data = t;
    int rv = uv_queue_work(loop, &t->request, on_thread, on_loop);
    assert(rv == 0); /* it fails only without a function */
    (void)rv;
}
