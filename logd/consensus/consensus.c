#include "logd/consensus/consensus.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/mutant.h"
#include "logd/consensus/raft_bridge.h"

/* What libraft 0.22.1 does with memory, as relied on below (entry.c, recv_append_entries.c, client.c, convert.c):
 *  - a received AppendEntries: the array stays ours; `entries[0].batch` is freed by raft_step() on every path except the one
 *    that sets RAFT_UPDATE_ENTRIES, where it becomes ours again;
 *  - a submission: array and batch stay ours, whether it fails or not;
 *  - its own barrier (convert.c): the array is inside struct raft, the batch becomes ours;
 *  - messages of an update are valid until the next step.
 * Payloads never pass through: each entry given to libraft has one token byte as its batch. */

struct known { /* a membership and its entry; index 0: none */
    uint64_t index;
    struct membership is;
};

struct consensus {
    struct raft raft;
    struct known latest;  /* of the log's last CHANGE entry: in force */
    struct known settled; /* the newest that is committed for certain: what `latest` falls back to */
    uint64_t instance;
    uint64_t now;         /* newest time seen; an older one counts as this one */
    uint64_t known_leader; /* as last told in an update */
    struct blob *empty;   /* payload of barriers */
    struct blob *change;  /* payload of the newest consensus_change() */
    struct consensus_entry barrier, changing;
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
    if (o->id == 0) return error_set(e, ERROR_INVALID, "a server's id must not be 0");
    if (o->heartbeat_ms == 0 || o->heartbeat_ms * 2 > o->election_ms)
        return error_set(e, ERROR_INVALID, "the heartbeat (%u ms) must be at most half the election timeout (%u ms)",
                         o->heartbeat_ms, o->election_ms);
    if (o->max_in_flight == 0 || o->max_in_flight > CONSENSUS_MESSAGE_ENTRIES_MAX)
        return error_set(e, ERROR_INVALID, "max_in_flight is %u, not within 1..%d", o->max_in_flight,
                         CONSENSUS_MESSAGE_ENTRIES_MAX);
    return 0;
}

/* Without addresses, so that a server can be told another port or name without its log being another cluster's. */
int consensus_first_entry(const struct consensus_member *members, unsigned n, struct blob **ret_payload, struct error *e)
{
    struct membership m = {0};
    if (n == 0 || n > CONSENSUS_MEMBERS_MAX)
        return error_set(e, ERROR_INVALID, "a cluster has 1 to %d members, not %u", CONSENSUS_MEMBERS_MAX, n);
    for (unsigned i = 0; i < n; i++) {
        unsigned at = m.n;
        if (members[i].id == 0) return error_set(e, ERROR_INVALID, "a member's id must not be 0");
        for (unsigned j = 0; j < i; j++)
            if (members[j].id == members[i].id || strcmp(members[j].address, members[i].address) == 0)
                return error_set(e, ERROR_INVALID, "members %llu=%s and %llu=%s are not different",
                                 (unsigned long long)members[j].id, members[j].address, (unsigned long long)members[i].id,
                                 members[i].address);
        for (; at > 0 && m.servers[at - 1].id > members[i].id; at--) m.servers[at] = m.servers[at - 1];
        m.servers[at] = (struct membership_server){.id = members[i].id, .voter = true, .instance = members[i].instance};
        m.n++;
    }
    if (membership_encode(&m, ret_payload) != 0) return error_set(e, ERROR_NOMEM, "no memory for the first entry");
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
    c->instance = o->instance;
    c->raft.tracer = NULL; /* the default one formats a message at every step, heard or not */
    raft_seed(&c->raft, o->seed);
    raft_set_pre_vote(&c->raft, true);
    raft_set_heartbeat_timeout(&c->raft, o->heartbeat_ms);
    raft_set_election_timeout(&c->raft, o->election_ms);
    raft_set_max_inflight_entries(&c->raft, o->max_in_flight);
    c->empty = blob_new(8);
    if (c->empty != NULL) memset(c->empty->data, 0, 8);
    if (c->empty == NULL) {
        consensus_free(c);
        return error_set(e, ERROR_NOMEM, "no memory for consensus");
    }
    *ret_consensus = c;
    return 0;
}

struct consensus *consensus_free(struct consensus *c)
{
    if (c == NULL) return NULL;
    raft_close(&c->raft, NULL);
    blob_unref(c->empty);
    blob_unref(c->change);
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

static unsigned voters(const struct raft_configuration *configuration)
{
    unsigned n = 0;
    for (unsigned i = 0; i < configuration->n; i++) n += configuration->servers[i].role == RAFT_VOTER;
    return n;
}

/* 0.22.1 lets the only voter lead the term that it finds (convert.c, "fast-forward"), which another server may have led before it was
 * removed: two leaders, and different entries with one term and index. It gets a term of its own. Found by test_consensus. */
static void begin_own_term(struct consensus *c, unsigned sent, struct consensus_update *u)
{
    c->raft.current_term++;
    c->raft.voted_for = c->raft.id;
    u->hard_state = true;
    for (; sent < c->n_messages; sent++) c->messages[sent].term = c->raft.current_term;
}

/* One raft_step(), its outcome added to `u`. `entries` are those that RAFT_UPDATE_ENTRIES would speak of. */
static int step(struct consensus *c, struct raft_event *event, const struct raft_entry *given,
                const struct consensus_entry *entries, struct consensus_update *u, struct error *e)
{
    struct raft_update r;
    int rv;
    event->time = c->now;
    event->capacity = 0xffff; /* disk space is watched elsewhere */
    uint64_t committed = c->raft.commit_index;
    bool led = c->raft.state == RAFT_LEADER;
    unsigned sent = c->n_messages;
    if ((rv = raft_step(&c->raft, event, &r)) != 0) return raft_error(c, rv, "raft_step", e);
    /* 0.22.1 takes back a part of what it knows to be committed when an old AppendEntries with few entries comes late
     * (replication.c: min(leader_commit, last_new_entry)). What is committed stays so. */
    if (c->raft.commit_index < committed) c->raft.commit_index = committed;

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
    if (!led && c->raft.state == RAFT_LEADER && voters(&c->raft.configuration) == 1) begin_own_term(c, sent, u);
    return 0;
}

/* Are we a voter of it, and not somebody whose data are lost and who had our id? That one's votes and acknowledgements are not ours to
 * continue: we get the log, and wait to be in a membership ourselves. Found by test_consensus, seed 1201. */
static bool is_voter(const struct consensus *c, const struct membership *m)
{
    const struct membership_server *self = membership_find(m, c->raft.id);
    return self != NULL && self->voter && (self->instance == 0 || self->instance == c->instance);
}

/* A membership as our libraft is to see it. */
static struct membership seen(const struct consensus *c, const struct membership *m)
{
    struct membership view = *m;
    for (unsigned i = 0; i < view.n; i++)
        if (view.servers[i].id == c->raft.id) view.servers[i].voter = is_voter(c, m);
    return view;
}

static int configuration_of(const struct consensus *c, const struct membership *m, struct raft_configuration *ret)
{
    struct membership view = seen(c, m);
    return raft_bridge_configuration(&view, ret);
}

static int encoded_configuration(const struct consensus *c, const struct membership *m, struct raft_buffer *ret)
{
    struct membership view = seen(c, m);
    return raft_bridge_encode(&view, ret);
}

/* Follows the CHANGE entries among those that were just added to the log. The one before a new one is committed: a leader proposes
 * none before. 0.22.1 takes the index of the first entry of a message for that of a CHANGE anywhere in it (replication.c,
 * replicationAppend), would then never hear that it is committed, and falls back to a membership that is too old: its notes are put
 * right here. */
static int track(struct consensus *c, struct consensus_update *u, struct error *e)
{
    bool settled = false;
    if (u->n_entries == 0) return 0;
    if (c->latest.index >= u->first_index) { /* it was replaced; libraft has fallen back already */
        c->latest = c->settled;
        u->membership_changed = true;
    }
    for (unsigned i = 0; i < u->n_entries; i++) {
        if (u->entries[i].type != CONSENSUS_CHANGE) continue;
        struct known next = {.index = u->first_index + i};
        if (membership_decode(u->entries[i].payload->data, u->entries[i].payload->len, &next.is) != 0)
            return error_set(e, ERROR_INTERNAL, "entry %llu names no members", (unsigned long long)next.index); /* checked before */
        if (c->latest.index != c->settled.index) c->settled = c->latest, settled = true;
        c->latest = next;
        u->membership_changed = true;
    }
    if (settled) {
        struct raft_configuration configuration;
        int rv = configuration_of(c, &c->settled.is, &configuration);
        if (rv != 0) return raft_error(c, rv, "keeping the membership", e);
        raft_configuration_close(&c->raft.configuration_committed);
        c->raft.configuration_committed = configuration;
        c->raft.configuration_committed_index = c->settled.index;
    }
    c->raft.configuration_uncommitted_index = c->latest.index != c->settled.index ? c->latest.index : 0;
    return 0;
}

/* The membership in force is committed: libraft wants to be told. A leader that is not in it steps down. */
static int settle(struct consensus *c, struct consensus_update *u, struct error *e)
{
    if (c->latest.index == c->settled.index || c->latest.index > consensus_applicable(c)) return 0;
    struct raft_event event = {.type = RAFT_CONFIGURATION, .configuration = {.index = c->latest.index}};
    int rv = configuration_of(c, &c->latest.is, &event.configuration.conf); /* becomes libraft's */
    if (rv != 0) return raft_error(c, rv, "settling the membership", e);
    c->settled = c->latest;
    return step(c, &event, NULL, NULL, u, e);
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
    int rv = track(c, u, e);
    if (rv == 0) rv = settle(c, u, e);
    if (rv != 0) return rv;
    if (u->role_changed && c->raft.state == RAFT_LEADER && u->n_entries == 0) {
        c->barrier = (struct consensus_entry){0, CONSENSUS_BARRIER, c->empty};
        if ((rv = submit(c, &c->barrier, 1, u, e)) != 0) return rv;
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

static int start_check(uint64_t term, struct consensus_base base, const uint64_t *terms, uint64_t n, struct error *e)
{
    uint64_t before = base.term;
    if (n > UINT32_MAX || (base.index == 0) != (base.term == 0) || (base.index == 0 && n > 0 && terms[0] != 1))
        return error_set(e, ERROR_CORRUPT, "the log does not begin with the entry that names the members");
    for (uint64_t i = 0; i < n; before = terms[i++])
        if (terms[i] < before)
            return error_set(e, ERROR_CORRUPT, "term %llu at entry %llu follows term %llu", (unsigned long long)terms[i],
                             (unsigned long long)(base.index + i + 1), (unsigned long long)before);
    if (before > term)
        return error_set(e, ERROR_CORRUPT, "the last entry has term %llu, but the newest term known here is %llu",
                         (unsigned long long)before, (unsigned long long)term);
    return 0;
}

/* The last two that were found are all that matters: the one before the last is committed. */
static int start_membership(struct consensus *c, const struct consensus_found *changes, unsigned n, uint64_t last, struct error *e)
{
    for (unsigned i = 0; i < n; i++) {
        struct known next = {.index = changes[i].index};
        if (next.index <= c->latest.index || next.index > last ||
            membership_decode(changes[i].payload->data, changes[i].payload->len, &next.is) != 0)
            return error_set(e, ERROR_CORRUPT, "entry %llu does not name the members", (unsigned long long)next.index);
        c->settled = i == 0 ? next : c->latest;
        c->latest = next;
    }
    return 0;
}

/* libraft is told of the settled membership as if it were that of the log's beginning, and of the one after it where it is. Array and batch
 * are freed by raft_step() when a start fails, else they stay ours. */
static int start_step(struct consensus *c, struct raft_event *event, const uint64_t *terms, struct consensus_update *u, struct error *e)
{
    uint64_t n = event->start.n_entries, first = event->start.start_index;
    struct raft_entry *entries = raft_malloc(sizeof *entries * (n + 1));
    void *batch = raft_malloc(1);
    struct raft_buffer settled = {0}, latest = {0};
    int rv = entries == NULL || batch == NULL ? RAFT_NOMEM : 0;
    if (rv == 0 && c->settled.index != 0) rv = encoded_configuration(c, &c->settled.is, &settled);
    if (rv == 0 && c->latest.index != c->settled.index) rv = encoded_configuration(c, &c->latest.is, &latest);
    for (uint64_t i = 0; rv == 0 && i < n; i++) entries[i] = (struct raft_entry){terms[i], RAFT_COMMAND, {batch, 1}, batch};
    if (rv == 0 && first == 1 && n > 0) entries[0].type = RAFT_CHANGE, entries[0].buf = settled;
    if (rv == 0 && latest.base != NULL) {
        entries[c->latest.index - first].type = RAFT_CHANGE;
        entries[c->latest.index - first].buf = latest;
    }
    if (rv != 0) {
        raft_free(entries);
        raft_free(batch);
        rv = raft_error(NULL, rv, "starting", e);
    } else {
        event->start.entries = entries;
        rv = step(c, event, NULL, NULL, u, e);
        if (rv == 0) {
            raft_free(entries);
            raft_free(batch);
        }
    }
    raft_free(settled.base);
    raft_free(latest.base);
    return rv;
}

int consensus_start(struct consensus *c, uint64_t now_ms, uint64_t term, uint64_t vote, struct consensus_base base,
                    const uint64_t *terms, uint64_t n, const struct consensus_found *changes, unsigned n_changes,
                    struct consensus_update *u, struct error *e)
{
    struct raft_snapshot_metadata gone = {.index = base.index, .term = base.term};
    assert(!c->started);
    int rv = start_check(term, base, terms, n, e);
    if (rv == 0) rv = start_membership(c, changes, n_changes, base.index + n, e);
    if (rv == 0 && (c->settled.index == 0) != (base.index + n == 0))
        rv = error_set(e, ERROR_CORRUPT, "nothing says who the members are");
    if (rv == 0 && c->latest.index != c->settled.index && c->latest.index <= base.index)
        rv = error_set(e, ERROR_CORRUPT, "entry %llu names members and is not in the log", (unsigned long long)c->latest.index);
    if (rv != 0) return rv;
    struct raft_event event = {.type = RAFT_START,
                               .start = {.term = term, .voted_for = vote, .start_index = base.index + 1, .n_entries = (unsigned)n}};
    if (base.index > 0) {
        gone.configuration_index = c->settled.index;
        if ((rv = configuration_of(c, &c->settled.is, &gone.configuration)) != 0) return raft_error(NULL, rv, "starting", e);
        event.start.metadata = &gone;
    }
    c->started = true;
    begin(c, now_ms, u);
    rv = start_step(c, &event, terms, u, e);
    u->membership_changed = true;
    return rv != 0 ? rv : finish(c, u, e);
}

int consensus_compact(struct consensus *c, uint64_t now_ms, uint64_t index, struct error *e)
{
    struct consensus_update u;
    uint64_t term = raft_bridge_term_at(&c->raft, index);
    begin(c, now_ms, &u);
    if (index <= c->raft.trail.snapshot.index) return 0;
    if (index > consensus_applicable(c) || term == 0)
        return error_set(e, ERROR_INTERNAL, "entry %llu cannot go: it is not both committed and persisted", (unsigned long long)index);
    struct raft_event event = {.type = RAFT_SNAPSHOT,
                               .snapshot.metadata = {.index = index, .term = term, .configuration_index = c->settled.index}};
    int rv = configuration_of(c, &c->settled.is, &event.snapshot.metadata.configuration); /* becomes libraft's */
    return rv != 0 ? raft_error(c, rv, "letting entries go", e) : step(c, &event, NULL, NULL, &u, e);
}

/* As libraft's convertClearFollower(): without a leader we grant pre-votes. */
static void forget_leader(struct raft *r)
{
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL;
    r->follower_state.current_leader.id = 0;
}

uint64_t consensus_deadline(const struct consensus *c)
{
    return raft_timeout(&c->raft);
}

int consensus_tick(struct consensus *c, uint64_t now_ms, struct consensus_update *u, struct error *e)
{
    begin(c, now_ms, u);
    if (raft_timeout(&c->raft) <= c->now) {
        /* 0.22.1 lets a standby believe in a silent leader for ever, and refuse others its vote for that (timeout.c, timeoutFollower). */
        if (c->raft.state == RAFT_FOLLOWER && !is_voter(c, &c->latest.is)) forget_leader(&c->raft);
        struct raft_event event = {.type = RAFT_TIMEOUT};
        int rv = step(c, &event, NULL, NULL, u, e);
        if (rv != 0) return rv;
    }
    return finish(c, u, e);
}

/* What a leader sends of entries that are gone here, because they were committed and applied, is the same as what was here (leader
 * completeness): only what comes after them is looked at. libraft would refuse it. */
static void skip_known(const struct consensus *c, struct consensus_message *m)
{
    uint64_t base = c->raft.trail.snapshot.index;
    if (m->append.prev_index >= base || m->term < c->raft.current_term) return;
    uint64_t skip = base - m->append.prev_index;
    if (skip > m->append.n) skip = m->append.n;
    m->append.entries += skip;
    m->append.n -= (uint32_t)skip;
    m->append.prev_index = base;
    m->append.prev_term = c->raft.trail.snapshot.term;
}

/* The entries as libraft is to see them: only a CHANGE has content. Each `buf` of one is ours, to be freed after the step. */
static int show_entries(const struct consensus *c, const struct consensus_message *m, struct raft_entry *list, void *batch, struct error *e)
{
    struct membership members;
    for (uint32_t i = 0; i < m->append.n; i++) {
        const struct consensus_entry *entry = &m->append.entries[i];
        list[i] = (struct raft_entry){entry->term, (enum raft_entry_type)entry->type, {batch, 1}, batch};
        if (entry->type != CONSENSUS_CHANGE) continue;
        list[i].buf = (struct raft_buffer){0};
        if (membership_decode(entry->payload->data, entry->payload->len, &members) != 0)
            return error_set(e, ERROR_PROTOCOL, "entry %llu of server %llu does not name the members",
                             (unsigned long long)(m->append.prev_index + 1 + i), (unsigned long long)m->from);
        int rv = encoded_configuration(c, &members, &list[i].buf);
        if (rv != 0) return raft_error(NULL, rv, "reading the members", e);
    }
    return 0;
}

static int receive_append(struct consensus *c, struct raft_message *r, const struct consensus_message *m,
                          struct consensus_update *u, struct error *e)
{
    struct raft_entry *list = calloc((size_t)m->append.n + 1, sizeof *list);
    void *batch = raft_malloc(1);
    int rv = list == NULL || batch == NULL ? error_set(e, ERROR_NOMEM, "no memory for %u entries", m->append.n) : show_entries(c, m, list, batch, e);
    bool stepped = rv == 0;
    if (stepped) {
        r->append_entries.entries = m->append.n > 0 ? list : NULL;
        struct raft_event event = {.type = RAFT_RECEIVE, .receive = {r}};
        rv = step(c, &event, list, m->append.entries, u, e);
    }
    for (uint32_t i = 0; list != NULL && i < m->append.n; i++)
        if (list[i].type == RAFT_CHANGE) raft_free(list[i].buf.base);
    if (!stepped || m->append.n == 0 || (rv == 0 && u->n_entries > 0)) raft_free(batch); /* else raft_step() did */
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

/* 0.22.1 answers every pre-vote with the term that was asked for (recv_request_vote.c), also when it refuses because its own is higher. A
 * candidate that alone has the newest log then never learns the term that it must outbid, and nobody is ever elected. Told the
 * term, it takes it over (recv_request_vote_result.c expects that). Found by test_consensus, seed 1534. */
static void mend_refusals(struct consensus *c, const struct consensus_message *request)
{
    if (request->type != CONSENSUS_REQUEST_VOTE || !request->request_vote.pre_vote) return;
    for (unsigned i = 0; i < c->n_messages; i++) {
        struct consensus_message *m = &c->messages[i];
        if (m->type != CONSENSUS_REQUEST_VOTE_RESULT || m->request_vote_result.granted) continue;
        if (m->term < c->raft.current_term) m->term = c->raft.current_term;
    }
}

/* A standby votes: it may be a voter already and not have heard of it, and be needed for a majority. Whether its vote counts is for
 * the candidate's membership to say (Ongaro 2014, section 4.1); 0.22.1 refuses. Returns the role that was, -1: it is not a member. */
static int change_own_role(struct consensus *c, int role)
{
    for (unsigned i = 0; i < c->raft.configuration.n; i++) {
        struct raft_server *server = &c->raft.configuration.servers[i];
        if (server->id != c->raft.id) continue;
        int was = server->role;
        server->role = role;
        return was;
    }
    return -1;
}

int consensus_receive(struct consensus *c, uint64_t now_ms, const struct consensus_message *m, struct consensus_update *u,
                      struct error *e)
{
    struct raft_message r = {0};
    begin(c, now_ms, u);
    if (m->from == 0 || m->from == c->raft.id || m->to != c->raft.id)
        return error_set(e, ERROR_PROTOCOL, "a Raft message from server %llu to %llu reached server %llu",
                         (unsigned long long)m->from, (unsigned long long)m->to, c->raft.id);
    int rv = raft_bridge_check(m, e);
    if (rv != 0) return rv;
    if (m->type == CONSENSUS_APPEND_ENTRIES && m->term == c->raft.current_term && c->raft.state == RAFT_LEADER)
        return error_set(e, ERROR_PROTOCOL, "server %llu says it leads term %llu, but we do: are two servers running with "
                         "one id, or was a data directory copied?", (unsigned long long)m->from, (unsigned long long)m->term);
    /* libraft reads candidate state in any state here; a vote that comes too late has nothing to say. */
    if (m->type == CONSENSUS_REQUEST_VOTE_RESULT && c->raft.state != RAFT_CANDIDATE) return finish(c, u, e);
    if (m->type == CONSENSUS_SNAPSHOT_OFFER) { /* of a server that leads, and not of entries that we have: so ours are not committed */
        u->rebuild = m->term >= c->raft.current_term && c->raft.state != RAFT_LEADER &&
                     m->offer.last_index > c->raft.trail.snapshot.index &&
                     raft_bridge_term_at(&c->raft, m->offer.last_index) != m->offer.last_term;
        u->rebuild_from = m->from;
        u->rebuild_index = m->offer.last_index;
        return finish(c, u, e);
    }
    struct consensus_message mended = *m;
    if (m->type == CONSENSUS_APPEND_ENTRIES) skip_known(c, &mended);
    if (m->type == CONSENSUS_APPEND_ENTRIES_RESULT && !mend_rejection(c, &mended)) return finish(c, u, e);
    if ((rv = raft_bridge_to(&mended, &r)) != 0) return error_set(e, ERROR_PROTOCOL, "a Raft message of unknown type %d", (int)m->type);
    r.server_id = m->from;
    r.server_address = "peer"; /* libraft only carries it */
    if (m->type == CONSENSUS_APPEND_ENTRIES) {
        rv = receive_append(c, &r, &mended, u, e);
    } else {
        struct raft_event event = {.type = RAFT_RECEIVE, .receive = {&r}};
        int role = m->type == CONSENSUS_REQUEST_VOTE ? change_own_role(c, RAFT_VOTER) : -1;
        rv = step(c, &event, NULL, NULL, u, e);
        if (role >= 0) change_own_role(c, role);
        mend_refusals(c, m);
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

int consensus_change(struct consensus *c, uint64_t now_ms, const struct membership *next, struct consensus_update *u,
                     struct error *e)
{
    struct raft_buffer encoded = {0};
    static uint8_t token;
    uint64_t index;
    begin(c, now_ms, u);
    if (c->raft.state != RAFT_LEADER || c->raft.leader_state.transferee != 0)
        return error_set(e, ERROR_NOT_LEADER, "this server does not lead");
    if (consensus_read_index(c, &index) != 0 || c->latest.index != c->settled.index)
        return error_set(e, ERROR_BUSY, "an earlier change of the membership is not committed yet: retry");
    if (!membership_may_follow(&c->latest.is, next))
        return error_set(e, ERROR_INVALID, "a membership changes by one voter at a time");
    if (!is_voter(c, next)) /* libraft's servers that are in no membership neither vote nor stand: it may be needed for both */
        return error_set(e, ERROR_CONFLICT, "a leader cannot remove itself: hand leadership over first");
    for (unsigned i = 0; i < next->n; i++)
        if (next->servers[i].voter && !membership_votes(&c->latest.is, next->servers[i].id) &&
            consensus_match(c, next->servers[i].id) < c->latest.index)
            return error_set(e, ERROR_BUSY, "server %llu has not caught up yet: retry", (unsigned long long)next->servers[i].id);
    c->change = blob_unref(c->change);
    int rv = membership_encode(next, &c->change) == 0 ? encoded_configuration(c, next, &encoded) : RAFT_NOMEM;
    if (rv != 0) return raft_error(NULL, rv, "changing the membership", e);
    c->changing = (struct consensus_entry){c->raft.current_term, CONSENSUS_CHANGE, c->change};
    struct raft_entry entry = {c->changing.term, RAFT_CHANGE, encoded, &token};
    struct raft_event event = {.type = RAFT_SUBMIT, .submit = {&entry, 1}};
    rv = step(c, &event, &entry, &c->changing, u, e);
    raft_free(encoded.base);
    return rv != 0 ? rv : finish(c, u, e);
}

int consensus_transfer(struct consensus *c, uint64_t now_ms, uint64_t to, struct consensus_update *u, struct error *e)
{
    begin(c, now_ms, u);
    if (c->raft.state != RAFT_LEADER) return error_set(e, ERROR_NOT_LEADER, "this server does not lead");
    if (to == c->raft.id || (to != 0 ? !membership_votes(&c->latest.is, to)
                                     : membership_voters(&c->latest.is) - membership_votes(&c->latest.is, c->raft.id) == 0))
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
    forget_leader(r); /* so that we grant pre-votes to others as well */
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
    if (MUTANT(ack_before_majority) && c->raft.state == RAFT_LEADER) return c->raft.last_stored;
    if (MUTANT(apply_unpersisted)) return c->raft.commit_index;
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

const struct membership *consensus_membership(const struct consensus *c)
{
    return &c->latest.is;
}

const struct membership *consensus_settled(const struct consensus *c, uint64_t *ret_index)
{
    if (ret_index != NULL) *ret_index = c->settled.index;
    return &c->settled.is;
}

int consensus_read_index(const struct consensus *c, uint64_t *ret_index)
{
    if (c->raft.state != RAFT_LEADER) return -ERROR_NOT_LEADER;
    if (!MUTANT(read_without_barrier) && raft_bridge_term_at(&c->raft, c->raft.commit_index) != c->raft.current_term) return -ERROR_UNAVAILABLE;
    *ret_index = c->raft.commit_index;
    return 0;
}
