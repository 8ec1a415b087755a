/* Which process is it? A pid alone is reused; a pid with the start time of its process is not, until the next boot.
 *
 * `pid:starttime` is the identity that CRSC gives to "this very run of the app": the operator tells it to the
 * interceptor with the offset that the run's state contains, and compares it after its own restart. The start time is
 * field 22 of /proc/PID/stat: clock ticks since boot.
 *
 * Thread: any. All calls are short reads of /proc; none blocks on a disk. */
#ifndef CRSC_CHECKPOINT_PROCESS_H
#define CRSC_CHECKPOINT_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

enum { PROCESS_IDENTITY_MAX = 40 }; /* bytes of "pid:starttime" with the terminating zero */

struct process {
    int32_t pid;         /* as this process sees it; 0: none */
    uint64_t start_time; /* clock ticks since boot */
};

/* Fills in the start time of a pid that is alive. -ERROR_NOT_FOUND when there is no such process, or only its zombie. */
int process_find(int32_t pid, struct process *ret_process);

/* Is it still that process, and stopped, by a signal or by whoever traces it? A frozen one sleeps, for all that /proc says. */
bool process_stopped(const struct process *p);

/* Is it still that process, and not ended (a zombie has ended)? */
bool process_alive(const struct process *p);

/* Writes "pid:starttime"; returns `text`. */
char *process_identity(const struct process *p, char text[PROCESS_IDENTITY_MAX]);

/* Reads what process_identity() wrote. -ERROR_INVALID for anything else. */
int process_parse(const char *text, struct process *ret_process);

/* A pidfd of that very process: it becomes readable (poll, uv_poll) at the moment the process ends, and a signal sent
 * through it can never hit another one. -ERROR_NOT_FOUND when it has ended; -ERROR_IO when the system refuses. The
 * caller closes it. */
int process_open(const struct process *p, int *ret_pidfd);

/* Sends a signal through a pidfd of process_open(). -ERROR_NOT_FOUND when the process has ended. */
int process_signal(int pidfd, int signal);

#endif
