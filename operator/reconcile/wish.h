/* What somebody asked for by hand: a Restore (go back to a chosen checkpoint, and replay from there) or a Migration (go on on a chosen node). Which step
 * is next, from what is seen; pure, like reconcile/protect.h, so an operator that is killed at any moment is continued by the next one.
 *
 *   Restore    NEW ──► MOVING ──► DONE        Migration   NEW ──► TAKING ──► MOVING ──► DONE       any ──► FAILED
 *
 * MOVING is written first, then the pod is deleted: the webhook gives the wish to the pod that its controller makes instead (crsc.io/restore, or the
 * node), and one that came past the webhook without it is deleted as well. Promises (test_wish.c holds them against random worlds):
 *   W1  a pod is deleted only in MOVING, and only when there is a valid checkpoint that its successor can begin with.
 *   W2  DONE is said only of a successor that serves and began as it was wished.
 *   W3  every wish ends: DONE or FAILED, at the latest WISH_LOST_MS after its step began.
 * Thread: any. */
#ifndef CRSC_OPERATOR_RECONCILE_WISH_H
#define CRSC_OPERATOR_RECONCILE_WISH_H

#include <stdbool.h>
#include <stdint.h>

enum { WISH_LOST_MS = 300000, WISH_PENDING_MS = 60000, WISH_LOOK_MS = 1000 };

enum wish_kind { WISH_RESTORE, WISH_MIGRATION };
enum wish_phase { WISH_NEW, WISH_TAKING, WISH_MOVING, WISH_DONE, WISH_FAILED };
enum wish_checkpoint { WISH_NONE, WISH_UNDER_WAY, WISH_VALID, WISH_SPOILT };

struct wish_world {
    enum wish_kind kind;
    enum wish_phase phase;
    uint64_t now_ms, begun_ms;       /* begun: the wish was made, or its step began */
    bool protects;                   /* the workload is protected, and is to stay so */
    bool remade;                     /* its pods are made again by a controller */
    bool replicated;                 /* they are replicas of one app */
    bool pod, terminating;           /* the pod that it is about is there; is going */
    bool there_already;              /* that pod is on the wished node */
    bool node;                       /* the wished node is there, ready, and takes pods */
    enum wish_checkpoint checkpoint; /* the chosen one; the one taken for the migration */
    bool fits;                       /* the pods are of its template */
    bool next, next_told;            /* another pod took its place; it carries the wish */
    bool next_active, next_as_wished; /* it serves; it began with that checkpoint, or is on that node */
};

enum wish_do {
    WISH_WAIT,
    WISH_TAKE,        /* ask for a checkpoint of the pod, note TAKING */
    WISH_MOVE,        /* note MOVING */
    WISH_DELETE_POD,
    WISH_DELETE_NEXT, /* it came without the wish */
    WISH_SAY_DONE,
    WISH_SAY_FAILED,  /* with `why` */
};

struct wish_plan {
    enum wish_do what;
    const char *why; /* static text */
};

struct wish_plan wish_plan(const struct wish_world *w);
const char *wish_do_name(enum wish_do what);

#endif
