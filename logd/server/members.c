#include "logd/server/members.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/conn.h"
#include "common/mutant.h"
#include "logd/server/founding.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/queries.h"
#include "logd/server/session.h"

enum { WAITING_MAX = 16, MET_MAX = 16, POLL_MS = 10, TRANSFER_MS = 10000, LAG_MAX = 512 /* entries: about what is on its way at full load */ };

struct waiting {
    struct session *session;
    uint64_t id;
    uint16_t type;
    uint64_t index; /* of the change; 0: a transfer */
};

struct members {
    struct node *node;
    struct waiting list[WAITING_MAX];
    unsigned n;
    uint64_t target, until_ms; /* of the transfer under way; target 0: none */
    uv_timer_t poll;
    struct met {
        uint64_t id, instance;
        char address[MEMBERSHIP_ADDRESS];
    } met[MET_MAX]; /* latest of each, the oldest makes room */
    unsigned n_met;
    bool refused;        /* and it was logged */
    uint64_t changed_ms; /* when the membership became another one */
    bool counted;        /* by it we are a member, */
    uint64_t counted_ms; /* since then */
    struct buf head;
};

static bool leads(const struct node *node)
{
    return consensus_role(node->consensus) == CONSENSUS_LEADER;
}

/* ---- who is who ----------------------------------------------------------------------------------------------- */

bool members_counts(const struct node *node, uint64_t id, uint64_t instance)
{
    const struct membership_server *s = membership_find(consensus_membership(node->consensus), id);
    return s != NULL && (s->instance == 0 || s->instance == instance || MUTANT(lost_counts));
}

int members_admit(const struct node *node, const struct rpc_hello *hello, struct error *e)
{
    const struct membership *settled = consensus_settled(node->consensus, NULL);
    uint64_t id = hello->node_id, leader = consensus_leader(node->consensus);
    bool removed = membership_was_removed(settled, id, hello->instance) && !MUTANT(removed_stays), counts = members_counts(node, id, hello->instance);
    bool member = membership_find(consensus_membership(node->consensus), id) != NULL;
    /* What was removed by its data directory stays so. Removed before it had been met, it goes by its id, which may have been added again since:
     * only the leader knows. */
    bool certain = removed && (leads(node) || membership_removed_data(settled, id, hello->instance));
    if (id == node->settings->id) return error_set(e, ERROR_INVALID, "server %" PRIu64 " is this server: two run with one id", id);
    if (certain && (leads(node) || membership_find(settled, id) == NULL))
        return error_set(e, ERROR_REMOVED, "server %" PRIu64 " was removed from the cluster. To have it back: empty its data-dir, start it with "
                         "initial-cluster-state existing, and crsc-logctl members add %" PRIu64 " ADDRESS", id, id);
    if (certain)
        return error_set(e, ERROR_REMOVED, "server %" PRIu64 " was removed with the data that it comes with: empty its data-dir", id);
    if (counts) return 0;
    if (leads(node) && member)
        return error_set(e, ERROR_REMOVED, "server %" PRIu64 " comes with another data directory than the member: its data were lost or replaced, "
                         "and it must not go on as if not. Do: crsc-logctl members remove %" PRIu64 "; members add %" PRIu64 " ADDRESS; start it "
                         "with an empty data-dir", id, id, id);
    if (leads(node) || removed || (leader != 0 && leader != id))
        return error_set(e, ERROR_UNAVAILABLE, "server %" PRIu64 " is not a member, as far as server %" PRIu64 " knows: crsc-logctl members add "
                         "%" PRIu64 " ADDRESS", id, node->settings->id, id);
    return 0;
}

static void remember(struct members *m, const struct rpc_hello *hello)
{
    struct met *at = NULL;
    if (hello->instance == 0 || strlen(hello->address) >= MEMBERSHIP_ADDRESS) return;
    for (unsigned i = 0; i < m->n_met; i++)
        if (m->met[i].id == hello->node_id) at = &m->met[i];
    if (at == NULL && m->n_met == MET_MAX) memmove(&m->met[0], &m->met[1], sizeof *m->met * --m->n_met);
    if (at == NULL) at = &m->met[m->n_met++];
    *at = (struct met){.id = hello->node_id, .instance = hello->instance};
    memcpy(at->address, hello->address, strlen(hello->address) + 1);
}

int members_meet(struct node *node, const struct rpc_hello *hello, struct error *e)
{
    int rv = members_admit(node, hello, e);
    if (rv == 0) rv = founding_met(node->founding, hello, e);
    if (rv == 0) remember(node->membership, hello);
    return rv;
}

void members_refused(struct node *node, uint64_t opened_ms, const struct error *why)
{
    const struct members *m = node->membership;
    if (consensus_last_index(node->consensus) == 0) {
        if (!node->membership->refused) log_warn("this server has no log, and the cluster does not take it as it is: it waits to be added", "reason=%s", why->text);
        node->membership->refused = true;
        return;
    }
    /* What was said before we were added may come late, over a link that was cut. If it is still so, the next connection says it again. */
    if (members_counts(node, node->settings->id, node->instance) && opened_ms <= m->counted_ms) return;
    log_error("this server is none of the cluster's: it stops", "id=%" PRIu64 " reason=%s", node->settings->id, why->text);
    _exit(4); /* no destructors: nothing more may be written */
}

uint64_t members_successor(const struct node *node)
{
    const struct membership *is = consensus_membership(node->consensus);
    uint64_t best = 0, most = 0;
    for (unsigned i = 0; i < is->n; i++) {
        uint64_t id = is->servers[i].id, match = consensus_match(node->consensus, id);
        if (is->servers[i].voter && peers_reachable(node->peers, id) && (best == 0 || match > most)) best = id, most = match;
    }
    return best;
}

uint64_t members_healthy(const struct node *node)
{
    const struct membership *is = consensus_membership(node->consensus);
    uint64_t best = 0, most = consensus_commit_index(node->consensus);
    for (unsigned i = 0; i < is->n; i++) {
        uint64_t id = is->servers[i].id, match = consensus_match(node->consensus, id);
        const char *alarm = peers_alarm(node->peers, id);
        if (is->servers[i].voter && id != node->settings->id && match >= most && alarm != NULL && alarm[0] == '\0') best = id, most = match;
    }
    return best;
}

bool members_well(const struct node *node)
{
    const struct membership *is = consensus_membership(node->consensus);
    unsigned voters = 0, others = 0;
    for (unsigned i = 0; i < is->n; i++) {
        uint64_t id = is->servers[i].id;
        const char *alarm = peers_alarm(node->peers, id);
        if (!is->servers[i].voter) continue;
        voters++;
        if (id == node->settings->id) continue;
        if (alarm == NULL || alarm[0] != '\0') return false;
        others++;
    }
    return others > voters / 2;
}

unsigned members_list(const struct node *node, struct rpc_member ret_list[static CONSENSUS_MEMBERS_MAX])
{
    const struct membership *is = consensus_membership(node->consensus);
    for (unsigned i = 0; i < is->n; i++) {
        const struct membership_server *s = &is->servers[i];
        bool own = s->id == node->settings->id;
        ret_list[i] = (struct rpc_member){.id = s->id,
                                          .address = node_address_of(node, s->id),
                                          .voter = s->voter,
                                          .reachable = own || peers_reachable(node->peers, s->id),
                                          .match = own ? wal_persisted_index(node->wal) : consensus_match(node->consensus, s->id),
                                          .instance = s->instance};
    }
    return is->n;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void answer(struct members *m, struct session *s, uint16_t type, uint64_t id)
{
    struct rpc_member list[CONSENSUS_MEMBERS_MAX];
    unsigned n = members_list(m->node, list);
    if (rpc_encode_members(list, n, consensus_leader(m->node->consensus), &m->head) == 0)
        session_reply(s, type | FRAME_REPLY, id, &m->head, NULL, 0);
}

static void wait_for(struct members *m, struct session *s, const struct frame *f, uint64_t index)
{
    struct error e;
    if (m->n == WAITING_MAX) {
        error_set(&e, ERROR_BUSY, "too many changes of the membership wait: retry");
        session_fail(s, f->id, &e);
        return;
    }
    m->list[m->n++] = (struct waiting){session_ref(s), f->id, f->type, index};
    session_owe(s, 0);
}

/* Those that wait for entries up to `index`; 0: for the transfer. Each is told `why`, or that it is done. */
static void release(struct members *m, uint64_t index, const struct error *why, bool not_leader)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < m->n; i++) {
        struct waiting w = m->list[i];
        if ((w.index == 0) != (index == 0) || w.index > index) {
            m->list[kept++] = w;
            continue;
        }
        if (not_leader) node_refuse_not_leader(m->node, w.session, w.id);
        else if (why != NULL) session_fail(w.session, w.id, why);
        else answer(m, w.session, w.type, w.id);
        session_paid(w.session, 0);
        session_unref(w.session);
    }
    m->n = kept;
}

/* ---- changes -------------------------------------------------------------------------------------------------- */

static int propose(struct members *m, const struct membership *next, uint64_t *ret_index, struct error *e)
{
    struct consensus_update u;
    int rv = consensus_change(m->node->consensus, node_now_ms(), next, &u, e);
    if (rv != 0) return rv;
    *ret_index = u.first_index;
    node_execute(m->node, &u);
    return 0;
}

static int check_promotion(const struct node *node, const struct membership *is, uint64_t id, struct error *e)
{
    const struct membership_server *s = membership_find(is, id);
    uint64_t match = consensus_match(node->consensus, id), last = consensus_last_index(node->consensus);
    if (s == NULL || s->voter) return 0; /* for membership_promote() to say */
    if (s->instance == 0 || !peers_reachable(node->peers, id))
        return error_set(e, ERROR_BUSY, "server %" PRIu64 " has not been met yet: start it with initial-cluster-state existing, to be reached at %s", id,
                         s->address);
    if (match + LAG_MAX < last) return error_set(e, ERROR_BUSY, "server %" PRIu64 " has %" PRIu64 " of %" PRIu64 " entries: it has to catch up first", id, match, last);
    return 0;
}

/* A majority of those that are left must be there to commit it, and everything after it. */
static int check_quorum(const struct node *node, const struct membership *next, struct error *e)
{
    unsigned there = 0, voters = membership_voters(next);
    for (unsigned i = 0; i < next->n; i++)
        there += next->servers[i].voter && (next->servers[i].id == node->settings->id || peers_reachable(node->peers, next->servers[i].id));
    if (there * 2 > voters) return 0;
    return error_set(e, ERROR_CONFLICT, "of the %u voters that would be left only %u can be reached, which is no majority: nothing could be "
                     "committed any more. Bring one back, or add one, first", voters, there);
}

static int begin_transfer(struct members *m, uint64_t to, struct error *e);

/* 0 and what is to follow; equal to what is: nothing to do. */
static int next_membership(struct members *m, uint16_t type, const struct rpc_change *c, struct membership *next, struct error *e)
{
    const struct node *node = m->node;
    const struct membership *is = consensus_membership(node->consensus);
    char host[256], port[8];
    int rv;
    *next = *is;
    if (type == FRAME_ADD_SERVER) {
        rv = address_split(c->address, host, sizeof host, port, sizeof port, e);
        return rv != 0 ? rv : membership_add(next, c->id, c->address, e);
    }
    if (type == FRAME_PROMOTE_SERVER) {
        rv = check_promotion(node, is, c->id, e);
        return rv != 0 ? rv : membership_promote(next, c->id, e);
    }
    bool member = membership_find(is, c->id) != NULL;
    for (unsigned i = 0; !member && i < is->n_removed; i++)
        if (is->removed[i].id == c->id) return 0;
    bool voter = membership_votes(is, c->id);
    if ((rv = membership_remove(next, c->id, e)) != 0) return rv;
    if (voter && !c->force && (rv = check_quorum(node, next, e)) != 0) return rv;
    if (c->id != node->settings->id) return 0;
    if ((rv = begin_transfer(m, 0, e)) != 0) return rv;
    return error_set(e, ERROR_BUSY, "this server leads: it hands leadership over before it is removed");
}

static void change(struct members *m, struct session *s, const struct frame *f, const struct rpc_change *c)
{
    struct membership next;
    struct error e;
    uint64_t index;
    int rv = next_membership(m, f->type, c, &next, &e);
    if (rv == 0 && membership_equal(&next, consensus_membership(m->node->consensus))) {
        uint64_t settled;
        if (membership_equal(&next, consensus_settled(m->node->consensus, &settled)) && settled <= m->node->members_index) answer(m, s, f->type, f->id);
        else error_set(&e, ERROR_BUSY, "that very change is not committed yet: retry"), session_fail(s, f->id, &e);
        return;
    }
    if (rv == 0) rv = propose(m, &next, &index, &e);
    if (rv == -ERROR_NOT_LEADER) {
        node_refuse_not_leader(m->node, s, f->id);
    } else if (rv != 0) {
        session_fail(s, f->id, &e);
    } else {
        log_info("the membership is changed", "change=%s server=%" PRIu64 " index=%" PRIu64,
                 f->type == FRAME_ADD_SERVER ? "add" : f->type == FRAME_PROMOTE_SERVER ? "promote" : "remove", c->id, index);
        wait_for(m, s, f, index);
    }
}

/* ---- moving leadership ---------------------------------------------------------------------------------------- */

/* Repeats the one message until somebody else leads or time is up. */
static void on_poll(uv_timer_t *timer)
{
    struct members *m = timer->data;
    struct node *node = m->node;
    struct consensus_update u;
    struct error e;
    uint64_t leader = consensus_leader(node->consensus);
    if (leads(node)) {
        if (node_now_ms() < m->until_ms) {
            if (!consensus_transferring(node->consensus) && peers_reachable(node->peers, m->target) &&
                consensus_transfer(node->consensus, node_now_ms(), m->target, &u, NULL) == 0)
                node_execute(node, &u);
            return;
        }
        error_set(&e, ERROR_TIMEOUT, "server %" PRIu64 " did not take leadership within %d s", m->target, TRANSFER_MS / 1000);
        release(m, 0, &e, false);
    } else if (leader == 0 && node_now_ms() < m->until_ms) {
        return;
    } else if (leader == m->target) {
        release(m, 0, NULL, false);
    } else {
        error_set(&e, ERROR_CONFLICT, "server %" PRIu64 " was elected meanwhile, not server %" PRIu64, leader, m->target);
        release(m, 0, &e, false);
    }
    m->target = 0;
    uv_timer_stop(timer);
}

static int begin_transfer(struct members *m, uint64_t to, struct error *e)
{
    struct node *node = m->node;
    if (m->target != 0) return to == 0 || to == m->target ? 0 : error_set(e, ERROR_BUSY, "leadership is being moved to server %" PRIu64 ": retry", m->target);
    if (to == 0) to = members_successor(node);
    if (to == 0) return error_set(e, ERROR_CONFLICT, "no other voter can be reached that could lead");
    if (!membership_votes(consensus_membership(node->consensus), to))
        return error_set(e, ERROR_NOT_FOUND, "server %" PRIu64 " is no voter of this cluster", to);
    if (!peers_reachable(node->peers, to)) return error_set(e, ERROR_CONFLICT, "server %" PRIu64 " cannot be reached", to);
    m->target = to;
    m->until_ms = node_now_ms() + TRANSFER_MS;
    uv_timer_start(&m->poll, on_poll, 0, POLL_MS);
    return 0;
}

int members_move(struct members *m, uint64_t to, struct error *e)
{
    return begin_transfer(m, to, e);
}

static void transfer(struct members *m, struct session *s, const struct frame *f, uint64_t to)
{
    struct error e;
    if (to == m->node->settings->id) answer(m, s, f->type, f->id);
    else if (begin_transfer(m, to, &e) != 0) session_fail(s, f->id, &e);
    else wait_for(m, s, f, 0);
}

void members_request(struct members *m, struct session *s, const struct frame *f)
{
    struct rpc_change c;
    struct error e;
    if (rpc_decode_change(f, &c, &e) != 0) session_fail(s, f->id, &e);
    else if (m->node->stopping || !leads(m->node)) node_refuse_not_leader(m->node, s, f->id);
    else if (f->type == FRAME_TRANSFER_LEADERSHIP) transfer(m, s, f, c.id);
    else change(m, s, f, &c);
}

/* ---- what happened -------------------------------------------------------------------------------------------- */

/* The newest one is kept: the index notes it with what it has applied, the log's beginning carries it, other servers get it with the state. */
void members_applied(struct members *m, uint64_t index, uint64_t term, const struct blob *payload)
{
    struct node *node = m->node;
    struct error e;
    uint8_t number[8];
    put_u64(number, index);
    m->head.len = 0;
    blob_unref(node->members);
    node->members = blob_new(payload->len);
    if (node->members == NULL || buf_add(&m->head, number, sizeof number) != 0 || buf_add(&m->head, payload->data, payload->len) != 0 ||
        index_note(node->index, m->head.data, m->head.len) != 0) {
        error_set(&e, ERROR_NOMEM, "no memory for the membership of entry %" PRIu64, index);
        node_fatal("out of memory", &e);
    }
    memcpy(node->members->data, payload->data, payload->len);
    node->members_index = index;
    if (term == consensus_term(node->consensus) && leads(node)) release(m, index, NULL, false);
    sessions_recheck(node->sessions);
}

void members_changed(struct members *m)
{
    const struct membership *is = consensus_membership(m->node->consensus);
    unsigned kept = 0;
    bool counts = members_counts(m->node, m->node->settings->id, m->node->instance);
    m->changed_ms = node_now_ms();
    if (counts && !m->counted) m->counted_ms = m->changed_ms;
    m->counted = counts;
    if (consensus_last_index(m->node->consensus) > 0) m->node->founding = founding_free(m->node->founding);
    for (unsigned i = 0; i < m->n_met; i++) /* whoever comes with that id next is another one */
        if (membership_find(is, m->met[i].id) != NULL || MUTANT(note_stale)) m->met[kept++] = m->met[i];
    m->n_met = kept;
    queries_members(m->node->queries, is);
    if (m->node->peers != NULL) peers_follow(m->node->peers, is);
}

void members_role_changed(struct members *m)
{
    if (!leads(m->node)) release(m, UINT64_MAX, NULL, true);
}

/* Who was connected before it was added says nothing again: what it said when it was greeted is still so, as the same connection lives. */
static bool note_connected(const struct node *node, uint64_t since_ms, struct membership *next)
{
    bool news = false;
    for (unsigned i = 0; i < next->n; i++) {
        uint64_t id = next->servers[i].id, instance = peers_instance(node->peers, id);
        if (next->servers[i].instance != 0 || instance == 0 || !peers_alive_since(node->peers, id, since_ms)) continue;
        if (!membership_was_removed(next, id, instance) && !MUTANT(met_before)) news = membership_note(next, id, "", instance) || news;
    }
    return news;
}

/* A leader notes who its members are, once it has met them, and where they are now. */
void members_tick(struct members *m)
{
    struct node *node = m->node;
    uint64_t index;
    if (!leads(node) || node->stopping || consensus_transferring(node->consensus)) return;
    struct membership next = *consensus_membership(node->consensus);
    bool news = membership_note(&next, node->settings->id, node_address_of(node, node->settings->id), node->instance);
    for (unsigned i = 0; i < m->n_met; i++) {
        const struct met *met = &m->met[i];
        if (peers_instance(node->peers, met->id) != met->instance && !MUTANT(note_stale)) continue; /* it is not there now: another may be, with that id */
        if (!peers_alive_since(node->peers, met->id, m->changed_ms) && !MUTANT(note_stale)) continue; /* nor does a connection's silence tell that it still is */
        if (!membership_was_removed(&next, met->id, met->instance) && membership_note(&next, met->id, met->address, met->instance)) news = true;
    }
    news = note_connected(node, m->changed_ms, &next) || news;
    if (news) propose(m, &next, &index, NULL); /* if it cannot be now: the next second */
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct members *members_new(struct node *node)
{
    struct members *m = calloc(1, sizeof *m);
    if (m == NULL) return NULL;
    m->node = node;
    uv_timer_init(node->loop, &m->poll);
    m->poll.data = m;
    return m;
}

static void on_closed(uv_handle_t *handle)
{
    struct members *m = handle->data;
    buf_fini(&m->head);
    free(m);
}

void members_close(struct members *m)
{
    release(m, UINT64_MAX, NULL, true);
    release(m, 0, NULL, true);
    uv_close((uv_handle_t *)&m->poll, on_closed);
}
