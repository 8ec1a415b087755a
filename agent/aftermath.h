/* What is left when a kubelet's checkpoint did not end well: nobody of ours could wait for its end, or the kubelet named no archive. Then
 *
 *   the container may stand still: it is thawed; if it does not go on in a while, it is killed, to be restored. One that goes on is left alone: what CRIU did not finish
 *     ends with CRIU, and an app that this ended is missed by its interceptor;
 *   its memory may lie in the kubelet's folder, now or a little later, as the container runtime may still be at work: such files are looked for and removed for a while.
 *
 * RUN/started/ID.dumping says since when and how they would be called, from before the kubelet is asked until it has named an archive or refused: the next life goes on
 * with that. Thread: any. */
#ifndef CRSC_AGENT_AFTERMATH_H
#define CRSC_AGENT_AFTERMATH_H

#include "agent/agent.h"

/* The kubelet is about to be asked; it answered. */
void aftermath_note(struct agent *a, const struct container *c);
void aftermath_forget(struct agent *a, const struct container *c);

/* After a bad end; `answered`: the kubelet says itself that it is over. Blocks for as long as the container stands still, two minutes at most. */
void aftermath_see(struct agent *a, struct container *c, bool answered);

/* A container that is found again: was it being dumped when an earlier life ended? Then that is seen to. */
void aftermath_resume(struct agent *a, struct container *c);

/* Now and then: files that came later. */
void aftermath_sweep(struct agent *a, struct container *c);

/* The same of containers that are over since. */
void aftermath_orphans(struct agent *a);

#endif
