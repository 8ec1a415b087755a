/* The simulated world: one seeded clock, one queue of events, processes made of fibers. Everything runs in one thread of the
 * operating system, and what happens depends on the seed alone.
 *
 *      events (time, number)  ->  wake a fiber of a process, deliver bytes, hurt something
 *      process                ->  a machine's program: fibers (its threads), a heap, clocks, open files and sockets
 *      fiber                  ->  runs until it waits: for a time, for another fiber, for its loop's events
 *
 * Promises: fibers are switched only where they wait, so that the code under test sees no more interleavings than it would with
 * threads that are preempted there; two events never have the same place in the queue; no address, real time or order of a hash
 * table gets into the trace. A process that ends (kill, _exit, power cut) is simply never run again: its heap is given back whole,
 * its sockets are closed as an operating system would. So a crash needs no cooperation of the code under test, and a leak in a
 * process that stopped cleanly is still seen (process_live_blocks()).
 *
 * Thread: one. */
#ifndef CRSC_TESTS_SIM_WORLD_H
#define CRSC_TESTS_SIM_WORLD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fiber;
struct process;

enum { US = 1000, MS = 1000 * 1000 }; /* of simulated nanoseconds */
#define SECOND UINT64_C(1000000000)

/* ---- random numbers ------------------------------------------------------------------------------------------- */

struct dice { uint64_t state; };
uint64_t dice_roll(struct dice *d);
uint64_t dice_below(struct dice *d, uint64_t n);               /* 0 <= x < n */
uint64_t dice_between(struct dice *d, uint64_t a, uint64_t b); /* a <= x <= b */
bool dice_chance(struct dice *d, unsigned of_1000);
extern struct dice world_dice; /* of all that is not planned beforehand */

/* ---- time and events ------------------------------------------------------------------------------------------ */

void world_begin(uint64_t seed);
void world_end(void);          /* forgets all processes */
uint64_t world_now(void);      /* simulated nanoseconds since the beginning */
typedef void world_cb(void *arg, uint64_t token);
void world_at(uint64_t when, world_cb *cb, void *arg, uint64_t token);
void world_run(uint64_t until); /* or until world_failed() */
uint64_t world_events(void);

/* ---- the trace ------------------------------------------------------------------------------------------------ */

extern bool world_verbose; /* print the trace */
void world_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void world_trace_cheap(uint32_t what, uint64_t a, uint64_t b); /* into the hash only */
uint64_t world_hash(void);
/* A promise is broken: the run ends here. Called inside a fiber it does not return. */
void world_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool world_failed(void);
const char *world_failure(void);

/* ---- processes ------------------------------------------------------------------------------------------------ */

enum { PROCESS_RUNS = -1, PROCESS_KILLED = -2, PROCESS_RESTARTS = -3, PROCESS_POWER = -4 };

struct process {
    unsigned number;      /* constant: of the machine */
    uint32_t life;        /* counts the processes that ran here */
    bool running;
    int status;           /* of the last life that ended: PROCESS_*, or what it gave to _exit() */
    bool is_node;
    uint64_t paused_until;
    int64_t drift_ppm, wall_offset_us; /* of this machine's clocks */
    uint64_t mono_base;
    struct fiber *fibers;
    unsigned heap;
    uint64_t die_at_io; /* counts down at each boundary of I/O; UINT64_MAX: never */
    bool die_with_power;
    void (*on_end)(struct process *p); /* after an end of any kind, outside of its fibers */
};

void process_init(struct process *p, unsigned number, bool is_node);
void process_start(struct process *p, void (*main)(void *arg), void *arg);
void process_end(struct process *p, int status); /* from outside or inside; inside it does not return */
struct process *process_current(void);           /* NULL: the world itself */
uint64_t process_mono_ns(const struct process *p);
uint64_t process_wall_us(const struct process *p);
uint64_t process_world_time(const struct process *p, uint64_t mono_ns); /* when its clock will show that */
void process_io(struct process *p);   /* a boundary of I/O: may not return */
uint64_t process_live_blocks(const struct process *p);
void process_describe_leaks(const struct process *p);

/* ---- fibers --------------------------------------------------------------------------------------------------- */

struct fiber *fiber_start(struct process *p, void (*main)(void *arg), void *arg);
struct fiber *fiber_current(void);
void fiber_sleep(uint64_t ns);               /* of the world's time */
void fiber_wait(const void *what);           /* until fiber_wake_all(what), which may be spurious */
void fiber_wait_until(const void *what, uint64_t when);
void fiber_wake_all(struct process *p, const void *what);
bool fiber_ended(const struct fiber *f);
void fiber_join(struct fiber *f);
void fiber_detach(struct fiber *f); /* nobody will ask for it; it goes by itself when it ends */

/* ---- memory (memory.c) ---------------------------------------------------------------------------------------- */

void memory_enter(unsigned heap); /* 0: the world's, which is the C library's */
unsigned memory_heap(void);
void memory_reset(unsigned heap); /* everything in it is gone */
uint64_t memory_live(unsigned heap);
void memory_describe(unsigned heap);
enum { HEAPS = 40 };

#endif
