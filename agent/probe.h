/* What this node can do: which backend works, versions, the store's use. Looked at once, at the start; `GET /v1/node` tells it. */
#ifndef CRSC_AGENT_PROBE_H
#define CRSC_AGENT_PROBE_H

#include "agent/agent.h"
#include "common/buf.h"

/* Runs runc and CRIU, in the host's mount namespace; blocks for up to some seconds. Never fails: what does not work is told. */
void probe_look(struct agent *a);

/* The answer of /v1/node. 0 or -ERROR_NOMEM. */
int probe_write(struct agent *a, struct buf *out);

#endif
