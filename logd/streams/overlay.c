#include "logd/streams/overlay.h"

#include <stdlib.h>
#include <string.h>

void overlay_fini(struct overlay *o)
{
    free(o->items);
    *o = (struct overlay){0};
}

int overlay_add(struct overlay *o, uint64_t index, const struct streams_run *run)
{
    if (o->n == o->cap && o->first >= o->cap / 2 && o->first > 0) {
        memmove(o->items, o->items + o->first, (o->n - o->first) * sizeof *o->items);
        o->n -= o->first;
        o->first = 0;
    }
    if (o->n == o->cap) {
        uint32_t cap = o->cap == 0 ? 4 : o->cap * 2;
        struct overlay_item *items = cap > o->cap ? realloc(o->items, cap * sizeof *items) : NULL;
        if (items == NULL) return -ERROR_NOMEM;
        o->items = items;
        o->cap = cap;
    }
    o->items[o->n++] = (struct overlay_item){index, *run};
    return 0;
}

bool overlay_durable(struct overlay *o, uint64_t index)
{
    while (o->first < o->n && o->items[o->first].index <= index) o->first++;
    if (o->first < o->n) return false;
    overlay_fini(o);
    return true;
}

const struct streams_run *overlay_find(const struct overlay *o, uint64_t offset)
{
    uint32_t lo = o->first, hi = o->n; /* the first run that begins behind `offset` is in [lo, hi] */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (o->items[mid].run.first_offset <= offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == o->first) return NULL;
    const struct streams_run *run = &o->items[lo - 1].run;
    return offset - run->first_offset < run->count ? run : NULL;
}
