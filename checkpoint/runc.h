/* Containers on this machine: run, look at, kill, checkpoint and restore them, by the programs runc and CRIU.
 *
 * Each call starts one command and returns; its callback comes later, from the loop, exactly once, and never from
 * inside the call. When a call itself returns an error, nothing was started and no callback will come.
 *
 * What is promised:
 *  - A container's stdio is its own /dev/null, never a descriptor of the caller: it can be dumped, and it neither keeps a
 *    pipe of the caller open nor dies with it. Containers and commands outlive the caller.
 *  - A command has a bound in time (`timeout_ms`); at the bound its whole process group is killed and the callback says
 *    ERROR_TIMEOUT. A checkpoint that was killed may leave its container frozen or half-instrumented: the caller must
 *    treat that container as lost (runc_delete(), then restore an older checkpoint). A killed run or restore may leave parts:
 *    runc_delete().
 *  - A failure says what CRIU said: `error` has its first error line and names the log, `detail` has the last lines.
 *  - Established TCP connections do not prevent a checkpoint, and go on when it was left running; in the restored
 *    process they are closed. Nothing may be in flight on them that matters: that is what the drain is for.
 *  - A dump does not contain files. A restore needs the same bundle, with the files that the process had open in place.
 *
 * One command per container at a time: a second one gets -ERROR_BUSY. That holds across the caller's own death too, as
 * commands go on without it: after a start, -ERROR_BUSY means that a command of the earlier run is not done; try again soon (it
 * is killed when it is older than its bound). Different containers are independent.
 *
 * Thread: the loop's. Strings are copied. Sources: runc-checkpoint(8), runc-restore(8), criu(8). */
#ifndef CRSC_CHECKPOINT_RUNC_H
#define CRSC_CHECKPOINT_RUNC_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "checkpoint/process.h"
#include "common/error.h"

enum {
    RUNC_ID_MAX = 128,     /* bytes of a container's id, with the terminating zero: letters, digits and _ . + -, first a
                              letter or digit */
    RUNC_TIMEOUT_MS = 30000,
    RUNC_DETAIL_MAX = 4096 /* bytes of `detail`, with the terminating zero */
};

struct runc_options {
    const char *runc; /* the program; NULL: "runc" on PATH */
    const char *criu; /* the program; NULL: "criu" on PATH */
    const char *root; /* where runc keeps the containers' states (its --root): absolute, better below /run */
    const char *work; /* where logs and pid files of commands go: absolute; made if it is not there, mode 0700 */
    uint32_t timeout_ms; /* bound of each command; 0: RUNC_TIMEOUT_MS */
    bool precopy;        /* CRIU is asked whether it can track here which pages are written: runc_tracks() */
};

enum runc_status {
    RUNC_ABSENT,  /* no such container */
    RUNC_CREATED, /* made but not started */
    RUNC_RUNNING,
    RUNC_PAUSED,  /* frozen */
    RUNC_STOPPED  /* its process has ended; runc_delete() removes what is left */
};

/* How far CRIU came in a checkpoint or restore that failed. */
enum runc_criu {
    RUNC_CRIU_NONE,    /* it did not begin: nothing was touched */
    RUNC_CRIU_FAILED,  /* it says that it failed: after a dump, it let the container go on as it was */
    RUNC_CRIU_CUT,     /* it was ended by something else and undid nothing: the container may be harmed */
};

struct runc_result {
    int status;                 /* 0 or the negated error code */
    struct error error;         /* when status is not 0 */
    const char *detail;         /* more lines for a log, "" when there is nothing; until the callback returns */
    enum runc_status container; /* after run, restore and query: what it was just now */
    enum runc_criu criu;        /* after a checkpoint or restore that failed */
    struct process process;     /* its init process, while RUNNING, PAUSED or CREATED; else zeros */
    uint64_t elapsed_us;        /* from the call to the end of the command */
};

typedef void (*runc_cb)(void *user, const struct runc_result *result);

struct runc;

/* Makes `work` and checks the options; starts nothing. `loop` is borrowed until runc_close() has called back. */
int runc_new(uv_loop_t *loop, const struct runc_options *options, struct runc **ret_runc, struct error *e);

/* Can CRIU track here which pages a process writes? Asked once, by runc_new() with `precopy`: not every kernel keeps account of that. */
bool runc_tracks(const struct runc *r);

/* Ends and frees it when the commands that still run have ended and called back (each is bounded): killing a checkpoint
 * would harm its container. Then calls on_closed (which may be NULL). No new command may be started meanwhile. */
void runc_close(struct runc *r, void (*on_closed)(void *user), void *user);

/* Creates and starts the container of a bundle directory (absolute). */
int runc_run(struct runc *r, const char *id, const char *bundle, runc_cb cb, void *user, struct error *e);

/* Status and process. An unknown id is no failure: RUNC_ABSENT. */
int runc_query(struct runc *r, const char *id, runc_cb cb, void *user, struct error *e);

/* Sends a signal to the container's init process. A container that is not there or has ended is no failure. */
int runc_kill(struct runc *r, const char *id, int signal, runc_cb cb, void *user, struct error *e);

/* Kills what still runs of it and removes it: process, cgroups, mounts, state; also what a killed run or restore left, which
 * runc_query() calls RUNC_ABSENT: so do this before every run and restore. An unknown id is no failure. Takes some
 * milliseconds for a dead container, a tenth of a second for a live one. */
int runc_delete(struct runc *r, const char *id, runc_cb cb, void *user, struct error *e);

/* Is there, in an earlier life's `work`, the note of a command of that container which nobody saw end? Then runc_resume() it (which says -ERROR_BUSY
 * while that command runs), and ask runc_cut(). Thread: any. */
bool runc_left(const char *work, const char *id);

/* Was the last checkpoint of that container ended in the middle of what CRIU does? CRIU's log neither says that it was done nor that it gave up: the
 * container may be harmed. Only when no command of it runs. Thread: any. */
bool runc_cut(const char *work, const char *id);

/* Thaws a container that a checkpoint, killed at its bound, left frozen. One that is not frozen is no failure. */
int runc_resume(struct runc *r, const char *id, runc_cb cb, void *user, struct error *e);

/* A round of pre-copy (precopy.h has the rounds): the memory of the container's processes into `image_dir` (as below), those pages of which the ones in
 * `parent` (relative to image_dir; NULL: none) are not the last word any more. `init` is its first process. Only where runc_tracks().
 *
 * The processes stand still for as long as their page tables are walked, and run on while the pages are written. That is why CRIU is asked itself: runc
 * would have it freeze the container's cgroup, for which it mostly sleeps for 100 ms, and a container that runc has frozen stays so while pages are
 * written. A failure breaks the chain: what was written since the round before is not known any more, and all rounds so far are worth nothing. One that
 * is killed in the midst may leave the container harmed (RUNC_CRIU_CUT), unless it only wrote any more. */
int runc_predump(struct runc *r, const char *id, const struct process *init, const char *image_dir, const char *parent, runc_cb cb, void *user,
    struct error *e);

/* Kills a pre-dump of that container, whose process has ended. Its callback comes as usual. */
void runc_end_predump(struct runc *r, const char *id);

/* Dumps into `image_dir` (absolute; made with mode 0700; must not exist or be empty). The container is frozen from shortly
 * after the start of the command to shortly before its end, and then runs on, or is killed if !leave_running. A dump is complete
 * only when this succeeds; else the directory is to be removed. Nothing is fsynced: pack it (oci_image.h).
 *
 * `parent`, when not NULL: the newest round of runc_predump(), relative to image_dir, mostly in it: only what was written since is dumped. The rounds are
 * a part of the dump then.
 *
 * With leave_running, runc freezes it before CRIU comes and thaws it after, which halves the pause: CRIU asks once whether its own
 * freezing is done, and if not sleeps for 100 ms. All three are one command, so that the container is thawed whoever dies, except that command. */
int runc_checkpoint(struct runc *r, const char *id, const char *image_dir, const char *parent, bool leave_running, runc_cb cb, void *user,
    struct error *e);

/* Creates the container from a dump and lets it run on. No container of that id may be there (runc_delete() it). The dump must
 * be trusted: the process gets the credentials and capabilities that it was dumped with. */
int runc_restore(struct runc *r, const char *id, const char *bundle, const char *image_dir, runc_cb cb, void *user,
    struct error *e);

#endif
