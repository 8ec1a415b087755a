/* One server: executes what consensus decides, with the log, the streams and the index.
 *
 *      session --commands--> batcher --entry--> consensus --update--> wal, peers
 *      wal on_persisted --> consensus --commit--> streams --effects--> index, waiting sessions, follows, queries
 *
 * Invariants kept here (DESIGN, sections 2 and 4): term and vote are durable before a message of the same update leaves;
 * consensus hears "persisted" only from the wal's callback; only entries <= min(committed, persisted) are applied, in
 * order, each once; a failure to write wal or index, and effects that do not fit what is there, end the process (status 1,
 * or 3 for damage) with a log line: nothing is retried on the same file. Stored bytes that are not what was written are never served; they
 * are repaired (scrub.h), and what needs them waits.
 *
 * The struct is shared by the files of this folder only. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_NODE_H
#define CRSC_LOGD_SERVER_NODE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/error.h"
#include "common/frame.h"
#include "logd/consensus/consensus.h"
#include "logd/index/index.h"
#include "logd/server/metrics.h"
#include "logd/server/settings.h"
#include "logd/server/slow.h"
#include "logd/server/space.h"
#include "logd/server/trimmer.h"
#include "logd/streams/streams.h"
#include "logd/wal/wal.h"

struct batcher;
struct canary;
struct exports;
struct loop_signals;
struct members;
struct mover;
struct follows;
struct founding;
struct monitor;
struct peers;
struct queries;
struct reads;
struct scrub;
struct session;
struct sessions;
struct transport;

struct node {
    uv_loop_t *loop;
    const struct settings *settings; /* borrowed */
    struct consensus *consensus;
    uint64_t instance;      /* of the data directory (identity.h) */
    struct blob *members;   /* payload of the newest CHANGE entry that was applied */
    uint64_t members_index; /* its index */
    struct members *membership;
    struct founding *founding; /* NULL: there is a log, or we wait to be added to one */
    struct wal *wal;
    struct index *index;
    struct streams *streams;
    struct streams_update update; /* reused for each entry */
    struct batcher *batcher;
    struct peers *peers;
    struct sessions *sessions;
    struct queries *queries;
    struct follows *follows;
    struct reads *reads;
    struct exports *exports;
    struct mover *mover;
    struct scrub *scrub;
    uint64_t unreadable; /* the committed entry that cannot be applied until it is repaired; 0: none */
    struct transport *transport;
    struct canary *canary;
    struct monitor *monitor;
    struct metrics metrics;
    struct space space;
    struct trimmer trimmer;
    struct slow slow;
    uv_timer_t timer;     /* consensus' next deadline */
    uv_timer_t second;    /* housekeeping */
    uv_check_t check;     /* after each round of I/O: propose, apply */
    uv_idle_t idle;       /* active while committed entries wait to be applied: keeps the loop from sleeping */
    enum consensus_role role; /* as last logged */
    uint64_t leader;          /* as last logged */
    uint64_t started_us;
    bool executing; /* an update is being executed: consensus must not be called */
    bool stalled; /* a deadline was missed by far; sockets are read before it is acted on */
    bool stopping;
    uint64_t stop_by_ms;
    unsigned open_handles;
    void (*on_stopped)(void *user);
    void *user;
};

/* Opens data and sockets, recovers, joins. Errors: ERROR_CORRUPT when stored data is damaged or does not fit together,
 * ERROR_INVALID, ERROR_IO, ERROR_EXISTS. Blocks until the log is loaded; until then a signal ends the process at once, as nothing is promised yet. From the
 * line "ready" on SIGTERM and SIGINT do what node_stop() does. `signals` is the caller's, who stops them in on_stopped. */
int node_start(uv_loop_t *loop, const struct settings *settings, struct loop_signals *signals, void (*on_stopped)(void *user), void *user,
               struct node **ret_node, struct error *e);
/* Hands leadership over if there is someone (bounded by settings->stop_ms), then closes everything in order; on_stopped
 * is the last thing that happens. The node is gone by then. */
void node_stop(struct node *node);

/* ---- for the other files of this folder ---- */

uint64_t node_now_ms(void);
_Noreturn void node_fatal(const char *what, const struct error *e);

/* A client's command. It is answered later, or right now when it is refused. */
void node_command(struct node *node, struct session *session, const struct frame *f);
/* What consensus wants done. */
void node_execute(struct node *node, const struct consensus_update *u);
/* A message of another server. */
void node_receive(struct node *node, const struct consensus_message *m);
/* The connection to or from a server broke: when it was our leader, do not wait for its silence to be long enough. */
void node_peer_lost(struct node *node, uint64_t id);

/* What was damaged may be whole again. */
void node_repaired(struct node *node);

/* Answers with not-leader and the leader's address. */
void node_refuse_not_leader(struct node *node, struct session *session, uint64_t id);
/* What keeps this server from its work, for people; "" nothing. */
void node_alarm(const struct node *node, size_t size, char *ret_text);
const char *node_address_of(const struct node *node, uint64_t id); /* NULL for a stranger */

#endif
