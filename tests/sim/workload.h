/* The clients: processes that use libcrsc as a program would, and remember what they were told.
 *
 * Each has a producer (opens, appends, opens again when it is broken), a follower, and an operator that records snapshots, trims,
 * fences and asks. Two may have the same stream: then they fence each other. They are killed and start again like servers.
 * Machines WORKLOAD_FIRST and on. Thread: one. */
#ifndef CRSC_TESTS_SIM_WORKLOAD_H
#define CRSC_TESTS_SIM_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/world.h"

enum { WORKLOAD_FIRST = 8, WORKLOAD_CLIENTS = 3, WORKLOAD_AUDITOR = WORKLOAD_FIRST + WORKLOAD_CLIENTS, WORKLOAD_ADMIN, WORKLOAD_BACKUP, WORKLOAD_MACHINES };

struct check_policy;
/* policies: of each stream of check.h; `keep`, `age_us` and `bytes` 0: none */
void workload_begin(unsigned n_clients, uint32_t pause_ms, uint32_t size_max, const struct check_policy *policies);
int workload_stream(const char *name); /* of check.h; -1: none */
void workload_kill(unsigned client);
void workload_calm(void);         /* no new operations but one append each, which must be acknowledged */
bool workload_is_done(void);      /* after workload_calm(): it was, and everybody has an answer */
/* Reads every stream from every member in turn; or, when `backup` is not NULL, from the server made from the backup that was begun at that mark. One at a
 * time; done when it has ended. */
struct check_mark;
void workload_audit(const struct check_mark *backup);
bool workload_audited(void);
const char *workload_waits_for(void);
extern uint64_t workload_counts[8];
enum { WORKLOAD_OPENS, WORKLOAD_FENCES, WORKLOAD_SNAPSHOTS, WORKLOAD_TRIMS, WORKLOAD_READS, WORKLOAD_BROKEN, WORKLOAD_KILLS, WORKLOAD_RETAINED /* by a policy */ };

#endif
