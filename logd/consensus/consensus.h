/* Raft, as the rest of logd knows it: events in, an update out.
 *
 * Functional core around libraft 0.22's raft_step(). It has no clock, no files, no sockets, no threads and logs nothing:
 * time comes with each event (milliseconds that never go back), what is to be done goes out in a struct
 * consensus_update. This folder is the only one that includes <raft.h>: 0.22 is not a frozen interface.
 *
 * What the caller must do with an update, in this order:
 *  1. `hard_state`: make term and vote durable, before any message of the same update leaves;
 *  2. `entries`: queue them for the disk from `first_index` on (an index that is present already: everything from there on
 *     is replaced), and call consensus_persisted() once they are synced, never earlier;
 *  3. `messages`: send them. For an AppendEntries only the range is given: the sender fills it from its log, when and in
 *     as many pieces as it likes. Messages may be lost, delayed, doubled and reordered;
 *  4. apply committed entries up to consensus_applicable(): the lower of committed and persisted, because a follower
 *     can learn that an entry is committed before its own disk has it.
 *
 * Promises
 *  C1  A new leader proposes a barrier in its own term before anything else; consensus_read_index() refuses until it
 *      is committed (Raft, section 6.4: a leader does not know what is committed before that).
 *  C2  Nothing a peer sends can break libraft's assumptions (its Debian build has no assertions): messages are checked
 *      first, and refused with ERROR_PROTOCOL.
 *  C4  The log may begin later than with entry 1 (consensus_compact()): a server that lacks entries which its leader no longer has is
 *      told so by a SNAPSHOT_OFFER, and `rebuild` in its update: it must stop and fetch the leader's state. libraft's own
 *      installing of snapshots is not used.
 *  C3  Membership is what the newest CHANGE entry of the log says, committed or not (membership.h); the log's first entry is one. It changes by
 *      consensus_change() only: after the leader's barrier, one change at a time, at most one voter more or less. Messages of
 *      servers that are not (yet) in our membership are taken: they may know of a newer one. A server that is in none only listens.
 *
 * Errors: ERROR_PROTOCOL: the message was ignored, go on. Anything else is fatal to the instance.
 * Thread: one at a time. Source: Ongaro, "Consensus: Bridging Theory and Practice", 2014; libraft 0.22.1. */
#ifndef CRSC_LOGD_CONSENSUS_CONSENSUS_H
#define CRSC_LOGD_CONSENSUS_CONSENSUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "logd/consensus/membership.h"

struct consensus;

enum {
    CONSENSUS_MEMBERS_MAX = MEMBERSHIP_MAX,
    CONSENSUS_MESSAGE_ENTRIES_MAX = 4096, /* in one AppendEntries */
};

enum consensus_role { CONSENSUS_FOLLOWER, CONSENSUS_CANDIDATE, CONSENSUS_LEADER };
const char *consensus_role_name(enum consensus_role role);

/* Types of an entry, as written on disk and sent (libraft's numbers). */
enum consensus_entry_type { CONSENSUS_COMMAND = 1, CONSENSUS_BARRIER = 2, CONSENSUS_CHANGE = 3 };

struct consensus_member {
    uint64_t id;         /* from 1 */
    const char *address; /* host:port, for redirects; libraft only carries it */
    uint64_t instance;   /* of its data directory, in a first entry; 0: not known, a leader notes it later */
};

struct consensus_options {
    uint64_t id;              /* our own */
    uint64_t instance;        /* of our data directory: a membership that notes another one speaks of who had our id before */
    uint32_t election_ms;     /* a follower waits 1 to 2 times this for its leader */
    uint32_t heartbeat_ms;    /* well below election_ms */
    uint32_t max_in_flight;   /* entries sent to a follower and not yet acknowledged, 1..CONSENSUS_MESSAGE_ENTRIES_MAX */
    uint32_t seed;            /* of the election timeouts; different on each server */
};

struct consensus_entry {
    uint64_t term;        /* filled by consensus_submit() for new ones */
    uint32_t type;        /* enum consensus_entry_type */
    struct blob *payload; /* borrowed; never looked into, except a CHANGE's */
};

enum consensus_message_type {
    CONSENSUS_REQUEST_VOTE,
    CONSENSUS_REQUEST_VOTE_RESULT,
    CONSENSUS_APPEND_ENTRIES,
    CONSENSUS_APPEND_ENTRIES_RESULT,
    CONSENSUS_TIMEOUT_NOW,
    CONSENSUS_SNAPSHOT_OFFER,
};

struct consensus_message {
    enum consensus_message_type type;
    uint64_t from, to;
    uint64_t term;
    union {
        struct {
            uint64_t candidate, last_index, last_term;
            bool disrupt_leader, pre_vote;
        } request_vote;
        struct {
            bool granted, pre_vote;
            uint16_t features, capacity;
        } request_vote_result;
        struct {
            uint64_t prev_index, prev_term, commit;
            uint32_t n;                            /* entries prev_index + 1 .. prev_index + n */
            const struct consensus_entry *entries; /* received: n of them, borrowed; to be sent: NULL */
        } append;
        struct {
            uint64_t rejected, last_index;
            uint16_t features, capacity;
        } append_result;
        struct {
            uint64_t last_index, last_term;
        } timeout_now;
        struct {
            uint64_t last_index, last_term; /* the state is at this entry or later */
        } offer;
    };
};

/* Valid until the next call on the same instance; entries received point into the message that brought them. */
struct consensus_update {
    bool hard_state;
    uint64_t term, vote;
    uint64_t first_index;
    const struct consensus_entry *entries;
    unsigned n_entries;
    const struct consensus_message *messages;
    unsigned n_messages;
    bool role_changed; /* role, term of a leader, or who leads */
    bool commit_changed;
    bool membership_changed; /* consensus_membership() is another one */
    bool rebuild; /* C4: what we lack, entries up to `rebuild_index`, is not in the leader's log any more */
    uint64_t rebuild_from, rebuild_index;
};

/* The payload of the entry that the log of every server of a new cluster begins with: index 1, term 1, type CONSENSUS_CHANGE; all members
 * are voters. It depends on the set of their ids and instances only, neither on their order nor on addresses. A new reference. */
int consensus_first_entry(const struct consensus_member *members, unsigned n, struct blob **ret_payload, struct error *e);

int consensus_new(const struct consensus_options *options, struct consensus **ret_consensus, struct error *e);
struct consensus *consensus_free(struct consensus *c);

/* What was found on disk: entries base.index + 1 .. base.index + n, with `terms` (borrowed for the call). Base {0, 0}: the log begins
 * with consensus_first_entry(). `changes` are the CHANGE entries that matter, in order: first the newest that is known to be committed,
 * then all after it. Nothing at all (n, base, n_changes 0): a server that waits to be added to a cluster.
 * -ERROR_CORRUPT when log, term or changes cannot be what this server wrote. Call once, first. */
struct consensus_base {
    uint64_t index, term; /* of the entry before the first that is kept */
};
struct consensus_found {
    uint64_t index;
    const struct blob *payload;
};
int consensus_start(struct consensus *c, uint64_t now_ms, uint64_t term, uint64_t vote, struct consensus_base base,
                    const uint64_t *terms, uint64_t n, const struct consensus_found *changes, unsigned n_changes,
                    struct consensus_update *ret_update, struct error *e);

/* Entries up to `index` are not in the log any more; they are applied, durably so. Nothing to do comes of it. */
int consensus_compact(struct consensus *c, uint64_t now_ms, uint64_t index, struct error *e);

/* When consensus_tick() wants to be called next (it may be called earlier or later), on the clock of now_ms. */
uint64_t consensus_deadline(const struct consensus *c);
int consensus_tick(struct consensus *c, uint64_t now_ms, struct consensus_update *ret_update, struct error *e);

int consensus_receive(struct consensus *c, uint64_t now_ms, const struct consensus_message *m,
                      struct consensus_update *ret_update, struct error *e);

/* Entries up to `index` are on the disk, the last of them with `term`. Ignored when that entry was replaced meanwhile. */
int consensus_persisted(struct consensus *c, uint64_t now_ms, uint64_t index, uint64_t term,
                        struct consensus_update *ret_update, struct error *e);

/* Proposes n commands; their terms are filled in. They get the indexes after consensus_last_index(); those are in
 * ret_update->first_index. -ERROR_NOT_LEADER also while leadership is being transferred. */
int consensus_submit(struct consensus *c, uint64_t now_ms, struct consensus_entry *entries, unsigned n,
                     struct consensus_update *ret_update, struct error *e);

/* Proposes the next membership, which is in force at once (C3); ret_update->first_index is its entry. -ERROR_NOT_LEADER;
 * -ERROR_BUSY while the barrier or an earlier change is not committed, or a server to be promoted lacks much: retry;
 * -ERROR_INVALID when it may not follow the present one; -ERROR_CONFLICT without ourselves: hand leadership over first. */
int consensus_change(struct consensus *c, uint64_t now_ms, const struct membership *next, struct consensus_update *ret_update,
                     struct error *e);

/* Hands leadership to `to` (0: whoever has most). One message, sent when that server has everything; given up after an
 * election timeout. Submitting is refused meanwhile. -ERROR_NOT_LEADER; -ERROR_NOT_FOUND when it is no other voter. */
int consensus_transfer(struct consensus *c, uint64_t now_ms, uint64_t to, struct consensus_update *ret_update,
                       struct error *e);

/* The process that leads is known to be gone (its connection was reset): a follower stops waiting for it and stands for
 * election after `delay_ms`. Safe at any time: pre-vote still asks a majority first. */
void consensus_leader_gone(struct consensus *c, uint64_t now_ms, uint64_t leader, uint32_t delay_ms);

enum consensus_role consensus_role(const struct consensus *c);
uint64_t consensus_term(const struct consensus *c);
uint64_t consensus_leader(const struct consensus *c); /* 0: none known */
uint64_t consensus_last_index(const struct consensus *c);
uint64_t consensus_commit_index(const struct consensus *c);
uint64_t consensus_applicable(const struct consensus *c);          /* min(committed, persisted) */
uint64_t consensus_match(const struct consensus *c, uint64_t id); /* leader: what that server has for certain; else 0 */
bool consensus_transferring(const struct consensus *c);
const struct membership *consensus_membership(const struct consensus *c); /* in force; empty before anything is known */
/* The newest one known to be committed, and its entry (0: none). */
const struct membership *consensus_settled(const struct consensus *c, uint64_t *ret_index);

/* Leader with a committed entry of its own term (C1): 0 and the index that a linearizable read must see applied,
 * provided a majority confirms afterwards that the term still is this one (read_index.h).
 * -ERROR_NOT_LEADER, or -ERROR_UNAVAILABLE when it has not committed its barrier yet. */
int consensus_read_index(const struct consensus *c, uint64_t *ret_index);

#endif
