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

enum option_bit { OPTION_FROM = 1, OPTION_TO = 2, OPTION_COUNT = 4, OPTION_FOLLOW = 8, OPTION_BODY = 16, OPTION_FORCE = 32, OPTION_CLIENTS = 64,
                  OPTION_SIZE = 128, OPTION_SECONDS = 256, OPTION_INTERVAL = 512, OPTION_ONCE = 1024,
                  OPTION_KEEP_SNAPSHOTS = 2048, OPTION_MAX_AGE = 4096, OPTION_MAX_BYTES = 8192, OPTION_BEYOND = 16384 };

struct options {
    const char *servers;
    const char *tls_ca, *tls_cert, *tls_key, *tls_name; /* NULL: not given */
    uint32_t timeout_ms;
    bool json;
    unsigned given; /* enum option_bit */
    uint64_t from, to, count;
    uint64_t clients, size, seconds, interval_ms;
    uint64_t keep_snapshots, max_age_ms, max_bytes;
    const char *argument; /* STREAM or PREFIX, or what `members` is to do; NULL: not given */
    const char *argument2; /* of `members`, `leader` and `retention`; NULL: not given */
};

struct verb {
    const char *name;
    const char *summary; /* one line of --help */
    const char *help;    /* what `help VERB` prints */
    unsigned options;    /* enum option_bit it knows */
    int argument;        /* 0: takes none, 1: must have one, 2: may have one */
    const char *words;   /* what the argument can be; NULL: a stream's name, or its beginning */
    bool argument2;      /* may have another one */
    int (*run)(const struct options *o);
};

/* Every option, for the parser and for the shells' completion; the list ends with a name of NULL. */
struct option_info {
    const char *name;     /* of one letter: "-n" */
    int code;             /* what getopt gives */
    const char *argument; /* NULL: takes none */
    unsigned bit;         /* enum option_bit; 0: of all verbs */
};
extern const struct option_info logctl_options[];
extern const struct verb *const logctl_verbs[]; /* ends with NULL */

extern const struct verb verb_health, verb_top, verb_bench, verb_completion;
extern const struct verb verb_status, verb_streams, verb_tail, verb_events, verb_snapshots, verb_restores, verb_trim, verb_retention, verb_members, verb_leader, verb_backup, verb_check, verb_migrate;

/* A client for these options, or NULL and *ret_status after having said why. */
struct crsc_sync *open_client(const struct options *o, int *ret_status);
/* Says what went wrong and what to do; returns the exit status for it. */
int fail(const struct options *o, const struct error *e);
/* 0 when stdout took everything. */
int finish_output(void);

#endif
