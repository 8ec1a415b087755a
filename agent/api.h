/* The agent's API (docs/AGENT.md): requests to answers. Thread: any, many at once; a `verify` blocks for as long as the image is large. */
#ifndef CRSC_AGENT_API_H
#define CRSC_AGENT_API_H

#include "agent/agent.h"
#include "agent/https.h"

void api_handle(void *agent, const struct https_request *request, struct https_answer *ret_answer);

#endif
