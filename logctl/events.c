#include <inttypes.h>

#include "logctl/show.h"

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct error e;
    struct ends ends;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = show_ends(s, o->argument, &ends, &e);
    if (rv == 0 && (o->given & OPTION_FROM) != 0 && (o->from < ends.first || o->from > ends.last))
        rv = error_set(&e, ERROR_NOT_FOUND, "offset %" PRIu64 " is not in \"%.100s\", which %s %" PRIu64 " to %" PRIu64,
                       o->from, o->argument, ends.last == 0 ? "is empty, but for" : "has", ends.first, ends.last);
    if (rv == 0) {
        uint64_t from = (o->given & OPTION_FROM) != 0 ? o->from : ends.first;
        uint64_t to = (o->given & OPTION_TO) != 0 && o->to < ends.last ? o->to : ends.last;
        show_header(o);
        rv = show_range(s, o, from, to, &e);
    }
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

const struct verb verb_events = {
    .name = "events",
    .summary = "a stream's events from one offset to another",
    .help = "Usage: crsc-logctl events STREAM [--from A] [--to B] [--body]\n"
            "Prints the events with offsets A to B, both included; from the first and to the last there is when they "
            "are left out.\n"
            "A request shows its method and target, a completion the request it is of.\n"
            "  --from A   first offset      --to B   last offset\n"
            "  --body     the whole payload below each event's line; base64 when it is not text\n"
            "With --output json each event is a line of its own, its payload in \"text\" or \"base64\".\n\n"
            "Examples:\n"
            "  crsc-logctl events demo/default/workload/pushgateway --from 100 --to 120\n"
            "  crsc-logctl events demo/default/workload/pushgateway --from 117 --to 117 --body\n"
            "  crsc-logctl events demo/default/workload/pushgateway --output json | jq -r 'select(.method == "
            "\"PUT\").target'\n",
    .options = OPTION_FROM | OPTION_TO | OPTION_BODY,
    .argument = 1,
    .run = run,
};
