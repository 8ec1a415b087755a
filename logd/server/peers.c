#include "logd/server/peers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/conn.h"
#include "common/loop.h"
#include "logd/consensus/raft_codec.h"
#include "logd/server/node.h"
#include "logd/server/queries.h"
#include "logd/server/rpc_codec.h"

enum { PIECES_MAX = 512 };

struct peer {
    struct peers *all;
    struct consensus_member member; /* address borrowed from settings */
    struct conn *conn;
    bool ready; /* it answered our HELLO */
    bool complained; /* its unreachability was logged */
    uv_timer_t retry;
    uint32_t delay_ms;
    struct consensus_message queue[PEERS_QUEUE_MAX]; /* ring of descriptors */
    unsigned head, n;
    uint64_t dropped;
};

struct peers {
    struct node *node;
    struct peer *list;
    unsigned n, open_handles;
    struct buf head; /* scratch of the encoder */
    uint64_t random;
    bool closing;
    void (*done)(void *user);
    void *user;
};

static void start_connecting(struct peer *p);

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
        uint64_t match = consensus_match(node->consensus, p->member.id);
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
    for (unsigned i = 0; i < peers->n; i++) {
        struct peer *p = &peers->list[i];
        if (p->member.id != m->to) continue;
        if (!p->ready || p->n == PEERS_QUEUE_MAX) {
            p->dropped++;
            return;
        }
        p->queue[(p->head + p->n++) % PEERS_QUEUE_MAX] = *m;
        pump(p);
    }
}

void peers_probe(struct peers *peers, uint64_t round, uint64_t term)
{
    for (unsigned i = 0; i < peers->n; i++) {
        struct peer *p = &peers->list[i];
        if (p->ready && raft_codec_encode_probe(peers->node->settings->id, term, &peers->head) == 0)
            send_frame(p, FRAME_READ_PROBE, round, NULL, 0);
    }
}

bool peers_reachable(const struct peers *peers, uint64_t id)
{
    for (unsigned i = 0; i < peers->n; i++)
        if (peers->list[i].member.id == id) return peers->list[i].ready;
    return false;
}

/* ---- the connection ------------------------------------------------------------------------------------------- */

static void on_open(struct conn *c, void *user)
{
    struct peer *p = user;
    struct node *node = p->all->node;
    if (rpc_encode_hello(node->settings->id, node->settings->cluster, &p->all->head) != 0) {
        conn_close(c, 0, NULL);
        return;
    }
    send_frame(p, FRAME_HELLO, 0, NULL, 0);
}

static int accept_hello(struct peer *p, const struct frame *f, struct error *e)
{
    struct rpc_hello hello;
    int rv = rpc_decode_hello(f, &hello, e);
    if (rv != 0) return rv;
    const char *cluster = p->all->node->settings->cluster;
    if (hello.version != RPC_VERSION || hello.node_id != p->member.id || strcmp(hello.cluster, cluster) != 0)
        return error_set(e, ERROR_INVALID, "at %s answers server %llu of cluster \"%s\" (protocol %u), not server %llu of \"%s\": "
                         "check initial-cluster", p->member.address, (unsigned long long)hello.node_id, hello.cluster,
                         hello.version, (unsigned long long)p->member.id, cluster);
    p->ready = true;
    p->complained = false;
    p->delay_ms = PEERS_RETRY_MIN_MS;
    p->head = p->n = 0;
    log_info("peer connected", "peer=%" PRIu64 " address=%s software=%s", p->member.id, p->member.address, hello.software);
    return 0;
}

static void on_frame(struct conn *c, void *user, const struct frame *f)
{
    struct peer *p = user;
    struct error e;
    uint64_t from, term;
    int rv;
    if (f->type == FRAME_ERROR || f->type == (FRAME_ERROR | FRAME_REPLY)) {
        struct error told;
        rv = rpc_decode_error(f, &told, &e);
        if (rv == 0) e = told, rv = -ERROR_PROTOCOL;
    } else if (!p->ready) {
        rv = f->type == (FRAME_HELLO | FRAME_REPLY) || f->type == FRAME_HELLO
                 ? accept_hello(p, f, &e)
                 : error_set(&e, ERROR_PROTOCOL, "the first frame is of type %u, not a HELLO", f->type);
    } else if (f->type == (FRAME_READ_PROBE | FRAME_REPLY)) {
        if ((rv = raft_codec_decode_probe(f, &from, &term, &e)) == 0)
            queries_probe_reply(p->all->node->queries, p->member.id, f->id, term);
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
    for (unsigned i = 0; i < peers->n; i++)
        if (peers->list[i].conn != NULL) return;
    void (*done)(void *) = peers->done;
    void *user = peers->user;
    buf_fini(&peers->head);
    free(peers->list);
    free(peers);
    done(user);
}

static void on_retry(uv_timer_t *timer)
{
    start_connecting(timer->data);
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct peer *p = user;
    bool was_ready = p->ready;
    (void)c;
    p->conn = NULL;
    p->ready = false;
    p->head = p->n = 0;
    if (p->all->closing) {
        maybe_done(p->all);
        return;
    }
    if (was_ready || !p->complained) {
        log_warn("peer unreachable", "peer=%" PRIu64 " address=%s reason=%s", p->member.id, p->member.address,
                 why->text[0] != '\0' ? why->text : "closed");
        p->complained = true;
    }
    /* Jitter of a quarter: servers started together do not knock together. */
    p->all->random = p->all->random * 6364136223846793005u + 1442695040888963407u;
    uint32_t jitter = (uint32_t)(p->all->random >> 33) % (p->delay_ms / 4 + 1);
    uv_timer_start(&p->retry, on_retry, p->delay_ms + jitter, 0);
    p->delay_ms = p->delay_ms * 2 > PEERS_RETRY_MAX_MS ? PEERS_RETRY_MAX_MS : p->delay_ms * 2;
    if (was_ready) node_peer_lost(p->all->node, p->member.id);
}

static void start_connecting(struct peer *p)
{
    static const struct conn_handlers handlers = {on_open, on_frame, on_drained, on_close};
    struct error e;
    if (p->all->closing || p->conn != NULL) return;
    if (conn_connect(p->all->node->loop, p->member.address, PEERS_CONNECT_MS, &handlers, p, &p->conn, &e) != 0) {
        p->conn = NULL;
        on_close(NULL, p, &e);
    }
}

void peers_knocked(struct peers *peers, uint64_t id)
{
    for (unsigned i = 0; i < peers->n; i++) {
        struct peer *p = &peers->list[i];
        if (p->member.id != id || p->conn != NULL || peers->closing) continue;
        p->delay_ms = PEERS_RETRY_MIN_MS;
        uv_timer_start(&p->retry, on_retry, 0, 0);
    }
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

int peers_start(struct node *node, struct peers **ret_peers, struct error *e)
{
    const struct settings *s = node->settings;
    struct peers *peers = calloc(1, sizeof *peers);
    if (peers != NULL) peers->list = calloc(s->n_members, sizeof *peers->list);
    if (peers == NULL || peers->list == NULL) {
        free(peers);
        return error_set(e, ERROR_NOMEM, "no memory for the other servers");
    }
    peers->node = node;
    peers->random = loop_wall_us() ^ s->id << 32;
    for (unsigned i = 0; i < s->n_members; i++) {
        if (s->members[i].id == s->id) continue;
        struct peer *p = &peers->list[peers->n++];
        p->all = peers;
        p->member = s->members[i];
        p->delay_ms = PEERS_RETRY_MIN_MS;
        uv_timer_init(node->loop, &p->retry);
        p->retry.data = p;
        peers->open_handles++;
    }
    *ret_peers = peers;
    for (unsigned i = 0; i < peers->n; i++) start_connecting(&peers->list[i]);
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct peer *p = handle->data;
    p->all->open_handles--;
    maybe_done(p->all);
}

void peers_close(struct peers *peers, void (*done)(void *user), void *user)
{
    peers->closing = true;
    peers->done = done;
    peers->user = user;
    peers->open_handles++; /* ours, until all were asked to close */
    for (unsigned i = 0; i < peers->n; i++) {
        uv_close((uv_handle_t *)&peers->list[i].retry, on_timer_closed);
        if (peers->list[i].conn != NULL) conn_close(peers->list[i].conn, 50, NULL);
    }
    peers->open_handles--;
    maybe_done(peers);
}
