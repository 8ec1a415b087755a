/* What the operator can see of one workload: plain values, filled by the shell, read by the core (reconcile.h).
 *
 * Everything here is observed anew after a start: in the log, on the machine (containers, and the records that the
 * driver keeps beside them), at the interceptor. Nothing else decides anything.
 *
 * Ownership: strings inside are copies, `snapshots` is borrowed for the call. Times are microseconds. */
#ifndef CRSC_OPERATOR_RECONCILE_WORLD_H
#define CRSC_OPERATOR_RECONCILE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WORLD_ID_MAX = 256,      /* bytes of a snapshot's id, which is also a drain's token; with the terminating zero */
    WORLD_IDENTITY_MAX = 40, /* of "PID:STARTTIME" */
    WORLD_REASON_MAX = 256,  /* of a sentence for people */
};

enum world_app {
    WORLD_APP_UNKNOWN, /* nobody has looked yet */
    WORLD_APP_NONE,    /* there was never one, or it was removed */
    WORLD_APP_RUNNING,
    WORLD_APP_EXITED, /* dead, or begun and never finished */
};

/* One container of the workload: the newest. `origin` is what the driver wrote down before it started it. */
struct world_instance {
    enum world_app state;
    uint64_t generation;               /* counts the workload's containers; 0: it was there before we were */
    char identity[WORLD_IDENTITY_MAX]; /* of its process while it runs, else "" */
    bool origin_known;
    bool fits;                   /* it was started from the present specification: snapshots of it can be restored */
    uint64_t offset;             /* its state when it began: requests <= offset */
    char snapshot[WORLD_ID_MAX]; /* what it was restored from, "" for a fresh start */
    bool attached; /* the interceptor was told of it, or was about to be: from then on only the interceptor knows what
                      it executed */
};

enum world_traffic { WORLD_UNREACHABLE, WORLD_WAITING, WORLD_REPLAYING, WORLD_ACTIVE, WORLD_DRAINING };

/* What an interceptor that was started again found in the log of the app that the one before it served. */
enum world_proof { WORLD_PROOF_NONE, WORLD_PROOF_PENDING, WORLD_PROOF_KNOWN };

struct world_interceptor {
    enum world_traffic state;
    char identity[WORLD_IDENTITY_MAX]; /* of the app it was told of, "" for none */
    bool lost;                         /* it noticed that this app is gone */
    bool suspect;                      /* nobody knows what this app executed */
    bool leaving;                      /* its process is about to end: no client comes to it any more */
    bool standby;                      /* its clients are refused: the app follows the log */
    uint64_t diverged;                 /* the majority's apps answered the request at that offset otherwise; 0: no */
    uint64_t agreed;                   /* with `diverged`: before that this one's answers were like the others' up to there; 0: unknown */
    uint64_t disagreement;             /* replicas differ at that offset, and no majority says who is right; 0: no */
    uint64_t last;                     /* the log's last offset as it knows it */
    uint64_t executed;                 /* the app's state is that of requests <= executed */
    char token[WORLD_ID_MAX];          /* of a drain in force, "" for none */
    enum world_proof proof;            /* PENDING: it still reads */
    char proven[WORLD_IDENTITY_MAX];   /* KNOWN: of that app ... */
    uint64_t proven_offset;            /* ... the state */
};

enum world_snapshot_state { WORLD_TAKING = 1, WORLD_VALID, WORLD_FAILED, WORLD_DELETED }; /* as in the log */

struct world_snapshot {
    char id[WORLD_ID_MAX];
    uint64_t offset;
    enum world_snapshot_state state;
    bool ours;    /* taken by this node's operator for this replica: nobody else touches its record (but to say that it is bad) */
    bool fits;    /* of this node, perhaps of another replica, and of a container with the same specification: may be restored */
    bool on_disk; /* we have an image or a dump of it */
    bool held;    /* another replica takes it, restores it, or runs from it: neither its record nor its image is touched */
};

struct world_log {
    bool known;            /* it has answered once; what it said stays true, as nobody else writes our records */
    uint64_t first_offset; /* 1 until something was trimmed; 0: no such stream */
    uint64_t last_offset;
    const struct world_snapshot *snapshots; /* in order of their first recording */
    size_t n_snapshots;
};

struct world {
    uint64_t now_us;  /* monotonic */
    uint64_t wall_us; /* only for names */
    struct world_instance instance;
    struct world_interceptor interceptor;
    struct world_log log;
    bool away; /* no instance of it is to run here: it is kept for a move, or was moved away (move.h) */
    bool turn; /* a checkpoint may begin: it is this replica's turn (group.h); of a single one always */
};

#endif
