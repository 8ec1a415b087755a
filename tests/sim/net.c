#include "tests/sim/net.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/world.h"

enum kind { DATA, FIN, RST };

struct piece {
    struct piece *next;
    uint64_t at; /* arrives */
    enum kind kind;
    bool small; /* it has PIECE_ROOM */
    size_t len, read;
    uint8_t bytes[];
};

struct pieces {
    struct piece *first, **end;
};

struct sock {
    struct sock *next, *previous; /* of all */
    uint64_t number;              /* never used again: an event of an older socket does not fit */
    unsigned machine, remote;
    uint16_t port, remote_port;
    struct uv_stream_s *handle;   /* NULL: not accepted yet */
    struct sock *peer;            /* NULL: none yet, or it is gone */
    struct sock *accepting, *next_accepting; /* of a listener: not accepted yet; of such a one: the next */
    struct sock *listener;        /* while not accepted */
    bool listening, connected, connecting, eof, had_peer, unanswered, fin_sent;
    unsigned tries;
    int error;
    struct pieces flight, arrived;
    uint64_t last_at; /* of the piece that was sent last towards this socket */
    size_t readable, unread; /* unread: sent by this socket, not read by the peer */
};

static struct net_link links[NET_MACHINES][NET_MACHINES];
static bool up[NET_MACHINES];
static struct sock *all, *spare_socks;
static uint64_t last_number;
static uint16_t last_port;
uint64_t net_counts[8];

/* ---- memory: the world's ------------------------------------------------------------------------------------- */

enum { PIECE_ROOM = 512 };
static struct piece *spare_pieces; /* of PIECE_ROOM: nearly all are small, and there are many */

static void *make(size_t size)
{
    unsigned heap = memory_heap();
    memory_enter(0);
    void *p = calloc(1, size);
    memory_enter(heap);
    if (p == NULL) abort();
    return p;
}

static void pieces_init(struct pieces *q)
{
    q->first = NULL;
    q->end = &q->first;
}

static void pieces_add(struct pieces *q, struct piece *p)
{
    p->next = NULL;
    *q->end = p;
    q->end = &p->next;
}

static struct piece *pieces_take(struct pieces *q)
{
    struct piece *p = q->first;
    q->first = p->next;
    if (q->first == NULL) q->end = &q->first;
    return p;
}

static struct piece *piece_new(enum kind kind, const void *bytes, size_t len)
{
    struct piece *p = spare_pieces;
    if (len <= PIECE_ROOM && p != NULL) {
        spare_pieces = p->next;
    } else {
        unsigned heap = memory_heap();
        memory_enter(0);
        p = malloc(sizeof *p + (len <= PIECE_ROOM ? PIECE_ROOM : len));
        memory_enter(heap);
        if (p == NULL) abort();
    }
    *p = (struct piece){.kind = kind, .len = len, .small = len <= PIECE_ROOM};
    if (len > 0) memcpy(p->bytes, bytes, len);
    return p;
}

static void piece_free(struct piece *p)
{
    if (!p->small) {
        free(p);
        return;
    }
    p->next = spare_pieces;
    spare_pieces = p;
}

static void pieces_free(struct pieces *q)
{
    while (q->first != NULL) piece_free(pieces_take(q));
}

static struct sock *new_sock(unsigned machine)
{
    struct sock *s = spare_socks;
    if (s != NULL) spare_socks = s->next;
    else s = make(sizeof *s);
    *s = (struct sock){0};
    s->number = ++last_number;
    s->machine = machine;
    pieces_init(&s->flight);
    pieces_init(&s->arrived);
    s->next = all;
    if (all != NULL) all->previous = s;
    all = s;
    return s;
}

static void free_sock(struct sock *s)
{
    if (s->next != NULL) s->next->previous = s->previous;
    if (s->previous != NULL) s->previous->next = s->next;
    else all = s->next;
    pieces_free(&s->flight);
    pieces_free(&s->arrived);
    s->number = 0;
    s->next = spare_socks;
    spare_socks = s;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct net_link *net_link(unsigned from, unsigned to)
{
    return &links[from][to];
}

void net_begin(void)
{
    while (all != NULL) free_sock(all);
    for (unsigned i = 0; i < NET_MACHINES; i++) {
        up[i] = true;
        for (unsigned j = 0; j < NET_MACHINES; j++) links[i][j] = (struct net_link){.min_us = 40, .max_us = 250};
    }
    last_number = 0;
    last_port = 30000;
    memset(net_counts, 0, sizeof net_counts);
}

static void tell(struct sock *s)
{
    if (s->handle != NULL) uv_sim_ready(s->handle);
}

static uint64_t delay(struct net_link *l, size_t bytes)
{
    uint64_t ns = dice_between(&world_dice, l->min_us, l->max_us) * US;
    net_counts[NET_PIECES]++;
    if (dice_chance(&world_dice, l->late_of_1000)) {
        net_counts[NET_LATE]++;
        ns += dice_between(&world_dice, 200, 800) * MS;
    }
    if (l->bytes_per_ms > 0) {
        uint64_t start = l->free_at > world_now() ? l->free_at : world_now();
        l->free_at = start + bytes * MS / l->bytes_per_ms;
        ns += l->free_at - world_now();
    }
    return ns;
}

/* ---- pieces on their way -------------------------------------------------------------------------------------- */

static void broken(struct sock *s, int error)
{
    s->error = error;
    s->connecting = false;
    pieces_free(&s->flight);
    if (s->peer != NULL) s->peer->peer = NULL;
    s->peer = NULL;
    tell(s);
}

static struct sock *by_number(void *arg, uint64_t number)
{
    struct sock *s = arg; /* sockets are used again, and never freed */
    return s->number == number ? s : NULL;
}

static void on_arrival(void *arg, uint64_t number)
{
    struct sock *s = by_number(arg, number);
    bool news = false;
    if (s == NULL) return;
    if (s->flight.first != NULL && links[s->remote][s->machine].blocked) {
        net_counts[NET_HELD]++;
        return; /* until net_healed() */
    }
    while (s->flight.first != NULL && s->flight.first->at <= world_now()) {
        struct piece *p = pieces_take(&s->flight);
        world_trace_cheap(3, (uint64_t)s->remote << 40 | (uint64_t)s->machine << 32 | (uint64_t)p->kind, p->len);
        news = true;
        if (p->kind == RST) {
            piece_free(p);
            broken(s, -ECONNRESET);
            return;
        }
        if (p->kind == FIN) s->eof = true;
        s->readable += p->len;
        if (p->kind == DATA) pieces_add(&s->arrived, p);
        else piece_free(p);
    }
    if (news) tell(s);
}

/* Towards `s`. */
static void launch(struct sock *s, struct piece *p)
{
    uint64_t at = world_now() + delay(&links[s->remote][s->machine], p->len);
    if (at < s->last_at) at = s->last_at;
    s->last_at = p->at = at;
    pieces_add(&s->flight, p);
    world_at(at, on_arrival, s, s->number);
}

static void launch_end(struct sock *s, enum kind kind)
{
    launch(s, piece_new(kind, NULL, 0));
}

void net_healed(void)
{
    for (struct sock *s = all; s != NULL; s = s->next) {
        if (s->flight.first == NULL || links[s->remote][s->machine].blocked) continue;
        if (s->flight.first->at > world_now()) continue;
        uint64_t at = world_now() + dice_between(&world_dice, 1, 400) * MS; /* when it is sent again */
        for (struct piece *p = s->flight.first; p != NULL; p = p->next)
            if (p->at < at) p->at = at;
        if (s->last_at < at) s->last_at = at;
        world_at(at, on_arrival, s, s->number);
    }
}

/* A peer that is gone answers with RST; a machine that is off does so when it is back. */
static void on_rejected(void *arg, uint64_t number)
{
    struct sock *s = by_number(arg, number);
    if (s == NULL || s->peer != NULL || s->error != 0) return;
    if (!up[s->remote] || links[s->remote][s->machine].blocked || links[s->machine][s->remote].blocked) s->unanswered = true;
    else broken(s, -ECONNRESET);
}

void net_machine_up(unsigned machine)
{
    up[machine] = true;
    for (struct sock *s = all; s != NULL; s = s->next)
        if (s->remote == machine && s->unanswered) {
            s->unanswered = false;
            world_at(world_now() + dice_between(&world_dice, 10, 1000) * MS, on_rejected, s, s->number);
        }
}

void sock_send(struct sock *s, const void *bytes, size_t len)
{
    if (s->error != 0 || len == 0) return;
    if (s->peer == NULL) {
        world_at(world_now() + MS, on_rejected, s, s->number);
        return;
    }
    s->unread += len;
    launch(s->peer, piece_new(DATA, bytes, len));
}

static void part(struct sock *s)
{
    if (s->peer != NULL) {
        s->peer->unread = 0; /* nobody reads it any more: its writer must not wait for that */
        tell(s->peer);
        s->peer->peer = NULL;
    }
    s->peer = NULL;
}

void sock_close(struct sock *s)
{
    if (s->listening) {
        while (s->accepting != NULL) {
            struct sock *waiting = s->accepting;
            s->accepting = waiting->next_accepting;
            waiting->listener = NULL;
            sock_close(waiting);
        }
    }
    if (s->listener != NULL) { /* its process ended before it was accepted */
        struct sock **at = &s->listener->accepting;
        while (*at != s) at = &(*at)->next_accepting;
        *at = s->next_accepting;
    }
    if (s->peer != NULL) launch_end(s->peer, s->readable > 0 ? RST : FIN);
    part(s);
    free_sock(s);
}

void net_process_ended(struct process *p, bool power)
{
    if (power) up[p->number] = false;
    for (struct sock *s = all, *next; s != NULL; s = next) {
        next = s->next;
        if (s->machine != p->number) continue;
        s->handle = NULL;
    }
    for (struct sock *s = all; s != NULL;) { /* closing one may close others */
        if (s->machine != p->number) {
            s = s->next;
            continue;
        }
        if (power) part(s);
        sock_close(s);
        s = all;
    }
}

void net_cut(unsigned a, unsigned b)
{
    for (struct sock *s = all; s != NULL; s = s->next)
        if ((s->machine == a && s->remote == b) || (s->machine == b && s->remote == a))
            if (s->peer != NULL || s->connected) broken(s, -ECONNRESET);
}

bool net_reset_one(struct process *of)
{
    unsigned n = 0;
    for (struct sock *s = all; s != NULL; s = s->next) n += s->peer != NULL && (of == NULL || s->machine == of->number);
    if (n == 0) return false;
    uint64_t chosen = dice_below(&world_dice, n);
    for (struct sock *s = all; s != NULL; s = s->next) {
        if (s->peer == NULL || (of != NULL && s->machine != of->number) || chosen-- > 0) continue;
        struct sock *ends[2] = {s, s->peer};
        net_counts[NET_RESETS]++;
        for (int i = 0; i < 2; i++) { /* of what is on its way, a part arrives */
            struct piece *last = ends[i]->flight.first;
            for (; last != NULL && last->next != NULL; last = last->next) {
            }
            if (last != NULL && last->kind == DATA && last->len > 1) last->len = (size_t)dice_between(&world_dice, 1, last->len - 1);
            launch_end(ends[i], RST);
        }
        ends[0]->peer = ends[1]->peer = NULL;
        ends[0]->unread = ends[1]->unread = 0;
        return true;
    }
    return false;
}

/* ---- connecting ----------------------------------------------------------------------------------------------- */

struct sock *sock_new(struct process *p, struct uv_stream_s *handle)
{
    struct sock *s = new_sock(p->number);
    s->handle = handle;
    return s;
}

static struct sock *find_listener(unsigned machine, uint16_t port)
{
    for (struct sock *s = all; s != NULL; s = s->next)
        if (s->listening && s->machine == machine && s->port == port) return s;
    return NULL;
}

int sock_listen(struct sock *s, unsigned machine, uint16_t port)
{
    if (find_listener(machine, port) != NULL) return -EADDRINUSE;
    s->listening = true;
    s->port = port;
    return 0;
}

static void on_connected(void *arg, uint64_t number)
{
    struct sock *s = by_number(arg, number);
    if (s == NULL || s->error != 0) return;
    if (links[s->remote][s->machine].blocked) { /* SYN+ACK is repeated */
        world_at(world_now() + 500 * MS, on_connected, s, number);
        return;
    }
    s->connecting = false;
    s->connected = true;
    tell(s);
}

static void on_refused(void *arg, uint64_t number)
{
    struct sock *s = by_number(arg, number);
    if (s != NULL && s->error == 0) broken(s, -ECONNREFUSED);
}

static void on_syn(void *arg, uint64_t number)
{
    struct sock *s = by_number(arg, number);
    if (s == NULL || s->error != 0) return;
    if (links[s->machine][s->remote].blocked || !up[s->remote]) {
        if (++s->tries < 6) world_at(world_now() + (SECOND << s->tries) / 2, on_syn, s, number);
        else broken(s, -ETIMEDOUT);
        return;
    }
    struct sock *listener = find_listener(s->remote, s->remote_port);
    uint64_t back = world_now() + delay(&links[s->remote][s->machine], 0);
    if (listener == NULL) {
        net_counts[NET_REFUSED]++;
        world_at(back, on_refused, s, number);
        return;
    }
    struct sock *other = new_sock(s->remote), **at = &listener->accepting;
    net_counts[NET_CONNECTS]++;
    other->port = listener->port;
    other->remote = s->machine;
    other->remote_port = s->port;
    other->connected = other->had_peer = s->had_peer = true;
    other->peer = s;
    s->peer = other;
    other->listener = listener;
    while (*at != NULL) at = &(*at)->next_accepting;
    *at = other;
    world_trace_cheap(4, s->machine, s->remote);
    tell(listener);
    s->last_at = back;
    world_at(back, on_connected, s, number);
}

void sock_connect(struct sock *s, unsigned machine, uint16_t port)
{
    s->connecting = true;
    s->remote = machine;
    s->remote_port = port;
    s->port = ++last_port;
    world_at(world_now() + delay(&links[s->machine][machine], 0), on_syn, s, s->number);
}

bool sock_has_connection(const struct sock *listener)
{
    return listener->accepting != NULL;
}

struct sock *sock_accept(struct sock *listener, struct uv_stream_s *handle)
{
    struct sock *s = listener->accepting;
    if (s == NULL) return NULL;
    listener->accepting = s->next_accepting;
    s->listener = s->next_accepting = NULL;
    s->handle = handle;
    return s;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

size_t sock_unread(const struct sock *s)
{
    return s->unread;
}

size_t sock_readable(const struct sock *s)
{
    return s->readable;
}

size_t sock_read(struct sock *s, void *bytes, size_t len)
{
    size_t done = 0;
    if (len > 1 && dice_chance(&world_dice, 40)) {
        net_counts[NET_SPLIT]++;
        len = (size_t)dice_between(&world_dice, 1, len < s->readable ? len : s->readable);
    }
    while (done < len && s->arrived.first != NULL) {
        struct piece *p = s->arrived.first;
        size_t n = p->len - p->read < len - done ? p->len - p->read : len - done;
        memcpy((uint8_t *)bytes + done, p->bytes + p->read, n);
        p->read += n;
        done += n;
        if (p->read == p->len) piece_free(pieces_take(&s->arrived));
    }
    s->readable -= done;
    if (s->peer != NULL) {
        size_t before = s->peer->unread;
        s->peer->unread = before > done ? before - done : 0;
        if (before > NET_ROOM && s->peer->unread <= NET_ROOM) tell(s->peer);
    }
    return done;
}

int sock_state(const struct sock *s, bool *ret_connected, bool *ret_eof)
{
    *ret_connected = s->connected;
    *ret_eof = s->eof && s->arrived.first == NULL;
    return s->error;
}

void sock_address(const struct sock *s, unsigned *ret_machine, uint16_t *ret_port)
{
    *ret_machine = s->machine;
    *ret_port = s->port;
}

void sock_peer_address(const struct sock *s, unsigned *ret_machine, uint16_t *ret_port)
{
    *ret_machine = s->remote;
    *ret_port = s->remote_port;
}
