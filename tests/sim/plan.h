/* What happens to the cluster in a run: made from the seed before the run begins, so that a failing run can be repeated with some of
 * it left out. Each fault begins, hurts, and ends; by PLAN_CALM all have ended. Thread: one. */
#ifndef CRSC_TESTS_SIM_PLAN_H
#define CRSC_TESTS_SIM_PLAN_H

#include <stdbool.h>
#include <stdint.h>

enum plan_kind {
    PLAN_KILL,       /* a server, with SIGKILL */
    PLAN_KILL_AT_IO, /* the same, at the n-th boundary of I/O from now */
    PLAN_POWER,      /* its machine loses power */
    PLAN_POWER_AT_IO,
    PLAN_POWER_ALL,  /* all machines at once */
    PLAN_DOWN,       /* it is off for a while */
    PLAN_STOP,       /* SIGTERM: leadership is handed over */
    PLAN_STOP_LEADER,
    PLAN_PAUSE,      /* it is stopped for a while, as by SIGSTOP or a stalled machine */
    PLAN_ISOLATE,    /* no bytes to and from it */
    PLAN_SPLIT,      /* two parts that do not hear each other; clients hear both */
    PLAN_REJECT,     /* the leader's connections to the other servers and to client 0 are refused from now on, those to its
                        other clients are not: another is elected at once, and the old one does not know */
    PLAN_ONE_WAY,    /* one does not hear another */
    PLAN_SLOW,       /* a slow link, long delays */
    PLAN_LOSSY,      /* every link loses packets */
    PLAN_RESETS,     /* connections break in the middle of a frame */
    PLAN_DISK_SLOW,
    PLAN_DISK_FULL,
    PLAN_EIO_WRITE,
    PLAN_EIO_READ,
    PLAN_EIO_SYNC,
    PLAN_CLOCK,      /* its wall clock jumps */
    PLAN_ROT,        /* bytes of its segments or of its index change; of one server in a run, at most */
    PLAN_CLIENT,     /* a client is killed */
    PLAN_GROW,       /* a server is added to the cluster, if there is a machine for it */
    PLAN_SHRINK,     /* one is removed */
    PLAN_TRANSFER,   /* leadership is handed over */
    PLAN_WIPE,       /* a server loses its disk, and is replaced; not in a run with rot, so that a majority has everything */
    PLAN_BACKUP,     /* a backup is made, restored and read */
    PLAN_HANG,       /* its program stands still, its kernel goes on answering: its connections break, new ones are accepted, nothing
                        is said on them; then the machine is reset. Who waits for its answer is told nothing, for ever */
    PLAN_POWER_AT_COPY, /* the next server that copies its state for another one loses power at the n-th boundary of I/O in that */
    PLAN_EMPTY,      /* its disk is emptied, before the cluster was founded, while it is, or soon after: see founders.h */
    PLAN_EMPTY_AT_IO, /* and it loses power for that at the n-th boundary of I/O from now */
    PLAN_REMOVE_FETCHING, /* it is off for a while; the next server that begins to fetch another's state is cut off in that, and removed */
    PLAN_STOP_ALL,   /* SIGTERM to one server after the other, all of them, which then stay off for a while: the last one has nobody to hand over to,
                        and clients still ask it */
    PLAN_KINDS
};
extern const char *const plan_names[PLAN_KINDS];

enum { PLAN_FAULTS = 64, PLAN_EARLY = 12 /* at most so many while a cluster is founded */ };

struct plan_fault {
    enum plan_kind kind;
    uint64_t at, until; /* ms */
    unsigned a, b, n;
    bool skipped, armed, fired; /* armed: something has to happen first; fired: it has */
};

struct plan {
    struct plan_fault faults[PLAN_FAULTS];
    unsigned n;
    uint64_t calm_ms;
};

struct plan_shape {
    unsigned servers, founders, clients;
    bool early;       /* faults begin at once, and so many as founding may bear lose their disk in it; else after 2 s, when it is over */
    uint64_t calm_ms;
};
void plan_make(struct plan *p, uint64_t seed, const struct plan_shape *shape);
void plan_start(struct plan *p);
void plan_fetches(unsigned machine); /* it begins to fetch another's state */
void plan_print(const struct plan *p);
extern uint64_t plan_counts[PLAN_KINDS];
extern uint64_t plan_index_rots; /* of the rots of this run, in the index */
bool plan_rots_index(const struct plan *p);

#endif
