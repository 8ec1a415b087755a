/* The verbs of crsc-logctl: one file each, one `struct verb` each.
 *
 * main.c reads the command line into a struct options (every option has one meaning in all verbs), refuses what the
 * verb does not know, and runs it. A verb prints its result to stdout and nothing else there; what went wrong goes to
 * stderr through fail(), which also gives the exit status. */
#ifndef CRSC_LOGCTL_VERBS_H
#define CRSC_LOGCTL_VERBS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/sync.h"

enum exit_status { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3, EXIT_NOT_FOUND = 4 };

enum option_bit { OPTION_FROM = 1, OPTION_TO = 2, OPTION_COUNT = 4, OPTION_FOLLOW = 8, OPTION_BODY = 16 };

struct options {
    const char *servers;
    uint32_t timeout_ms;
    bool json;
    unsigned given; /* enum option_bit */
    uint64_t from, to, count;
    const char *argument; /* STREAM or PREFIX; NULL: not given */
};

struct verb {
    const char *name;
    const char *summary; /* one line of --help */
    const char *help;    /* what `help VERB` prints */
    unsigned options;    /* enum option_bit it knows */
    int argument;        /* 0: takes none, 1: must have one, 2: may have one */
    int (*run)(const struct options *o);
};

extern const struct verb verb_status, verb_streams, verb_tail, verb_events, verb_snapshots;

/* A client for these options, or NULL and *ret_status after having said why. */
struct crsc_sync *open_client(const struct options *o, int *ret_status);
/* Says what went wrong and what to do; returns the exit status for it. */
int fail(const struct options *o, const struct error *e);
/* 0 when stdout took everything. */
int finish_output(void);

#endif
