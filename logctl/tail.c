#include <inttypes.h>
#include <stdio.h>

#include "logctl/show.h"

struct following {
    const struct options *o;
    struct crsc_sync *sync;
    uint64_t left; /* events still to be shown */
};

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct following *f = user;
    (void)e, (void)last;
    for (size_t i = 0; i < n && f->left > 0; i++, f->left--) show_event(f->o, &events[i]);
    if (fflush(stdout) != 0 || f->left == 0) crsc_sync_stop(f->sync);
}

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct error e;
    struct ends ends;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    bool from_given = (o->given & OPTION_FROM) != 0, count_given = (o->given & OPTION_COUNT) != 0;
    int rv = show_ends(s, o->argument, &ends, &e);
    if (rv == 0 && from_given && o->from < ends.first)
        rv = error_set(&e, ERROR_NOT_FOUND, "offset %" PRIu64 " of \"%.100s\" was trimmed: its first one is %" PRIu64,
                       o->from, o->argument, ends.first);
    if (rv == 0) {
        uint64_t newest = ends.last - ends.first + 1 > o->count ? ends.last - o->count + 1 : ends.first;
        uint64_t from = from_given ? o->from : newest, to = ends.last;
        struct following f = {.o = o, .sync = s, .left = from_given && count_given ? o->count : UINT64_MAX};
        if (from_given && count_given && to - from >= o->count && to >= from) to = from + o->count - 1;
        show_header(o);
        fflush(stdout);
        rv = (o->given & OPTION_FOLLOW) != 0 ? crsc_sync_follow(s, o->argument, from, on_events, &f, &e)
                                             : show_range(s, o, from, to, &e);
    }
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

const struct verb verb_tail = {
    .name = "tail",
    .summary = "a stream's newest events, and with --follow what comes",
    .help = "Usage: crsc-logctl tail STREAM [-n K] [--from N] [--follow] [--body]\n"
            "Prints the newest K events of the stream. With --from it begins at offset N instead (and ends after K "
            "events if -n is\n"
            "given too). With --follow it goes on with new events as they are committed, across changes of the leader, "
            "until\n"
            "it is interrupted; that is exit status 0.\n"
            "  -n K       how many           [10]\n"
            "  --from N   first offset\n"
            "  --follow   wait for more\n"
            "  --body     the whole payload below each event's line; base64 when it is not text\n"
            "With --output json each event is a line of its own, its payload in \"text\" or \"base64\".\n\n"
            "Examples:\n"
            "  crsc-logctl tail demo/default/workload/pushgateway\n"
            "  crsc-logctl tail demo/default/workload/pushgateway -n 100 --output json | jq -c '[.offset, .method, "
            ".target]'\n"
            "  crsc-logctl tail demo/default/workload/pushgateway --from 1 --follow\n",
    .options = OPTION_FROM | OPTION_COUNT | OPTION_FOLLOW | OPTION_BODY,
    .argument = 1,
    .run = run,
};
