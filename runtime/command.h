/* runc as a child, with a bound: at the bound its whole process group is killed. Blocking; one thread. */
#ifndef CRSC_RUNTIME_COMMAND_H
#define CRSC_RUNTIME_COMMAND_H

/* Runs argv[0] (from PATH) with our stdio. Its exit status, 128 + a signal's number, or -1: it could not be run or took longer than
 * `bound_ms`. */
int command_run(char *const argv[], int bound_ms);

#endif
