/* A libuv for simulated processes: the functions that logd and libcrsc use, over fibers, simulated time and the simulated network.
 *
 * It works on uv.h's own structures; of their private fields it uses `flags`, `u.reserved`, `next_closing` and those of timers. What
 * computes only (addresses, names of errors) stays libuv's own. The order within a turn of the loop is that of libuv 1.44: timers,
 * pending, idle, prepare, poll, check, closing; that of handles within a phase is that of their starting. A thread is a fiber, and a
 * blocked thread blocks nothing else of its process, as it should be.
 *
 * Known differences: a mutex is not checked for its owner; uv_run() knows no UV_RUN_NOWAIT subtleties; a read never fails with
 * ENOBUFS halfway. Thread: one. */
#include <uv.h>

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/net.h"
#include "tests/sim/world.h"

enum { ACTIVE = 1, REF = 2, CLOSING = 4, CLOSED = 8, READY = 16, READING = 32, CONNECTED = 64, ENDED = 128 };

struct list {
    void **at;
    unsigned n, cap;
};

struct alarm { /* what is looked at of an active timer all the time */
    uint64_t at, id;
    uv_timer_t *timer;
};

struct loop { /* behind uv_loop_t.internal_fields */
    struct process *process;
    struct alarm *alarms;
    unsigned n_alarms, cap_alarms, first_alarm; /* first_alarm == n_alarms: to be looked for */
    struct list idles, prepares, checks, asyncs, signals, ready, work, handles;
    uv_handle_t *closing;
    uint64_t time, last_id;
    uint64_t world_time, now; /* what the clock showed last, and when */
    unsigned active, requests;
    bool waits;
};

static void add(struct list *l, void *what)
{
    if (l->n == l->cap) {
        l->cap = l->cap == 0 ? 8 : 2 * l->cap;
        l->at = realloc(l->at, l->cap * sizeof *l->at);
        if (l->at == NULL) abort();
    }
    l->at[l->n++] = what;
}

static void drop(struct list *l, const void *what)
{
    for (unsigned i = 0; i < l->n; i++) {
        if (l->at[i] != what) continue;
        memmove(l->at + i, l->at + i + 1, (l->n - i - 1) * sizeof *l->at);
        l->n--;
        return;
    }
}

static struct loop *state(const uv_loop_t *loop)
{
    return loop->internal_fields;
}

static void wake(struct loop *x)
{
    if (x->waits) fiber_wake_all(x->process, x);
}

/* ---- loops ---------------------------------------------------------------------------------------------------- */

static uint64_t now_ms(struct loop *x)
{
    if (x->world_time != world_now() || x->world_time == 0) {
        x->world_time = world_now();
        x->now = process_mono_ns(x->process) / MS;
    }
    return x->now;
}

int uv_loop_init(uv_loop_t *loop)
{
    struct loop *x = calloc(1, sizeof *x);
    if (x == NULL) return UV_ENOMEM;
    memset(loop, 0, sizeof *loop);
    x->process = process_current();
    x->time = now_ms(x);
    loop->internal_fields = x;
    return 0;
}

int uv_loop_close(uv_loop_t *loop)
{
    struct loop *x = state(loop);
    if (x->handles.n > 0 || x->requests > 0) return UV_EBUSY;
    struct list *all[] = {&x->idles, &x->prepares, &x->checks, &x->asyncs, &x->signals, &x->ready, &x->work, &x->handles};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->at);
    free(x->alarms);
    free(x);
    loop->internal_fields = NULL;
    return 0;
}

void uv_update_time(uv_loop_t *loop)
{
    state(loop)->time = now_ms(state(loop));
}

uint64_t uv_now(const uv_loop_t *loop)
{
    return state(loop)->time;
}

uint64_t uv_hrtime(void)
{
    return process_mono_ns(process_current());
}

int uv_random(uv_loop_t *loop, uv_random_t *req, void *bytes, size_t len, unsigned flags, uv_random_cb cb)
{
    (void)loop, (void)req, (void)flags;
    if (cb != NULL) return UV_ENOSYS;
    for (size_t i = 0; i < len; i++) ((uint8_t *)bytes)[i] = (uint8_t)dice_roll(&world_dice);
    return 0;
}

int uv_resident_set_memory(size_t *ret)
{
    *ret = (size_t)process_live_blocks(process_current()) * 64; /* something that repeats */
    return 0;
}

void uv_stop(uv_loop_t *loop)
{
    loop->stop_flag = 1;
}

/* ---- handles -------------------------------------------------------------------------------------------------- */

static void handle_init(uv_loop_t *loop, uv_handle_t *h, uv_handle_type type)
{
    h->loop = loop;
    h->type = type;
    h->flags = REF;
    h->close_cb = NULL;
    h->next_closing = NULL;
    memset(h->u.reserved, 0, sizeof h->u.reserved);
    add(&state(loop)->handles, h);
}

static void set_active(uv_handle_t *h, bool active)
{
    bool was = (h->flags & ACTIVE) != 0;
    if (was == active) return;
    h->flags ^= ACTIVE;
    if ((h->flags & REF) != 0) state(h->loop)->active += active ? 1u : -1u;
}

int uv_is_active(const uv_handle_t *h)
{
    return (h->flags & ACTIVE) != 0;
}

int uv_is_closing(const uv_handle_t *h)
{
    return (h->flags & (CLOSING | CLOSED)) != 0;
}

void uv_unref(uv_handle_t *h)
{
    if ((h->flags & REF) == 0) return;
    h->flags &= ~(unsigned)REF;
    if ((h->flags & ACTIVE) != 0) state(h->loop)->active--;
}

void uv_ref(uv_handle_t *h)
{
    if ((h->flags & REF) != 0) return;
    h->flags |= REF;
    if ((h->flags & ACTIVE) != 0) state(h->loop)->active++;
}

static struct sock *sock_of(const uv_handle_t *h)
{
    return h->u.reserved[0];
}

void uv_close(uv_handle_t *h, uv_close_cb cb)
{
    struct loop *x = state(h->loop);
    assert((h->flags & (CLOSING | CLOSED)) == 0);
    h->flags |= CLOSING;
    h->close_cb = cb;
    switch (h->type) {
    case UV_TIMER: uv_timer_stop((uv_timer_t *)h); break;
    case UV_IDLE: drop(&x->idles, h); break;
    case UV_PREPARE: drop(&x->prepares, h); break;
    case UV_CHECK: drop(&x->checks, h); break;
    case UV_ASYNC: drop(&x->asyncs, h); break;
    case UV_SIGNAL: drop(&x->signals, h); break;
    case UV_TCP:
        drop(&x->ready, h);
        if (sock_of(h) != NULL) sock_close(sock_of(h));
        h->u.reserved[0] = NULL;
        break;
    default: break;
    }
    set_active(h, false);
    h->next_closing = x->closing;
    x->closing = h;
}

/* ---- timers and the phases of a turn -------------------------------------------------------------------------- */

int uv_timer_init(uv_loop_t *loop, uv_timer_t *t)
{
    handle_init(loop, (uv_handle_t *)t, UV_TIMER);
    t->timer_cb = NULL;
    t->repeat = 0;
    return 0;
}

static bool is_before(const struct alarm *a, const struct alarm *b)
{
    return a->at < b->at || (a->at == b->at && a->id < b->id);
}

int uv_timer_stop(uv_timer_t *t)
{
    struct loop *x = state(t->loop);
    unsigned i = 0, last = x->n_alarms - 1;
    if (!uv_is_active((uv_handle_t *)t)) return 0;
    while (x->alarms[i].timer != t) i++;
    x->alarms[i] = x->alarms[last];
    if (x->first_alarm == i || x->first_alarm == x->n_alarms) x->first_alarm = last;
    else if (x->first_alarm == last) x->first_alarm = i;
    x->n_alarms = last;
    set_active((uv_handle_t *)t, false);
    return 0;
}

int uv_timer_start(uv_timer_t *t, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
    struct loop *x = state(t->loop);
    if (uv_is_closing((uv_handle_t *)t) || cb == NULL) return UV_EINVAL;
    uv_timer_stop(t);
    t->timer_cb = cb;
    t->timeout = x->time + timeout < timeout ? UINT64_MAX : x->time + timeout;
    t->repeat = repeat;
    t->start_id = x->last_id++;
    if (x->n_alarms == x->cap_alarms) {
        x->cap_alarms = x->cap_alarms == 0 ? 16 : 2 * x->cap_alarms;
        x->alarms = realloc(x->alarms, x->cap_alarms * sizeof *x->alarms);
        if (x->alarms == NULL) abort();
    }
    struct alarm *new = &x->alarms[x->n_alarms];
    *new = (struct alarm){t->timeout, t->start_id, t};
    if (x->first_alarm == x->n_alarms) x->first_alarm = x->n_alarms == 0 ? 0 : x->n_alarms + 1;
    else if (is_before(new, &x->alarms[x->first_alarm])) x->first_alarm = x->n_alarms;
    x->n_alarms++;
    set_active((uv_handle_t *)t, true);
    return 0;
}

static uv_timer_t *next_timer(struct loop *x)
{
    if (x->n_alarms == 0) return NULL;
    if (x->first_alarm == x->n_alarms) {
        x->first_alarm = 0;
        for (unsigned i = 1; i < x->n_alarms; i++)
            if (is_before(&x->alarms[i], &x->alarms[x->first_alarm])) x->first_alarm = i;
    }
    return x->alarms[x->first_alarm].timer;
}

static void run_timers(struct loop *x)
{
    for (;;) {
        uv_timer_t *t = next_timer(x);
        if (t == NULL || t->timeout > x->time) return;
        uv_timer_stop(t);
        if (t->repeat != 0) uv_timer_start(t, t->timer_cb, t->repeat, t->repeat);
        t->timer_cb(t);
    }
}

#define PHASE(name, list)                                                                   \
    int uv_##name##_init(uv_loop_t *loop, uv_##name##_t *h)                                 \
    {                                                                                       \
        handle_init(loop, (uv_handle_t *)h, sim_type_##name);                               \
        return 0;                                                                           \
    }                                                                                       \
    int uv_##name##_start(uv_##name##_t *h, uv_##name##_cb cb)                              \
    {                                                                                       \
        if (uv_is_active((uv_handle_t *)h)) return 0;                                       \
        if (cb == NULL) return UV_EINVAL;                                                   \
        h->name##_cb = cb;                                                                  \
        add(&state(h->loop)->list, h);                                                      \
        set_active((uv_handle_t *)h, true);                                                 \
        return 0;                                                                           \
    }                                                                                       \
    int uv_##name##_stop(uv_##name##_t *h)                                                  \
    {                                                                                       \
        if (!uv_is_active((uv_handle_t *)h)) return 0;                                      \
        drop(&state(h->loop)->list, h);                                                     \
        set_active((uv_handle_t *)h, false);                                                \
        return 0;                                                                           \
    }                                                                                       \
    static void run_##name(struct loop *x)                                                  \
    {                                                                                       \
        uv_##name##_t *now[16];                                                             \
        unsigned n = x->list.n;                                                             \
        assert(n <= 16);                                                                    \
        for (unsigned i = 0; i < n; i++) now[i] = x->list.at[i];                            \
        for (unsigned i = 0; i < n; i++)                                                    \
            if (uv_is_active((uv_handle_t *)now[i])) now[i]->name##_cb(now[i]);             \
    }
static const uv_handle_type sim_type_idle = UV_IDLE, sim_type_prepare = UV_PREPARE, sim_type_check = UV_CHECK;
PHASE(idle, idles)
PHASE(prepare, prepares)
PHASE(check, checks)

/* ---- threads -------------------------------------------------------------------------------------------------- */

int uv_thread_create(uv_thread_t *thread, uv_thread_cb entry, void *arg)
{
    struct fiber *f = fiber_start(process_current(), entry, arg);
    memcpy(thread, &f, sizeof f);
    return 0;
}

int uv_thread_join(uv_thread_t *thread)
{
    struct fiber *f;
    memcpy(&f, thread, sizeof f);
    fiber_join(f);
    return 0;
}

void uv_sleep(unsigned ms)
{
    fiber_sleep((uint64_t)ms * MS);
}

int uv_mutex_init(uv_mutex_t *m)
{
    memset(m, 0, sizeof *m);
    return 0;
}

void uv_mutex_destroy(uv_mutex_t *m)
{
    (void)m;
}

void uv_mutex_lock(uv_mutex_t *m)
{
    int *locked = (int *)m;
    while (*locked != 0) fiber_wait(m);
    *locked = 1;
}

int uv_mutex_trylock(uv_mutex_t *m)
{
    int *locked = (int *)m;
    if (*locked != 0) return UV_EBUSY;
    *locked = 1;
    return 0;
}

void uv_mutex_unlock(uv_mutex_t *m)
{
    int *locked = (int *)m;
    assert(*locked == 1);
    *locked = 0;
    fiber_wake_all(process_current(), m);
}

int uv_cond_init(uv_cond_t *c)
{
    memset(c, 0, sizeof *c);
    return 0;
}

void uv_cond_destroy(uv_cond_t *c)
{
    (void)c;
}

void uv_cond_signal(uv_cond_t *c)
{
    fiber_wake_all(process_current(), c); /* more than one may wake: allowed */
}

void uv_cond_broadcast(uv_cond_t *c)
{
    fiber_wake_all(process_current(), c);
}

void uv_cond_wait(uv_cond_t *c, uv_mutex_t *m)
{
    uv_mutex_unlock(m);
    fiber_wait(c);
    uv_mutex_lock(m);
}

int uv_cond_timedwait(uv_cond_t *c, uv_mutex_t *m, uint64_t timeout_ns)
{
    uint64_t until = world_now() + timeout_ns;
    uv_mutex_unlock(m);
    fiber_wait_until(c, until);
    uv_mutex_lock(m);
    return world_now() >= until ? UV_ETIMEDOUT : 0;
}

int uv_async_init(uv_loop_t *loop, uv_async_t *a, uv_async_cb cb)
{
    handle_init(loop, (uv_handle_t *)a, UV_ASYNC);
    a->async_cb = cb;
    a->pending = 0;
    add(&state(loop)->asyncs, a);
    set_active((uv_handle_t *)a, true);
    return 0;
}

int uv_async_send(uv_async_t *a)
{
    if (a->pending) return 0;
    a->pending = 1;
    wake(state(a->loop));
    return 0;
}

static void run_asyncs(struct loop *x)
{
    for (unsigned i = 0; i < x->asyncs.n; i++) {
        uv_async_t *a = x->asyncs.at[i];
        if (!a->pending) continue;
        a->pending = 0;
        a->async_cb(a);
    }
}

/* ---- work on other threads ------------------------------------------------------------------------------------ */

static void run_work(void *arg)
{
    uv_work_t *work = arg;
    fiber_sleep(dice_below(&world_dice, 200 * US));
    work->work_cb(work);
    add(&state(work->loop)->work, work);
    wake(state(work->loop));
}

int uv_queue_work(uv_loop_t *loop, uv_work_t *work, uv_work_cb work_cb, uv_after_work_cb after)
{
    if (work_cb == NULL) return UV_EINVAL;
    work->type = UV_WORK;
    work->loop = loop;
    work->work_cb = work_cb;
    work->after_work_cb = after;
    state(loop)->requests++;
    fiber_detach(fiber_start(process_current(), run_work, work));
    return 0;
}

static unsigned machine_of(const char *host)
{
    unsigned number;
    char rest;
    if (sscanf(host, "logd-%u%c", &number, &rest) == 1) return number;
    return NET_MACHINES;
}

static void run_lookup(void *arg)
{
    uv_getaddrinfo_t *r = arg;
    fiber_sleep(dice_between(&world_dice, 100, 3000) * US);
    add(&state(r->loop)->work, r);
    wake(state(r->loop));
}

int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *r, uv_getaddrinfo_cb cb, const char *host, const char *port,
                   const struct addrinfo *hints)
{
    struct { struct addrinfo info; struct sockaddr_in address; } *found = calloc(1, sizeof *found);
    unsigned machine = machine_of(host);
    (void)hints;
    if (found == NULL) return UV_ENOMEM;
    r->type = UV_GETADDRINFO;
    r->loop = loop;
    r->cb = cb;
    r->retcode = machine < NET_MACHINES ? 0 : UV_EAI_NONAME;
    r->addrinfo = &found->info;
    found->info = (struct addrinfo){.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_addrlen = sizeof found->address,
                                    .ai_addr = (struct sockaddr *)&found->address};
    found->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)),
                                          .sin_addr.s_addr = htonl(0x0a000000 + machine)};
    if (r->retcode != 0) {
        free(found);
        r->addrinfo = NULL;
    }
    state(loop)->requests++;
    fiber_detach(fiber_start(process_current(), run_lookup, r));
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *info)
{
    free(info);
}

int uv_cancel(uv_req_t *req)
{
    (void)req;
    return UV_EBUSY; /* it is always running already */
}

static void finish_work(struct loop *x)
{
    while (x->work.n > 0) {
        uv_req_t *r = x->work.at[0];
        drop(&x->work, r);
        x->requests--;
        if (r->type == UV_WORK) {
            uv_work_t *work = (uv_work_t *)r;
            if (work->after_work_cb != NULL) work->after_work_cb(work, 0);
        } else {
            uv_getaddrinfo_t *lookup = (uv_getaddrinfo_t *)r;
            lookup->cb(lookup, lookup->retcode, lookup->addrinfo);
        }
    }
}

/* ---- streams -------------------------------------------------------------------------------------------------- */

/* u.reserved: [0] the socket, [1] the write under way (those behind it: req->queue[0]), [2] the address it is bound to */

void uv_sim_ready(uv_stream_t *s)
{
    struct loop *x = state(s->loop);
    if ((s->flags & (READY | CLOSING)) != 0) return;
    s->flags |= READY;
    unsigned heap = memory_heap();
    memory_enter(x->process->heap); /* may be called by the network */
    add(&x->ready, s);
    memory_enter(heap);
    wake(x);
}

int uv_tcp_init(uv_loop_t *loop, uv_tcp_t *tcp)
{
    handle_init(loop, (uv_handle_t *)tcp, UV_TCP);
    tcp->connect_req = NULL;
    tcp->connection_cb = NULL;
    tcp->read_cb = NULL;
    tcp->alloc_cb = NULL;
    tcp->write_queue_size = 0;
    return 0;
}

int uv_tcp_nodelay(uv_tcp_t *tcp, int enable)
{
    (void)tcp, (void)enable;
    return 0;
}

int uv_tcp_keepalive(uv_tcp_t *tcp, int enable, unsigned delay)
{
    (void)tcp, (void)enable, (void)delay;
    return 0;
}

static unsigned number_of(const struct sockaddr *address, uint16_t *ret_port)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
    *ret_port = ntohs(in->sin_port);
    uint32_t host = address->sa_family == AF_INET ? ntohl(in->sin_addr.s_addr) - 0x0a000000 : NET_MACHINES;
    return host < NET_MACHINES ? host : NET_MACHINES;
}

int uv_tcp_bind(uv_tcp_t *tcp, const struct sockaddr *address, unsigned flags)
{
    uint16_t port;
    (void)flags;
    if (number_of(address, &port) != state(tcp->loop)->process->number) return UV_EADDRNOTAVAIL;
    tcp->u.reserved[2] = (void *)(uintptr_t)port;
    return 0;
}

int uv_listen(uv_stream_t *s, int backlog, uv_connection_cb cb)
{
    (void)backlog;
    struct process *p = state(s->loop)->process;
    s->u.reserved[0] = sock_new(p, s);
    int rv = sock_listen(sock_of((uv_handle_t *)s), p->number, (uint16_t)(uintptr_t)s->u.reserved[2]);
    if (rv != 0) return rv;
    s->connection_cb = cb;
    set_active((uv_handle_t *)s, true);
    return 0;
}

int uv_accept(uv_stream_t *server, uv_stream_t *client)
{
    struct sock *s = sock_accept(sock_of((uv_handle_t *)server), client);
    if (s == NULL) return UV_EAGAIN;
    client->u.reserved[0] = s;
    client->flags |= CONNECTED;
    if (sock_readable(s) > 0) uv_sim_ready(client);
    return 0;
}

int uv_tcp_connect(uv_connect_t *r, uv_tcp_t *tcp, const struct sockaddr *address, uv_connect_cb cb)
{
    uint16_t port;
    unsigned machine = number_of(address, &port);
    if (machine == NET_MACHINES) return UV_ENETUNREACH;
    r->type = UV_CONNECT;
    r->handle = (uv_stream_t *)tcp;
    r->cb = cb;
    tcp->connect_req = r;
    tcp->u.reserved[0] = sock_new(state(tcp->loop)->process, (uv_stream_t *)tcp);
    sock_connect(sock_of((uv_handle_t *)tcp), machine, port);
    state(tcp->loop)->requests++;
    return 0;
}

static int address_of(unsigned machine, uint16_t port, struct sockaddr *ret, int *len)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x0a000000 + machine)};
    if (*len < (int)sizeof in) return UV_EINVAL;
    memcpy(ret, &in, sizeof in);
    *len = sizeof in;
    return 0;
}

int uv_tcp_getpeername(const uv_tcp_t *tcp, struct sockaddr *ret, int *len)
{
    unsigned machine;
    uint16_t port;
    if (sock_of((const uv_handle_t *)tcp) == NULL) return UV_ENOTCONN;
    sock_peer_address(sock_of((const uv_handle_t *)tcp), &machine, &port);
    return address_of(machine, port, ret, len);
}

int uv_tcp_getsockname(const uv_tcp_t *tcp, struct sockaddr *ret, int *len)
{
    unsigned machine;
    uint16_t port;
    if (sock_of((const uv_handle_t *)tcp) == NULL) return UV_EBADF;
    sock_address(sock_of((const uv_handle_t *)tcp), &machine, &port);
    return address_of(machine, port, ret, len);
}

int uv_read_start(uv_stream_t *s, uv_alloc_cb alloc, uv_read_cb read)
{
    if ((s->flags & CLOSING) != 0) return UV_EINVAL;
    if ((s->flags & READING) != 0) return UV_EALREADY;
    s->flags |= READING;
    s->alloc_cb = alloc;
    s->read_cb = read;
    set_active((uv_handle_t *)s, true);
    uv_sim_ready(s); /* something may be there already */
    return 0;
}

int uv_read_stop(uv_stream_t *s)
{
    if ((s->flags & READING) == 0) return 0;
    s->flags &= ~(unsigned)READING;
    set_active((uv_handle_t *)s, false);
    return 0;
}

int uv_write(uv_write_t *r, uv_stream_t *s, const uv_buf_t *bufs, unsigned n, uv_write_cb cb)
{
    struct sock *k = sock_of((uv_handle_t *)s);
    uv_write_t **at = (uv_write_t **)(void *)&s->u.reserved[1];
    if (k == NULL) return UV_EBADF;
    r->type = UV_WRITE;
    r->handle = s;
    r->cb = cb;
    r->queue[0] = NULL;
    for (unsigned i = 0; i < n; i++) sock_send(k, bufs[i].base, bufs[i].len);
    while (*at != NULL) at = (uv_write_t **)(void *)&(*at)->queue[0];
    *at = r;
    state(s->loop)->requests++;
    uv_sim_ready(s);
    return 0;
}

/* All, some of it, or nothing. */
int uv_try_write(uv_stream_t *s, const uv_buf_t bufs[], unsigned n)
{
    struct sock *k = sock_of((uv_handle_t *)s);
    size_t taken = 0, most = dice_chance(&world_dice, 500) ? SIZE_MAX : (size_t)dice_below(&world_dice, 4096);
    if (k == NULL) return UV_EBADF;
    if (s->connect_req != NULL || s->u.reserved[1] != NULL) return UV_EAGAIN;
    for (unsigned i = 0; i < n && taken < most; i++) {
        size_t part = bufs[i].len < most - taken ? bufs[i].len : most - taken;
        sock_send(k, bufs[i].base, part);
        taken += part;
    }
    return taken > 0 ? (int)taken : UV_EAGAIN;
}

static void end_writes(uv_stream_t *s, int status)
{
    for (uv_write_t *r; (r = s->u.reserved[1]) != NULL;) {
        s->u.reserved[1] = r->queue[0];
        state(s->loop)->requests--;
        if (r->cb != NULL) r->cb(r, status);
    }
}

static void end_connect(uv_stream_t *s, int status)
{
    uv_connect_t *r = s->connect_req;
    if (r == NULL) return;
    s->connect_req = NULL;
    state(s->loop)->requests--;
    r->cb(r, status);
}

static void read_some(uv_stream_t *s)
{
    for (int i = 0; i < 32; i++) {
        if ((s->flags & (READING | CLOSING)) != READING || sock_readable(sock_of((uv_handle_t *)s)) == 0) return;
        uv_buf_t buf = {NULL, 0};
        s->alloc_cb((uv_handle_t *)s, 65536, &buf);
        if (buf.base == NULL || buf.len == 0) {
            s->read_cb(s, UV_ENOBUFS, &buf);
            return;
        }
        size_t n = sock_read(sock_of((uv_handle_t *)s), buf.base, buf.len);
        s->read_cb(s, (ssize_t)n, &buf);
        if (n < buf.len) return; /* as libuv: the rest is for the next turn */
    }
}

/* What a poll would tell of this socket. */
static void serve(uv_stream_t *s)
{
    struct sock *k = sock_of((uv_handle_t *)s);
    bool connected, eof;
    if (k == NULL) return;
    if (s->connection_cb != NULL) {
        while ((s->flags & CLOSING) == 0 && sock_has_connection(k)) s->connection_cb(s, 0);
        return;
    }
    int error = sock_state(k, &connected, &eof);
    if (s->connect_req != NULL && (connected || error != 0)) {
        if (error == 0) s->flags |= CONNECTED;
        end_connect(s, error);
        if ((s->flags & CLOSING) != 0) return;
    }
    if (s->u.reserved[1] != NULL && (error != 0 || sock_unread(k) <= NET_ROOM)) {
        end_writes(s, error);
        if ((s->flags & CLOSING) != 0) return;
    }
    if (error == 0) read_some(s);
    if ((s->flags & (READING | CLOSING)) != READING) return;
    k = sock_of((uv_handle_t *)s);
    error = sock_state(k, &connected, &eof);
    uv_buf_t none = {NULL, 0};
    if (error != 0) {
        uv_read_stop(s);
        s->read_cb(s, error, &none);
    } else if (sock_readable(k) > 0) {
        uv_sim_ready(s);
    } else if (eof && (s->flags & ENDED) == 0) {
        s->flags |= ENDED;
        uv_read_stop(s);
        s->read_cb(s, UV_EOF, &none);
    }
}

/* ---- signals -------------------------------------------------------------------------------------------------- */

int uv_signal_init(uv_loop_t *loop, uv_signal_t *h)
{
    handle_init(loop, (uv_handle_t *)h, UV_SIGNAL);
    return 0;
}

int uv_signal_start(uv_signal_t *h, uv_signal_cb cb, int number)
{
    h->signal_cb = cb;
    h->signum = number;
    add(&state(h->loop)->signals, h);
    set_active((uv_handle_t *)h, true);
    return 0;
}

int uv_signal_stop(uv_signal_t *h)
{
    drop(&state(h->loop)->signals, h);
    set_active((uv_handle_t *)h, false);
    return 0;
}

void uv_sim_raise(uv_signal_t *h)
{
    h->u.reserved[0] = h;
    wake(state(h->loop));
}

static void run_signals(struct loop *x)
{
    for (unsigned i = 0; i < x->signals.n; i++) {
        uv_signal_t *h = x->signals.at[i];
        if (h->u.reserved[0] == NULL) continue;
        h->u.reserved[0] = NULL;
        h->signal_cb(h, h->signum);
    }
}

/* ---- the turn ------------------------------------------------------------------------------------------------- */

static bool has_news(const struct loop *x)
{
    for (unsigned i = 0; i < x->asyncs.n; i++)
        if (((uv_async_t *)x->asyncs.at[i])->pending) return true;
    for (unsigned i = 0; i < x->signals.n; i++)
        if (((uv_signal_t *)x->signals.at[i])->u.reserved[0] != NULL) return true;
    return x->ready.n > 0 || x->work.n > 0;
}

static void poll(struct loop *x, bool wait)
{
    if (!has_news(x)) {
        uv_timer_t *t = next_timer(x);
        if (!wait || x->idles.n > 0 || x->closing != NULL) {
            fiber_sleep(dice_between(&world_dice, 1, 5) * US);
        } else {
            x->waits = true;
            fiber_wait_until(x, t == NULL ? UINT64_MAX : process_world_time(x->process, t->timeout * MS) + dice_below(&world_dice, 100 * US));
            x->waits = false;
        }
    }
    x->time = now_ms(x);
    unsigned n = x->ready.n;
    for (unsigned i = 0; i < n && x->ready.n > 0; i++) {
        uv_stream_t *s = x->ready.at[0];
        drop(&x->ready, s);
        s->flags &= ~(unsigned)READY;
        serve(s);
    }
    run_signals(x);
    run_asyncs(x);
    finish_work(x);
}

static void run_closing(struct loop *x)
{
    uv_handle_t *list = x->closing;
    x->closing = NULL;
    while (list != NULL) {
        uv_handle_t *h = list;
        list = h->next_closing;
        if (h->type == UV_TCP) {
            end_connect((uv_stream_t *)h, UV_ECANCELED);
            end_writes((uv_stream_t *)h, UV_ECANCELED);
        }
        h->flags |= CLOSED;
        drop(&x->handles, h);
        if (h->close_cb != NULL) h->close_cb(h);
    }
}

static bool alive(const struct loop *x)
{
    return x->active > 0 || x->requests > 0 || x->closing != NULL;
}

int uv_run(uv_loop_t *loop, uv_run_mode mode)
{
    struct loop *x = state(loop);
    bool again = alive(x);
    if (!again) x->time = now_ms(x);
    while (again && loop->stop_flag == 0) {
        x->time = now_ms(x);
        run_timers(x);
        run_idle(x);
        run_prepare(x);
        poll(x, mode != UV_RUN_NOWAIT && loop->stop_flag == 0 && alive(x));
        run_check(x);
        run_closing(x);
        if (mode == UV_RUN_ONCE) {
            x->time = now_ms(x);
            run_timers(x);
        }
        again = alive(x);
        if (mode != UV_RUN_DEFAULT) break;
    }
    loop->stop_flag = 0;
    return again;
}
