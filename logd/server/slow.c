#include "logd/server/slow.h"

#include <stdio.h>

bool slow_second(struct slow *s, uint64_t count, uint64_t sum_us, uint64_t waiting_us)
{
    uint64_t n = count - s->count, average = n > 0 ? (sum_us - s->sum_us) / n : 0;
    if (waiting_us > average) average = waiting_us;
    s->count = count;
    s->sum_us = sum_us;
    bool slow = s->limit_us > 0 && average >= s->limit_us;
    if (slow) s->average_us = average;
    if (!slow && n == 0 && !s->alarm) return false; /* nothing ended: that speaks for nothing */
    s->row = slow == s->alarm ? 0 : s->row + 1;
    if (s->row < (s->alarm ? SLOW_OVER : SLOW_AFTER)) return false;
    s->alarm = !s->alarm;
    s->row = 0;
    return true;
}

bool slow_hands_over(struct slow *s, uint64_t now_ms)
{
    if (!s->alarm || (s->handed_ms != 0 && now_ms < s->handed_ms + SLOW_HAND_OVER_MS)) return false;
    s->handed_ms = now_ms;
    return true;
}

void slow_text(const struct slow *s, size_t size, char *ret_text)
{
    ret_text[0] = '\0';
    if (s->alarm) snprintf(ret_text, size, "disk slow: a sync takes %.1f s (slow-disk: %.1f s)", (double)s->average_us / 1e6, (double)s->limit_us / 1e6);
}
