#include <inttypes.h>
#include <stdio.h>

#include "logctl/verbs.h"

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct error e;
    uint64_t first = 0;
    if ((o->given & OPTION_TO) == 0) {
        fputs("crsc-logctl: trim needs --to OFFSET: the last event that goes; see crsc-logctl help trim\n", stderr);
        return EXIT_USAGE;
    }
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = crsc_sync_trim(s, o->argument, o->to, (o->given & OPTION_FORCE) != 0, &first, &e);
    crsc_sync_free(s);
    if (rv != 0) return fail(o, &e);
    if (o->json) printf("{\"first_offset\":%" PRIu64 "}\n", first);
    else printf("%s begins at offset %" PRIu64 " now\n", o->argument, first);
    return EXIT_OK;
}

const struct verb verb_trim = {
    .name = "trim",
    .summary = "drops a stream's old events, so that their disk space can be used again",
    .help =
        "Usage: crsc-logctl trim STREAM --to OFFSET [--force]\n"
        "Events up to and including OFFSET are gone for every reader at once; the servers give their space back when all of a\n"
        "segment is. Refused when a valid snapshot needs some of them for the replay after its restore (the message says how far\n"
        "it may go), and, unless --force is given, when the stream has no valid snapshot: then only a fresh start and all of its\n"
        "events bring the state back. There is no way to undo it.\n\n"
        "Examples:\n"
        "  crsc-logctl snapshots demo/default/workload/pushgateway\n"
        "  crsc-logctl trim demo/default/workload/pushgateway --to 120000\n",
    .options = OPTION_TO | OPTION_FORCE,
    .argument = 1,
    .run = run,
};
