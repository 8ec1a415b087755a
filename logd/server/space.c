#include "logd/server/space.h"

#include <stdio.h>

#include "common/frame.h"

static bool below(uint64_t free, uint64_t mark, bool already)
{
    return free < (already ? mark + mark / 4 : mark);
}

bool space_seen(struct space *s, uint64_t free, bool stuck)
{
    enum space_state before = s->state;
    s->free = free;
    s->written = 0;
    s->stuck = stuck;
    if (stuck || below(free, s->reserve / 2, before == SPACE_FULL)) s->state = SPACE_FULL;
    else s->state = below(free, s->reserve, before != SPACE_ENOUGH) ? SPACE_LOW : SPACE_ENOUGH;
    return s->state != before;
}

bool space_wrote(struct space *s, uint64_t bytes)
{
    s->written += bytes;
    return s->written > s->reserve / 16;
}

int space_check(const struct space *s, uint16_t frame_type, struct error *e)
{
    bool taken = s->state == SPACE_ENOUGH || frame_type == FRAME_TRIM || (s->state == SPACE_LOW && frame_type != FRAME_APPEND);
    if (taken) return 0;
    if (s->stuck)
        return error_set(e, ERROR_NOSPACE, "the leader's disk is full: nothing was stored. Make room, or raise its quota; it goes on by itself then");
    return error_set(e, ERROR_NOSPACE,
                     "the leader's disk has %llu MiB left, disk-reserve is %llu MiB: nothing was stored. Trim streams or make room; "
                     "it goes on by itself then",
                     (unsigned long long)(s->free >> 20), (unsigned long long)(s->reserve >> 20));
}

bool space_takes(const struct space *s, uint64_t bytes)
{
    enum { FEW = 4096 };
    return s->state != SPACE_FULL || (!s->stuck && bytes <= FEW && s->free >= s->reserve / 4);
}

bool space_pass(struct space *s, uint64_t now_ms, uint64_t pause_ms, uint64_t last_index, uint64_t previous_index)
{
    if (last_index != previous_index || (s->passed_ms != 0 && now_ms < s->passed_ms + pause_ms)) return false;
    s->passed_ms = now_ms;
    return true;
}

void space_text(const struct space *s, size_t size, char *ret_text)
{
    ret_text[0] = '\0';
    if (s->state == SPACE_ENOUGH) return;
    if (s->stuck) {
        snprintf(ret_text, size, "disk full: a file cannot grow, %llu MiB left", (unsigned long long)(s->free >> 20));
        return;
    }
    snprintf(ret_text, size, "disk %s: %llu MiB left, disk-reserve is %llu MiB", s->state == SPACE_FULL ? "full" : "low",
             (unsigned long long)(s->free >> 20), (unsigned long long)(s->reserve >> 20));
}
