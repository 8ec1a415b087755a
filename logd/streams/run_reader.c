#include "logd/streams/run_reader.h"

#include <inttypes.h>
#include <stdlib.h>

#include "logd/streams/command_codec.h"

struct run_event_head {
    struct command_event of;
};

/* The frame's head, when it is that of the append which the run is. */
static int parse(const struct streams_run *run, const struct frame *f, struct arena *arena, struct command *ret_command, struct error *e)
{
    struct error why = {0};
    int rv = command_parse(f, arena, ret_command, &why);
    if (rv == -ERROR_NOMEM) return error_set(e, ERROR_NOMEM, "no memory to read offset %" PRIu64, run->first_offset);
    if (rv != 0) return error_set(e, ERROR_CORRUPT, "the append of offset %" PRIu64 ": %s", run->first_offset, why.text);
    const struct command_append *a = &ret_command->append;
    if (a->epoch == run->epoch && a->sequence == run->sequence && a->n == run->count) return 0;
    return error_set(e, ERROR_CORRUPT, "offset %" PRIu64 " should lie in another append than the one found", run->first_offset);
}

static int copy_events(struct run_reader *r, const struct command_append *a, struct error *e)
{
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
    int rv = parse(run, &f, &arena, &command, e);
    if (rv == 0) rv = copy_events(r, &command.append, e);
    arena_fini(&arena);
    if (rv != 0) return rv;

    r->body = f.body;
    struct run_event skipped;
    while (r->next < run->count && run->first_offset + r->next < from) run_next(r, &skipped);
    return 0;
}

int run_match(const struct streams_run *run, const struct frame *f, struct error *e)
{
    struct arena arena;
    struct command command;
    if (f->type != FRAME_APPEND) return error_set(e, ERROR_CORRUPT, "no append where offset %" PRIu64 " should be", run->first_offset);
    arena_init(&arena);
    int rv = parse(run, f, &arena, &command, e);
    arena_fini(&arena);
    return rv;
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
