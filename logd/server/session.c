#include "logd/server/session.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conn.h"
#include "common/mutant.h"
#include "logd/consensus/raft_codec.h"
#include "logd/server/access.h"
#include "logd/server/donor.h"
#include "logd/server/exports.h"
#include "logd/server/follow.h"
#include "logd/server/founding.h"
#include "logd/server/members.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/queries.h"
#include "logd/server/reads.h"
#include "logd/server/transport.h"

enum { HELLO_MS = 10000, HELLO_BYTES = 64 << 10, CLOSE_LINGER_MS = 200 };
enum kind { KIND_UNKNOWN, KIND_CLIENT, KIND_PEER };

struct session {
    struct session *next, *prev;
    struct sessions *all;
    struct conn *conn; /* NULL once it is closed */
    unsigned refs;     /* one is the connection's */
    enum kind kind;
    uint64_t peer_id, instance; /* of another server */
    uint64_t born_ms;  /* or, of a client, when something last came */
    struct access *access; /* NULL: no TLS */
    size_t outstanding, outstanding_bytes;
    bool paused;
    struct follow *follows;
    unsigned n_follows;
};

struct sessions {
    struct node *node;
    uv_tcp_t listener;
    bool listening, closing;
    struct session *first;
    unsigned n;
    char address[96];
    struct buf head; /* scratch of error replies */
    void (*done)(void *user);
    void *user;
};

/* ---- references and answers ----------------------------------------------------------------------------------- */

struct session *session_ref(struct session *s)
{
    s->refs++;
    return s;
}

void session_unref(struct session *s)
{
    if (--s->refs > 0) return;
    access_free(s->access);
    free(s);
}

bool session_open(const struct session *s)
{
    return s->conn != NULL;
}

size_t session_queued(const struct session *s)
{
    return s->conn == NULL ? SIZE_MAX : conn_queued(s->conn);
}

bool session_sees(const struct session *s, const char *stream)
{
    return access_sees(s->access, stream);
}

struct follow **session_follows(struct session *s, unsigned **ret_n)
{
    *ret_n = &s->n_follows;
    return &s->follows;
}

static bool overloaded(const struct session *s)
{
    const struct settings *limits = s->all->node->settings;
    return s->outstanding >= limits->client_requests || s->outstanding_bytes >= limits->client_bytes ||
           conn_queued(s->conn) >= SESSION_REPLIES_MAX;
}

/* Reading stops while a client has too much owed to it, and goes on when half of that is done. */
static void throttle(struct session *s)
{
    if (s->conn == NULL) return; /* at a stop `all` may be gone as well */
    const struct settings *limits = s->all->node->settings;
    if (!s->paused && overloaded(s)) {
        s->paused = true;
        conn_pause(s->conn);
    } else if (s->paused && s->outstanding <= limits->client_requests / 2 && s->outstanding_bytes <= limits->client_bytes / 2 &&
               conn_queued(s->conn) <= SESSION_REPLIES_MAX / 2) {
        s->paused = false;
        conn_resume(s->conn);
    }
}

void session_owe(struct session *s, size_t bytes)
{
    s->outstanding++;
    s->outstanding_bytes += bytes;
    throttle(s);
}

void session_paid(struct session *s, size_t bytes)
{
    s->outstanding--;
    s->outstanding_bytes -= bytes;
    throttle(s);
}

void session_reply_pieces(struct session *s, uint16_t type, uint64_t id, const struct buf *head, const struct frame_piece *body, size_t n)
{
    if (s->conn == NULL) return;
    struct frame f = {.type = type, .id = id, .head = head->data, .head_len = head->len};
    int rv = conn_send_pieces(s->conn, &f, body, n);
    if (rv != 0) {
        struct error e;
        error_set(&e, (enum error_code)-rv, "an answer with a head of %zu bytes could not be queued", head->len);
        conn_close(s->conn, 0, &e);
        return;
    }
    throttle(s);
}

void session_reply(struct session *s, uint16_t type, uint64_t id, const struct buf *head, const void *body, size_t body_len)
{
    struct frame_piece piece = {body, body_len};
    session_reply_pieces(s, type, id, head, &piece, 1);
}

void session_error(struct session *s, uint64_t id, const struct rpc_error *error)
{
    if (s->conn == NULL && !MUTANT(count_after_end)) return; /* at a stop `all` may be gone as well */
    struct buf *head = &s->all->head;
    if (error->code > ERROR_NONE && error->code < ERROR_CODE_MAX) s->all->node->metrics.refusals[error->code]++;
    if (rpc_encode_error(error, head) == 0) session_reply(s, FRAME_ERROR | FRAME_REPLY, id, head, NULL, 0);
    else conn_close(s->conn, 0, NULL);
}

void session_fail(struct session *s, uint64_t id, const struct error *error)
{
    struct rpc_error r = {.code = error->code, .text = error->text};
    session_error(s, id, &r);
}

/* Tells the other side why, then ends it. */
static void end(struct session *s, uint64_t id, const struct error *why)
{
    session_fail(s, id, why);
    if (s->conn != NULL) conn_close(s->conn, CLOSE_LINGER_MS, why);
}

/* ---- frames --------------------------------------------------------------------------------------------------- */

/* What its certificate says it may be. `id` 0: a client. */
static int check_identity(struct session *s, uint64_t id, struct error *e)
{
    const struct tls_peer *peer = conn_tls_peer(s->conn);
    if (peer != NULL && (s->access = access_new(peer)) == NULL) return error_set(e, ERROR_NOMEM, "no memory for a client's roles");
    return id != 0 ? access_check_peer(s->access, id, e) : access_check_client(s->access, e);
}

static int greet(struct session *s, const struct frame *f, struct error *e)
{
    struct node *node = s->all->node;
    const char *cluster = node->settings->cluster;
    struct rpc_hello hello;
    if (f->type != FRAME_HELLO) return error_set(e, ERROR_PROTOCOL, "the first frame must be a HELLO, this one is of type %u", f->type);
    int rv = rpc_decode_hello(f, &hello, e);
    if (rv != 0) return rv;
    if (hello.version != RPC_VERSION)
        return error_set(e, ERROR_PROTOCOL, "this server speaks protocol version %d, not %u", RPC_VERSION, hello.version);
    if (strcmp(hello.cluster, cluster) != 0 && (hello.node_id != 0 || hello.cluster[0] != '\0'))
        return error_set(e, ERROR_INVALID, "this is cluster \"%s\", not \"%s\"", cluster, hello.cluster);
    if ((rv = check_identity(s, hello.node_id, e)) != 0) return rv;
    if (hello.node_id != 0 && (rv = members_meet(node, &hello, e)) != 0) return rv;
    struct buf head = BUF_INIT;
    rv = rpc_encode_hello(node->settings->id, cluster, node->instance, node_address_of(node, node->settings->id), &head);
    if (rv == 0) {
        s->kind = hello.node_id != 0 ? KIND_PEER : KIND_CLIENT;
        s->peer_id = hello.node_id;
        s->instance = hello.instance;
        conn_limit(s->conn, s->kind == KIND_CLIENT ? node->settings->client_frame_max : 0);
        session_reply(s, FRAME_HELLO | FRAME_REPLY, f->id, &head, NULL, 0);
        if (s->kind == KIND_PEER && node->peers != NULL) peers_knocked(node->peers, s->peer_id, hello.address);
    }
    buf_fini(&head);
    return rv == 0 ? 0 : error_set(e, (enum error_code)-rv, "no memory for a HELLO");
}

/* Of a server that our membership does not know, which may be an old one, nothing is counted (members.h). */
static bool is_heard(const struct session *s, const struct consensus_message *m)
{
    if (founding_writes(s->all->node->founding)) return false;
    if (members_counts(s->all->node, s->peer_id, s->instance)) return true;
    return m->type == CONSENSUS_APPEND_ENTRIES || m->type == CONSENSUS_REQUEST_VOTE || m->type == CONSENSUS_SNAPSHOT_OFFER;
}

static int peer_frame(struct session *s, const struct frame *f, struct error *e)
{
    struct node *node = s->all->node;
    uint64_t from, term;
    int rv;
    if (f->type == FRAME_RAFT) {
        struct raft_codec_message message;
        if ((rv = raft_codec_decode(f, &message, e)) != 0) return rv;
        if (message.m.from != s->peer_id)
            rv = error_set(e, ERROR_PROTOCOL, "server %llu sends as server %llu", (unsigned long long)s->peer_id,
                           (unsigned long long)message.m.from);
        else if (is_heard(s, &message.m)) node_receive(node, &message.m);
        raft_codec_message_fini(&message);
        return rv;
    }
    if (f->type == FRAME_READ_PROBE) {
        if ((rv = raft_codec_decode_probe(f, &from, &term, e)) != 0) return rv;
        struct buf *head = &s->all->head;
        if (raft_codec_encode_probe(node->settings->id, consensus_term(node->consensus), head) == 0)
            session_reply(s, FRAME_READ_PROBE | FRAME_REPLY, f->id, head, NULL, 0);
        return 0;
    }
    if (f->type == FRAME_FOUNDERS) {
        founding_told(node, s->peer_id, s->instance, f);
        return 0;
    }
    if (f->type == FRAME_FETCH_STATE || f->type == FRAME_FETCH_BYTES) {
        if (f->type == FRAME_FETCH_STATE) exports_state(node->exports, s, f);
        else exports_bytes(node->exports, s, f);
        return 0;
    }
    if (f->type == FRAME_FETCH_RECORD) {
        donor_request(node, s, f);
        return 0;
    }
    if (f->type == FRAME_STATUS) { /* a canary's question */
        queries_request(node->queries, s, f);
        return 0;
    }
    return error_set(e, ERROR_PROTOCOL, "a frame of type %u is not for servers", f->type);
}

static int client_frame(struct session *s, const struct frame *f, struct error *e)
{
    struct node *node = s->all->node;
    struct error denied;
    s->born_ms = uv_now(node->loop);
    if (f->type < METRICS_TYPES) node->metrics.requests[f->type]++;
    if (access_check(s->access, f, &denied) != 0) {
        session_fail(s, f->id, &denied);
        return 0;
    }
    switch (f->type) {
    case FRAME_OPEN_PRODUCER:
    case FRAME_APPEND:
    case FRAME_FENCE:
    case FRAME_RECORD_SNAPSHOT:
    case FRAME_TRIM:
    case FRAME_SET_RETENTION: node_command(node, s, f); return 0;
    case FRAME_READ: reads_request(node->reads, s, f); return 0;
    case FRAME_FOLLOW:
    case FRAME_FOLLOW_CREDIT:
    case FRAME_FOLLOW_CANCEL: follows_request(node->follows, s, f); return 0;
    case FRAME_LATEST_SNAPSHOT:
    case FRAME_LIST_SNAPSHOTS:
    case FRAME_LIST_STREAMS:
    case FRAME_STATUS: queries_request(node->queries, s, f); return 0;
    case FRAME_ADD_SERVER:
    case FRAME_PROMOTE_SERVER:
    case FRAME_REMOVE_SERVER:
    case FRAME_TRANSFER_LEADERSHIP: members_request(node->membership, s, f); return 0;
    case FRAME_FETCH_STATE: exports_state(node->exports, s, f); return 0;
    case FRAME_FETCH_BYTES: exports_bytes(node->exports, s, f); return 0;
    default: return error_set(e, ERROR_PROTOCOL, "a frame of type %u is not a request of protocol version %d", f->type, RPC_VERSION);
    }
}

static void on_frame(struct conn *c, void *user, const struct frame *f)
{
    struct session *s = user;
    struct error e;
    int rv;
    (void)c;
    session_ref(s); /* whatever the frame leads to */
    if (s->kind == KIND_UNKNOWN) rv = greet(s, f, &e);
    else if (s->kind == KIND_PEER) rv = peer_frame(s, f, &e);
    else rv = client_frame(s, f, &e);
    if (rv != 0) end(s, f->id, &e);
    session_unref(s);
}

static void on_drained(struct conn *c, void *user)
{
    struct session *s = user;
    (void)c;
    throttle(s);
    follows_pump_session(s->all->node->follows, s);
}

static void maybe_done(struct sessions *ss)
{
    if (!ss->closing || ss->n > 0 || ss->listening) return;
    void (*done)(void *) = ss->done;
    void *user = ss->user;
    buf_fini(&ss->head);
    free(ss);
    done(user);
}

static void on_close(struct conn *c, void *user, const struct error *why)
{
    struct session *s = user;
    struct sessions *ss = s->all;
    if (why->code != ERROR_NONE && why->code != ERROR_IO)
        log_warn("connection refused", "peer=%s code=%s reason=%s", conn_peer(c), error_name((int)why->code), why->text);
    else
        log_debug("connection closed", "peer=%s reason=%s", conn_peer(c), why->text);
    follows_drop_session(ss->node->follows, s);
    s->conn = NULL;
    if (s->prev != NULL) s->prev->next = s->next;
    else ss->first = s->next;
    if (s->next != NULL) s->next->prev = s->prev;
    ss->n--;
    if (s->kind == KIND_PEER && !ss->closing) node_peer_lost(ss->node, s->peer_id);
    session_unref(s);
    maybe_done(ss);
}

static void on_connection(uv_stream_t *listener, int status)
{
    static const struct conn_handlers handlers = {NULL, on_frame, on_drained, on_close};
    struct sessions *ss = listener->data;
    struct error e;
    if (status != 0) {
        log_warn("a connection could not be accepted", "reason=%s", uv_strerror(status));
        return;
    }
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        error_set(&e, ERROR_NOMEM, "no memory for a connection");
        node_fatal("out of memory", &e);
    }
    s->all = ss;
    s->refs = 1;
    s->born_ms = node_now_ms();
    if (conn_accept(listener, &handlers, s, &s->conn, &e) != 0) {
        log_warn("a connection could not be accepted", "reason=%s", e.text);
        free(s);
        return;
    }
    s->next = ss->first;
    if (s->next != NULL) s->next->prev = s;
    ss->first = s;
    ss->n++;
    ss->node->metrics.connections++;
    conn_limit(s->conn, HELLO_BYTES); /* whoever that is */
    if (transport_accept(ss->node->transport, s->conn, &e) != 0) {
        conn_close(s->conn, 0, &e);
        return;
    }
    if (ss->closing || ss->n > ss->node->settings->connections) {
        error_set(&e, ERROR_BUSY, "this server has %u connections, as many as it may", ss->n - 1);
        end(s, 0, &e);
    }
}

void sessions_state(const struct sessions *ss, struct sessions_state *ret_state)
{
    *ret_state = (struct sessions_state){0};
    for (const struct session *s = ss != NULL ? ss->first : NULL; s != NULL; s = s->next) {
        if (s->kind == KIND_CLIENT) ret_state->clients++;
        else if (s->kind == KIND_PEER) ret_state->peers++;
        else ret_state->unknown++;
        ret_state->follows += s->n_follows;
        ret_state->queued += conn_queued(s->conn);
    }
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void name_address(struct sessions *ss)
{
    struct sockaddr_storage a;
    int len = sizeof a;
    char host[64] = "?";
    if (uv_tcp_getsockname(&ss->listener, (struct sockaddr *)&a, &len) != 0) return;
    if (a.ss_family == AF_INET6) {
        uv_ip6_name((struct sockaddr_in6 *)&a, host, sizeof host);
        snprintf(ss->address, sizeof ss->address, "[%s]:%u", host, ntohs(((struct sockaddr_in6 *)&a)->sin6_port));
    } else {
        uv_ip4_name((struct sockaddr_in *)&a, host, sizeof host);
        snprintf(ss->address, sizeof ss->address, "%s:%u", host, ntohs(((struct sockaddr_in *)&a)->sin_port));
    }
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct sessions *ss = handle->data;
    ss->listening = false;
    maybe_done(ss);
}

int sessions_start(struct node *node, struct sessions **ret_sessions, struct error *e)
{
    struct sockaddr_storage address;
    int rv = address_numeric(node->settings->listen, &address, e);
    if (rv != 0) {
        error_prefix(e, "listen");
        return rv;
    }
    struct sessions *ss = calloc(1, sizeof *ss);
    if (ss == NULL) return error_set(e, ERROR_NOMEM, "no memory for the listener");
    ss->node = node;
    uv_tcp_init(node->loop, &ss->listener);
    ss->listener.data = ss;
    ss->listening = true;
    rv = uv_tcp_bind(&ss->listener, (struct sockaddr *)&address, 0);
    if (rv == 0) rv = uv_listen((uv_stream_t *)&ss->listener, 512, on_connection);
    if (rv != 0) /* the process ends: the handle goes with it */
        return error_uv(e, ERROR_IO, rv, "cannot listen on %s", node->settings->listen);
    name_address(ss);
    *ret_sessions = ss;
    return 0;
}

const char *sessions_address(const struct sessions *ss)
{
    return ss->address;
}

void sessions_stop_accepting(struct sessions *ss)
{
    if (!uv_is_closing((uv_handle_t *)&ss->listener)) uv_close((uv_handle_t *)&ss->listener, on_listener_closed);
}

void sessions_close(struct sessions *ss, void (*done)(void *user), void *user)
{
    ss->closing = true;
    ss->done = done;
    ss->user = user;
    sessions_stop_accepting(ss);
    for (struct session *s = ss->first; s != NULL; s = s->next) conn_close(s->conn, CLOSE_LINGER_MS, NULL);
    maybe_done(ss);
}

void sessions_recheck(struct sessions *ss)
{
    if (ss == NULL) return;
    for (struct session *s = ss->first, *next; s != NULL; s = next) {
        struct rpc_hello hello = {.node_id = s->peer_id, .instance = s->instance};
        struct error e;
        next = s->next;
        if (s->kind == KIND_PEER && members_admit(ss->node, &hello, &e) == -ERROR_REMOVED) end(s, 0, &e);
    }
}

void sessions_sweep(struct sessions *ss, uint64_t now_ms)
{
    struct error e;
    uint64_t idle = ss->node->settings->client_idle_ms;
    for (struct session *s = ss->first; s != NULL; s = s->next) {
        uint64_t silent = now_ms > s->born_ms ? now_ms - s->born_ms : 0;
        if (s->kind == KIND_UNKNOWN && silent >= HELLO_MS) {
            error_set(&e, ERROR_TIMEOUT, "no HELLO within %d seconds", HELLO_MS / 1000);
            end(s, 0, &e);
        } else if (s->kind == KIND_CLIENT && idle > 0 && silent >= idle && !s->paused) {
            error_set(&e, ERROR_TIMEOUT, "nothing came for %llu seconds (client-idle)", (unsigned long long)silent / 1000);
            end(s, 0, &e);
        }
    }
}
