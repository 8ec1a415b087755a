/* What the agent's parts share: its settings, its connections to the world, and the two lists that change: containers and checkpoints under way.
 *
 * One thread for each thing that takes time: a container that is watched (keeper.h), a checkpoint (job.h), a question of crsc-runtime (begin.h), a
 * connection of the API (https.h). `lock` guards the lists and the fields marked so; nobody blocks while holding it. Containers and jobs are counted: who uses one
 * without the lock holds a reference. */
#ifndef CRSC_AGENT_AGENT_H
#define CRSC_AGENT_AGENT_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "agent/call.h"
#include "agent/dump.h"
#include "agent/kubelet.h"
#include "agent/ledger.h"
#include "agent/pod.h"
#include "agent/registry.h"
#include "agent/settings.h"
#include "agent/sidecar.h"
#include "agent/store.h"
#include "checkpoint/process.h"

enum { AGENT_CONTAINER_MAX = 128, AGENT_REASON_MAX = 256, AGENT_REFERENCE_MAX = 1024 };

struct container {
    struct container *next;
    unsigned refs; /* lock */
    char id[AGENT_CONTAINER_MAX];
    struct pod pod;
    struct process process;
    bool restored;
    char snapshot[STORE_ID_MAX], tried[STORE_ID_MAX], reason[AGENT_REASON_MAX];
    uint64_t offset, criu_us, created_us;
    bool refused; /* its ports cannot be redirected, and the log was told; the keeper's */
    bool found;   /* crsc-runtime did not start it (found.h) */
    /* lock: */
    bool attached, gone;
    uint64_t attached_us;
    char *status; /* the interceptor's last words, or NULL */
    char word[SIDECAR_WORD_MAX]; /* what of them the operator is to hear at once */
    bool silent;  /* since then it does not answer, or the app's process has ended */
    bool busy;    /* a checkpoint of it is under way, or what one left is removed */
    uint64_t left_us, sweep_ms, sweep_until_ms; /* backend kubelet: since then its checkpoints may have left files, which are looked for next then, and until then (aftermath.h) */
    unsigned late;        /* so many of its checkpoints in a row did not end in time */
    unsigned rest;        /* so many of its dumps are plain: the last one that was built upon rounds of pre-copy failed, or rounds came to nothing */
    uint64_t rest_ms;     /* until then none is begun for that */
    bool settled; /* how it began is known, or that nobody knows it: what is said of that does not change any more. Until then it is not attached */
    bool doubt;   /* nobody knows which state it began with: `reason` says why. It is not attached; from the beginning on, or when the log is asked */
};

enum phase { PHASE_COPYING, PHASE_DRAINING, PHASE_DUMPING, PHASE_PACKING, PHASE_PUSHING, PHASE_RECORDING, PHASE_FETCHING, PHASE_VALID, PHASE_FAILED };

struct job {
    struct job *next;
    char id[STORE_ID_MAX], stream[POD_WORD_MAX];
    char namespace[POD_NAME_MAX], pod[POD_NAME_MAX], container[AGENT_CONTAINER_MAX]; /* of a checkpoint */
    char template_hash[POD_HASH_MAX];
    uint64_t drain_ms, timeout_ms;
    /* lock: */
    enum phase phase;
    struct oci_image image;
    char reference[AGENT_REFERENCE_MAX]; /* where it is pushed; "" : only here */
    struct error error;
    uint64_t offset, started_us, finished_us, drain_us, dump_us, pause_us, pack_us, push_us;
    unsigned rounds; /* of pre-copy ... */
    uint64_t round_bytes[PRECOPY_ROUNDS_MAX]; /* ... and what each wrote */
};

/* CRIU failed with that checkpoint. lock. */
struct failure {
    struct failure *next;
    char stream[POD_WORD_MAX], id[STORE_ID_MAX];
    unsigned n;
};

struct agent {
    struct settings settings;
    struct call_tls tls;
    struct ledger ledger;
    struct store *store;
    pthread_mutex_t lock;
    pthread_cond_t changed;       /* `changes` did */
    uint64_t changes;             /* lock; of what containers are and how they are; from a number that no earlier life had */
    struct container *containers; /* lock */
    struct job *jobs;             /* lock; the newest first */
    struct failure *failures;     /* lock */
    struct kubelet kubelet;
    bool kubelet_away;                  /* lock; it would take none, when it was asked last */
    char kubelet_why[AGENT_REASON_MAX]; /* lock; why the kubelet takes no checkpoints; "": it does, as far as is known */
    atomic_bool stopping;
};

const char *phase_name(enum phase p);

/* Starts a detached thread. -ERROR_NOMEM. */
int agent_thread(void *(*run)(void *user), void *user, struct error *e);

/* The registry that a reference "host[:port]/repository[:tag]" names. `base` and `repository` are filled. */
int agent_registry(const struct agent *a, const char *reference, char base[300], char repository[700], struct registry *ret_registry,
                   struct error *e);

unsigned agent_failures(struct agent *a, const char *stream, const char *id);
unsigned agent_note_failure(struct agent *a, const char *stream, const char *id); /* how many now */

/* Where and how its containers are dumped. `work` is filled, and borrowed by the answer. */
struct dump_options agent_dump_options(const struct agent *a, uint64_t timeout_ms, char work[PATH_MAX]);

/* Kills the app, so that the kubelet's restart restores it. */
void agent_end_app(const struct container *c, const char *why);

/* Something of the containers changed that the operator is to hear at once. Under the lock. */
void agent_changed(struct agent *a);
/* Waits until `changes` is not `seen` any more, at most so long. Under the lock, which is let go meanwhile. */
void agent_wait_change(struct agent *a, uint64_t seen, uint64_t ms);

/* A container of this node, with a reference; NULL. */
struct container *agent_find(struct agent *a, const char *namespace, const char *pod);
struct container *agent_find_id(struct agent *a, const char *id);
void agent_let_go(struct agent *a, struct container *c);

#endif
