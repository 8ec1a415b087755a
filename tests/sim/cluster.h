/* The simulated cluster: servers, which run logd's node_start() as main.c does, and who starts them again when they end.
 *
 * A server ends by itself only with a reason that the simulation gave it (a disk that failed, a rebuild); any other end is a
 * violation, as is a leak after a clean stop, and a status 3 ("damaged") of a disk that nobody damaged. Thread: one. */
#ifndef CRSC_TESTS_SIM_CLUSTER_H
#define CRSC_TESTS_SIM_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/loop.h"
#include "tests/sim/world.h"

struct node;

enum { CLUSTER_MAX = 5, CLUSTER_RESTORED = 6 /* the machine of a server made from a backup */, CLUSTER_PORT = 7400 };

struct server {
    struct process process; /* machine 1..n */
    struct node *node;      /* while it runs and has started */
    struct loop_signals signals;
    bool listens; /* to signals */
    bool asked_to_stop;
    bool disk_hurt;         /* it may end because of its disk */
    bool damaged;           /* bytes were changed on its disk: it may refuse to start, for ever */
    bool out;               /* it refused */
    bool held_down;         /* a fault keeps it down */
    bool spare;             /* it has no disk and no program yet */
    bool joins;             /* it was started to be added to a cluster that exists */
    bool wiped;             /* it lost its disk: the cluster may refuse it until it is added anew, */
    bool known;             /* and must, as it had noted which it was */
    bool loses_disk;        /* when it loses power next */
    bool leaving;           /* its removal was asked for: it may be told so, and end */
    bool refused;           /* without a log it was told that it is none of the cluster's, and waits */
    unsigned restarts;
    unsigned crashes;       /* of one that is damaged */
};

struct cluster_options {
    unsigned n, first; /* machines; the first so many of them make the cluster */
    bool by_name; /* addresses are names to be looked up */
    unsigned late_ms; /* the servers start within that */
    unsigned election_ms, heartbeat_ms, segment_kib, keep_kib, commit_ms, retention_ms, scrub_ms;
};

void cluster_begin(const struct cluster_options *options);
unsigned cluster_size(void);                     /* machines */
const struct cluster_options *cluster_shape(void);
struct server *cluster_server(unsigned machine); /* 1..n */
const char *cluster_addresses(void);            /* for clients */
const char *cluster_address(unsigned machine);
void cluster_stop(struct server *s);            /* as SIGTERM does; it is started again after a while */
struct server *cluster_leader(void);            /* NULL: nobody leads now */
void cluster_wipe(struct server *s);            /* its disk is empty from now on; it starts again as it did before */
void cluster_empty(struct server *s);           /* the same, whoever knows it or not: its founding may not be over */
void cluster_join(struct server *s);            /* as a new server, with an empty disk, to be added */
/* A cluster of one, on a machine of its own, made from a backup; node: what runs there. */
void cluster_restore(const char *backup);
bool cluster_restore_failed(void); /* the backup is damaged; until cluster_restore_over() */
void cluster_restore_over(void);
struct server *cluster_restored(void);
/* The next server that begins a copy of its state loses power `io` boundaries of I/O later; -1: none does. */
void cluster_cut_at_copy(int io);
extern uint64_t cluster_counts[8];
extern uint64_t cluster_moves; /* in all runs: events were moved out of sparse segments */
extern uint64_t cluster_repaired; /* segments that were written anew, in all worlds so far */
enum { CLUSTER_STARTS, CLUSTER_KILLED, CLUSTER_POWER, CLUSTER_STOPPED, CLUSTER_FAILED, CLUSTER_REBUILDS, CLUSTER_REFUSED, CLUSTER_TURNED_AWAY };

/* What of logd is watched and was not called in any run of this process; NULL: nothing. A linker that binds calls within logd past the watches (LTO does)
 * would leave the checks without anything to check. */
const char *cluster_unwatched(void);
/* Something did what ends a process (SIGSEGV and the like). In a run with a damaged index it is LMDB, which believes its pages, and who knows what it wrote
 * into before: the simulator ends with that status. Else it returns. */
enum { CLUSTER_SPOILED = 77 };
void cluster_crashed(void);

#endif
