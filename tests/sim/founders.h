/* Who founded the cluster, and what must follow from it; and the person who helps where the log's advice says that one has to (docs/OPERATIONS.md).
 *
 *  - All servers that wrote a first entry, and have not lost their disk since, wrote the same one (roll.h, R3).
 *  - It names for each server the data directory that is there, or one that was lost.
 *  - A server that lost its disk after it was named (`wiped` and `known`, cluster.h) votes for nobody and is given no entry until it is added anew.
 *  - Nobody says that the cluster cannot be founded unless a disk was lost. Then, if it is said and nobody has a log, all servers are stopped and emptied.
 *
 * Looks at disks from outside, and knows nothing of logd's state. Thread: one. */
#ifndef CRSC_TESTS_SIM_FOUNDERS_H
#define CRSC_TESTS_SIM_FOUNDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void founders_begin(void);
void founders_entry(unsigned machine, uint64_t index, const void *bytes, size_t len); /* it writes this membership into its log */
void founders_votes(unsigned machine);                                                /* for somebody, or for itself */
void founders_emptied(unsigned machine);                                              /* its disk is gone */
void founders_added(unsigned machine);                                                /* as a new server */
void founders_complained(unsigned machine);                                           /* it says that the cluster cannot be founded */
bool founders_begun(void); /* somebody has a first entry */
extern uint64_t founders_counts[3]; /* in all worlds so far */
enum { FOUNDERS_FOUNDED, FOUNDERS_LOST /* disks, before or after that */, FOUNDERS_HELPED };

#endif
