/* What every program's main loop shares: termination signals, the clocks, and how a socket is written to. Thread: the loop's; clocks: any. */
#ifndef CRSC_COMMON_LOOP_H
#define CRSC_COMMON_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/buf.h"

struct loop_signals {
    uv_signal_t handles[2]; /* SIGTERM, SIGINT */
    void (*on_stop)(void *user);
    void *user;
    int seen;               /* the second signal ends the process at once, with status 1 */
};

/* Calls on_stop at the first SIGTERM or SIGINT; ignores SIGPIPE. 0 or libuv's negative errno. */
int loop_signals_start(uv_loop_t *loop, struct loop_signals *s, void (*on_stop)(void *user), void *user);
void loop_signals_stop(struct loop_signals *s); /* `s` must stay until the loop has run once more */

uint64_t loop_wall_us(void);      /* microseconds since 1970 */
uint64_t loop_monotonic_us(void); /* microseconds since some moment; never goes back */

/* What the kernel takes at once needs no callback, nor a change of what epoll watches, nor another turn of the loop: the common case. Consumes what it takes;
 * true when that is all. An error shows when the rest is written, by uv_write(). Nothing is done with more than LOOP_WRITE_NOW_MAX: whoever waits to
 * hear that it is written has far more queued. */
enum { LOOP_WRITE_NOW_MAX = 64 << 10 };
bool loop_write_now(uv_stream_t *stream, struct buf *from);

#endif
