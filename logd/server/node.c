#include "logd/server/node.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/loop.h"
#include "logd/server/batcher.h"
#include "logd/server/follow.h"
#include "logd/server/peers.h"
#include "logd/server/queries.h"
#include "logd/server/reads.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/session.h"
#include "logd/server/startup.h"
#include "logd/streams/entry.h"

/* Applied in one go before the loop looks at its sockets again. */
enum { APPLY_ENTRIES = 256, APPLY_BYTES = 8 << 20, SECOND_MS = 1000, STOP_POLL_MS = 10, STALL_MS = 20 };

uint64_t node_now_ms(void)
{
    return loop_monotonic_us() / 1000;
}

void node_fatal(const char *what, const struct error *e)
{
    log_error(what, "code=%s reason=%s", error_name((int)e->code), e->text);
    _exit(e->code == ERROR_CORRUPT ? 3 : 1); /* no destructors: nothing more may be written */
}

const char *node_address_of(const struct node *node, uint64_t id)
{
    const struct settings *s = node->settings;
    /* Alone and not told otherwise we are where we listen, with the port that the system chose. */
    if (id == s->id && s->n_members == 1 && s->advertise[0] == '\0' && s->initial_cluster[0] == '\0' && node->sessions != NULL)
        return sessions_address(node->sessions);
    for (unsigned i = 0; i < s->n_members; i++)
        if (s->members[i].id == id) return s->members[i].address;
    return NULL;
}

void node_refuse_not_leader(struct node *node, struct session *session, uint64_t id)
{
    uint64_t leader = consensus_leader(node->consensus);
    struct rpc_error error = {.code = ERROR_NOT_LEADER, .text = "ask the leader"};
    if (leader == 0 || leader == node->settings->id) error.text = "no leader is known at the moment: retry";
    else error.leader_id = leader, error.leader_address = node_address_of(node, leader);
    session_error(session, id, &error);
}

/* ---- executing updates ---------------------------------------------------------------------------------------- */

static void on_deadline(uv_timer_t *timer);

static void arm(struct node *node)
{
    uint64_t now = node_now_ms(), deadline = consensus_deadline(node->consensus);
    uv_update_time(node->loop);
    uv_timer_start(&node->timer, on_deadline, deadline > now ? deadline - now : 1, 0);
}

/* What was proposed here may still commit under another leader: who waits is told to ask that one, and repeats with the
 * same sequence. */
static void refuse_waiters(struct node *node)
{
    const struct batcher_waiter *list;
    size_t n = batcher_take_all(node->batcher, &list);
    for (size_t i = 0; i < n; i++) {
        node_refuse_not_leader(node, list[i].session, list[i].id);
        session_paid(list[i].session, list[i].bytes);
        session_unref(list[i].session);
    }
}

static void role_changed(struct node *node)
{
    enum consensus_role role = consensus_role(node->consensus);
    uint64_t leader = consensus_leader(node->consensus), term = consensus_term(node->consensus);
    const char *address = node_address_of(node, leader);
    if (node->role == CONSENSUS_LEADER && role != CONSENSUS_LEADER) {
        log_warn("leadership lost", "term=%" PRIu64, term);
        refuse_waiters(node);
    }
    queries_reset(node->queries);
    if (leader != node->leader && leader != 0)
        log_info("leader elected", "leader=%" PRIu64 " address=%s term=%" PRIu64, leader, address == NULL ? "" : address, term);
    else if (role != node->role)
        log_info("role changed", "role=%s term=%" PRIu64, consensus_role_name(role), term);
    node->role = role;
    node->leader = leader;
}

static void append(struct node *node, const struct consensus_update *u)
{
    struct wal_entry few[16], *list = few;
    struct error e;
    if (u->n_entries > 16 && (list = malloc(sizeof *list * u->n_entries)) == NULL) {
        error_set(&e, ERROR_NOMEM, "no memory for %u entries", u->n_entries);
        node_fatal("out of memory", &e);
    }
    for (unsigned i = 0; i < u->n_entries; i++)
        list[i] = (struct wal_entry){u->first_index + i, u->entries[i].term, u->entries[i].type, u->entries[i].payload};
    int rv = wal_append(node->wal, list, u->n_entries);
    if (list != few) free(list);
    if (rv != 0) {
        error_set(&e, (enum error_code)-rv, "entries from %llu on could not be queued", (unsigned long long)u->first_index);
        node_fatal("the log cannot be written", &e);
    }
}

/* The order matters: see consensus.h. */
static void execute(struct node *node, const struct consensus_update *u)
{
    struct error e;
    assert(!node->executing);
    node->executing = true;
    if (u->hard_state && wal_set_hard_state(node->wal, u->term, u->vote, &e) != 0)
        node_fatal("term and vote cannot be written", &e);
    if (u->n_entries > 0) append(node, u);
    for (unsigned i = 0; i < u->n_messages; i++)
        if (node->peers != NULL) peers_send(node->peers, &u->messages[i]);
    if (u->role_changed) role_changed(node);
    node->executing = false;
    if (u->role_changed && !uv_is_closing((uv_handle_t *)&node->timer)) arm(node);
}

void node_receive(struct node *node, const struct consensus_message *m)
{
    struct consensus_update u;
    struct error e;
    int rv = consensus_receive(node->consensus, node_now_ms(), m, &u, &e);
    if (rv == -ERROR_PROTOCOL) log_warn("message ignored", "peer=%" PRIu64 " reason=%s", m->from, e.text);
    else if (rv != 0) node_fatal("consensus failed", &e);
    else execute(node, &u);
}

static void on_persisted(void *user, uint64_t index, uint64_t term)
{
    struct node *node = user;
    struct consensus_update u;
    struct error e;
    if (node->consensus == NULL) return; /* the first entry of a new log, or the log is being closed */
    if (consensus_persisted(node->consensus, node_now_ms(), index, term, &u, &e) != 0) node_fatal("consensus failed", &e);
    execute(node, &u);
}

static void on_deadline(uv_timer_t *timer)
{
    struct node *node = timer->data;
    struct consensus_update u;
    struct error e;
    /* After a stall of this process (a busy machine, a stopped one) timers come before sockets: what the leader sent meanwhile
     * waits to be read. Read it before believing that it was silent. */
    uint64_t late = node_now_ms() - consensus_deadline(node->consensus);
    if (!node->stalled && consensus_role(node->consensus) != CONSENSUS_LEADER && (int64_t)late > STALL_MS) {
        node->stalled = true;
        uv_update_time(node->loop);
        uv_timer_start(timer, on_deadline, 2, 0);
        return;
    }
    node->stalled = false;
    if (consensus_tick(node->consensus, node_now_ms(), &u, &e) != 0) node_fatal("consensus failed", &e);
    execute(node, &u);
    queries_tick(node->queries);
    if (!uv_is_closing((uv_handle_t *)timer)) arm(node);
}

void node_peer_lost(struct node *node, uint64_t id)
{
    if (node->consensus == NULL || consensus_leader(node->consensus) != id) return;
    /* One after the other, so that the followers do not all stand at once; a little later, so that the others have noticed
     * too: whoever still believes in the leader refuses its vote. */
    uint32_t rank = 0, step = (uint32_t)node->settings->election_ms / 20;
    for (unsigned i = 0; i < node->settings->n_members && node->settings->members[i].id != node->settings->id; i++)
        if (node->settings->members[i].id != id) rank++;
    uint32_t delay = 2 + rank * (step < 10 ? 10 : step);
    log_info("the leader's connection broke", "leader=%" PRIu64 " delay_ms=%u", id, delay);
    consensus_leader_gone(node->consensus, node_now_ms(), id, delay);
    node->leader = 0;
    arm(node);
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

void node_command(struct node *node, struct session *session, const struct frame *f)
{
    struct error e;
    if (node->stopping || consensus_role(node->consensus) != CONSENSUS_LEADER) {
        node_refuse_not_leader(node, session, f->id);
        return;
    }
    int rv = streams_check(f, &e);
    if (rv == 0) rv = batcher_add(node->batcher, f, session, loop_monotonic_us(), loop_wall_us(), &e);
    if (rv != 0) session_fail(session, f->id, &e);
    else session_owe(session, frame_length(f));
}

static void propose(struct node *node)
{
    struct blob *payload;
    struct error e;
    while (consensus_role(node->consensus) == CONSENSUS_LEADER && !consensus_transferring(node->consensus) &&
           (payload = batcher_cut(node->batcher, loop_monotonic_us(), wal_queued_bytes(node->wal) == 0)) != NULL) {
        struct consensus_entry entry = {.payload = payload};
        struct consensus_update u;
        if (consensus_submit(node->consensus, node_now_ms(), &entry, 1, &u, &e) != 0) node_fatal("consensus failed", &e);
        batcher_proposed(node->batcher, u.first_index, entry.term);
        execute(node, &u);
        blob_unref(payload);
    }
}

static void answer(struct node *node, const struct batcher_waiter *w, const struct streams_outcome *o, const struct frame *f)
{
    struct rpc_error error = {.code = o->code, .text = o->text, .expected = o->code == ERROR_FENCED ? o->epoch : o->expected};
    struct streams_snapshot snapshot;
    struct rpc_snapshot_key key = {0};
    struct buf head = BUF_INIT;
    bool found = false;
    if (o->code != ERROR_NONE) {
        session_error(w->session, w->id, &error);
        return;
    }
    if (o->type == FRAME_RECORD_SNAPSHOT && rpc_decode_record_snapshot(f, &key, NULL) == 0)
        for (unsigned i = streams_snapshots(node->streams, o->stream_id); i-- > 0 && !found;)
            found = streams_snapshot(node->streams, o->stream_id, i, &snapshot) == 0 && strcmp(snapshot.id, key.id) == 0;
    if (rpc_encode_outcome(o, key.stream, found ? &snapshot : NULL, &head) == 0)
        session_reply(w->session, o->type | FRAME_REPLY, w->id, &head, NULL, 0);
    buf_fini(&head);
}

static void answer_waiters(struct node *node, const struct wal_entry *entry)
{
    const struct batcher_waiter *list;
    struct entry_reader reader;
    struct frame f;
    size_t n = batcher_take(node->batcher, entry->index, entry->term, &list), at, len;
    if (n == 0) return;
    assert(n == node->update.n_outcomes); /* we made this entry ourselves */
    entry_open(&reader, entry->payload->data, entry->payload->len, NULL);
    for (size_t i = 0; i < n; i++) {
        entry_next(&reader, &f, &at, &len, NULL);
        answer(node, &list[i], &node->update.outcomes[i], &f);
        session_paid(list[i].session, list[i].bytes);
        session_unref(list[i].session);
    }
}

/* ---- applying ------------------------------------------------------------------------------------------------- */

static size_t apply_one(struct node *node, uint64_t index)
{
    struct wal_entry entry;
    struct wal_location where;
    struct error e;
    int rv = wal_read(node->wal, index, &entry, &e);
    if (rv != 0) node_fatal("a committed entry cannot be read", &e);
    bool command = entry.type == CONSENSUS_COMMAND;
    if (wal_locate(node->wal, index, &where) != 0) {
        error_set(&e, ERROR_INTERNAL, "entry %llu has no place in the log", (unsigned long long)index);
        node_fatal("a committed entry cannot be read", &e);
    }
    rv = streams_apply(node->streams, index, command ? entry.payload->data : NULL, command ? entry.payload->len : 0, where,
                       &node->update, &e);
    if (rv != 0) node_fatal("a committed entry cannot be applied", &e);
    if (index_put(node->index, index, &node->update, &e) != 0) node_fatal("the index cannot be written", &e);
    if (command) answer_waiters(node, &entry);
    size_t bytes = entry.payload->len;
    blob_unref(entry.payload);
    return bytes;
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* its being active is all that is wanted: the loop polls without sleeping */
}

/* Applies some of what can be. False when there is more. */
static bool apply(struct node *node)
{
    uint64_t applied = streams_applied(node->streams), limit = consensus_applicable(node->consensus);
    size_t bytes = 0;
    if (applied >= limit) return true;
    for (unsigned n = 0; applied < limit && n < APPLY_ENTRIES && bytes < APPLY_BYTES; n++) bytes += apply_one(node, ++applied);
    queries_pump(node->queries);
    follows_pump(node->follows);
    return applied >= limit;
}

static void on_check(uv_check_t *check)
{
    struct node *node = check->data;
    propose(node);
    if (apply(node)) uv_idle_stop(&node->idle);
    else uv_idle_start(&node->idle, on_idle);
}

static void on_durable(void *user, uint64_t applied_index)
{
    struct node *node = user;
    if (node->streams != NULL) streams_index_durable(node->streams, applied_index);
}

static void on_wal_failed(void *user, const struct error *e)
{
    (void)user;
    node_fatal("the log cannot be written", e);
}

static void on_index_failed(void *user, const struct error *e)
{
    (void)user;
    node_fatal("the index cannot be written", e);
}

static void on_second(uv_timer_t *timer)
{
    struct node *node = timer->data;
    sessions_sweep(node->sessions, node_now_ms());
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

static int make_parts(struct node *node, struct error *e)
{
    const struct settings *s = node->settings;
    node->batcher = batcher_new(s->max_entry_bytes, s->linger_us, (unsigned)s->in_flight);
    node->reads = reads_new(node);
    node->follows = follows_new(node);
    node->queries = queries_new(node);
    if (node->batcher == NULL || node->reads == NULL || node->follows == NULL || node->queries == NULL)
        return error_set(e, ERROR_NOMEM, "no memory to start");
    uv_timer_init(node->loop, &node->timer);
    uv_timer_init(node->loop, &node->second);
    uv_check_init(node->loop, &node->check);
    uv_idle_init(node->loop, &node->idle);
    node->timer.data = node->second.data = node->check.data = node->idle.data = node;
    node->open_handles = 4;
    return 0;
}

int node_start(uv_loop_t *loop, const struct settings *settings, void (*on_stopped)(void *user), void *user,
               struct node **ret_node, struct error *e)
{
    struct consensus_update u;
    struct node *node = calloc(1, sizeof *node);
    if (node == NULL) return error_set(e, ERROR_NOMEM, "no memory to start");
    node->loop = loop;
    node->settings = settings;
    node->on_stopped = on_stopped;
    node->user = user;
    node->started_us = loop_wall_us();
    /* A failed start ends the process: what was opened goes with it. */
    int rv = startup_run(node, on_persisted, on_wal_failed, on_durable, on_index_failed, &u, e);
    if (rv == 0) rv = make_parts(node, e);
    if (rv == 0) rv = sessions_start(node, &node->sessions, e);
    if (rv == 0) rv = peers_start(node, &node->peers, e);
    if (rv != 0) return rv;
    log_info("data loaded", "first=%" PRIu64 " last=%" PRIu64 " applied=%" PRIu64 " streams=%" PRIu64 " term=%" PRIu64,
             wal_first_index(node->wal), wal_last_index(node->wal), streams_applied(node->streams),
             streams_count(node->streams), wal_term(node->wal));
    execute(node, &u);
    arm(node);
    uv_check_start(&node->check, on_check);
    uv_idle_start(&node->idle, on_idle); /* the first round applies what is committed already */
    uv_timer_start(&node->second, on_second, SECOND_MS, SECOND_MS);
    log_info("ready", "listen=%s id=%" PRIu64 " cluster=%s", sessions_address(node->sessions), settings->id, settings->cluster);
    *ret_node = node;
    return 0;
}

/* ---- stop ----------------------------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct node *node = handle->data;
    if (--node->open_handles > 0) return;
    void (*on_stopped)(void *) = node->on_stopped;
    void *user = node->user;
    streams_update_fini(&node->update);
    node->streams = streams_free(node->streams);
    batcher_free(node->batcher);
    queries_free(node->queries);
    follows_free(node->follows);
    reads_free(node->reads);
    free(node);
    on_stopped(user);
}

static void on_index_closed(void *user)
{
    struct node *node = user;
    uv_close((uv_handle_t *)&node->timer, on_handle_closed);
    uv_close((uv_handle_t *)&node->second, on_handle_closed);
    uv_close((uv_handle_t *)&node->check, on_handle_closed);
    uv_close((uv_handle_t *)&node->idle, on_handle_closed);
}

static void on_wal_closed(void *user)
{
    struct node *node = user;
    index_close(node->index, on_index_closed, node);
}

static void on_peers_closed(void *user)
{
    struct node *node = user;
    node->peers = NULL;
    refuse_waiters(node); /* their connections are gone: gives the references back */
    queries_reset(node->queries);
    node->consensus = consensus_free(node->consensus);
    wal_close(node->wal, on_wal_closed, node);
}

static void on_sessions_closed(void *user)
{
    struct node *node = user;
    node->sessions = NULL;
    uv_timer_stop(&node->timer);
    uv_check_stop(&node->check);
    uv_idle_stop(&node->idle);
    peers_close(node->peers, on_peers_closed, node);
}

/* The reachable server that has most of the log; 0: none. libraft's own choice may be one that is down. */
static uint64_t successor(const struct node *node)
{
    uint64_t best = 0, most = 0;
    for (unsigned i = 0; i < node->settings->n_members; i++) {
        uint64_t id = node->settings->members[i].id, match = consensus_match(node->consensus, id);
        if (peers_reachable(node->peers, id) && (best == 0 || match > most)) best = id, most = match;
    }
    return best;
}

/* Hands leadership over, again if it was not taken, until somebody leads, nobody is there, or time is up. */
static void on_stop_poll(uv_timer_t *timer)
{
    struct node *node = timer->data;
    struct consensus_update u;
    bool leads = consensus_role(node->consensus) == CONSENSUS_LEADER;
    uint64_t to = leads ? successor(node) : 0;
    bool wait = leads && (to != 0 || !batcher_idle(node->batcher));
    if (wait && node_now_ms() < node->stop_by_ms) {
        if (to != 0 && !consensus_transferring(node->consensus) &&
            consensus_transfer(node->consensus, node_now_ms(), to, &u, NULL) == 0)
            execute(node, &u);
        return;
    }
    if (wait) log_warn("leadership could not be handed over in time", NULL);
    uv_timer_stop(&node->second);
    sessions_close(node->sessions, on_sessions_closed, node);
}

void node_stop(struct node *node)
{
    if (node->stopping) return;
    log_info("stopping", "role=%s", consensus_role_name(consensus_role(node->consensus)));
    node->stopping = true;
    node->stop_by_ms = node_now_ms() + node->settings->stop_ms;
    sessions_stop_accepting(node->sessions);
    uv_timer_start(&node->second, on_stop_poll, 0, STOP_POLL_MS);
}
