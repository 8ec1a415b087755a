#include "logd/server/node.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/loop.h"
#include "common/mutant.h"
#include "logd/server/batcher.h"
#include "logd/server/canary.h"
#include "logd/server/exports.h"
#include "logd/server/follow.h"
#include "logd/server/founding.h"
#include "logd/server/members.h"
#include "logd/server/monitor.h"
#include "logd/server/mover.h"
#include "logd/server/peers.h"
#include "logd/server/queries.h"
#include "logd/server/reads.h"
#include "logd/server/rebuild.h"
#include "logd/server/retention.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/scrub.h"
#include "logd/server/session.h"
#include "logd/server/startup.h"
#include "logd/server/transport.h"
#include "logd/streams/entry.h"
#include "logd/wal/disk.h"

/* Applied in one go before the loop looks at its sockets again. */
enum { APPLY_ENTRIES = 256, APPLY_BYTES = 8 << 20, SECOND_MS = 1000, RETENTION_MS = 50, STOP_POLL_MS = 10, STALL_MS = 20 };

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
    const struct membership_server *m = node->consensus == NULL ? NULL : membership_find(consensus_membership(node->consensus), id);
    if (id == s->id) return s->address;
    if (m != NULL && m->address[0] != '\0') return m->address;
    for (unsigned i = 0; i < s->n_members; i++)
        if (s->members[i].id == id) return s->members[i].address;
    return node->peers == NULL ? NULL : peers_address(node->peers, id);
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
        if (list[i].session == NULL) continue; /* ours */
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
        if (!MUTANT(answer_strangers)) refuse_waiters(node);
    }
    queries_reset(node->queries);
    if (leader != node->leader && leader != 0) node->metrics.leader_changes++;
    members_role_changed(node->membership);
    if (leader != node->leader && leader != 0)
        log_info("leader elected", "leader=%" PRIu64 " address=%s term=%" PRIu64, leader, address == NULL ? "" : address, term);
    else if (role != node->role)
        log_info("role changed", "role=%s term=%" PRIu64, consensus_role_name(role), term);
    node->role = role;
    node->leader = leader;
}

static void look_at_disk(struct node *node)
{
    char text[128];
    int64_t free = disk_system()->space(disk_system(), node->settings->data_dir);
    bool stuck = wal_no_room(node->wal) || index_no_room(node->index);
    if (free < 0 || !space_seen(&node->space, (uint64_t)free, stuck)) return;
    space_text(&node->space, sizeof text, text);
    if (text[0] != '\0') log_warn(node->space.state == SPACE_FULL ? "the disk is full" : "the disk is nearly full: appends are refused", "reason=%s", text);
    else log_info("the disk has room again", "free=%" PRId64, free);
}

void node_alarm(const struct node *node, size_t size, char *ret_text)
{
    space_text(&node->space, size, ret_text);
    if (ret_text[0] == '\0') scrub_text(node->scrub, size, ret_text);
    if (ret_text[0] == '\0') slow_text(&node->slow, size, ret_text);
}

/* Its own syncs, and whom to leave leadership to while they are slow, or the log cannot grow. */
static void look_at_syncs(struct node *node)
{
    char text[128];
    struct error e;
    const struct prom_histogram *h = wal_sync_times(node->wal);
    if (slow_second(&node->slow, prom_observed(h), prom_sum_us(h), wal_no_room(node->wal) ? 0 : wal_sync_under_way_us(node->wal))) {
        slow_text(&node->slow, sizeof text, text);
        if (text[0] != '\0') log_warn("the disk is slow", "reason=%s", text);
        else log_info("the disk is not slow any more", NULL);
    }
    if (consensus_role(node->consensus) != CONSENSUS_LEADER) return;
    bool slow = slow_hands_over(&node->slow, node_now_ms()), damaged = scrub_hands_over(node->scrub);
    uint64_t to = slow || damaged ? members_healthy(node) : 0;
    if (to != 0 && members_move(node->membership, to, &e) == 0)
        log_warn(slow ? "leadership is handed over, as the disk is slow" : "leadership is handed over, as data is damaged", "to=%" PRIu64, to);
}

static uint64_t entry_bytes(const struct consensus_entry *entries, unsigned n)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++) bytes += entries[i].payload->len;
    return bytes;
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
    if (space_wrote(&node->space, entry_bytes(u->entries, u->n_entries))) look_at_disk(node);
}

/* Ends this life; the next one begins with fetching another server's state (rebuild.h). Nothing is lost by the sudden end: what was
 * promised is on the disk. */
static _Noreturn void begin_rebuild(struct node *node, uint64_t index, uint64_t from)
{
    struct error e;
    const char *address = node_address_of(node, from);
    if (rebuild_mark(node->settings->data_dir, index, from, address == NULL ? "" : address, &e) != 0) node_fatal("the rebuild cannot be noted", &e);
    execv("/proc/self/exe", node->settings->argv);
    error_errno(&e, ERROR_IO, errno, "/proc/self/exe");
    node_fatal("this server cannot start itself again: start it", &e);
}

/* The order matters: see consensus.h. */
void node_execute(struct node *node, const struct consensus_update *u)
{
    struct error e;
    assert(!node->executing);
    node->executing = true;
    for (unsigned i = 0; MUTANT(send_before_vote) && node->peers != NULL && i < u->n_messages; i++) peers_send(node->peers, &u->messages[i]);
    if (u->hard_state && wal_set_hard_state(node->wal, u->term, u->vote, &e) != 0)
        node_fatal("term and vote cannot be written", &e);
    if (u->n_entries > 0) append(node, u);
    if (u->membership_changed) members_changed(node->membership);
    for (unsigned i = 0; i < u->n_messages; i++)
        if (node->peers != NULL) peers_send(node->peers, &u->messages[i]);
    if (u->role_changed) role_changed(node);
    /* Without room the state could not be fetched: as a follower it still votes and answers reads. The leader offers it again. */
    if (u->rebuild && !node->stopping && node->space.state == SPACE_ENOUGH) {
        log_warn("this server lacks entries that are gone from the leader's log: it starts again, to fetch the state",
                 "last=%" PRIu64 " needed=%" PRIu64 " leader=%" PRIu64, wal_last_index(node->wal), u->rebuild_index, u->rebuild_from);
        begin_rebuild(node, u->rebuild_index, u->rebuild_from);
    }
    node->executing = false;
    if (u->role_changed && !uv_is_closing((uv_handle_t *)&node->timer)) arm(node);
}

void node_receive(struct node *node, const struct consensus_message *m)
{
    struct consensus_update u;
    struct consensus_message bare;
    struct error e;
    uint64_t now = node_now_ms();
    if (m->type == CONSENSUS_APPEND_ENTRIES && m->append.n > 0 && !space_takes(&node->space, entry_bytes(m->append.entries, m->append.n))) {
        if (!space_pass(&node->space, now, node->settings->election_ms / 3, wal_last_index(node->wal), m->append.prev_index)) return;
        bare = *m; /* as the leader's heartbeat: nothing is known to be committed beyond what we have in common */
        bare.append.n = 0;
        if (bare.append.commit > bare.append.prev_index) bare.append.commit = bare.append.prev_index;
        m = &bare;
    }
    int rv = consensus_receive(node->consensus, now, m, &u, &e);
    if (rv == -ERROR_PROTOCOL) log_warn("message ignored", "peer=%" PRIu64 " reason=%s", m->from, e.text);
    else if (rv != 0) node_fatal("consensus failed", &e);
    else node_execute(node, &u);
}

/* From here on there is a log, which names the voters: this server is one of them. */
static void begin_founded(struct node *node)
{
    struct consensus_update u;
    struct error e;
    if (node->stopping) return; /* the next start finds the log */
    node->founding = founding_free(node->founding);
    if (startup_founded(node, &u, &e) != 0) node_fatal("consensus failed", &e);
    log_info("the cluster is founded", "servers=%u", consensus_membership(node->consensus)->n);
    members_changed(node->membership);
    node_execute(node, &u);
    arm(node);
}

static void on_persisted(void *user, uint64_t index, uint64_t term)
{
    struct node *node = user;
    struct consensus_update u;
    struct error e;
    if (node->consensus == NULL) return; /* the first entry of a cluster of one, or the log is being closed */
    if (founding_writes(node->founding)) {
        begin_founded(node);
        return;
    }
    if (consensus_persisted(node->consensus, node_now_ms(), index, term, &u, &e) != 0) node_fatal("consensus failed", &e);
    node_execute(node, &u);
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
    node_execute(node, &u);
    queries_tick(node->queries);
    if (!uv_is_closing((uv_handle_t *)timer)) arm(node);
}

void node_peer_lost(struct node *node, uint64_t id)
{
    if (node->consensus == NULL || consensus_leader(node->consensus) != id) return;
    /* One after the other, so that the followers do not all stand at once; a little later, so that the others have noticed
     * too: whoever still believes in the leader refuses its vote. */
    uint32_t rank = 0, step = (uint32_t)node->settings->election_ms / 20;
    const struct membership *m = consensus_membership(node->consensus);
    for (unsigned i = 0; i < m->n; i++) rank += m->servers[i].voter && m->servers[i].id < node->settings->id && m->servers[i].id != id;
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
    int rv = space_check(&node->space, f->type, &e);
    if (rv == 0) rv = streams_check(f, &e);
    if (rv == 0) rv = batcher_add(node->batcher, f, session, loop_monotonic_us(), loop_wall_us(), &e);
    if (rv != 0) session_fail(session, f->id, &e);
    else session_owe(session, frame_length(f));
}

/* True: look again at once, a draft is about to become due. */
static bool propose(struct node *node)
{
    struct error e;
    while (consensus_role(node->consensus) == CONSENSUS_LEADER && !consensus_transferring(node->consensus)) {
        struct blob *payload = batcher_cut(node->batcher, loop_monotonic_us(), wal_queued_bytes(node->wal) == 0);
        if (payload == NULL) return batcher_gathers(node->batcher);
        struct consensus_entry entry = {.payload = payload};
        struct consensus_update u;
        if (consensus_submit(node->consensus, node_now_ms(), &entry, 1, &u, &e) != 0) node_fatal("consensus failed", &e);
        batcher_proposed(node->batcher, u.first_index, entry.term);
        node_execute(node, &u);
        blob_unref(payload);
    }
    return false;
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
    uint64_t now = loop_monotonic_us();
    entry_open(&reader, entry->payload->data, entry->payload->len, NULL);
    for (size_t i = 0; i < n; i++) {
        entry_next(&reader, &f, &at, &len, NULL);
        if (list[i].session == NULL) continue; /* ours */
        answer(node, &list[i], &node->update.outcomes[i], &f);
        prom_observe(&node->metrics.append, now - list[i].since_us);
        session_paid(list[i].session, list[i].bytes);
        if (!MUTANT(leak)) session_unref(list[i].session);
    }
}

/* ---- applying ------------------------------------------------------------------------------------------------- */

/* 0: not now. */
static size_t apply_one(struct node *node, uint64_t index)
{
    struct wal_entry entry;
    struct wal_location where;
    struct error e;
    int rv = wal_read(node->wal, index, &entry, &e);
    if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) {
        node->unreadable = index;
        scrub_suspect_entry(node->scrub, index, &e);
        return 0;
    }
    if (rv != 0) node_fatal("a committed entry cannot be read", &e);
    bool command = entry.type == CONSENSUS_COMMAND;
    if (wal_locate(node->wal, index, &where) != 0) {
        error_set(&e, ERROR_INTERNAL, "entry %llu has no place in the log", (unsigned long long)index);
        node_fatal("a committed entry cannot be read", &e);
    }
    rv = streams_apply(node->streams, index, command ? entry.payload->data : NULL, command ? entry.payload->len : 0, where,
                       &node->update, &e);
    if (rv != 0) node_fatal("a committed entry cannot be applied", &e);
    if (entry.type == CONSENSUS_CHANGE) members_applied(node->membership, index, entry.term, entry.payload);
    if (index_put(node->index, index, &node->update, &e) != 0) node_fatal("the index cannot be written", &e);
    if (command) answer_waiters(node, &entry);
    size_t bytes = entry.payload->len;
    if (command) node->metrics.command_bytes += bytes, node->metrics.commands += node->update.n_outcomes;
    blob_unref(entry.payload);
    return bytes + 1;
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
    if (applied >= limit || applied + 1 == node->unreadable || (index_queued_bytes(node->index) >= APPLY_BYTES && index_no_room(node->index))) return true; /* looked at again each second */
    uint64_t begun = loop_monotonic_us();
    for (unsigned n = 0; applied < limit && n < APPLY_ENTRIES && bytes < APPLY_BYTES; n++) {
        size_t did = apply_one(node, applied + 1);
        if (did == 0) break;
        bytes += did;
        applied++;
        uint64_t now = loop_monotonic_us();
        prom_observe(&node->metrics.apply, now - begun);
        begun = now;
    }
    queries_pump(node->queries);
    follows_pump(node->follows);
    return applied >= limit || applied + 1 == node->unreadable;
}

void node_repaired(struct node *node)
{
    node->unreadable = 0;
    uv_idle_start(&node->idle, on_idle);
}

static void on_check(uv_check_t *check)
{
    struct node *node = check->data;
    bool due = propose(node);
    if (apply(node) && !due) uv_idle_stop(&node->idle);
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

/* What the index says is wrong, the log is whole: another server's state takes the place of both. It has to be one that has applied all that is in this log, so that
 * no entry goes that this server has acknowledged (L1): those of them that were committed are in it, and the others were promised to nobody. Term and vote stay (rebuild.h).
 * Two servers never do this at once: see SCRUB_STATE_MS. */
static void replace_index(struct node *node)
{
    uint64_t leader = consensus_leader(node->consensus), last = wal_last_index(node->wal);
    if (!scrub_wants_state(node->scrub) || node->stopping || node->space.state != SPACE_ENOUGH) return;
    if (leader == 0 || leader == node->settings->id || !members_well(node)) return;
    log_warn("the index is damaged: this server starts again, to fetch the state", "last=%" PRIu64 " leader=%" PRIu64, last, leader);
    begin_rebuild(node, last, leader);
}

static void on_second(uv_timer_t *timer)
{
    struct node *node = timer->data;
    look_at_disk(node);
    look_at_syncs(node);
    peers_ask_alarms(node->peers);
    sessions_sweep(node->sessions, node_now_ms());
    exports_tick(node->exports);
    founding_tick(node->founding);
    members_tick(node->membership);
    mover_tick(node->mover);
    scrub_tick(node->scrub);
    replace_index(node);
    if (node->unreadable != 0) node_repaired(node); /* whatever it was, it may be over */
    bool more = trimmer_tick(&node->trimmer, node);
    if (retention_tick(node) || more) uv_timer_start(timer, on_second, RETENTION_MS, SECOND_MS);
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

static int make_parts(struct node *node, struct error *e)
{
    const struct settings *s = node->settings;
    node->batcher = batcher_new(s->max_entry_bytes, s->linger_us, (unsigned)s->in_flight);
    node->reads = reads_new(node);
    node->follows = follows_new(node);
    node->queries = queries_new(node);
    node->exports = exports_new(node);
    node->mover = mover_new(node);
    node->scrub = scrub_new(node);
    node->canary = canary_new(node);
    node->membership = members_new(node);
    if (node->scrub == NULL || node->mover == NULL || node->exports == NULL || node->canary == NULL || node->membership == NULL || node->batcher == NULL || node->reads == NULL || node->follows == NULL || node->queries == NULL)
        return error_set(e, ERROR_NOMEM, "no memory to start");
    uv_timer_init(node->loop, &node->timer);
    uv_timer_init(node->loop, &node->second);
    uv_check_init(node->loop, &node->check);
    uv_idle_init(node->loop, &node->idle);
    node->timer.data = node->second.data = node->check.data = node->idle.data = node;
    node->open_handles = 4;
    return 0;
}

static void on_signal(void *user)
{
    node_stop(user);
}

int node_start(uv_loop_t *loop, const struct settings *settings, struct loop_signals *signals, void (*on_stopped)(void *user), void *user,
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
    node->space.reserve = settings->disk_reserve;
    node->slow.limit_us = settings->slow_disk_ms * 1000;
    /* A failed start ends the process: what was opened goes with it. */
    int rv = transport_new(loop, settings, &node->transport, e);
    if (rv == 0) rv = startup_run(node, on_persisted, on_wal_failed, on_durable, on_index_failed, &u, e);
    if (rv == 0) rv = make_parts(node, e);
    if (rv == 0) rv = sessions_start(node, &node->sessions, e);
    if (rv == 0) rv = peers_start(node, &node->peers, e);
    if (rv == 0) rv = monitor_start(node, &node->monitor, e);
    if (rv != 0) return rv;
    log_info("data loaded", "first=%" PRIu64 " last=%" PRIu64 " applied=%" PRIu64 " streams=%" PRIu64 " term=%" PRIu64,
             wal_first_index(node->wal), wal_last_index(node->wal), streams_applied(node->streams),
             streams_count(node->streams), wal_term(node->wal));
    look_at_disk(node);
    node_execute(node, &u);
    arm(node);
    uv_check_start(&node->check, on_check);
    uv_idle_start(&node->idle, on_idle); /* the first round applies what is committed already */
    uv_timer_start(&node->second, on_second, SECOND_MS, SECOND_MS);
    rv = loop_signals_start(loop, signals, on_signal, node);
    if (rv != 0) return error_uv(e, ERROR_INTERNAL, rv, "signals cannot be handled");
    log_info("ready", "listen=%s id=%" PRIu64 " cluster=%s metrics=%s", sessions_address(node->sessions), settings->id, settings->cluster,
             monitor_address(node->monitor));
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
    node->founding = founding_free(node->founding);
    streams_update_fini(&node->update);
    blob_unref(node->members);
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

static void on_canary_closed(void *user)
{
    struct node *node = user;
    node->canary = NULL;
    index_close(node->index, on_index_closed, node);
}

static void on_wal_closed(void *user)
{
    struct node *node = user;
    canary_close(node->canary, on_canary_closed, node);
}

static void on_peers_closed(void *user)
{
    struct node *node = user;
    node->peers = NULL;
    node->transport = transport_free(node->transport);
    members_close(node->membership);
    refuse_waiters(node); /* their connections are gone: gives the references back */
    queries_reset(node->queries);
    node->consensus = consensus_free(node->consensus);
    wal_close(node->wal, on_wal_closed, node);
}

static void on_exports_closed(void *user)
{
    struct node *node = user;
    node->exports = NULL;
    peers_close(node->peers, on_peers_closed, node);
}

static void on_scrub_closed(void *user)
{
    struct node *node = user;
    node->scrub = NULL;
    exports_close(node->exports, on_exports_closed, node);
}

static void on_mover_closed(void *user)
{
    struct node *node = user;
    node->mover = NULL;
    scrub_close(node->scrub, on_scrub_closed, node);
}

static void on_monitor_closed(void *user)
{
    struct node *node = user;
    node->monitor = NULL;
    mover_close(node->mover, on_mover_closed, node);
}

static void on_sessions_closed(void *user)
{
    struct node *node = user;
    uv_timer_stop(&node->timer);
    uv_check_stop(&node->check);
    uv_idle_stop(&node->idle);
    node->sessions = NULL;
    monitor_close(node->monitor, on_monitor_closed, node);
}

/* Hands leadership over, again if it was not taken, until somebody leads, nobody is there, or time is up. */
static void on_stop_poll(uv_timer_t *timer)
{
    struct node *node = timer->data;
    struct consensus_update u;
    bool leads = consensus_role(node->consensus) == CONSENSUS_LEADER;
    uint64_t to = leads ? members_successor(node) : 0;
    bool wait = leads && (to != 0 || !batcher_idle(node->batcher));
    if (wait && node_now_ms() < node->stop_by_ms) {
        if (to != 0 && !consensus_transferring(node->consensus) &&
            consensus_transfer(node->consensus, node_now_ms(), to, &u, NULL) == 0)
            node_execute(node, &u);
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
