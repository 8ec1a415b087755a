/* What crsc-runtime leaves about each protected container before it answers: STARTED/ID.json, written aside and renamed, so that it is there whole or
 * not at all. The agent learns from it which state a container began with, at once or after it was away. Text only; docs/AGENT.md has the format. */
#ifndef CRSC_RUNTIME_STARTED_H
#define CRSC_RUNTIME_STARTED_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/ask.h"

struct started {
    const char *id, *bundle;
    int32_t pid;
    bool restored;
    const struct answer *answer; /* snapshot and offset when restored, else the reason */
    uint64_t criu_us;            /* what the restore took */
};

/* False: it could not be written (errno). */
bool started_write(const char *dir, const struct started *s);
/* Did we restore it? Then it needs no start. */
bool started_restored(const char *dir, const char *id);
void started_remove(const char *dir, const char *id);

#endif
