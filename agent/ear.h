/* Hears at once that a container's interceptor has something new to say, is gone, or that the app's process has ended: a connection to its GET /watch,
 * which says something at each change, and a pidfd. What it says is not read: the keeper asks then. Without the connection (none could be made) the
 * wait is over when its time is, and the next one tries again. When it ends the wait is over; one is made in the time of a wait at most: an interceptor that takes
 * it and ends it at once does not keep us busy. Thread: one. */
#ifndef CRSC_AGENT_EAR_H
#define CRSC_AGENT_EAR_H

#include "agent/sidecar.h"
#include "checkpoint/process.h"

struct ear {
    int pidfd; /* -1: none */
    int fd;    /* of the connection; -1: none */
    uint64_t not_before_ms; /* no connection is made before */
};

void ear_init(struct ear *ear, const struct process *p);
void ear_fini(struct ear *ear);

/* Until there is something to look at, or `ms` are over. */
void ear_wait(struct ear *ear, const struct sidecar *s, int ms);

#endif
