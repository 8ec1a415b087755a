/* What to do next for one workload on Kubernetes: the decisions of the operator, without I/O, clock or memory of its own.
 *
 * World in, actions out. Everything is read from what the cluster, the agents and the log say at this moment, so an operator that is
 * killed between any two actions is continued by the next one. Actions of one plan are done in order; when one fails, the rest is not done and
 * the world is looked at again. Each is idempotent.
 *
 * Promises (test_protect_random.c holds them against thousands of random clusters):
 *   P1  an annotated workload comes to be protected; one that is not annotated any more comes to be as it was, and nothing is left of us.
 *   P2  Services lead to the interceptor only while a pod of the workload has one, and lead back before the pods lose it; when pods are to lead there
 *       themselves, not before each pod with an interceptor does.
 *   P3  the newest `retain` valid checkpoints of a stream, and those in use, are never deleted while it is protected.
 *   P4  a pod with an interceptor on a lost node is removed only after its producer was fenced, or after another pod of that stream opened a newer
 *       epoch. A replica (`shared`) owns no stream: it is never fenced, as that would be the end of its healthy siblings.
 *   P5  at most PROTECT_REPLACEMENTS pods are replaced in PROTECT_WINDOW_MS because they die, are fenced or diverge, or nobody knows what they began with; those that missed the webhook not before
 *       they are PROTECT_MISSED_MS old.
 *   P6  one checkpoint of a stream at a time, and of replicas only of one that is caught up and sound; they take turns (group.h decides whose it is). A
 *       standby whose checkpoints always fail does not keep the others from theirs.
 *   P7  no workload is left with pods alone that answer nothing because a newer epoch, whose producer is gone, owns their stream.
 *   P8  a replica that has diverged is deleted only when what it took since its last agreement is no way back for anybody any more.
 *   P9  replicas of different templates do not judge each other: each is told how many there are of its own.
 *   P10 with standbys: when one that serves is lost, one that can serve is promoted in the first plan of roles; a Service chooses by role only when one that
 *       can serve has the label, and no role is cleared while a Service chooses (roles.h). In a rollout the new pods that can serve do so, as far as they go.
 *   P11 a pod that does not come to begin with the checkpoint that its image is of (backend: kubelet) is replaced, after a while, and that checkpoint is passed
 *       over before: its successor begins with another one, or without. A checkpoint fails for that only when a later pod, which was made after the first was
 *       given up, cannot begin with it either. Such replacements are no deaths. One of which nobody knows what it began with is replaced as if it had died.
 *
 * There are two plans, and both may be carried out at the same time, from worlds that are not equally old: a promotion must not wait for an agent that
 * hangs. They are in no order in each other's way: roles are given by the plan of roles alone, and taken away altogether by the other one, which leads
 * the Services back first.
 * Thread: any. No pointer is kept. */
#ifndef CRSC_OPERATOR_RECONCILE_PROTECT_H
#define CRSC_OPERATOR_RECONCILE_PROTECT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PROTECT_PODS_MAX = 64,
    PROTECT_STREAMS_MAX = 64,
    PROTECT_SERVICES_MAX = 16,
    PROTECT_CHECKPOINTS_MAX = 256,
    PROTECT_ACTIONS_MAX = 64,
    PROTECT_REPLICAS_MAX = 15,        /* whose votes are told apart */
    PROTECT_REPLACEMENTS = 3,
    PROTECT_WINDOW_MS = 600000,
    PROTECT_REPLACE_COST_MS = 4000,   /* what a new pod takes: a shorter backoff is waited for */
    PROTECT_FAILED_KEPT = 3,          /* failed checkpoints that stay to be read */
    PROTECT_MISSED_MS = 15000,        /* from the beginning of our lead, and the age of a pod: until the API server finds our webhook */
    PROTECT_UNABLE_MS = 20000,        /* a pod that the container runtime cannot begin with its checkpoint is given up after this ... */
    PROTECT_PASSING_MS = 60000,       /* ... and after this when the reason may pass: a registry that is away */
    PROTECT_UNUSABLE_MAX = 2,         /* so many checkpoints that no pod could begin with ... */
    PROTECT_PENDING_MS = 60000,       /* a checkpoint whose pod is gone fails after this */
    PROTECT_LOST_MS = 600000,         /* one of which nobody knows anything fails after this */
    PROTECT_FORGOTTEN_MS = 10000,     /* one that its agent, which answers, knows nothing of fails after this: longer than its list is old */
    PROTECT_GIVE_UP_MS = 600000,      /* an image that cannot be removed is left behind after this */
    PROTECT_SETTLE_MS = 5000,         /* a new pod is ready for so long at least before clients are handed over to it */
    PROTECT_LOOK_MS = 5000,           /* at the latest, the world is looked at again */
    PROTECT_REPLAY_US = 100,          /* for estimates: a replayed event */
    PROTECT_RESTORE_MS = 700,         /* for estimates: a restore */
};

enum protect_role { PROTECT_NO_ROLE, PROTECT_SERVING, PROTECT_STANDBY }; /* its label */

enum protect_kind { PROTECT_DEPLOYMENT, PROTECT_STATEFULSET, PROTECT_POD };

struct protect_pod {
    uint32_t stream;      /* index of its stream */
    bool injected;        /* it has the interceptor */
    bool refused;         /* it cannot have it: the webhook said so */
    bool redirected;      /* in the pod itself the app's port leads to the interceptor */
    bool ready, terminating;
    bool node_lost;       /* its node was not ready for longer than the grace */
    bool agent;           /* the agent of its node answers */
    bool active;          /* the agent says: its interceptor gives requests to the app */
    bool fenced;          /* the agent says: a newer epoch owns its stream; it answers nothing any more */
    bool begins;          /* its image is that of a checkpoint ... */
    int checkpoint;       /* ... its index; -1: that is gone */
    bool unable;          /* ... and it does not come to run, as the kubelet says: for a reason that may pass ... */
    bool by_image;        /* ... or for one that the container runtime gives when it tries that image */
    uint64_t unable_ms;   /* since about then */
    bool unknown;         /* the agent says: nobody knows which state it began with */
    bool rewinds;         /* its container was started again, from its pod's image (backend: kubelet): with what that began with, not with what was taken since */
    bool running;         /* its protected container runs */
    bool backing_off;     /* the kubelet waits before it starts that container again */
    uint64_t backoff_ms;  /* for about how long still */
    uint64_t executed;    /* offset its app has executed; 0: unknown or nothing */
    bool told;            /* the agent says what it began with: ... */
    uint64_t began;       /* ... the state of that offset */
    bool gap;             /* the interceptor says: the log begins after what its app has */
    uint64_t created_ms;
    /* replicas */
    bool shared;          /* its interceptor is one of several that follow the stream, each with an app of its own */
    bool heard;           /* shared: what follows is known, from its agent */
    bool sound;           /* its interceptor answers and is to stay; its app is neither lost nor suspect, nor has it diverged */
    bool silent;          /* its node's agent was asked, for a while, and does not answer: all of the node may be gone */
    enum protect_role role;
    bool role_failed;     /* its promotion failed a moment ago: others first, and nothing else waits for it */
    uint64_t steady_ms;   /* since when it is ready, and its app runs */
    bool restarted;       /* its app was started again, ever */
    uint32_t counts;      /* so many replicas there are, as its interceptor was told; 0: nobody is judged */
    uint32_t template;    /* pods of one template have the same */
    uint32_t revision;    /* pods of one ReplicaSet have the same: of one template, and of one restart by hand */
    uint64_t diverged;    /* the majority answered the request at that offset otherwise; 0: no */
    uint64_t agreed;      /* with `diverged`: before that its answers were like the others' up to there; 0: unknown */
};

enum protect_phase { PROTECT_NEW, PROTECT_RUNNING, PROTECT_VALID, PROTECT_FAILED };

struct protect_checkpoint {
    uint32_t stream;
    int pod;              /* index of the pod it is to be taken of; -1: that is gone */
    enum protect_phase phase;
    enum protect_phase seen; /* RUNNING: what its agent says of it now; NEW: nothing */
    bool denied;          /* its agent answers, and has nothing of that name: it was started again since */
    bool lost;            /* its node was not ready for longer than the grace: its agent will not say how it ended */
    bool finalizer, deleting, manual;
    bool in_use;          /* a pod runs on what was restored from it */
    bool fits;            /* the pods that run now could be restored from it */
    uint64_t offset, created_ms, started_ms, deleting_ms;
    uint64_t unusable_ms; /* when a pod was given up that could not begin with it; 0: never */
};

struct protect_world {
    uint64_t now_ms;
    uint64_t leads_ms;     /* since when this operator leads */
    enum protect_kind kind;
    /* the workload */
    bool exists, annotated;
    bool template_ours;    /* its pods' template carries something of us (a bare pod: it was injected) */
    bool template_current; /* exactly what the policy asks for */
    /* its ProtectedWorkload */
    bool record, record_deleting, record_finalizer;
    bool by_annotation;    /* we made it */
    bool policy_valid, policy_current; /* current: its spec is what the annotations say now */
    bool switch_services;  /* Services are to lead to the interceptor */
    bool redirects;        /* pods are to lead there themselves, and Services to the app's port */
    bool shared;           /* the pods are to be replicas of one app ... */
    uint32_t replicas;     /* ... so many of them ... */
    uint32_t standby;      /* ... of which so many take no clients; 0: there are no roles */
    uint64_t settle_ms;    /* in a rollout clients are handed over to a pod that has been steady for so long */
    uint64_t interval_ms, objective_ms;
    uint32_t retain;
    uint64_t replaced_ms[PROTECT_REPLACEMENTS]; /* when pods were replaced last; 0: never */

    uint32_t n_services;
    struct {
        bool matches;      /* it leads to the app's port of these pods, or did before we switched it */
        bool switched;     /* it carries our record */
        bool chooses;      /* it leads only to pods with the role serving */
        bool stale;        /* switched, and not as it is to be now: pods that are not ready get clients where they hold them, and only there */
    } services[PROTECT_SERVICES_MAX];
    uint32_t n_pods;
    struct protect_pod pods[PROTECT_PODS_MAX];
    uint32_t n_checkpoints;
    struct protect_checkpoint checkpoints[PROTECT_CHECKPOINTS_MAX];
};

enum protect_do {
    PROTECT_MAKE_RECORD,      /* ProtectedWorkload with its finalizer, from the annotations; also brings its spec up to date */
    PROTECT_DELETE_RECORD,
    PROTECT_HOLD_RECORD,      /* add the finalizer */
    PROTECT_RELEASE_RECORD,   /* remove it */
    PROTECT_SET_TEMPLATE,
    PROTECT_CLEAR_TEMPLATE,
    PROTECT_SWITCH_SERVICE,   /* which */
    PROTECT_RESTORE_SERVICE,  /* which */
    PROTECT_NEW_CHECKPOINT,   /* of pod `which` */
    PROTECT_HOLD_CHECKPOINT,  /* add the finalizer */
    PROTECT_START_CHECKPOINT, /* tell the agent, note that it runs */
    PROTECT_END_CHECKPOINT,   /* note how it ended: what was `seen` */
    PROTECT_FAIL_CHECKPOINT,  /* note that it failed: nobody took it */
    PROTECT_DISTRUST_CHECKPOINT, /* valid as such, but of an app that has diverged: note in the log, then here, that it failed */
    PROTECT_PASS_CHECKPOINT,  /* a pod could not begin with it: note when and why, so that the next ones do not try for a while */
    PROTECT_REFUSE_CHECKPOINT, /* that was so before, long ago, and not for lack of anything else: note in the log, then here, that it failed */
    PROTECT_DELETE_CHECKPOINT,
    PROTECT_FORGET_CHECKPOINT, /* out of the log, the nodes and the registry, then off with the finalizer */
    PROTECT_ABANDON_CHECKPOINT, /* off with the finalizer alone */
    PROTECT_PROMOTE,          /* pod `which` has the role serving from now on ... */
    PROTECT_DEMOTE,           /* ... or standby ... */
    PROTECT_CLEAR_ROLE,       /* ... or none */
    PROTECT_REPLACE_POD,      /* note the time, then delete it */
    PROTECT_FENCE,            /* the producer of pod `which` */
    PROTECT_REMOVE_POD,       /* at once: its kubelet will not do it */
    PROTECT_COUNT_REPLICAS,   /* tell the interceptor of pod `which` that there are protect_replicas() */
};

enum protect_state {
    PROTECT_INVALID, PROTECT_PENDING, PROTECT_STARTING, PROTECT_PROTECTED, PROTECT_RECOVERING, PROTECT_CRASH_LOOP, PROTECT_NODE_LOST, PROTECT_ENDING
};

struct protect_action {
    enum protect_do what;
    uint32_t which; /* index of the service, pod or checkpoint */
};

struct protect_plan {
    uint32_t n;
    struct protect_action actions[PROTECT_ACTIONS_MAX]; /* those that do not fit follow the next look */
    enum protect_state state;
    uint64_t look_ms; /* look again then, though nothing changes */
};

/* All but the changes of roles. */
void protect_plan(const struct protect_world *w, struct protect_plan *ret_plan);

/* Whether there are to be roles; and then the changes of them that are due: PROTECT_PROMOTE and PROTECT_DEMOTE. */
bool protect_has_roles(const struct protect_world *w);
void protect_plan_roles(const struct protect_world *w, struct protect_plan *ret_plan);

const char *protect_do_name(enum protect_do what);
const char *protect_state_name(enum protect_state state); /* as in status.phase */

/* Of how many replicas, those of the template of pod `pod`, more than half decide whether its app is wrong; 0: nobody does, as it is alone. */
uint32_t protect_replicas(const struct protect_world *w, uint32_t pod);

/* Whether a pod is to be replaced because it cannot begin with its checkpoint; because what it replays takes longer than a new pod with the newest one. */
bool protect_is_stuck(const struct protect_world *w, uint32_t pod);
bool protect_is_behind(const struct protect_world *w, uint32_t pod);

/* Whether that Service, switched, is to lead only to pods with the role serving. */
bool protect_chooses(const struct protect_world *w, uint32_t service);

/* Milliseconds that a recovery would take now: restore, and replay of `tail` events. */
uint64_t protect_estimate(bool has_checkpoint, uint64_t tail);

#endif
