/* The agents of the nodes, as the operator sees them (docs/AGENT.md): their containers are followed, their checkpoints asked for, and calls are made. Each
 * node has one, at the node's address; its certificate must carry the node's name.
 *
 * Only nodes that are wanted (they have protected pods, or checkpoints under way) are asked, and only by who leads. A question for containers waits at the agent until something
 * changes there that matters, or for a poll's time; then comes the next one. An agent that does not answer, or cannot wait, is asked once in a poll's
 * time, as all are for checkpoints. What an agent said last is kept while it answers, and forgotten when it did not for AGENTS_SILENCE_MS.
 * Thread: the loop's. What it shows is borrowed until the loop goes on. */
#ifndef CRSC_OPERATOR_DRIVERS_KUBERNETES_AGENTS_H
#define CRSC_OPERATOR_DRIVERS_KUBERNETES_AGENTS_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>
#include <yyjson.h>

#include "common/error.h"
#include "common/http_client.h"

enum { AGENTS_LOST_MS = 3000, AGENTS_SILENCE_MS = 5000, AGENTS_CALL_MS = 10000, AGENTS_WAIT_MS = 1000, AGENTS_ID_MAX = 64, AGENTS_NODE_MAX = 254, AGENTS_REASON_MAX = 200, AGENTS_STREAM_MAX = 256 };

struct agents;

struct agent_container {
    char id[72], pod_uid[64], node[AGENTS_NODE_MAX], identity[64], began[16], snapshot[AGENTS_ID_MAX + 1], reason[AGENTS_REASON_MAX];
    uint64_t offset, executed, last, replayed;
    bool attached, active, fenced;
    bool gap;                 /* its interceptor says: the log begins after what the app has */
    bool silent;              /* its interceptor does not answer, or its app has ended: the rest is what was said before */
    bool shared;              /* its interceptor is a replica; only then what follows means anything */
    bool lost, suspect;       /* its app */
    bool leaving;             /* its interceptor is about to end */
    uint32_t replicas;        /* so many there are, as the interceptor was told; 0: nobody is judged */
    uint64_t diverged, agreed, disagreement; /* offsets, as `app` of the interceptor's status */
    uint64_t restored_us, attached_us, lost_us, active_us;
};

struct agent_checkpoint {
    char node[AGENTS_NODE_MAX], stream[AGENTS_STREAM_MAX], id[AGENTS_ID_MAX + 1], phase[16], image[768], digest[80], hash[130], error[AGENTS_REASON_MAX];
    uint64_t offset, size, started_us, finished_us;
    double pause_ms, dump_ms, push_ms;
};

struct agents_options {
    struct http_tls tls; /* ca, cert, key: copied */
    uint16_t port;
    uint32_t poll_ms;
    /* Something of what is shown of that node changed; `matters`: who can serve, by the word of its agent or for the want of one. Else it is counters and checkpoints. */
    void (*on_change)(void *user, const char *node, bool matters);
    void *user;
};

int agents_new(uv_loop_t *loop, const struct agents_options *options, struct agents **ret_agents, struct error *e);
/* Calls under way call back with -ERROR_CANCELED before this returns. */
void agents_close(struct agents *a, void (*done)(void *user), void *user);
int agents_set_tls(struct agents *a, const struct http_tls *tls); /* a renewed certificate */

void agents_node(struct agents *a, const char *node, const char *address); /* it is there, at this address; "": it is gone */
/* Marks that node; and then: those marked since the last time are wanted, and no others. What others said is forgotten. */
void agents_mark(struct agents *a, const char *node);
void agents_want_marked(struct agents *a);
bool agents_answers(const struct agents *a, const char *node);
/* It has been asked for AGENTS_LOST_MS (and a poll's time, where that is long), and has not answered in that time. */
bool agents_lost(const struct agents *a, const char *node);
bool agents_lists(const struct agents *a, const char *node); /* it said lately which checkpoints it has */
const struct agent_container *agents_container(const struct agents *a, const char *pod_uid);           /* NULL: unknown */
/* Why the kubelet of that node takes no checkpoints for its agent; "": it does, or nothing is known. */
const char *agents_kubelet(const struct agents *a, const char *node);
/* An interceptor took that, a moment ago: until its agent is heard again, this is what it says. */
void agents_note_replicas(struct agents *a, const char *pod_uid, uint32_t replicas);
/* NULL: it says nothing of it. Two streams may have checkpoints of one id. */
const struct agent_checkpoint *agents_checkpoint(const struct agents *a, const char *node, const char *stream, const char *id);

/* One call. `root` of the answer, NULL when it is no JSON. `status` as of kube_reply: 0 for 2xx, -ERROR_NOT_FOUND, -ERROR_CONFLICT, ... */
typedef void agents_cb(void *user, int status, const struct error *e, yyjson_val *root);
int agents_call(struct agents *a, const char *node, const char *method, const char *path, const char *body, agents_cb *cb, void *user,
                struct error *e);

#endif
