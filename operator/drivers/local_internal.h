/* What the files of the local driver share: local.c (begin and end, looking, the record), local_call.c (calls and commands), local_start.c
 * (start and restore), local_dump.c (dumps and images). Internal to operator/drivers/. Thread: the loop's, except where a task runs. */
#ifndef CRSC_OPERATOR_DRIVERS_LOCAL_INTERNAL_H
#define CRSC_OPERATOR_DRIVERS_LOCAL_INTERNAL_H

#include <limits.h>

#include "checkpoint/precopy.h"
#include "checkpoint/runc.h"
#include "operator/drivers/containers.h"
#include "operator/drivers/local.h"
#include "operator/drivers/packer.h"
#include "operator/drivers/record.h"
#include "operator/drivers/shelf.h"
#include "operator/drivers/task.h"
#include "operator/drivers/watch.h"

enum { BUSY_RETRY_MS = 20, PATH_ROOM = SHELF_ID_MAX + 100 };

enum kind { IDLE, LOOK, START, RESTORE, ADOPT, KILL, MARK, PRECOPY, DUMP, STOP };

/* The call under way in the app's lane. While a task runs, what it uses here belongs to the task. */
struct call {
    enum kind kind;
    driver_cb *cb;
    void *user;
    uint64_t begun_us;
    char snapshot[WORLD_ID_MAX];        /* RESTORE, PRECOPY, DUMP */
    char digest[OCI_DIGEST_MAX];        /* RESTORE */
    char image[PATH_MAX];               /* RESTORE: where it is, perhaps on another replica's shelf */
    struct record record;               /* LOOK: what was read; else: what is written */
    bool known, harmed;                 /* LOOK: there is such a record; a dump of it was cut short */
    struct containers containers;       /* of the workload, as found at the beginning */
    size_t next;                        /* of those, to be deleted */
    char spec[DRIVER_DIGEST_MAX];       /* START, RESTORE: the specification's digest now */
    unsigned open;                      /* RESTORE: deleting, unpacking */
    bool cut;                           /* DUMP: CRIU was ended in the midst of it */
    struct driver_outcome outcome;      /* the first failure, until everything under way has ended */
    char detail[RUNC_DETAIL_MAX];
};

/* The command of runc under way, and what it is followed by. */
struct step {
    enum verb { QUERY, DELETE, RUN, CHECKPOINT, RESUME, RESTORE_FROM } verb;
    uint64_t generation;
    uint64_t deadline_us; /* of waiting while it is busy */
    runc_cb next;
    uv_timer_t timer;
};

/* What was copied ahead of a dump. */
struct copied {
    char snapshot[WORLD_ID_MAX]; /* "": nothing */
    uint64_t generation;
    char parent[PRECOPY_PARENT_MAX];
};

/* What a restore leaves to be removed, while the app runs already. */
struct sweep {
    struct task task;
    struct containers old; /* their records */
    char unpacked[PATH_MAX];
    bool awaited; /* a call waits for its end */
};

struct local {
    struct driver driver; /* first */
    uv_loop_t *loop;
    char *name, *stream, *bundle, *runc_root;
    char dir[PATH_MAX], records[PATH_MAX];
    char spec[DRIVER_DIGEST_MAX];
    uint32_t timeout_ms;
    int lock;
    struct runc *runc;
    struct shelf *shelf;
    void (*on_change)(void *user);
    void *user;

    /* the newest container */
    struct world_instance instance;
    struct record record; /* valid while instance.origin_known */
    struct watch *watch;
    uint64_t last_generation; /* of all that were ever seen: numbers are not used again */
    bool cleared;             /* what an earlier life was restoring is removed */

    struct call call;
    struct step step;
    struct task task, unpacking;
    struct sweep sweep;
    struct packer packer;

    unsigned precopy_rounds;
    struct precopy *precopy; /* under way */
    struct copied copied;
    unsigned rest; /* so many dumps are plain: the last one that was built upon rounds failed, or rounds came to nothing */

    bool closing, stop;
    void (*closed)(void *user);
    void *closed_user;
};

static inline struct local *local_of(const struct driver *d)
{
    return (struct local *)(uintptr_t)d;
}

/* --- local_call.c: the instance as it is known */

void local_set_ended(struct local *l);
void local_set_none(struct local *l);
/* It is there, not running as far as we know. `r` NULL: nobody knows where its state came from. */
void local_set_instance(struct local *l, uint64_t generation, const struct record *r);
/* A process that ends before it can be watched has ended. */
int local_set_running(struct local *l, const struct process *p, struct error *e);
uint64_t local_newest(const struct containers *c);

/* --- local_call.c: the call under way in the app's lane */

int local_begin(struct local *l, enum kind kind, driver_cb *cb, void *user, struct error *e);
/* The same, for a call about one instance. */
int local_begin_about(struct local *l, enum kind kind, uint64_t generation, driver_cb *cb, void *user, struct error *e);
/* Notes a failure; the first one is told. */
void local_fail(struct local *l, int status, const struct error *e, const char *detail);
void local_finish(struct local *l);
void local_finish_with(struct local *l, int status, const struct error *e, const char *detail);
/* Runs a command of runc, and again while an earlier operator's is not done; `next` is called back with `l`, always later. */
void local_command(struct local *l, enum verb verb, uint64_t generation, runc_cb next);

/* --- local_start.c */

int local_start(struct driver *d, driver_cb *cb, void *user, struct error *e);
int local_restore(struct driver *d, const struct driver *from, const char *snapshot, const char *digest, uint64_t offset, driver_cb *cb, void *user,
                  struct error *e);
/* What a restore leaves is removed, on a worker thread (l->sweep). */
void local_sweep(struct local *l);

/* --- local_dump.c */

int local_precopy(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e);
int local_dump(struct driver *d, uint64_t generation, const char *snapshot, driver_cb *cb, void *user, struct error *e);
int local_pack(struct driver *d, const char *snapshot, uint64_t offset, driver_cb *cb, void *user, struct error *e);
int local_discard(struct driver *d, const char *snapshot, driver_cb *cb, void *user, struct error *e);
bool local_has(const struct driver *d, const char *snapshot);

/* --- local.c */

void local_close_when_idle(struct local *l);

#endif
