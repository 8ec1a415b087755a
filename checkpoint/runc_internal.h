/* What runc.c (commands) and runc_setup.c (what is found out and written before the first) share. Internal to checkpoint/. Thread: the loop's. */
#ifndef CRSC_CHECKPOINT_RUNC_INTERNAL_H
#define CRSC_CHECKPOINT_RUNC_INTERNAL_H

#include "checkpoint/runc.h"

struct command;

struct runc {
    uv_loop_t *loop;
    char *program, *root, *work;
    char **environment; /* ours, with PATH and CRIU_CONFIG_FILE replaced */
    uint32_t timeout_ms;
    bool ignore_cgroups; /* this runc knows --manage-cgroups-mode ignore */
    bool skip_lock;      /* this CRIU knows --network-lock skip */
    bool tracks;         /* CRIU can track here which pages are written */
    struct command *commands;
    uv_idle_t closer; /* never started; so that on_closed is called from the loop */
    bool closing;
    void (*on_closed)(void *user);
    void *closed_user;
};

/* The environment of commands, and what runc and CRIU are able to. `program`, `root` and `work` are filled in. `criu` NULL: from PATH. Blocks for some
 * tens of milliseconds. After a failure runc_free_parts(). */
int runc_set_up(struct runc *r, const char *criu, bool precopy, struct error *e);

void runc_free_parts(struct runc *r); /* and `r` */

#endif
