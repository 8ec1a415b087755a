/* How far a replay is: requests done, of how many, how fast, and how long it may still take. For people.
 *
 * How many there are is known when the log was read up to the replay's end; before that it is estimated from the part that was read. Own
 * requests that still wait for their answer count as all others. Pure. Times are monotonic microseconds. Thread: one. */
#ifndef CRSC_INTERCEPTOR_REPLAY_PROGRESS_H
#define CRSC_INTERCEPTOR_REPLAY_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    uint64_t from, read_to; /* offsets: the state it began with; read up to there */
    uint64_t found, done;   /* requests read, executed */
    uint64_t begun_us, ended_us;
};

struct progress_view {
    uint64_t done, total;
    double per_s;
    uint64_t eta_ms; /* 0: it is over, or nothing is known yet */
};

void progress_begin(struct progress *p, uint64_t from, uint64_t now_us);
void progress_read(struct progress *p, uint64_t offset, bool request); /* an offset that was told before does not count again */
void progress_done(struct progress *p, uint64_t now_us);
/* `to`: the replay's last offset. */
struct progress_view progress_look(const struct progress *p, uint64_t to, bool going_on, uint64_t now_us);

#endif
