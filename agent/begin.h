/* Answers crsc-runtime: which state does this container begin with? (docs/AGENT.md.) The socket RUN/agent.sock, a thread for each question. */
#ifndef CRSC_AGENT_BEGIN_H
#define CRSC_AGENT_BEGIN_H

#include "agent/agent.h"

/* Makes the socket and starts; it ends with the process. -ERROR_IO: another agent has it, or it cannot be made. */
int begin_start(struct agent *a, struct error *e);

#endif
