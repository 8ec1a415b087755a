#include "logd/streams/run_reader.h"

#include <inttypes.h>
#include <stdlib.h>

#include "logd/streams/command_codec.h"

struct run_event_head {
    struct command_event of;
};

static int copy_events(struct run_reader *r, const struct command_append *a, struct error *e)
{
    if (a->epoch != r->run.epoch || a->sequence != r->run.sequence || a->n != r->run.count)
        return error_set(e, ERROR_CORRUPT, "offset %" PRIu64 " should lie in another append than the one found",
                         r->run.first_offset);
    r->events = malloc(a->n * sizeof *r->events);
    if (r->events == NULL) return error_set(e, ERROR_NOMEM, "no memory to read %u events", a->n);
    for (uint32_t i = 0; i < a->n; i++) r->events[i].of = a->events[i];
    return 0;
}

int run_open(struct run_reader *r, const struct streams_run *run, const void *bytes, size_t len, uint64_t from,
             struct error *e)
{
    struct frame f;
    struct error why = {0};
    *r = (struct run_reader){.run = *run};
    int64_t size = frame_decode(bytes, len, &f, &why);
    if (size <= 0 || (size_t)size != run->frame_len || f.type != FRAME_APPEND)
        return error_set(e, ERROR_CORRUPT, "no append of %u bytes where offset %" PRIu64 " should be%s%s", run->frame_len,
                         run->first_offset, size < 0 ? ": " : "", size < 0 ? why.text : "");
    struct arena arena;
    struct command command;
    arena_init(&arena);
    int rv = command_parse(&f, &arena, &command, &why);
    if (rv == 0)
        rv = copy_events(r, &command.append, e);
    else if (rv == -ERROR_NOMEM)
        rv = error_set(e, ERROR_NOMEM, "no memory to read offset %" PRIu64, run->first_offset);
    else
        rv = error_set(e, ERROR_CORRUPT, "the append of offset %" PRIu64 ": %s", run->first_offset, why.text);
    arena_fini(&arena);
    if (rv != 0) return rv;

    r->body = f.body;
    struct run_event skipped;
    while (r->next < run->count && run->first_offset + r->next < from) run_next(r, &skipped);
    return 0;
}

bool run_next(struct run_reader *r, struct run_event *ret_event)
{
    if (r->next >= r->run.count) return false;
    const struct command_event *head = &r->events[r->next].of;
    *ret_event = (struct run_event){
        .offset = r->run.first_offset + r->next, .kind = head->kind, .size = head->size, .after = head->after,
        .ref = head->ref, .epoch = r->run.epoch, .sequence = r->run.sequence + r->next, .time_us = r->run.time_us,
        .payload = r->body + r->body_at};
    r->body_at += head->size;
    r->next++;
    return true;
}

void run_close(struct run_reader *r)
{
    free(r->events);
    r->events = NULL;
}
