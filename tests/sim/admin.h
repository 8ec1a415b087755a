/* Who looks after the cluster: a process that uses libcrsc as crsc-logctl does, and crsc-logctl's own backup.
 *
 * It does one thing at a time, and repeats it until it is known to be done: adds a server (an empty disk, as a standby, promoted when it has caught up), removes
 * one, hands leadership over, empties a disk and replaces the server that lost it, replaces one that found its data damaged, writes a
 * backup, makes another cluster from it and has that read. What could lose a majority's data is not begun: that no log survives.
 * Machine WORKLOAD_ADMIN. Thread: one. */
#ifndef CRSC_TESTS_SIM_ADMIN_H
#define CRSC_TESTS_SIM_ADMIN_H

#include <stdbool.h>
#include <stdint.h>

enum admin_job { ADMIN_GROW, ADMIN_SHRINK, ADMIN_TRANSFER, ADMIN_WIPE, ADMIN_BACKUP, ADMIN_DISMISS /* server n is removed */, ADMIN_JOBS };

void admin_begin(void);
void admin_ask(enum admin_job job, unsigned n); /* n: chooses the server */
/* No further job is begun but replacements. */
void admin_calm(void);
bool admin_is_done(void);               /* and knows the members */
const char *admin_waits_for(void);
bool admin_is_member(unsigned machine); /* when it looked last */
/* May one server's data be damaged now, and the others are a majority with all of it, whatever is done next? */
bool admin_may_damage(void);
/* May that one lose its disk now, and the others are a majority, known to all or not yet founded? */
bool admin_may_empty(unsigned machine);
extern uint64_t admin_counts[8];
enum { ADMIN_ADDED, ADMIN_PROMOTED, ADMIN_REMOVED, ADMIN_TRANSFERRED, ADMIN_WIPED, ADMIN_REPLACED, ADMIN_BACKUPS, ADMIN_RESTORED };

#endif
