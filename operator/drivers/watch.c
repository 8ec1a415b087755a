#include "operator/drivers/watch.h"

#include <stdlib.h>
#include <unistd.h>

struct watch {
    uv_poll_t poll;
    int pidfd;
    void (*on_end)(void *user);
    void *user;
};

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    (void)status;
    (void)events; /* whatever it says: a pidfd says it only once the process has ended */
    uv_poll_stop(poll);
    w->on_end(w->user);
}

static void on_closed(uv_handle_t *handle)
{
    struct watch *w = handle->data;
    close(w->pidfd);
    free(w);
}

int watch_start(uv_loop_t *loop, const struct process *p, void (*on_end)(void *user), void *user, struct watch **ret_watch,
                struct error *e)
{
    struct watch *w = calloc(1, sizeof *w);
    if (w == NULL) return error_set(e, ERROR_NOMEM, "no memory");
    *w = (struct watch){.on_end = on_end, .user = user};
    int rv = process_open(p, &w->pidfd);
    if (rv != 0) {
        free(w);
        return error_set(e, (enum error_code)-rv, "process %d cannot be watched: %s", (int)p->pid, error_name(-rv));
    }
    rv = uv_poll_init(loop, &w->poll, w->pidfd);
    if (rv != 0) {
        close(w->pidfd);
        free(w);
        return error_uv(e, ERROR_IO, rv, "process %d cannot be watched", (int)p->pid);
    }
    w->poll.data = w;
    rv = uv_poll_start(&w->poll, UV_READABLE, on_readable);
    if (rv != 0) {
        watch_stop(w);
        return error_uv(e, ERROR_IO, rv, "process %d cannot be watched", (int)p->pid);
    }
    *ret_watch = w;
    return 0;
}

struct watch *watch_stop(struct watch *w)
{
    if (w == NULL) return NULL;
    uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, on_closed);
    return NULL;
}
