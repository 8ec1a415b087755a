/* The operator's own /metrics (Prometheus' text) and /healthz, on a port of its own: what became of each workload, how long its recoveries took, and how
 * much of the time each stream was served. docs/OPERATOR.md lists the names. Thread: the loop's. */
#ifndef CRSC_OPERATOR_MONITOR_H
#define CRSC_OPERATOR_MONITOR_H

#include "operator/workload.h"

struct monitor;

/* `workloads` is borrowed until monitor_close(); they must not be freed before. */
int monitor_start(uv_loop_t *loop, const char *address, struct workload *const *workloads, size_t n, struct monitor **ret_monitor, struct error *e);
const char *monitor_address(const struct monitor *m);
/* Looks at no workload any more. `done` from the loop; NULL is nothing, and `done` comes at once. */
void monitor_close(struct monitor *m, void (*done)(void *user), void *user);

#endif
