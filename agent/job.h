/* Work that takes a while and has a state to be asked for: taking a checkpoint, fetching one. A thread each; docs/AGENT.md has the phases.
 *
 * A checkpoint is valid only if the interceptor confirms, after the dump has ended, that its drain was never broken, and only when its image is verified
 * where it was pushed. Whatever fails is recorded as failed, and leaves nothing; the previous one is still valid. Whether `valid` came into the log, when no
 * answer came, is found out by asking the log, however long that takes: both guesses would be wrong at times. */
#ifndef CRSC_AGENT_JOB_H
#define CRSC_AGENT_JOB_H

#include "agent/agent.h"

struct job_request {
    const char *stream, *id, *namespace, *pod, *pod_uid; /* pod_uid NULL: whichever */
    uint64_t drain_ms, timeout_ms; /* timeout_ms 0: what the backend is usually given */
};

/* 0: begun; 1: it is known already. -ERROR_NOT_FOUND: no such container here; -ERROR_CONFLICT: another pod of that name, a pod of another
 * stream, or another checkpoint of the container is under way. */
int job_checkpoint(struct agent *a, const struct job_request *r, struct error *e);

struct job_fetch {
    const char *id, *stream, *image, *digest;
    const char *from[8]; /* NULL at the end */
};
int job_prefetch(struct agent *a, const struct job_fetch *f, struct error *e);

/* A copy of its state. False: it is not known. An id names a checkpoint within its stream only. */
bool job_find(struct agent *a, const char *stream, const char *id, struct job *ret_job);
/* Forgets it, if it has ended. */
void job_forget(struct agent *a, const char *stream, const char *id);

#endif
