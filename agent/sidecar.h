/* The interceptor of a pod, at its admin port on the pod's loopback: entered through the network namespace of the pod's process `pid`. Blocking, each
 * call bounded; thread: any. docs/INTERCEPTOR.md describes what it answers. */
#ifndef CRSC_AGENT_SIDECAR_H
#define CRSC_AGENT_SIDECAR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct sidecar {
    const char *admin; /* host:port inside the pod */
    pid_t pid;         /* a live process of the pod */
};

enum { SIDECAR_IDENTITY_MAX = 64, SIDECAR_INSTANCE_MAX = 64, SIDECAR_WORD_MAX = 160 };

struct sidecar_status {
    char instance[SIDECAR_INSTANCE_MAX]; /* of the interceptor's process */
    char identity[SIDECAR_IDENTITY_MAX]; /* of the app it was told of; "": none */
    char state[16];
    char drain[64]; /* the token of a drain in force, "" : none */
    bool lost, suspect;
    bool diverged;                       /* the majority of replicas answered otherwise than its app: suspect, too */
    bool reading;                        /* it was started again and still reads what the log proves of the app before */
    char proven[SIDECAR_IDENTITY_MAX];   /* of this app the log proves the state: "": of none ... */
    uint64_t proven_offset;              /* ... that of this offset */
    char word[SIDECAR_WORD_MAX];         /* all of it that says whether it serves: as long as that is equal, it does as before */
    char *json; /* all of it, malloc()ed: sidecar_status_fini() */
};

int sidecar_status(const struct sidecar *s, struct sidecar_status *ret_status, struct error *e);
void sidecar_status_fini(struct sidecar_status *s);

/* `proven`: only if the interceptor itself has proven it. -ERROR_CONFLICT: it will not. */
int sidecar_attach(const struct sidecar *s, const char *identity, uint64_t offset, const char *upstream, bool proven, struct error *e);
int sidecar_drain(const struct sidecar *s, const char *token, uint32_t drain_ms, uint32_t lease_ms, uint64_t *ret_offset, struct error *e);
/* How many replicas there are: 0, or 2 to 15. -ERROR_CONFLICT: it is none. */
int sidecar_replicas(const struct sidecar *s, uint64_t count, struct error *e);
/* Ends the drain; was it never broken? */
int sidecar_resume(const struct sidecar *s, const char *token, bool *ret_unbroken, struct error *e);

#endif
