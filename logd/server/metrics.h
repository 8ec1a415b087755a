/* What a server counts about itself, and how it shows that: /metrics in Prometheus' text format, and a dump into the log.
 *
 * Counting is a plain addition at the place where the thing happens; everything that can be asked when somebody looks (queues, indexes, disk) is
 * asked then. Names begin with crsc_logd_; docs/OPERATIONS.md says what to watch. Thread: the loop's; `sync` of the wal is its writer's. */
#ifndef CRSC_LOGD_SERVER_METRICS_H
#define CRSC_LOGD_SERVER_METRICS_H

#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/prom.h"

struct node;

enum { METRICS_TYPES = 128 }; /* frame types counted one by one */

struct metrics {
    struct prom_histogram append; /* from a command's arrival at the leader to its answer */
    struct prom_histogram apply;  /* an entry's effects, in memory and handed to the index */
    uint64_t requests[METRICS_TYPES];
    uint64_t refusals[ERROR_CODE_MAX];
    uint64_t connections;     /* accepted ever */
    uint64_t leader_changes;  /* seen */
    uint64_t command_bytes;   /* of commands applied */
    uint64_t commands;
};

/* Appends all of it. 0 or -ERROR_NOMEM. */
int metrics_render(const struct node *node, struct buf *out);
/* The state as log lines: "state", and one "state of peer" per other server. */
void metrics_dump(const struct node *node);

#endif
