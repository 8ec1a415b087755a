/* The port for those who watch: /metrics, /healthz and /readyz over HTTP; and SIGUSR1, which writes the state to the log.
 *
 *   /healthz  200 as long as the loop turns
 *   /readyz   200 when the cluster can commit now and this server is as far as its leader (canary.h); else 503 with the reason
 *   /metrics  metrics.h
 *
 * Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_MONITOR_H
#define CRSC_LOGD_SERVER_MONITOR_H

#include "common/error.h"

struct node;
struct monitor;

int monitor_start(struct node *node, struct monitor **ret_monitor, struct error *e);
const char *monitor_address(const struct monitor *m); /* "" when there is no port */
/* Who waits for /readyz hears no. `done` from the loop; the monitor is gone by then. */
void monitor_close(struct monitor *m, void (*done)(void *user), void *user);

#endif
