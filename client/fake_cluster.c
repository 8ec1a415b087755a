#include "client/fake_cluster.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/conn.h"
#include "common/crc32c.h"
#include "proto/rpc.pb-c.h"

enum { SERVERS_MAX = 5, STREAMS_MAX = 8 };

struct event {
    uint64_t epoch, sequence;
    uint32_t kind, size;
    uint8_t *payload;
};

struct batch { /* as it came the first time */
    uint64_t epoch, sequence, first_offset;
    uint32_t n, crc;
};

struct stream {
    char name[64];
    uint64_t epoch, next_sequence;
    struct event *events;
    size_t n_events;
    struct batch *batches;
    size_t n_batches;
};

struct client { /* a connection of one */
    TAILQ_ENTRY(client) entry;
    struct server *server;
    struct conn *conn;
    struct buf answers; /* frames that leave at the next tick */
    uint64_t follow_id, follow_next;
    struct stream *follows;
    int64_t credit;
};

struct server {
    struct fake_cluster *cluster;
    unsigned number;
    uv_tcp_t listener;
    char address[32];
};

struct fake_cluster {
    uv_loop_t *loop;
    struct server servers[SERVERS_MAX];
    unsigned n_servers, open;
    int leader;
    uint64_t random;
    struct fake_faults faults;
    unsigned drop_in;
    bool drop_after, mute;
    struct stream streams[STREAMS_MAX];
    unsigned n_streams, violations, duplicates, largest;
    uint64_t frames;
    TAILQ_HEAD(, client) clients;
    uv_timer_t tick;
    char addresses[SERVERS_MAX * 32];
};

uint64_t fake_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool happens(struct fake_cluster *c, unsigned of_1000)
{
    return of_1000 > 0 && fake_random(&c->random) % 1000 < of_1000;
}

/* ---- answering ------------------------------------------------------------------------------------------------ */

static void put(struct client *to, uint16_t type, uint64_t id, const ProtobufCMessage *m, const void *body, size_t len)
{
    uint8_t *head = malloc(protobuf_c_message_get_packed_size(m) + 1);
    struct frame f = {.type = type, .id = id, .head = head, .body = body, .body_len = len};
    f.head_len = protobuf_c_message_pack(m, head);
    int rv = frame_encode(&to->answers, &f);
    assert(rv == 0);
    free(head);
}

static void refuse(struct client *to, uint64_t id, enum error_code code, uint64_t expected, const char *leader)
{
    Crsc__ErrorReply m = CRSC__ERROR_REPLY__INIT;
    m.code = (uint32_t)code;
    m.text = (char *)(uintptr_t) "the fake refuses";
    m.expected = expected;
    m.leader_address = (char *)(uintptr_t)(leader != NULL ? leader : "");
    put(to, FRAME_ERROR | FRAME_REPLY, id, &m.base, NULL, 0);
}

static void refuse_not_leader(struct client *to, uint64_t id)
{
    struct fake_cluster *c = to->server->cluster;
    refuse(to, id, ERROR_NOT_LEADER, 0, c->leader >= 0 ? c->servers[c->leader].address : NULL);
}

static struct stream *stream_of(struct fake_cluster *c, const char *name, bool make)
{
    for (unsigned i = 0; i < c->n_streams; i++)
        if (strcmp(c->streams[i].name, name) == 0) return &c->streams[i];
    if (!make) return NULL;
    assert(c->n_streams < STREAMS_MAX);
    struct stream *s = &c->streams[c->n_streams++];
    snprintf(s->name, sizeof s->name, "%s", name);
    return s;
}

/* ReadReply with events [from, ...] within max bytes; returns how many. */
static size_t put_events(struct client *to, uint16_t type, uint64_t id, const struct stream *s, uint64_t from,
                         uint64_t last, size_t max)
{
    size_t n = 0, bytes = 0;
    Crsc__ReadReply m = CRSC__READ_REPLY__INIT;
    while (from + n <= last && (n == 0 || bytes + s->events[from + n - 1].size <= max))
        bytes += s->events[from + n++ - 1].size;
    Crsc__EventHead *heads = calloc(n + 1, sizeof *heads), **list = calloc(n + 1, sizeof *list);
    uint8_t *body = malloc(bytes + 1);
    for (size_t i = 0, at = 0; i < n; i++) {
        const struct event *e = &s->events[from + i - 1];
        crsc__event_head__init(&heads[i]);
        heads[i].kind = (Crsc__EventKind)e->kind;
        heads[i].size = e->size;
        heads[i].offset = from + i;
        heads[i].epoch = e->epoch;
        heads[i].sequence = e->sequence;
        memcpy(body + at, e->payload, e->size);
        at += e->size;
        list[i] = &heads[i];
    }
    m.n_events = n;
    m.events = list;
    m.last_offset = s->n_events;
    put(to, type, id, &m.base, body, bytes);
    free(body);
    free(list);
    free(heads);
    return n;
}

static void push_follow(struct client *to)
{
    while (to->follows != NULL && to->credit > 0 && to->follow_next <= to->follows->n_events) {
        size_t before = to->answers.len;
        if (to->follow_next > 1 && happens(to->server->cluster, to->server->cluster->faults.repeats)) to->follow_next--;
        to->follow_next += put_events(to, FRAME_FOLLOW | FRAME_REPLY, to->follow_id, to->follows, to->follow_next,
                                      to->follows->n_events, 64 << 10);
        to->credit -= (int64_t)(to->answers.len - before);
    }
}

/* ---- doing ---------------------------------------------------------------------------------------------------- */

static void do_open(struct client *from, const struct frame *f)
{
    Crsc__OpenProducerRequest *m = crsc__open_producer_request__unpack(NULL, f->head_len, f->head);
    assert(m != NULL);
    struct stream *s = stream_of(from->server->cluster, m->stream, true);
    s->epoch++;
    s->next_sequence = 1;
    Crsc__OpenProducerReply r = CRSC__OPEN_PRODUCER_REPLY__INIT;
    r.epoch = s->epoch;
    r.last_offset = s->n_events;
    put(from, FRAME_OPEN_PRODUCER | FRAME_REPLY, f->id, &r.base, NULL, 0);
    crsc__open_producer_request__free_unpacked(m, NULL);
}

static struct batch *find_batch(struct stream *s, uint64_t epoch, uint64_t sequence)
{
    for (size_t i = 0; i < s->n_batches; i++)
        if (s->batches[i].epoch == epoch && s->batches[i].sequence == sequence) return &s->batches[i];
    return NULL;
}

static struct batch *apply(struct stream *s, const Crsc__AppendRequest *m, const struct frame *f)
{
    s->batches = realloc(s->batches, (s->n_batches + 1) * sizeof *s->batches);
    struct batch *b = &s->batches[s->n_batches++];
    *b = (struct batch){.epoch = m->epoch,
                        .sequence = m->sequence,
                        .first_offset = s->n_events + 1,
                        .n = (uint32_t)m->n_events,
                        .crc = crc32c(0, f->body, f->body_len)};
    s->events = realloc(s->events, (s->n_events + m->n_events) * sizeof *s->events);
    const uint8_t *at = f->body;
    for (size_t i = 0; i < m->n_events; i++) {
        const Crsc__EventHead *h = m->events[i];
        struct event *e = &s->events[s->n_events++];
        *e = (struct event){.epoch = m->epoch,
                            .sequence = m->sequence + i,
                            .kind = h->kind,
                            .size = h->size,
                            .payload = malloc(h->size + 1)};
        memcpy(e->payload, at, h->size);
        at += h->size;
    }
    assert(at == f->body + f->body_len);
    s->next_sequence += m->n_events;
    return b;
}

static void do_append(struct client *from, const struct frame *f)
{
    struct fake_cluster *c = from->server->cluster;
    Crsc__AppendRequest *m = crsc__append_request__unpack(NULL, f->head_len, f->head);
    assert(m != NULL && m->n_events > 0);
    struct stream *s = stream_of(c, m->stream, false);
    struct batch *b = s != NULL ? find_batch(s, m->epoch, m->sequence) : NULL;
    if (m->n_events > c->largest) c->largest = (unsigned)m->n_events;
    if (s == NULL) {
        refuse(from, f->id, ERROR_NOT_FOUND, 0, NULL);
    } else if (m->epoch != s->epoch) {
        refuse(from, f->id, ERROR_FENCED, s->epoch, NULL);
    } else if (b == NULL && m->sequence != s->next_sequence) {
        refuse(from, f->id, ERROR_SEQUENCE, s->next_sequence, NULL);
    } else {
        Crsc__AppendReply r = CRSC__APPEND_REPLY__INIT;
        r.duplicate = b != NULL;
        if (b == NULL) {
            b = apply(s, m, f);
        } else {
            c->duplicates++;
            if (b->n != m->n_events || b->crc != crc32c(0, f->body, f->body_len)) c->violations++;
        }
        r.first_offset = b->first_offset;
        r.count = b->n;
        put(from, FRAME_APPEND | FRAME_REPLY, f->id, &r.base, NULL, 0);
    }
    crsc__append_request__free_unpacked(m, NULL);
}

static void do_fence(struct client *from, const struct frame *f)
{
    Crsc__FenceRequest *m = crsc__fence_request__unpack(NULL, f->head_len, f->head);
    assert(m != NULL);
    struct stream *s = stream_of(from->server->cluster, m->stream, true);
    Crsc__FenceReply r = CRSC__FENCE_REPLY__INIT;
    r.epoch = ++s->epoch;
    put(from, FRAME_FENCE | FRAME_REPLY, f->id, &r.base, NULL, 0);
    crsc__fence_request__free_unpacked(m, NULL);
}

static void do_read(struct client *from, const struct frame *f)
{
    Crsc__ReadRequest *m = crsc__read_request__unpack(NULL, f->head_len, f->head);
    assert(m != NULL);
    struct stream *s = stream_of(from->server->cluster, m->stream, false);
    if (s == NULL)
        refuse(from, f->id, ERROR_NOT_FOUND, 0, NULL);
    else
        put_events(from, FRAME_READ | FRAME_REPLY, f->id, s, m->from,
                   m->to == 0 || m->to > s->n_events ? s->n_events : m->to, m->max_bytes > 0 ? m->max_bytes : 1 << 20);
    crsc__read_request__free_unpacked(m, NULL);
}

static void do_follow(struct client *from, const struct frame *f)
{
    Crsc__FollowRequest *m = crsc__follow_request__unpack(NULL, f->head_len, f->head);
    assert(m != NULL);
    from->follows = stream_of(from->server->cluster, m->stream, true);
    from->follow_id = f->id;
    from->follow_next = m->from;
    from->credit = m->credit;
    crsc__follow_request__free_unpacked(m, NULL);
}

static void do_credit(struct client *from, const struct frame *f)
{
    Crsc__FollowCredit *m = crsc__follow_credit__unpack(NULL, f->head_len, f->head);
    assert(m != NULL);
    if (f->id == from->follow_id) from->credit += m->bytes;
    crsc__follow_credit__free_unpacked(m, NULL);
}

static void do_list(struct client *from, const struct frame *f)
{
    struct fake_cluster *c = from->server->cluster;
    Crsc__ListStreamsReply r = CRSC__LIST_STREAMS_REPLY__INIT;
    Crsc__StreamInfo infos[STREAMS_MAX], *list[STREAMS_MAX];
    Crsc__ListStreamsRequest *m = crsc__list_streams_request__unpack(NULL, f->head_len, f->head);
    for (unsigned i = 0; i < c->n_streams; i++) {
        if (m->exact && strcmp(m->prefix, c->streams[i].name) != 0) continue;
        crsc__stream_info__init(&infos[i]);
        infos[i].name = c->streams[i].name;
        infos[i].last_offset = c->streams[i].n_events;
        list[r.n_streams++] = &infos[i];
    }
    crsc__list_streams_request__free_unpacked(m, NULL);
    r.streams = list;
    put(from, FRAME_LIST_STREAMS | FRAME_REPLY, f->id, &r.base, NULL, 0);
}

static void do_status(struct client *from, const struct frame *f)
{
    struct fake_cluster *c = from->server->cluster;
    Crsc__StatusRequest *q = crsc__status_request__unpack(NULL, f->head_len, f->head);
    assert(q != NULL);
    bool leads = (int)from->server->number == c->leader, linearizable = q->linearizable;
    crsc__status_request__free_unpacked(q, NULL);
    if (linearizable && !leads) {
        refuse_not_leader(from, f->id);
        return;
    }
    Crsc__StatusReply r = CRSC__STATUS_REPLY__INIT;
    Crsc__Member members[SERVERS_MAX], *list[SERVERS_MAX];
    for (unsigned i = 0; i < c->n_servers; i++) {
        crsc__member__init(&members[i]);
        members[i].id = i + 1;
        members[i].address = c->servers[i].address;
        members[i].role = (char *)(uintptr_t) "voter";
        list[i] = &members[i];
    }
    r.node_id = from->server->number + 1;
    r.role = (char *)(uintptr_t)(leads ? "leader" : "follower");
    r.leader_id = (uint64_t)(c->leader + 1);
    r.leader_address = c->leader >= 0 ? c->servers[c->leader].address : (char *)(uintptr_t) "";
    r.n_members = c->n_servers;
    r.members = list;
    put(from, FRAME_STATUS | FRAME_REPLY, f->id, &r.base, NULL, 0);
}

static void do_frame(struct client *from, const struct frame *f)
{
    struct fake_cluster *c = from->server->cluster;
    Crsc__Hello hello = CRSC__HELLO__INIT;
    hello.version = 1;
    bool leads = (int)from->server->number == c->leader;
    if (f->type == FRAME_HELLO)
        put(from, FRAME_HELLO, f->id, &hello.base, NULL, 0);
    else if (f->type == FRAME_STATUS)
        do_status(from, f);
    else if (f->type == FRAME_FOLLOW_CREDIT)
        do_credit(from, f);
    else if (!leads && f->type != FRAME_READ)
        refuse_not_leader(from, f->id);
    else if (f->type == FRAME_OPEN_PRODUCER)
        do_open(from, f);
    else if (f->type == FRAME_APPEND)
        do_append(from, f);
    else if (f->type == FRAME_FENCE)
        do_fence(from, f);
    else if (f->type == FRAME_READ)
        do_read(from, f);
    else if (f->type == FRAME_FOLLOW)
        do_follow(from, f);
    else if (f->type == FRAME_LIST_STREAMS)
        do_list(from, f);
    else
        refuse(from, f->id, ERROR_INVALID, 0, NULL);
}

/* ---- failing -------------------------------------------------------------------------------------------------- */

/* True when the fault took the frame's place. */
static bool fails(struct client *from, const struct frame *f)
{
    struct fake_cluster *c = from->server->cluster;
    const struct fake_faults *x = &c->faults;
    if (f->type == FRAME_FOLLOW_CREDIT) return false;
    if (happens(c, x->new_leader)) c->leader = (int)(fake_random(&c->random) % c->n_servers);
    if (happens(c, x->drop_before)) {
        conn_close(from->conn, 0, NULL);
        return true;
    }
    if (happens(c, x->garbage)) {
        static const uint8_t nonsense[] = "\xff\xff\xff\xff\xff nonsense";
        struct frame g = {.type = f->type | FRAME_REPLY, .id = f->id, .head = nonsense, .head_len = sizeof nonsense};
        frame_encode(&from->answers, &g);
        return true;
    }
    if (f->type == FRAME_HELLO || f->type == FRAME_STATUS) return false;
    if (happens(c, x->not_leader)) {
        uint64_t r = fake_random(&c->random);
        if (r % 3 == 0)
            refuse(from, f->id, ERROR_NOT_LEADER, 0, NULL);
        else if (r % 3 == 1)
            refuse(from, f->id, ERROR_NOT_LEADER, 0, c->servers[r % c->n_servers].address);
        else
            refuse_not_leader(from, f->id);
        return true;
    }
    if (happens(c, x->unavailable)) {
        refuse(from, f->id, ERROR_UNAVAILABLE, 0, NULL);
        return true;
    }
    if (happens(c, x->busy)) {
        refuse(from, f->id, ERROR_BUSY, 0, NULL);
        return true;
    }
    return false;
}

static void on_frame(struct conn *conn, void *user, const struct frame *f)
{
    struct client *from = user;
    struct fake_cluster *c = from->server->cluster;
    (void)conn;
    c->frames++;
    if (c->mute) return;
    bool drop = c->drop_in > 0 && --c->drop_in == 0;
    if (drop && !c->drop_after) {
        conn_close(from->conn, 0, NULL);
        return;
    }
    if (fails(from, f)) return;
    do_frame(from, f);
    if (drop || happens(c, c->faults.drop_after)) conn_close(from->conn, 0, NULL);
}

static void on_close(struct conn *conn, void *user, const struct error *why)
{
    struct client *gone = user;
    (void)conn, (void)why;
    TAILQ_REMOVE(&gone->server->cluster->clients, gone, entry);
    buf_fini(&gone->answers);
    free(gone);
}

static const struct conn_handlers handlers = {.on_frame = on_frame, .on_close = on_close};

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    if (status != 0) return;
    struct client *one = calloc(1, sizeof *one);
    one->server = server;
    int rv = conn_accept(listener, &handlers, one, &one->conn, NULL);
    assert(rv == 0);
    TAILQ_INSERT_TAIL(&server->cluster->clients, one, entry);
}

/* Answers leave a tick after they were made: several requests are under way at a time, and a connection that ends in
 * between takes the answers of done things with it. */
static void on_tick(uv_timer_t *timer)
{
    struct fake_cluster *c = timer->data;
    struct client *one;
    TAILQ_FOREACH(one, &c->clients, entry)
    {
        push_follow(one);
        size_t at = 0;
        while (at < one->answers.len) {
            struct frame f;
            int64_t size = frame_decode(one->answers.data + at, one->answers.len - at, &f, NULL);
            assert(size > 0);
            conn_send(one->conn, &f);
            at += (size_t)size;
        }
        one->answers.len = 0;
    }
}

/* ---- its life ------------------------------------------------------------------------------------------------- */

struct fake_cluster *fake_cluster_start(uv_loop_t *loop, unsigned servers, uint64_t seed)
{
    struct fake_cluster *c = calloc(1, sizeof *c);
    c->loop = loop;
    c->n_servers = servers;
    c->random = seed;
    TAILQ_INIT(&c->clients);
    for (unsigned i = 0; i < servers; i++) {
        struct server *s = &c->servers[i];
        struct sockaddr_in a;
        int len = sizeof a;
        s->cluster = c;
        s->number = i;
        uv_ip4_addr("127.0.0.1", 0, &a);
        uv_tcp_init(loop, &s->listener);
        s->listener.data = s;
        int rv = uv_tcp_bind(&s->listener, (struct sockaddr *)&a, 0);
        assert(rv == 0);
        rv = uv_listen((uv_stream_t *)&s->listener, 64, on_connection);
        assert(rv == 0);
        uv_tcp_getsockname(&s->listener, (struct sockaddr *)&a, &len);
        snprintf(s->address, sizeof s->address, "127.0.0.1:%u", ntohs(a.sin_port));
        size_t used = strlen(c->addresses);
        snprintf(c->addresses + used, sizeof c->addresses - used, "%s%s", i > 0 ? "," : "", s->address);
    }
    uv_timer_init(loop, &c->tick);
    c->tick.data = c;
    uv_timer_start(&c->tick, on_tick, 1, 1);
    c->open = servers + 1;
    return c;
}

static void on_stopped(uv_handle_t *handle)
{
    struct fake_cluster *c = handle->type == UV_TIMER ? handle->data : ((struct server *)handle->data)->cluster;
    c->open--;
    if (c->open > 0) return;
    assert(TAILQ_EMPTY(&c->clients)); /* libuv closes in the order asked for, and they were first */
    for (unsigned i = 0; i < c->n_streams; i++) {
        for (size_t k = 0; k < c->streams[i].n_events; k++) free(c->streams[i].events[k].payload);
        free(c->streams[i].events);
        free(c->streams[i].batches);
    }
    free(c);
}

static void close_listeners(uv_handle_t *handle)
{
    struct fake_cluster *c = handle->data;
    for (unsigned i = 0; i < c->n_servers; i++) uv_close((uv_handle_t *)&c->servers[i].listener, on_stopped);
    on_stopped(handle);
}

static void stop_when_alone(uv_timer_t *timer)
{
    struct fake_cluster *c = timer->data;
    if (TAILQ_EMPTY(&c->clients)) uv_close((uv_handle_t *)timer, close_listeners);
}

void fake_cluster_stop(struct fake_cluster *c)
{
    struct client *one;
    TAILQ_FOREACH(one, &c->clients, entry) conn_close(one->conn, 0, NULL);
    uv_timer_start(&c->tick, stop_when_alone, 0, 1);
}

const char *fake_cluster_addresses(const struct fake_cluster *c)
{
    return c->addresses;
}

const char *fake_cluster_address(const struct fake_cluster *c, unsigned server)
{
    return c->servers[server].address;
}

void fake_cluster_faults(struct fake_cluster *c, const struct fake_faults *faults)
{
    c->faults = *faults;
}

void fake_cluster_lead(struct fake_cluster *c, int server)
{
    c->leader = server;
}

void fake_cluster_mute(struct fake_cluster *c, bool mute)
{
    c->mute = mute;
}

void fake_cluster_drop_at(struct fake_cluster *c, unsigned nth, bool after)
{
    c->drop_in = nth;
    c->drop_after = after;
}

static const struct stream *known(const struct fake_cluster *c, const char *name)
{
    for (unsigned i = 0; i < c->n_streams; i++)
        if (strcmp(c->streams[i].name, name) == 0) return &c->streams[i];
    return NULL;
}

uint64_t fake_cluster_last(const struct fake_cluster *c, const char *stream)
{
    const struct stream *s = known(c, stream);
    return s != NULL ? s->n_events : 0;
}

const void *fake_cluster_event(const struct fake_cluster *c, const char *stream, uint64_t offset, uint32_t *ret_size)
{
    const struct stream *s = known(c, stream);
    if (s == NULL || offset == 0 || offset > s->n_events) return NULL;
    *ret_size = s->events[offset - 1].size;
    return s->events[offset - 1].payload;
}

unsigned fake_cluster_violations(const struct fake_cluster *c)
{
    return c->violations;
}

unsigned fake_cluster_duplicates(const struct fake_cluster *c)
{
    return c->duplicates;
}

unsigned fake_cluster_largest_batch(const struct fake_cluster *c)
{
    return c->largest;
}

uint64_t fake_cluster_frames(const struct fake_cluster *c)
{
    return c->frames;
}
