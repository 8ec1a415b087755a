/* The account of a workload's recoveries, kept in the log: an event for each (kind `mark`, its payload a JSON object, docs/OPERATOR.md) in a stream of
 * its own beside the workload's, "STREAM/restores". `crsc-logctl restores` shows it. A stream and no record of its own kind in the replicated state
 * machine: it is written seldom, read by people only, and a stream is replicated, backed up and trimmed already. The first event gives it a retention
 * policy of RESTORES_BYTES: the newest stay.
 *
 * Nothing waits for it, and no recovery is delayed by it: what the log does not take is kept (the newest RESTORES_PENDING) and tried again, and is lost
 * with the operator. An event may be there twice when the log's answer was lost; it says the same both times.
 *
 * Thread: the loop's. Strings are copied. */
#ifndef CRSC_OPERATOR_RESTORES_H
#define CRSC_OPERATOR_RESTORES_H

#include <uv.h>

#include "client/crsc.h"

enum {
    RESTORES_PENDING = 32,
    RESTORES_BYTES = 256 << 10, /* about 600 of them */
};
#define RESTORES_SUFFIX "/restores"

struct restores;

/* Times are microseconds; what they are from and to is in docs/OPERATOR.md. */
struct restores_entry {
    const char *cause;    /* why it was gone */
    const char *snapshot; /* what it was restored from; "": a fresh start */
    uint64_t generation;  /* of the new instance */
    uint64_t offset, replayed;
    uint64_t finished_us; /* wall time */
    bool timed;           /* its loss was seen: else nobody knows the times but `restore` and `replay` */
    uint64_t detect_us, reaction_us, repair_us, recovery_us, outage_us;
    uint64_t restore_us, replay_us;
    double availability; /* of the stream, since this operator saw it served first */
};

/* `client` is borrowed. Nothing is opened before the first entry. -ERROR_NOMEM. */
int restores_new(uv_loop_t *loop, struct crsc_client *client, const char *stream, const char *node, const char *workload, struct restores **ret_restores,
                 struct error *e);
void restores_note(struct restores *r, const struct restores_entry *entry);
/* Before the client is closed: nothing more is begun; what is under way may still end. */
void restores_stop(struct restores *r);
/* The client is closed already. `done` from the loop. */
void restores_free(struct restores *r, void (*done)(void *user), void *user);

#endif
