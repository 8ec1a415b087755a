/* Is this server's disk slow, for so long that somebody must hear of it? Told once a second how its syncs went; decides only.
 *
 * A second is slow when its syncs took `limit_us` on average, or one has been under way for that long. SLOW_AFTER of them in a row raise the
 * alarm, whatever the seconds between in which no sync ended: a slow disk has many of those. SLOW_OVER in a row that are not slow, idle ones
 * too, end it. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_SLOW_H
#define CRSC_LOGD_SERVER_SLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SLOW_AFTER = 5, SLOW_OVER = 10, SLOW_HAND_OVER_MS = 30000 };

struct slow {
    uint64_t limit_us; /* 0: never */
    uint64_t count, sum_us; /* of all syncs, as last told */
    uint64_t average_us;    /* of the last slow second */
    unsigned row;           /* seconds that speak against the state there is */
    bool alarm;
    uint64_t handed_ms; /* slow_hands_over() */
};

/* All syncs so far, their time, and for how long one has been under way (0: none is). True when the alarm began or ended. */
bool slow_second(struct slow *s, uint64_t count, uint64_t sum_us, uint64_t waiting_us);
/* A leader with a slow disk tries to give leadership to a healthy server, once in SLOW_HAND_OVER_MS. True: now. */
bool slow_hands_over(struct slow *s, uint64_t now_ms);
/* "" or what is wrong, for people. */
void slow_text(const struct slow *s, size_t size, char *ret_text);

#endif
