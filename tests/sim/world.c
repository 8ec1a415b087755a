#include "tests/sim/world.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/net.h"
#include "tests/sim/switch.h"

struct event {
    world_cb *cb;
    void *arg;
    uint64_t token;
};
struct place { /* of an event in the queue */
    uint64_t key; /* time, then number */
    uint64_t event;
};
enum { NUMBER_BITS = 26 }; /* 67 million events in a run, and 274 s of simulated time */

struct fiber {
    struct fiber *next; /* of the process */
    struct process *process;
    struct context context;
    struct stack *stack;
    void (*main)(void *arg);
    void *arg;
    const void *waits_for; /* NULL: it does not wait */
    uint64_t due;          /* when it is woken; UINT64_MAX: when somebody does */
    uint64_t pending;      /* the time of its event in the queue; UINT64_MAX: none. A later `due` waits for that one first: most waits
                              end before their time, and would leave an event behind */
    uint64_t token;        /* of that event: an older one is ignored */
    bool ended, detached;
    int saved_errno;
};

static struct world {
    struct place *heap;
    struct event *events;
    size_t n, cap; /* of both; events[heap[i].event] for i >= n are free */
    uint64_t now, number, hash, ran;
    struct context context; /* of world_run() */
    struct fiber *current, *free;
    struct process *processes[HEAPS];
    unsigned n_processes;
    bool failed;
    char failure[1024];
} world;

struct dice world_dice;
bool world_verbose;

/* ---- random numbers ------------------------------------------------------------------------------------------- */

uint64_t dice_roll(struct dice *d)
{
    uint64_t z = d->state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t dice_below(struct dice *d, uint64_t n)
{
    return n == 0 ? 0 : dice_roll(d) % n;
}

uint64_t dice_between(struct dice *d, uint64_t a, uint64_t b)
{
    return a + dice_below(d, b - a + 1);
}

bool dice_chance(struct dice *d, unsigned of_1000)
{
    return of_1000 > 0 && dice_below(d, 1000) < of_1000;
}

/* ---- the trace ------------------------------------------------------------------------------------------------ */

static void hash_bytes(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t h = world.hash;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * UINT64_C(0x100000001b3);
        h ^= h >> 29;
    }
    for (; len > 0; p++, len--) h = (h ^ *p) * UINT64_C(0x100000001b3);
    world.hash = h;
}

void world_trace_cheap(uint32_t what, uint64_t a, uint64_t b)
{
    uint64_t all[4] = {world.now, what, a, b};
    hash_bytes(all, sizeof all);
}

void world_trace(const char *format, ...)
{
    char text[1400];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n >= (int)sizeof text) n = sizeof text - 1;
    hash_bytes(&world.now, sizeof world.now);
    hash_bytes(text, (size_t)n);
    if (world_verbose) fprintf(stdout, "%12.6f %s\n", (double)world.now / 1e9, text);
}

uint64_t world_hash(void)
{
    return world.hash;
}

bool world_failed(void)
{
    return world.failed;
}

const char *world_failure(void)
{
    return world.failure;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void more_room(void)
{
    unsigned heap = memory_heap();
    memory_enter(0);
    size_t had = world.cap;
    world.cap = had == 0 ? 1024 : 2 * had;
    world.heap = realloc(world.heap, world.cap * sizeof *world.heap);
    world.events = realloc(world.events, world.cap * sizeof *world.events);
    if (world.heap == NULL || world.events == NULL) abort();
    for (size_t i = had; i < world.cap; i++) world.heap[i].event = i;
    memory_enter(heap);
}

/* A heap of which each has four children: half as deep as with two, and the children share a cache line. */
void world_at(uint64_t when, world_cb *cb, void *arg, uint64_t token)
{
    if (world.n == world.cap) more_room();
    if (when < world.now) when = world.now;
    assert(when >> (64 - NUMBER_BITS) == 0 && world.number >> NUMBER_BITS == 0);
    size_t i = world.n++;
    struct place new = {when << NUMBER_BITS | world.number++, world.heap[i].event};
    world.events[new.event] = (struct event){cb, arg, token};
    for (; i > 0 && new.key < world.heap[(i - 1) / 4].key; i = (i - 1) / 4) world.heap[i] = world.heap[(i - 1) / 4];
    world.heap[i] = new;
}

static size_t earlier(const struct place *heap, size_t a, size_t b)
{
    return heap[b].key < heap[a].key ? b : a;
}

/* The hole that the first one leaves goes down to the end, then the last one up from there: it belongs near the end almost always. */
static struct event take_first(void)
{
    struct place *heap = world.heap, first = heap[0], last = heap[--world.n];
    size_t n = world.n, i = 0, child;
    for (; (child = 4 * i + 1) + 3 < n; i = child) {
        child = earlier(heap, earlier(heap, child, child + 1), earlier(heap, child + 2, child + 3));
        heap[i] = heap[child];
    }
    if (child < n) {
        for (size_t j = child + 1; j < n; j++) child = earlier(heap, child, j);
        heap[i] = heap[child];
        i = child;
    }
    for (; i > 0 && last.key < heap[(i - 1) / 4].key; i = (i - 1) / 4) heap[i] = heap[(i - 1) / 4];
    heap[i] = last;
    heap[n].event = first.event; /* free */
    return world.events[first.event];
}

void world_begin(uint64_t seed)
{
    world_dice.state = seed * UINT64_C(0xd1342543de82ef95) + 1;
    world.now = world.number = world.ran = 0;
    world.n = 0;
    world.hash = UINT64_C(0xcbf29ce484222325);
    world.failed = false;
    world.current = NULL;
    world.failure[0] = '\0';
}

void world_run(uint64_t until)
{
    while (world.n > 0 && !world.failed && world.heap[0].key >> NUMBER_BITS <= until) {
        world.now = world.heap[0].key >> NUMBER_BITS;
        struct event e = take_first();
        world.ran++;
        e.cb(e.arg, e.token);
    }
    if (!world.failed && world.now < until) world.now = until;
}

uint64_t world_now(void)
{
    return world.now;
}

uint64_t world_events(void)
{
    return world.ran;
}

/* ---- fibers --------------------------------------------------------------------------------------------------- */

struct fiber *fiber_current(void)
{
    return world.current;
}

static void run_fiber(struct fiber *f)
{
    world.current = f;
    memory_enter(f->process->heap);
    errno = f->saved_errno;
    context_switch(&world.context, &f->context);
    if (!f->detached || f->process != NULL) f->saved_errno = errno;
    memory_enter(0);
    world.current = NULL;
}

static void to_world(void)
{
    struct fiber *f = world.current;
    context_switch(&f->context, &world.context);
}

static void wake_at(struct fiber *f, uint64_t when);

static void on_wake(void *arg, uint64_t token)
{
    struct fiber *f = arg;
    if (f->token != token) return;
    f->pending = UINT64_MAX;
    if (f->ended || f->process == NULL || f->due == UINT64_MAX) return;
    uint64_t paused = f->process->paused_until;
    if (f->due > world.now || paused > world.now) {
        wake_at(f, f->due > paused ? f->due : paused);
        return;
    }
    f->waits_for = NULL;
    run_fiber(f);
}

static void wake_at(struct fiber *f, uint64_t when)
{
    f->due = when;
    if (f->pending <= when) return;
    f->pending = when;
    world_at(when, on_wake, f, ++f->token);
}

void fiber_sleep(uint64_t ns)
{
    wake_at(world.current, world.now + ns);
    to_world();
}

void fiber_wait_until(const void *what, uint64_t when)
{
    struct fiber *f = world.current;
    f->waits_for = what;
    f->due = UINT64_MAX; /* what would have woken it does not any more */
    if (when != UINT64_MAX) wake_at(f, when);
    to_world();
}

void fiber_wait(const void *what)
{
    fiber_wait_until(what, UINT64_MAX);
}

void fiber_wake_all(struct process *p, const void *what)
{
    for (struct fiber *f = p->fibers; f != NULL; f = f->next) {
        if (f->waits_for != what || f->ended) continue;
        f->waits_for = NULL;
        uint64_t delay = dice_chance(&world_dice, 20) ? dice_below(&world_dice, 2 * MS) : dice_below(&world_dice, 15 * US);
        wake_at(f, world.now + delay);
    }
}

/* Its stack is in use until the switch that follows, and by nobody before the next event. */
static void forget(struct fiber *f)
{
    struct fiber **at = &f->process->fibers;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    f->process = NULL;
    f->token++;
    f->next = world.free;
    world.free = f;
}

void fiber_detach(struct fiber *f)
{
    f->detached = true;
}

static void begin(void *arg)
{
    struct fiber *f = arg;
    f->main(f->arg);
    f->ended = true;
    fiber_wake_all(f->process, f);
    if (f->detached) forget(f);
    context_leave(&f->context, &world.context);
}

struct fiber *fiber_start(struct process *p, void (*main)(void *arg), void *arg)
{
    unsigned heap = memory_heap();
    memory_enter(0);
    struct fiber *f = world.free;
    if (f != NULL) world.free = f->next;
    else f = calloc(1, sizeof *f);
    if (f == NULL) abort();
    uint64_t token = f->token + 1; /* fibers are used again: their old events must not fit */
    *f = (struct fiber){.process = p, .main = main, .arg = arg, .due = UINT64_MAX, .pending = UINT64_MAX, .token = token, .stack = f->stack};
    if (f->stack == NULL) f->stack = stack_new();
    memory_enter(heap);
    context_make(&f->context, f->stack, begin, f);
    f->next = p->fibers;
    p->fibers = f;
    wake_at(f, world.now + dice_below(&world_dice, 10 * US));
    return f;
}

bool fiber_ended(const struct fiber *f)
{
    return f->ended;
}

void fiber_join(struct fiber *f)
{
    while (!f->ended) fiber_wait(f);
}

/* ---- processes ------------------------------------------------------------------------------------------------ */

void process_init(struct process *p, unsigned number, bool is_node)
{
    uint32_t life = p->life;
    *p = (struct process){.number = number, .is_node = is_node, .heap = number + 1, .die_at_io = UINT64_MAX, .life = life};
    p->mono_base = dice_below(&world_dice, 1000) * SECOND;
    assert(world.n_processes < HEAPS);
    world.processes[world.n_processes++] = p;
}

struct process *process_current(void)
{
    return world.current == NULL ? NULL : world.current->process;
}

void process_start(struct process *p, void (*main)(void *arg), void *arg)
{
    assert(!p->running);
    p->life++;
    p->running = true;
    p->status = PROCESS_RUNS;
    p->paused_until = 0;
    fiber_start(p, main, arg);
}

static void free_fibers(struct process *p)
{
    while (p->fibers != NULL) {
        struct fiber *f = p->fibers;
        p->fibers = f->next;
        f->process = NULL;
        f->token++;
        f->next = world.free;
        world.free = f;
    }
}

/* Outside of the process' fibers. */
static void reap(void *arg, uint64_t life)
{
    struct process *p = arg;
    if (p->life != life || p->running) return;
    free_fibers(p);
    net_process_ended(p, p->status == PROCESS_POWER);
    p->on_end(p);
    memory_reset(p->heap);
}

void process_end(struct process *p, int status)
{
    if (!p->running) return;
    p->running = false;
    p->status = status;
    p->die_at_io = UINT64_MAX;
    for (struct fiber *f = p->fibers; f != NULL; f = f->next) f->token++; /* none is woken any more */
    world_trace("process %u ends: %d", p->number, status);
    if (process_current() != p) {
        reap(p, p->life);
        return;
    }
    world_at(world.now, reap, p, p->life);
    context_leave(&world.current->context, &world.context);
}

void process_io(struct process *p)
{
    if (p == NULL || p->die_at_io == UINT64_MAX || p->die_at_io-- > 0) return;
    process_end(p, p->die_with_power ? PROCESS_POWER : PROCESS_KILLED);
}

void world_violation(const char *format, ...)
{
    va_list args;
    if (!world.failed) {
        world.failed = true;
        va_start(args, format);
        vsnprintf(world.failure, sizeof world.failure, format, args);
        va_end(args);
        world_trace("VIOLATION %s", world.failure);
    }
    if (world.current != NULL) context_leave(&world.current->context, &world.context);
}

void world_end(void)
{
    world.n = 0;
    for (unsigned i = 0; i < world.n_processes; i++) {
        struct process *p = world.processes[i];
        p->running = false;
        free_fibers(p);
        memory_reset(p->heap);
    }
    world.n_processes = 0;
}

uint64_t process_mono_ns(const struct process *p)
{
    return p->mono_base + (uint64_t)((int64_t)world.now + (int64_t)world.now / 1000000 * p->drift_ppm);
}

uint64_t process_world_time(const struct process *p, uint64_t mono_ns)
{
    if (mono_ns <= p->mono_base) return 0;
    double world_ns = (double)(mono_ns - p->mono_base) / (1.0 + (double)p->drift_ppm / 1e6);
    uint64_t when = (uint64_t)world_ns;
    while (when > 1000 && p->mono_base + (uint64_t)((int64_t)when + (int64_t)when / 1000000 * p->drift_ppm) > mono_ns + 1000) when -= 1000;
    return when;
}

uint64_t process_wall_us(const struct process *p)
{
    return (uint64_t)(INT64_C(1800000000000000) + (int64_t)(process_mono_ns(p) - p->mono_base) / 1000 + p->wall_offset_us);
}

uint64_t process_live_blocks(const struct process *p)
{
    return memory_live(p->heap);
}

void process_describe_leaks(const struct process *p)
{
    memory_describe(p->heap);
}
