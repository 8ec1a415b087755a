/* Sees to the containers that crsc-runtime started on this node: tells each one's interceptor which state the app began with, and ends an app whose
 * state nobody knows any more (its interceptor was restarted, or says that it is suspect), so that the kubelet's restart restores it.
 *
 * STARTED/ID.json says that a container was started; beside it ID.attached says which interceptor (its instance) was told, before it is told. A thread of its
 * own looks for new files, and one for each protected container stays with it until its file is gone. Those that crsc-runtime did not start have no such file: found.h
 * brings them, and they are over with their process. */
#ifndef CRSC_AGENT_KEEPER_H
#define CRSC_AGENT_KEEPER_H

#include "agent/agent.h"

/* Starts; it ends with the process. */
int keeper_start(struct agent *a, struct error *e);

/* A container to be seen to, unless it is known already. Takes it. False: one of that id is seen to still, and was another process: again later. */
bool keeper_take(struct agent *a, struct container *c);

#endif
