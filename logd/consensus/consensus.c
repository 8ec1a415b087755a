#include "logd/consensus/consensus.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "logd/consensus/raft_bridge.h"

/* What libraft 0.22.1 does with memory, as relied on below (entry.c, recv_append_entries.c, client.c, convert.c):
 *  - a received AppendEntries: the array stays ours; `entries[0].batch` is freed by raft_step() on every path except the one
 *    that sets RAFT_UPDATE_ENTRIES, where it becomes ours again;
 *  - a submission: array and batch stay ours, whether it fails or not;
 *  - its own barrier (convert.c): the array is inside struct raft, the batch becomes ours;
 *  - messages of an update are valid until the next step.
 * Payloads never pass through: each entry given to libraft has one token byte as its batch. */

struct consensus {
    struct raft raft;
    struct consensus_member members[CONSENSUS_MEMBERS_MAX]; /* addresses owned */
    unsigned n_members;
    uint64_t now;         /* newest time seen; an older one counts as this one */
    uint64_t known_leader; /* as last told in an update */
    struct blob *empty;   /* payload of barriers */
    struct consensus_entry barrier;
    struct consensus_entry *received; /* the message's entries while it is stepped */
    struct consensus_message *messages; /* of the present update */
    unsigned n_messages, cap_messages;
    bool started;
};

const char *consensus_role_name(enum consensus_role role)
{
    switch (role) {
    case CONSENSUS_FOLLOWER: return "follower";
    case CONSENSUS_CANDIDATE: return "candidate";
    case CONSENSUS_LEADER: return "leader";
    }
    return "unknown";
}

static int by_id(const void *a, const void *b)
{
    const struct consensus_member *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int raft_error(struct consensus *c, int rv, const char *what, struct error *e)
{
    enum error_code code = rv == RAFT_NOMEM ? ERROR_NOMEM : rv == RAFT_SHUTDOWN ? ERROR_CORRUPT : ERROR_INTERNAL;
    if (code == ERROR_CORRUPT)
        return error_set(e, code, "%s: another server's log contradicts a committed entry of ours (libraft: %s); the data of one of "
                         "them is not what it was: restore it from a peer", what, raft_strerror(rv));
    return error_set(e, code, "%s: libraft: %s", what, c == NULL ? raft_strerror(rv) : raft_errmsg(&c->raft));
}

/* ---- making one ----------------------------------------------------------------------------------------------- */

static int options_check(const struct consensus_options *o, struct error *e)
{
    bool present = false;
    if (o->n_members == 0 || o->n_members > CONSENSUS_MEMBERS_MAX)
        return error_set(e, ERROR_INVALID, "a cluster has 1 to %d members, not %u", CONSENSUS_MEMBERS_MAX, o->n_members);
    for (unsigned i = 0; i < o->n_members; i++) {
        if (o->members[i].id == 0) return error_set(e, ERROR_INVALID, "a member's id must not be 0");
        present = present || o->members[i].id == o->id;
        for (unsigned j = 0; j < i; j++)
            if (o->members[j].id == o->members[i].id || strcmp(o->members[j].address, o->members[i].address) == 0)
                return error_set(e, ERROR_INVALID, "members %llu=%s and %llu=%s are not different",
                                 (unsigned long long)o->members[j].id, o->members[j].address,
                                 (unsigned long long)o->members[i].id, o->members[i].address);
    }
    if (!present) return error_set(e, ERROR_INVALID, "member %llu is not in the cluster", (unsigned long long)o->id);
    if (o->heartbeat_ms == 0 || o->heartbeat_ms * 2 > o->election_ms)
        return error_set(e, ERROR_INVALID, "the heartbeat (%u ms) must be at most half the election timeout (%u ms)",
                         o->heartbeat_ms, o->election_ms);
    if (o->max_in_flight == 0 || o->max_in_flight > CONSENSUS_MESSAGE_ENTRIES_MAX)
        return error_set(e, ERROR_INVALID, "max_in_flight is %u, not within 1..%d", o->max_in_flight,
                         CONSENSUS_MESSAGE_ENTRIES_MAX);
    return 0;
}

/* The first entry names members by "member-ID" rather than by address, so that a server can be told another port or name
 * without its log being another cluster's. */
int consensus_first_entry(const struct consensus_options *o, struct blob **ret_payload, struct error *e)
{
    struct consensus_member sorted[CONSENSUS_MEMBERS_MAX];
    struct raft_configuration configuration;
    struct raft_buffer encoded = {0};
    int rv = options_check(o, e);
    if (rv != 0) return rv;
    memcpy(sorted, o->members, sizeof *sorted * o->n_members);
    qsort(sorted, o->n_members, sizeof *sorted, by_id);
    raft_configuration_init(&configuration);
    for (unsigned i = 0; i < o->n_members && rv == 0; i++) {
        char name[32];
        snprintf(name, sizeof name, "member-%llu", (unsigned long long)sorted[i].id);
        rv = raft_configuration_add(&configuration, sorted[i].id, name, RAFT_VOTER);
    }
    if (rv == 0) rv = raft_configuration_encode(&configuration, &encoded);
    raft_configuration_close(&configuration);
    if (rv != 0) return raft_error(NULL, rv, "encoding the first entry", e);
    struct blob *payload = blob_new(encoded.len);
    if (payload != NULL) memcpy(payload->data, encoded.base, encoded.len);
    raft_free(encoded.base);
    if (payload == NULL) return error_set(e, ERROR_NOMEM, "no memory for the first entry");
    *ret_payload = payload;
    return 0;
}

int consensus_new(const struct consensus_options *o, struct consensus **ret_consensus, struct error *e)
{
    int rv = options_check(o, e);
    if (rv != 0) return rv;
    struct consensus *c = calloc(1, sizeof *c);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory for consensus");
    if ((rv = raft_init(&c->raft, NULL, NULL, o->id, "self")) != 0) {
        free(c);
        return raft_error(NULL, rv, "raft_init", e);
    }
    c->raft.tracer = NULL; /* the default one formats a message at every step, heard or not */
    raft_seed(&c->raft, o->seed);
    raft_set_pre_vote(&c->raft, true);
    raft_set_heartbeat_timeout(&c->raft, o->heartbeat_ms);
    raft_set_election_timeout(&c->raft, o->election_ms);
    raft_set_max_inflight_entries(&c->raft, o->max_in_flight);
    c->empty = blob_new(8);
    if (c->empty != NULL) memset(c->empty->data, 0, 8);
    for (unsigned i = 0; i < o->n_members; i++) {
        c->members[i] = (struct consensus_member){o->members[i].id, strdup(o->members[i].address)};
        c->n_members++;
        if (c->members[i].address == NULL || c->empty == NULL) {
            consensus_free(c);
            return error_set(e, ERROR_NOMEM, "no memory for consensus");
        }
    }
    *ret_consensus = c;
    return 0;
}

struct consensus *consensus_free(struct consensus *c)
{
    if (c == NULL) return NULL;
    raft_close(&c->raft, NULL);
    for (unsigned i = 0; i < c->n_members; i++) free((char *)c->members[i].address);
    blob_unref(c->empty);
    free(c->messages);
    free(c);
    return NULL;
}

/* ---- stepping ------------------------------------------------------------------------------------------------- */

static int keep_message(struct consensus *c, const struct raft_message *r)
{
    if (c->n_messages == c->cap_messages) {
        unsigned cap = c->cap_messages == 0 ? 16 : c->cap_messages * 2;
        struct consensus_message *grown = realloc(c->messages, sizeof *grown * cap);
        if (grown == NULL) return -ERROR_NOMEM;
        c->messages = grown;
        c->cap_messages = cap;
    }
    int rv = raft_bridge_from(r, c->raft.id, &c->messages[c->n_messages]);
    if (rv == 0) c->n_messages++;
    return rv;
}

static void begin(struct consensus *c, uint64_t now_ms, struct consensus_update *u)
{
    assert(c->started);
    if (now_ms > c->now) c->now = now_ms;
    c->n_messages = 0;
    *u = (struct consensus_update){0};
}

/* One raft_step(), its outcome added to `u`. `entries` are those that RAFT_UPDATE_ENTRIES would speak of. */
static int step(struct consensus *c, struct raft_event *event, const struct raft_entry *given,
                const struct consensus_entry *entries, struct consensus_update *u, struct error *e)
{
    struct raft_update r;
    int rv;
    event->time = c->now;
    event->capacity = 0xffff; /* disk space is watched elsewhere */
    if ((rv = raft_step(&c->raft, event, &r)) != 0) return raft_error(c, rv, "raft_step", e);

    if (r.flags & (RAFT_UPDATE_CURRENT_TERM | RAFT_UPDATE_VOTED_FOR)) u->hard_state = true;
    if (r.flags & (RAFT_UPDATE_COMMIT_INDEX)) u->commit_changed = true;
    if (r.flags & (RAFT_UPDATE_STATE)) u->role_changed = true;
    if (r.flags & (RAFT_UPDATE_SNAPSHOT)) return error_set(e, ERROR_INTERNAL, "libraft wants to install a snapshot");
    if (r.flags & (RAFT_UPDATE_ENTRIES)) {
        assert(u->n_entries == 0 && r.entries.n > 0);
        u->first_index = r.entries.index;
        u->n_entries = r.entries.n;
        if (r.entries.batch == &c->raft.barrier) { /* libraft's own, of a new leader */
            c->barrier = (struct consensus_entry){r.entries.batch->term, CONSENSUS_BARRIER, c->empty};
            u->entries = &c->barrier;
            raft_free(r.entries.batch->batch);
        } else {
            u->entries = entries + (r.entries.batch - given);
        }
    }
    if (r.flags & (RAFT_UPDATE_MESSAGES))
        for (unsigned i = 0; i < r.messages.n; i++)
            if ((rv = keep_message(c, &r.messages.batch[i])) != 0)
                return error_set(e, (enum error_code)-rv, "libraft's message of type %d cannot be sent", (int)r.messages.batch[i].type);
    return 0;
}

static int submit(struct consensus *c, struct consensus_entry *entries, unsigned n, struct consensus_update *u,
                  struct error *e)
{
    struct raft_entry few[16], *list = few;
    static uint8_t token; /* never freed by a submission: see the top */
    if (n > 16 && (list = malloc(sizeof *list * n)) == NULL) return error_set(e, ERROR_NOMEM, "no memory for %u entries", n);
    for (unsigned i = 0; i < n; i++) {
        entries[i].term = c->raft.current_term;
        list[i] = (struct raft_entry){entries[i].term, (enum raft_entry_type)entries[i].type, {&token, 1}, &token};
    }
    struct raft_event event = {.type = RAFT_SUBMIT, .submit = {list, n}};
    int rv = step(c, &event, list, entries, u, e);
    if (list != few) free(list);
    return rv;
}

/* Ends every call: the barrier of a new leader (C1), and what the caller is to know. */
static int finish(struct consensus *c, struct consensus_update *u, struct error *e)
{
    if (u->role_changed && c->raft.state == RAFT_LEADER && u->n_entries == 0) {
        c->barrier = (struct consensus_entry){0, CONSENSUS_BARRIER, c->empty};
        int rv = submit(c, &c->barrier, 1, u, e);
        if (rv != 0) return rv;
    }
    uint64_t leader = consensus_leader(c);
    if (leader != c->known_leader) u->role_changed = true;
    c->known_leader = leader;
    u->term = c->raft.current_term;
    u->vote = c->raft.voted_for;
    u->messages = c->messages;
    u->n_messages = c->n_messages;
    return 0;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static int start_check(const struct consensus *c, uint64_t term, const uint64_t *terms, uint64_t n, const struct blob *first,
                       struct error *e)
{
    struct raft_configuration configuration;
    if (n == 0 || n > UINT32_MAX || terms[0] != 1)
        return error_set(e, ERROR_CORRUPT, "the log does not begin with the entry that names the members");
    for (uint64_t i = 1; i < n; i++)
        if (terms[i] < terms[i - 1])
            return error_set(e, ERROR_CORRUPT, "term %llu at entry %llu follows term %llu", (unsigned long long)terms[i],
                             (unsigned long long)(i + 1), (unsigned long long)terms[i - 1]);
    if (terms[n - 1] > term)
        return error_set(e, ERROR_CORRUPT, "the last entry has term %llu, but the newest term known here is %llu",
                         (unsigned long long)terms[n - 1], (unsigned long long)term);
    struct raft_buffer encoded = {(void *)(uintptr_t)first->data, first->len};
    int rv = raft_configuration_decode(&encoded, &configuration);
    if (rv == RAFT_NOMEM) return error_set(e, ERROR_NOMEM, "no memory for the first entry");
    if (rv != 0) return error_set(e, ERROR_CORRUPT, "the first entry of the log does not name the members");
    bool same = configuration.n == c->n_members;
    for (unsigned i = 0; i < c->n_members && same; i++) {
        same = false;
        for (unsigned j = 0; j < configuration.n; j++) same = same || configuration.servers[j].id == c->members[i].id;
    }
    raft_configuration_close(&configuration);
    if (!same)
        return error_set(e, ERROR_INVALID, "this log belongs to a cluster with other members: initial-cluster must name the "
                         "same ids as when it was made");
    return 0;
}

int consensus_start(struct consensus *c, uint64_t now_ms, uint64_t term, uint64_t vote, const uint64_t *terms, uint64_t n,
                    const struct blob *first, struct consensus_update *u, struct error *e)
{
    assert(!c->started);
    int rv = start_check(c, term, terms, n, first, e);
    if (rv != 0) return rv;
    /* raft_step() frees array and batch when a start fails, else they stay ours. */
    struct raft_entry *entries = raft_malloc(sizeof *entries * n);
    uint8_t *batch = raft_malloc(first->len + 1);
    if (entries == NULL || batch == NULL) {
        raft_free(entries);
        raft_free(batch);
        return error_set(e, ERROR_NOMEM, "no memory for the terms of %llu entries", (unsigned long long)n);
    }
    memcpy(batch, first->data, first->len);
    for (uint64_t i = 0; i < n; i++)
        entries[i] = (struct raft_entry){terms[i], i == 0 ? RAFT_CHANGE : RAFT_COMMAND, {batch, first->len}, batch};
    struct raft_event event = {
        .type = RAFT_START,
        .start = {.term = term, .voted_for = vote, .start_index = 1, .entries = entries, .n_entries = (unsigned)n}};
    c->started = true;
    begin(c, now_ms, u);
    if ((rv = step(c, &event, NULL, NULL, u, e)) != 0) return rv;
    raft_free(batch);
    raft_free(entries);
    return finish(c, u, e);
}

uint64_t consensus_deadline(const struct consensus *c)
{
    return raft_timeout(&c->raft);
}

int consensus_tick(struct consensus *c, uint64_t now_ms, struct consensus_update *u, struct error *e)
{
    begin(c, now_ms, u);
    if (raft_timeout(&c->raft) <= c->now) {
        struct raft_event event = {.type = RAFT_TIMEOUT};
        int rv = step(c, &event, NULL, NULL, u, e);
        if (rv != 0) return rv;
    }
    return finish(c, u, e);
}

static const struct consensus_member *member(const struct consensus *c, uint64_t id)
{
    for (unsigned i = 0; i < c->n_members; i++)
        if (c->members[i].id == id) return &c->members[i];
    return NULL;
}

static int receive_append(struct consensus *c, struct raft_message *r, const struct consensus_message *m,
                          struct consensus_update *u, struct error *e)
{
    struct raft_entry *list = NULL;
    void *batch = NULL;
    if (m->append.n > 0) {
        list = malloc(sizeof *list * m->append.n);
        batch = raft_malloc(1);
        if (list == NULL || batch == NULL) {
            free(list);
            raft_free(batch);
            return error_set(e, ERROR_NOMEM, "no memory for %u entries", m->append.n);
        }
        for (uint32_t i = 0; i < m->append.n; i++)
            list[i] = (struct raft_entry){
                m->append.entries[i].term, (enum raft_entry_type)m->append.entries[i].type, {batch, 1}, batch};
        r->append_entries.entries = list;
    }
    struct raft_event event = {.type = RAFT_RECEIVE, .receive = {r}};
    int rv = step(c, &event, list, m->append.entries, u, e);
    if (rv == 0 && u->n_entries > 0) raft_free(batch); /* else raft_step() did */
    free(list);
    /* In 0.22.1 the answer to a stale leader leaves last_log_index uninitialised (recv_append_entries.c, match < 0). */
    for (unsigned i = 0; rv == 0 && m->term < c->raft.current_term && i < c->n_messages; i++)
        if (c->messages[i].type == CONSENSUS_APPEND_ENTRIES_RESULT) c->messages[i].append_result.last_index = 0;
    return rv;
}

/* A follower acknowledged everything up to `match` in this very term, so a rejection that says it has less is an old one that was
 * overtaken. While probing, libraft 0.22.1 believes it, sets next_index <= match_index (an assertion, compiled out) and
 * from then on sends that follower nothing but empty messages (progress.c, progressMaybeDecrement). Found by
 * test_consensus. Returns false for a message to ignore. */
static bool mend_rejection(const struct consensus *c, struct consensus_message *m)
{
    if (c->raft.state != RAFT_LEADER || m->term != c->raft.current_term || m->append_result.rejected == 0) return true;
    uint64_t match = consensus_match(c, m->from);
    if (m->append_result.rejected <= match) return false;
    if (m->append_result.last_index < match) m->append_result.last_index = match;
    return true;
}

int consensus_receive(struct consensus *c, uint64_t now_ms, const struct consensus_message *m, struct consensus_update *u,
                      struct error *e)
{
    const struct consensus_member *from = member(c, m->from);
    struct raft_message r = {0};
    begin(c, now_ms, u);
    if (from == NULL || m->from == c->raft.id || m->to != c->raft.id)
        return error_set(e, ERROR_PROTOCOL, "a Raft message from server %llu to %llu reached server %llu",
                         (unsigned long long)m->from, (unsigned long long)m->to, c->raft.id);
    int rv = raft_bridge_check(m, e);
    if (rv != 0) return rv;
    if (m->type == CONSENSUS_APPEND_ENTRIES && m->term == c->raft.current_term && c->raft.state == RAFT_LEADER)
        return error_set(e, ERROR_PROTOCOL, "server %llu says it leads term %llu, but we do: are two servers running with "
                         "one id, or was a data directory copied?", (unsigned long long)m->from, (unsigned long long)m->term);
    /* libraft reads candidate state in any state here; a vote that comes too late has nothing to say. */
    if (m->type == CONSENSUS_REQUEST_VOTE_RESULT && c->raft.state != RAFT_CANDIDATE) return finish(c, u, e);
    struct consensus_message mended = *m;
    if (m->type == CONSENSUS_APPEND_ENTRIES_RESULT && !mend_rejection(c, &mended)) return finish(c, u, e);
    if ((rv = raft_bridge_to(&mended, &r)) != 0) return error_set(e, ERROR_PROTOCOL, "a Raft message of unknown type %d", (int)m->type);
    r.server_id = from->id;
    r.server_address = from->address;
    if (m->type == CONSENSUS_APPEND_ENTRIES) {
        rv = receive_append(c, &r, m, u, e);
    } else {
        struct raft_event event = {.type = RAFT_RECEIVE, .receive = {&r}};
        rv = step(c, &event, NULL, NULL, u, e);
    }
    return rv != 0 ? rv : finish(c, u, e);
}

int consensus_persisted(struct consensus *c, uint64_t now_ms, uint64_t index, uint64_t term, struct consensus_update *u,
                        struct error *e)
{
    begin(c, now_ms, u);
    if (index > c->raft.last_stored && raft_bridge_term_at(&c->raft, index) == term && term != 0) {
        /* A candidate has nothing under way: libraft stands for election only when everything is stored. */
        if (c->raft.state == RAFT_CANDIDATE) return error_set(e, ERROR_INTERNAL, "an entry was persisted during an election");
        struct raft_event event = {.type = RAFT_PERSISTED_ENTRIES, .persisted_entries = {index}};
        int rv = step(c, &event, NULL, NULL, u, e);
        if (rv != 0) return rv;
    }
    return finish(c, u, e);
}

int consensus_submit(struct consensus *c, uint64_t now_ms, struct consensus_entry *entries, unsigned n,
                     struct consensus_update *u, struct error *e)
{
    begin(c, now_ms, u);
    if (c->raft.state != RAFT_LEADER || c->raft.leader_state.transferee != 0)
        return error_set(e, ERROR_NOT_LEADER, "this server does not lead");
    for (unsigned i = 0; i < n; i++) entries[i].type = CONSENSUS_COMMAND;
    int rv = submit(c, entries, n, u, e);
    return rv != 0 ? rv : finish(c, u, e);
}

int consensus_transfer(struct consensus *c, uint64_t now_ms, uint64_t to, struct consensus_update *u, struct error *e)
{
    begin(c, now_ms, u);
    if (c->raft.state != RAFT_LEADER) return error_set(e, ERROR_NOT_LEADER, "this server does not lead");
    if (c->n_members < 2 || to == c->raft.id || (to != 0 && member(c, to) == NULL))
        return error_set(e, ERROR_NOT_FOUND, "there is no server to hand leadership to");
    if (c->raft.leader_state.transferee == 0) {
        struct raft_event event = {.type = RAFT_TRANSFER, .transfer = {to}};
        int rv = step(c, &event, NULL, NULL, u, e);
        if (rv != 0) return rv;
    }
    return finish(c, u, e);
}

void consensus_leader_gone(struct consensus *c, uint64_t now_ms, uint64_t leader, uint32_t delay_ms)
{
    struct raft *r = &c->raft;
    if (r->state != RAFT_FOLLOWER || leader == 0 || r->follower_state.current_leader.id != leader) return;
    if (now_ms > c->now) c->now = now_ms;
    /* As libraft's convertClearFollower(): without a leader we grant pre-votes to others as well. */
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL;
    r->follower_state.current_leader.id = 0;
    r->follower_state.randomized_election_timeout = delay_ms;
    r->election_timer_start = c->now;
}

/* ---- looking -------------------------------------------------------------------------------------------------- */

enum consensus_role consensus_role(const struct consensus *c)
{
    if (c->raft.state == RAFT_LEADER) return CONSENSUS_LEADER;
    return c->raft.state == RAFT_CANDIDATE ? CONSENSUS_CANDIDATE : CONSENSUS_FOLLOWER;
}

uint64_t consensus_term(const struct consensus *c)
{
    return c->raft.current_term;
}

uint64_t consensus_leader(const struct consensus *c)
{
    if (c->raft.state == RAFT_LEADER) return c->raft.id;
    return c->raft.state == RAFT_FOLLOWER ? c->raft.follower_state.current_leader.id : 0;
}

uint64_t consensus_last_index(const struct consensus *c)
{
    return raft_bridge_last_index(&c->raft);
}

uint64_t consensus_commit_index(const struct consensus *c)
{
    return c->raft.commit_index;
}

uint64_t consensus_applicable(const struct consensus *c)
{
    return c->raft.commit_index < c->raft.last_stored ? c->raft.commit_index : c->raft.last_stored;
}

uint64_t consensus_match(const struct consensus *c, uint64_t id)
{
    raft_index index = 0;
    if (c->raft.state != RAFT_LEADER || raft_match_index(&c->raft, id, &index) != 0) return 0;
    return index;
}

bool consensus_transferring(const struct consensus *c)
{
    return c->raft.state == RAFT_LEADER && c->raft.leader_state.transferee != 0;
}

int consensus_read_index(const struct consensus *c, uint64_t *ret_index)
{
    if (c->raft.state != RAFT_LEADER) return -ERROR_NOT_LEADER;
    if (raft_bridge_term_at(&c->raft, c->raft.commit_index) != c->raft.current_term) return -ERROR_UNAVAILABLE;
    *ret_index = c->raft.commit_index;
    return 0;
}
