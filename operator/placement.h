/* Which replicas of a stream are its spares, after moves: one small file for each stream that an app was moved of, STATE/moves/HASH, which is replaced
 * in one step and synced. The workload files say it at the beginning, and again when they name another number of spares, or other workloads, than were
 * written down.
 *
 * Blocks on the disk for a moment. Thread: the loop's. */
#ifndef CRSC_OPERATOR_PLACEMENT_H
#define CRSC_OPERATOR_PLACEMENT_H

#include "common/error.h"
#include "operator/settings.h"

struct workload;

/* At the start: corrects `spare` in the words of those that were moved. What cannot be read or makes no sense is passed over. */
void placement_apply(const char *state_dir, struct workload_settings *all, size_t n);

/* Writes down `spare` of all replicas of its stream (workload_internal.h). */
int placement_save(const struct workload *of, struct error *e);

#endif
