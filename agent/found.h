/* Containers of protected pods that crsc-runtime did not start (crsc.io/backend: kubelet). Nobody leaves a note of them, so they are found by the state that runc keeps of each
 * container, in --runc-root, and their words are read from their bundles.
 *
 * Which state such a container began with is not guessed either: three have to agree. The webhook wrote into the pod which checkpoint its image is of (crsc.io/checkpoint);
 * the container runtime says in the container's own annotation checkpointImage what it really restored; and the log has that checkpoint, with that image's digest. */
#ifndef CRSC_AGENT_FOUND_H
#define CRSC_AGENT_FOUND_H

#include "agent/agent.h"

struct found_state {
    struct process process;
    char bundle[PATH_MAX];
};

/* Pure: runc's state.json. -ERROR_INVALID: not (yet) one of a container with a process. */
int found_read(const char *text, size_t len, struct found_state *ret_state, struct error *e);

/* Pure: what the words of a container say of how it began. FOUND_DOUBT: they contradict each other; `reason` says how. */
enum found_how { FOUND_FRESH, FOUND_RESTORED, FOUND_DOUBT };
enum found_how found_how(const struct pod *pod, char reason[AGENT_REASON_MAX]);

/* What the log says of the checkpoint that a container says it was restored from; asked until it answers, or the container is gone (false). Fills offset, or `doubt` and reason. */
bool found_ask(struct agent *a, struct container *c);

/* Looks for them from now on, in a thread of its own. */
int found_start(struct agent *a, struct error *e);

#endif
