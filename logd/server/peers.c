#include "logd/server/peers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/conn.h"
#include "common/loop.h"
#include "common/mutant.h"
#include "logd/consensus/raft_codec.h"
#include "logd/server/canary.h"
#include "logd/server/founding.h"
#include "logd/server/members.h"
#include "logd/server/node.h"
#include "logd/server/queries.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/scrub.h"
#include "logd/server/state_codec.h"
#include "logd/server/transport.h"

static const uint64_t RECORD = UINT64_C(1) << 61;   /* in the id of a question for a record */
static const uint64_t ALARM = UINT64_C(1) << 62;    /* and of a question for its alarm */
static const uint64_t QUESTION = UINT64_C(1) << 63; /* in the id of a canary's question: no read round counts so far */
enum { PIECES_MAX = 512, PEERS_MAX = 32 };
enum place { PLACE_MEMBER, PLACE_SET, PLACE_SAID, PLACES };

struct peer {
    struct peers *all;
    uint64_t id, instance; /* instance: as it said */
    char places[PLACES][MEMBERSHIP_ADDRESS]; /* where it may be: by the membership, by initial-cluster, as it said itself; "" unknown */
    unsigned place;                          /* which of them is tried */
    bool gone;                               /* from the list: closing */
    struct conn *conn;
    bool ready; /* it answered our HELLO */
    uint64_t opened_ms; /* the connection */
    bool complained; /* its unreachability was logged */
    bool timer_open;
    uv_timer_t retry;
    uint32_t delay_ms;
    struct consensus_message queue[PEERS_QUEUE_MAX]; /* ring of descriptors */
    unsigned head, n;
    uint64_t dropped;
    char alarm[PEERS_ALARM]; /* as it said when it was asked at alarm_ms; 0: never on this connection */
    uint64_t alarm_ms;
};

struct peers {
    struct node *node;
    struct peer *list[PEERS_MAX];
    unsigned n, open_handles; /* of those in the list, and of those that are closing */
    struct buf head; /* scratch of the encoder */
    uint64_t random;
    bool closing;
    void (*done)(void *user);
    void *user;
};

static void start_connecting(struct peer *p);

static struct peer *find(const struct peers *peers, uint64_t id)
{
    for (unsigned i = 0; i < peers->n; i++)
        if (peers->list[i]->id == id) return peers->list[i];
    return NULL;
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

static void send_frame(struct peer *p, uint16_t type, uint64_t id, const struct frame_piece *pieces, size_t n)
{
    struct frame f = {.type = type, .id = id, .head = p->all->head.data, .head_len = p->all->head.len};
    if (conn_send_pieces(p->conn, &f, pieces, n) != 0) p->dropped++;
}

static void send_plain(struct peer *p, const struct consensus_message *m)
{
    if (raft_codec_encode(m, &p->all->head) == 0) send_frame(p, FRAME_RAFT, 0, NULL, 0);
}

/* Sends the first piece of the range. Returns how many entries it took, 0: none can be sent any more. */
static uint32_t send_entries(struct peer *p, const struct consensus_message *m)
{
    struct node *node = p->all->node;
    struct consensus_entry entries[PIECES_MAX];
    struct frame_piece pieces[PIECES_MAX];
    struct consensus_message part = *m;
    struct error e;
    uint32_t n = 0;
    size_t bytes = 0;
    while (n < m->append.n && n < PIECES_MAX) {
        struct wal_entry entry;
        int rv = wal_read(node->wal, m->append.prev_index + 1 + n, &entry, &e);
        if (rv == -ERROR_NOT_FOUND) break; /* replaced meanwhile: the range is of an older term */
        if (rv == -ERROR_CORRUPT || rv == -ERROR_IO) { /* never sent: it is repaired, and Raft asks again */
            scrub_suspect_entry(node->scrub, m->append.prev_index + 1 + n, &e);
            break;
        }
        if (rv != 0) node_fatal("the log cannot be read for another server", &e);
        if (n > 0 && bytes + entry.payload->len > PEERS_MESSAGE_BYTES) {
            blob_unref(entry.payload);
            break;
        }
        entries[n] = (struct consensus_entry){entry.term, entry.type, entry.payload};
        pieces[n] = (struct frame_piece){entry.payload->data, entry.payload->len};
        bytes += entry.payload->len;
        n++;
    }
    part.append.n = n;
    part.append.entries = entries;
    part.append.commit = consensus_commit_index(node->consensus); /* newer than when it was asked for */
    if (n > 0 && raft_codec_encode(&part, &p->all->head) == 0) send_frame(p, FRAME_RAFT, 0, pieces, n);
    for (uint32_t i = 0; i < n; i++) blob_unref(entries[i].payload);
    return n;
}

/* Sends the message at the head of the queue, or a piece of it. */
static void send_next(struct peer *p)
{
    struct node *node = p->all->node;
    struct consensus_message *m = &p->queue[p->head];
    bool finished = true;
    if (m->type != CONSENSUS_APPEND_ENTRIES) {
        send_plain(p, m);
    } else if (m->term == consensus_term(node->consensus) && consensus_role(node->consensus) == CONSENSUS_LEADER) {
        uint64_t match = consensus_match(node->consensus, p->id);
        if (m->append.n == 0) {
            send_plain(p, m);
        } else if (match < m->append.prev_index + m->append.n) {
            uint32_t sent = send_entries(p, m);
            if (sent > 0 && sent < m->append.n) {
                m->append.prev_index += sent;
                m->append.prev_term = wal_term_at(node->wal, m->append.prev_index);
                m->append.n -= sent;
                finished = m->append.prev_term == 0;
            }
        }
    }
    if (finished) {
        p->head = (p->head + 1) % PEERS_QUEUE_MAX;
        p->n--;
    }
}

static void pump(struct peer *p)
{
    while (p->ready && p->n > 0 && conn_queued(p->conn) < PEERS_CONN_BYTES) send_next(p);
}

void peers_send(struct peers *peers, const struct consensus_message *m)
{
    struct peer *p = find(peers, m->to);
    if (p == NULL) return;
    if (!p->ready || p->n == PEERS_QUEUE_MAX) {
        p->dropped++;
        return;
    }
    p->queue[(p->head + p->n++) % PEERS_QUEUE_MAX] = *m;
    pump(p);
}

void peers_tell_founders(struct peers *peers, const struct blob *entry, bool asks)
{
    peers->head.len = 0;
    if (buf_add(&peers->head, entry->data, entry->len) != 0) return;
    for (unsigned i = 0; i < peers->n; i++)
        if (peers->list[i]->ready) send_frame(peers->list[i], FRAME_FOUNDERS, asks, NULL, 0);
}

void peers_probe(struct peers *peers, uint64_t round, uint64_t term)
{
    for (unsigned i = 0; i < peers->n; i++) {
        struct peer *p = peers->list[i];
        if (p->ready && raft_codec_encode_probe(peers->node->settings->id, term, &peers->head) == 0)
            send_frame(p, FRAME_READ_PROBE, round, NULL, 0);
    }
}

void peers_ask(struct peers *peers, uint64_t id, uint64_t question)
{
    struct peer *p = find(peers, id);
    if (p != NULL && p->ready && rpc_encode_status_request(true, &peers->head) == 0) send_frame(p, FRAME_STATUS, question | QUESTION, NULL, 0);
}

void peers_ask_alarms(struct peers *peers)
{
    for (unsigned i = 0; i < peers->n; i++)
        if (peers->list[i]->ready && rpc_encode_status_request(false, &peers->head) == 0)
            send_frame(peers->list[i], FRAME_STATUS, ALARM | (node_now_ms() & (ALARM - 1)), NULL, 0);
}

bool peers_fetch_record(struct peers *peers, uint64_t id, uint64_t question, const struct state_record *r)
{
    struct peer *p = find(peers, id);
    if (p == NULL || !p->ready || state_encode_record(r, &peers->head) != 0) return false;
    send_frame(p, FRAME_FETCH_RECORD, question | RECORD, NULL, 0);
    return true;
}

static int take_alarm(struct peer *p, const struct frame *f, struct error *e)
{
    char alarm[PEERS_ALARM];
    if (f->type != (FRAME_STATUS | FRAME_REPLY)) return 0; /* it cannot say */
    int rv = rpc_decode_alarm(f, sizeof alarm, alarm, e);
    if (rv != 0) return rv;
    bool was = p->alarm[0] != '\0', is = alarm[0] != '\0';
    memcpy(p->alarm, alarm, sizeof alarm);
    p->alarm_ms = f->id & (ALARM - 1);
    if (is && !was) log_warn("something is wrong with another server", "peer=%" PRIu64 " reason=%s", p->id, alarm);
    if (was && !is) log_info("nothing is wrong with that server any more", "peer=%" PRIu64, p->id);
    if (MUTANT(ask_forever) && rpc_encode_status_request(false, &p->all->head) == 0) send_frame(p, FRAME_STATUS, f->id, NULL, 0);
    return 0;
}

bool peers_alive_since(const struct peers *peers, uint64_t id, uint64_t since_ms)
{
    const struct peer *p = find(peers, id);
    return p != NULL && p->ready && p->alarm_ms > since_ms;
}

const char *peers_alarm(const struct peers *peers, uint64_t id)
{
    const struct peer *p = find(peers, id);
    return p != NULL && p->ready && p->alarm_ms != 0 && node_now_ms() < p->alarm_ms + PEERS_ALARM_MS ? p->alarm : NULL;
}

/* A server that cannot confirm it says why not; that is an answer too, and no reason to end the connection. */
static int take_confirmation(struct peer *p, const struct frame *f, struct error *e)
{
    uint64_t applied = 0;
    int rv = f->type == (FRAME_STATUS | FRAME_REPLY) ? rpc_decode_applied(f, &applied, e) : 0;
    if (rv == 0) canary_answer(p->all->node->canary, f->id & ~QUESTION, applied);
    return rv;
}

bool peers_reachable(const struct peers *peers, uint64_t id)
{
    struct peer *p = find(peers, id);
    return p != NULL && p->ready;
}

uint64_t peers_instance(const struct peers *peers, uint64_t id)
{
    struct peer *p = find(peers, id);
    return p != NULL && p->ready ? p->instance : 0;
}

void peers_state(const struct peers *peers, uint64_t id, struct peers_state *ret_state)
{
    *ret_state = (struct peers_state){0};
    const struct peer *p = peers == NULL ? NULL : find(peers, id);
    if (p != NULL) *ret_state = (struct peers_state){p->ready, p->n, p->conn != NULL ? conn_queued(p->conn) : 0, p->dropped};
}

/* ---- the connection ------------------------------------------------------------------------------------------- */

static void on_open(struct conn *c, void *user)
{
    struct peer *p = user;
    struct node *node = p->all->node;
    p->opened_ms = node_now_ms();
    if (rpc_encode_hello(node->settings->id, node->settings->cluster, node->instance, node_address_of(node, node->settings->id), &p->all->head) != 0) {
        conn_close(c, 0, NULL);
        return;
    }
    send_frame(p, FRAME_HELLO, 0, NULL, 0);
}

static int accept_hello(struct peer *p, const struct frame *f, struct error *e)
{
    struct rpc_hello hello;
    int rv = rpc_decode_hello(f, &hello, e);
    if (rv == 0) rv = transport_check_server(p->all->node->transport, p->conn, p->id, e);
    if (rv != 0) return rv;
    const char *cluster = p->all->node->settings->cluster;
    struct node *node = p->all->node;
    if (hello.version != RPC_VERSION || hello.node_id != p->id || strcmp(hello.cluster, cluster) != 0)
        return error_set(e, ERROR_INVALID, "at %s answers server %llu of cluster \"%s\" (protocol %u), not server %llu of \"%s\": "
                         "check initial-cluster", p->places[p->place], (unsigned long long)hello.node_id, hello.cluster,
                         hello.version, (unsigned long long)p->id, cluster);
    if ((rv = members_meet(node, &hello, e)) != 0) return rv;
    p->instance = hello.instance;
    p->alarm_ms = 0;
    uv_timer_stop(&p->retry);
    p->ready = true;
    p->complained = false;
    p->delay_ms = PEERS_RETRY_MIN_MS;
    p->head = p->n = 0;
    founding_tell(node->founding);
    log_info("peer connected", "peer=%" PRIu64 " address=%s software=%s", p->id, p->places[p->place], hello.software);
    return 0;
}

static void on_frame(struct conn *c, void *user, const struct frame *f)
{
    struct peer *p = user;
    struct error e;
    uint64_t from, term;
    int rv;
    if (p->ready && (f->id & QUESTION) != 0) {
        rv = take_confirmation(p, f, &e);
    } else if (p->ready && (f->id & ALARM) != 0) {
        rv = take_alarm(p, f, &e);
    } else if (p->ready && (f->id & RECORD) != 0) {
        bool given = f->type == (FRAME_FETCH_RECORD | FRAME_REPLY);
        scrub_answer(p->all->node->scrub, p->id, f->id & ~RECORD, given ? f->body : NULL, given ? f->body_len : 0);
        rv = 0;
    } else if (f->type == FRAME_ERROR || f->type == (FRAME_ERROR | FRAME_REPLY)) {
        struct error told;
        rv = rpc_decode_error(f, &told, &e);
        if (rv == 0 && told.code == ERROR_REMOVED && transport_check_server(p->all->node->transport, p->conn, p->id, &e) == 0)
            members_refused(p->all->node, p->opened_ms, &told);
        if (rv == 0) e = told, rv = -ERROR_PROTOCOL;
    } else if (!p->ready) {
        rv = f->type == (FRAME_HELLO | FRAME_REPLY) || f->type == FRAME_HELLO
                 ? accept_hello(p, f, &e)
                 : error_set(&e, ERROR_PROTOCOL, "the first frame is of type %u, not a HELLO", f->type);
    } else if (f->type == (FRAME_READ_PROBE | FRAME_REPLY)) {
        if ((rv = raft_codec_decode_probe(f, &from, &term, &e)) == 0 && members_counts(p->all->node, p->id, p->instance))
            queries_probe_reply(p->all->node->queries, p->id, f->id, term);
    } else {
        rv = error_set(&e, ERROR_PROTOCOL, "a frame of type %u is not for a server that only sends", f->type);
    }
    if (rv != 0) conn_close(c, 0, &e);
}

static void on_drained(struct conn *c, void *user)
{
    (void)c;
    pump(user);
}

static void maybe_done(struct peers *peers)
{
    if (!peers->closing || peers->open_handles > 0) return;
    void (*done)(void *) = peers->done;
    void *user = peers->user;
    buf_fini(&peers->head);
    free(peers);
    done(user);
}

/* Of a peer that is in the list no more: its timer and its connection, whichever is closed last. */
static void maybe_free(struct peer *p)
{
    struct peers *peers = p->all;
    if (p->conn != NULL || p->timer_open) return;
    free(p);
    peers->open_handles--;
    maybe_done(peers);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct peer *p = handle->data;
    p->timer_open = false;
    maybe_free(p);
}

static void drop(struct peer *p, uint32_t linger_ms)
{
    struct peers *peers = p->all;
    unsigned at = 0;
    while (peers->list[at] != p) at++;
    peers->list[at] = peers->list[--peers->n];
    p->gone = true;
    p->ready = false;
    uv_close((uv_handle_t *)&p->retry, on_timer_closed);
    if (p->conn != NULL) conn_close(p->conn, linger_ms, NULL);
}

static void on_retry(uv_timer_t *timer)
{
    start_connecting(timer->data);
}

static void next_place(struct peer *p)
{
    for (unsigned i = 0; i < PLACES; i++) {
        p->place = (p->place + 1) % PLACES;
        if (p->places[p->place][0] != '\0') return;
    }
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct peer *p = user;
    bool was_ready = p->ready;
    (void)c;
    p->conn = NULL;
    p->ready = false;
    p->head = p->n = 0;
    if (p->gone) {
        maybe_free(p);
        return;
    }
    founding_left(p->all->node->founding, p->id);
    if (was_ready || !p->complained) {
        log_warn("peer unreachable", "peer=%" PRIu64 " address=%s reason=%s", p->id, p->places[p->place],
                 why->text[0] != '\0' ? why->text : "closed");
        p->complained = true;
    }
    if (!was_ready) next_place(p);
    /* Jitter of a quarter: servers started together do not knock together. */
    p->all->random = p->all->random * 6364136223846793005u + 1442695040888963407u;
    uint32_t jitter = (uint32_t)(p->all->random >> 33) % (p->delay_ms / 4 + 1);
    uv_timer_start(&p->retry, on_retry, p->delay_ms + jitter, 0);
    p->delay_ms = p->delay_ms * 2 > PEERS_RETRY_MAX_MS ? PEERS_RETRY_MAX_MS : p->delay_ms * 2;
    if (was_ready) node_peer_lost(p->all->node, p->id);
}

/* Without it a server whose machine failed between our connecting and its answer would be waited for for ever: nothing is sent to
 * it meanwhile that could fail. */
static void on_greeting_late(uv_timer_t *timer)
{
    struct peer *p = timer->data;
    struct error e;
    error_set(&e, ERROR_TIMEOUT, "it did not answer our greeting");
    if (p->conn != NULL) conn_close(p->conn, 0, &e);
}

static void start_connecting(struct peer *p)
{
    static const struct conn_handlers handlers = {on_open, on_frame, on_drained, on_close};
    struct error e;
    if (p->gone || p->conn != NULL || p->places[p->place][0] == '\0') return;
    if (conn_connect(p->all->node->loop, p->places[p->place], PEERS_CONNECT_MS, &handlers, p, &p->conn, &e) != 0) {
        p->conn = NULL;
        on_close(NULL, p, &e);
    } else {
        if (!MUTANT(greet_forever)) uv_timer_start(&p->retry, on_greeting_late, PEERS_GREETING_MS, 0);
        if (transport_dial(p->all->node->transport, p->conn, &e) != 0) conn_close(p->conn, 0, &e);
    }
}

static void know(struct peer *p, enum place place, const char *address)
{
    if (strlen(address) < MEMBERSHIP_ADDRESS) memcpy(p->places[place], address, strlen(address) + 1);
    if (p->places[p->place][0] == '\0') next_place(p);
}

/* NULL without memory, or when there are more than any cluster has. */
static struct peer *add(struct peers *peers, uint64_t id)
{
    const struct settings *s = peers->node->settings;
    struct peer *p = peers->n == PEERS_MAX ? NULL : calloc(1, sizeof *p);
    if (p == NULL) return NULL;
    p->all = peers;
    p->id = id;
    p->delay_ms = PEERS_RETRY_MIN_MS;
    uv_timer_init(peers->node->loop, &p->retry);
    p->retry.data = p;
    p->timer_open = true;
    peers->open_handles++;
    peers->list[peers->n++] = p;
    for (unsigned i = 0; i < s->n_members; i++)
        if (s->members[i].id == id) know(p, PLACE_SET, s->members[i].address);
    return p;
}

void peers_knocked(struct peers *peers, uint64_t id, const char *address)
{
    struct peer *p = find(peers, id);
    if (p == NULL && (peers->closing || (p = add(peers, id)) == NULL)) return;
    know(p, PLACE_SAID, address);
    if (p->conn != NULL) return;
    p->delay_ms = PEERS_RETRY_MIN_MS;
    uv_timer_start(&p->retry, on_retry, 0, 0);
}

/* ---- who there is --------------------------------------------------------------------------------------------- */

/* Who was greeted, and is not the one that this membership means: with the id of a member it keeps that one's place, and once it is removed, it is not the one that comes with the
 * id next. */
static void see_identity(struct peer *p, const struct membership *m, const struct membership_server *member)
{
    if (!p->ready || p->instance == 0) return;
    bool removed = membership_was_removed(m, p->id, p->instance);
    if (member == NULL && removed) p->instance = 0;
    else if (member != NULL && (removed || (member->instance != 0 && member->instance != p->instance))) conn_close(p->conn, 0, NULL);
}

void peers_follow(struct peers *peers, const struct membership *m)
{
    const struct settings *s = peers->node->settings;
    if (peers->closing) return;
    for (unsigned i = 0; i < m->n; i++) {
        struct peer *p = m->servers[i].id == s->id ? NULL : find(peers, m->servers[i].id);
        if (m->servers[i].id == s->id || (p == NULL && (p = add(peers, m->servers[i].id)) == NULL)) continue;
        know(p, PLACE_MEMBER, m->servers[i].address);
        see_identity(p, m, &m->servers[i]);
        start_connecting(p);
    }
    for (unsigned i = peers->n; m->n > 0 && i-- > 0;) {
        struct peer *p = peers->list[i];
        if (membership_find(m, p->id) != NULL) continue;
        see_identity(p, m, NULL);
        if (!p->ready || consensus_role(peers->node->consensus) == CONSENSUS_LEADER) drop(p, 50);
    }
}

const char *peers_address(const struct peers *peers, uint64_t id)
{
    struct peer *p = find(peers, id);
    return p == NULL || p->places[PLACE_SAID][0] == '\0' ? NULL : p->places[PLACE_SAID];
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

int peers_start(struct node *node, struct peers **ret_peers, struct error *e)
{
    const struct settings *s = node->settings;
    struct peers *peers = calloc(1, sizeof *peers);
    if (peers == NULL) return error_set(e, ERROR_NOMEM, "no memory for the other servers");
    peers->node = node;
    peers->random = loop_wall_us() ^ s->id << 32;
    *ret_peers = peers;
    const struct membership *m = consensus_membership(node->consensus);
    for (unsigned i = 0; m->n == 0 && i < s->n_members; i++) { /* we wait to be added: the leader is one of them, or knows us by itself */
        struct peer *p = s->members[i].id == s->id ? NULL : add(peers, s->members[i].id);
        if (p != NULL) start_connecting(p);
    }
    peers_follow(peers, m);
    return 0;
}

void peers_close(struct peers *peers, void (*done)(void *user), void *user)
{
    peers->closing = true;
    peers->done = done;
    peers->user = user;
    peers->open_handles++; /* ours, until all were asked to close */
    while (peers->n > 0) drop(peers->list[peers->n - 1], 50);
    peers->open_handles--;
    maybe_done(peers);
}
