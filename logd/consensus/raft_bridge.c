#include "logd/consensus/raft_bridge.h"

#include <stdio.h>

_Static_assert(RAFT_VERSION_NUMBER / 100 == 22, "memory ownership changes after libraft 0.22: read consensus.c first");
_Static_assert((int)CONSENSUS_COMMAND == (int)RAFT_COMMAND, "entry types are libraft's");
_Static_assert((int)CONSENSUS_BARRIER == (int)RAFT_BARRIER, "entry types are libraft's");
_Static_assert((int)CONSENSUS_CHANGE == (int)RAFT_CHANGE, "entry types are libraft's");

/* Message versions of 0.22 (src/message.h, not installed). The receiving side looks at the vote result's only. */
enum { VERSION_VOTE = 2, VERSION_VOTE_RESULT = 2, VERSION_APPEND = 0, VERSION_APPEND_RESULT = 2, VERSION_TIMEOUT_NOW = 0 };

int raft_bridge_to(const struct consensus_message *m, struct raft_message *r)
{
    switch (m->type) {
    case CONSENSUS_REQUEST_VOTE:
        r->type = RAFT_REQUEST_VOTE;
        r->request_vote = (struct raft_request_vote){
            .version = VERSION_VOTE,
            .term = m->term,
            .candidate_id = m->request_vote.candidate,
            .last_log_index = m->request_vote.last_index,
            .last_log_term = m->request_vote.last_term,
            .disrupt_leader = m->request_vote.disrupt_leader,
            .pre_vote = m->request_vote.pre_vote,
        };
        return 0;
    case CONSENSUS_REQUEST_VOTE_RESULT:
        r->type = RAFT_REQUEST_VOTE_RESULT;
        r->request_vote_result = (struct raft_request_vote_result){
            .version = VERSION_VOTE_RESULT,
            .term = m->term,
            .vote_granted = m->request_vote_result.granted,
            .pre_vote = m->request_vote_result.pre_vote,
            .features = m->request_vote_result.features,
            .capacity = m->request_vote_result.capacity,
        };
        return 0;
    case CONSENSUS_APPEND_ENTRIES:
        r->type = RAFT_APPEND_ENTRIES;
        r->append_entries = (struct raft_append_entries){
            .version = VERSION_APPEND,
            .term = m->term,
            .prev_log_index = m->append.prev_index,
            .prev_log_term = m->append.prev_term,
            .leader_commit = m->append.commit,
            .n_entries = m->append.n,
        };
        return 0;
    case CONSENSUS_APPEND_ENTRIES_RESULT:
        r->type = RAFT_APPEND_ENTRIES_RESULT;
        r->append_entries_result = (struct raft_append_entries_result){
            .version = VERSION_APPEND_RESULT,
            .term = m->term,
            .rejected = m->append_result.rejected,
            .last_log_index = m->append_result.last_index,
            .features = m->append_result.features,
            .capacity = m->append_result.capacity,
        };
        return 0;
    case CONSENSUS_TIMEOUT_NOW:
        r->type = RAFT_TIMEOUT_NOW;
        r->timeout_now = (struct raft_timeout_now){
            .version = VERSION_TIMEOUT_NOW,
            .term = m->term,
            .last_log_index = m->timeout_now.last_index,
            .last_log_term = m->timeout_now.last_term,
        };
        return 0;
    case CONSENSUS_SNAPSHOT_OFFER: /* libraft never hears of it */
        break;
    }
    return -ERROR_INTERNAL;
}

int raft_bridge_from(const struct raft_message *r, uint64_t from, struct consensus_message *m)
{
    *m = (struct consensus_message){.from = from, .to = r->server_id};
    switch (r->type) {
    case RAFT_REQUEST_VOTE:
        m->type = CONSENSUS_REQUEST_VOTE;
        m->term = r->request_vote.term;
        m->request_vote.candidate = r->request_vote.candidate_id;
        m->request_vote.last_index = r->request_vote.last_log_index;
        m->request_vote.last_term = r->request_vote.last_log_term;
        m->request_vote.disrupt_leader = r->request_vote.disrupt_leader;
        m->request_vote.pre_vote = r->request_vote.pre_vote;
        return 0;
    case RAFT_REQUEST_VOTE_RESULT:
        m->type = CONSENSUS_REQUEST_VOTE_RESULT;
        m->term = r->request_vote_result.term;
        m->request_vote_result.granted = r->request_vote_result.vote_granted;
        m->request_vote_result.pre_vote = r->request_vote_result.pre_vote;
        m->request_vote_result.features = r->request_vote_result.features;
        m->request_vote_result.capacity = r->request_vote_result.capacity;
        return 0;
    case RAFT_APPEND_ENTRIES:
        m->type = CONSENSUS_APPEND_ENTRIES;
        m->term = r->append_entries.term;
        m->append.prev_index = r->append_entries.prev_log_index;
        m->append.prev_term = r->append_entries.prev_log_term;
        m->append.commit = r->append_entries.leader_commit;
        m->append.n = r->append_entries.n_entries;
        return 0;
    case RAFT_APPEND_ENTRIES_RESULT:
        m->type = CONSENSUS_APPEND_ENTRIES_RESULT;
        m->term = r->append_entries_result.term;
        m->append_result.rejected = r->append_entries_result.rejected;
        m->append_result.last_index = r->append_entries_result.last_log_index;
        m->append_result.features = r->append_entries_result.features;
        m->append_result.capacity = r->append_entries_result.capacity;
        return 0;
    case RAFT_TIMEOUT_NOW:
        m->type = CONSENSUS_TIMEOUT_NOW;
        m->term = r->timeout_now.term;
        m->timeout_now.last_index = r->timeout_now.last_log_index;
        m->timeout_now.last_term = r->timeout_now.last_log_term;
        return 0;
    case RAFT_INSTALL_SNAPSHOT: /* what it would carry is fetched, not sent */
        m->type = CONSENSUS_SNAPSHOT_OFFER;
        m->term = r->install_snapshot.term;
        m->offer.last_index = r->install_snapshot.last_index;
        m->offer.last_term = r->install_snapshot.last_term;
        return 0;
    }
    return -ERROR_INTERNAL;
}

static int check_append(const struct consensus_message *m, struct error *e)
{
    if ((m->append.prev_index == 0) != (m->append.prev_term == 0) || m->append.prev_term > m->term)
        return error_set(e, ERROR_PROTOCOL, "AppendEntries of server %llu: previous entry %llu has term %llu",
                         (unsigned long long)m->from, (unsigned long long)m->append.prev_index,
                         (unsigned long long)m->append.prev_term);
    if (m->append.n > CONSENSUS_MESSAGE_ENTRIES_MAX || (m->append.n > 0 && m->append.entries == NULL))
        return error_set(e, ERROR_PROTOCOL, "AppendEntries of server %llu carries %u entries, at most %d are allowed",
                         (unsigned long long)m->from, m->append.n, CONSENSUS_MESSAGE_ENTRIES_MAX);
    uint64_t last = m->append.prev_term;
    for (uint32_t i = 0; i < m->append.n; i++) {
        const struct consensus_entry *entry = &m->append.entries[i];
        bool first_of_log = m->append.prev_index + i == 0;
        bool type_ok = first_of_log ? entry->type == CONSENSUS_CHANGE : entry->type >= CONSENSUS_COMMAND && entry->type <= CONSENSUS_CHANGE;
        if (entry->term < last || entry->term == 0 || entry->term > m->term || !type_ok)
            return error_set(e, ERROR_PROTOCOL, "AppendEntries of server %llu: entry %llu has term %llu and type %u",
                             (unsigned long long)m->from, (unsigned long long)(m->append.prev_index + 1 + i),
                             (unsigned long long)entry->term, entry->type);
        last = entry->term;
    }
    return 0;
}

int raft_bridge_check(const struct consensus_message *m, struct error *e)
{
    if (m->term == 0)
        return error_set(e, ERROR_PROTOCOL, "a Raft message of server %llu has no term", (unsigned long long)m->from);
    if (m->type == CONSENSUS_APPEND_ENTRIES) return check_append(m, e);
    if (m->type == CONSENSUS_SNAPSHOT_OFFER && (m->offer.last_index == 0 || m->offer.last_term == 0 || m->offer.last_term > m->term))
        return error_set(e, ERROR_PROTOCOL, "server %llu offers the state at entry %llu of term %llu", (unsigned long long)m->from,
                         (unsigned long long)m->offer.last_index, (unsigned long long)m->offer.last_term);
    if (m->type == CONSENSUS_REQUEST_VOTE && m->request_vote.candidate != m->from)
        return error_set(e, ERROR_PROTOCOL, "server %llu asks for a vote for server %llu", (unsigned long long)m->from,
                         (unsigned long long)m->request_vote.candidate);
    return 0;
}

/* Addresses stay with the membership; libraft wants one each, all different. */
int raft_bridge_configuration(const struct membership *m, struct raft_configuration *ret)
{
    char name[32];
    int rv = 0;
    raft_configuration_init(ret);
    for (unsigned i = 0; i < m->n && rv == 0; i++) {
        snprintf(name, sizeof name, "member-%llu", (unsigned long long)m->servers[i].id);
        rv = raft_configuration_add(ret, m->servers[i].id, name, m->servers[i].voter ? RAFT_VOTER : RAFT_STANDBY);
    }
    if (rv != 0) raft_configuration_close(ret);
    return rv;
}

int raft_bridge_encode(const struct membership *m, struct raft_buffer *ret)
{
    struct raft_configuration configuration;
    int rv = raft_bridge_configuration(m, &configuration);
    if (rv != 0) return rv;
    rv = raft_configuration_encode(&configuration, ret);
    raft_configuration_close(&configuration);
    return rv;
}

/* The trail is a ring of (last index, term) runs, oldest first, in [front, back); entries begin at offset + 1. */
static unsigned trail_runs(const struct raft_trail *t)
{
    return t->front <= t->back ? t->back - t->front : t->size - t->front + t->back;
}

uint64_t raft_bridge_last_index(const struct raft *r)
{
    const struct raft_trail *t = &r->trail;
    unsigned n = trail_runs(t);
    return n == 0 ? t->offset : t->records[(t->front + n - 1) % t->size].index;
}

uint64_t raft_bridge_term_at(const struct raft *r, uint64_t index)
{
    const struct raft_trail *t = &r->trail;
    if (index != 0 && index == t->snapshot.index) return t->snapshot.term;
    if (index <= t->offset || index > raft_bridge_last_index(r)) return 0;
    unsigned n = trail_runs(t);
    for (unsigned i = n; i-- > 0;) {
        uint64_t before = i == 0 ? t->offset : t->records[(t->front + i - 1) % t->size].index;
        if (index > before) return t->records[(t->front + i) % t->size].term;
    }
    return 0;
}
