#include "common/loop.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

static void on_signal(uv_signal_t *handle, int number)
{
    struct loop_signals *s = handle->data;
    (void)number;
    if (s->seen++ > 0) _exit(1);
    s->on_stop(s->user);
}

int loop_signals_start(uv_loop_t *loop, struct loop_signals *s, void (*on_stop)(void *user), void *user)
{
    static const int numbers[2] = {SIGTERM, SIGINT};
    s->on_stop = on_stop;
    s->user = user;
    s->seen = 0;
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 2; i++) {
        int rv = uv_signal_init(loop, &s->handles[i]);
        if (rv != 0) return rv;
        s->handles[i].data = s;
        rv = uv_signal_start(&s->handles[i], on_signal, numbers[i]);
        if (rv != 0) return rv;
        uv_unref((uv_handle_t *)&s->handles[i]);
    }
    return 0;
}

void loop_signals_stop(struct loop_signals *s)
{
    for (int i = 0; i < 2; i++)
        if (!uv_is_closing((uv_handle_t *)&s->handles[i])) uv_close((uv_handle_t *)&s->handles[i], NULL);
}

static uint64_t clock_us(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t loop_wall_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

uint64_t loop_monotonic_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

bool loop_write_now(uv_stream_t *stream, struct buf *from)
{
    if (from->len > LOOP_WRITE_NOW_MAX) return false;
    uv_buf_t bytes = uv_buf_init((char *)from->data, (unsigned)from->len);
    int n = uv_try_write(stream, &bytes, 1);
    if (n > 0) buf_consume(from, (size_t)n);
    return from->len == 0;
}
