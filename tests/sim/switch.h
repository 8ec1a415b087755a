/* Switching between stacks: the fibers of world.c. On x86-64 a dozen instructions, elsewhere <ucontext.h>, which asks the kernel
 * twice per switch. AddressSanitizer is told of each one. Thread: one. */
#ifndef CRSC_TESTS_SIM_SWITCH_H
#define CRSC_TESTS_SIM_SWITCH_H

#include <stddef.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

struct stack;
struct stack *stack_new(void);

struct context {
    void *sp;
    const void *bottom; /* of its stack; NULL: the thread's own, as found out by the sanitizer */
    size_t size;
    void *fake; /* the sanitizer's */
    void (*main)(void *arg);
    void *arg;
#ifndef __x86_64__
    ucontext_t u;
#endif
};

/* `main` must end with context_leave(). */
void context_make(struct context *c, struct stack *stack, void (*main)(void *arg), void *arg);
void context_switch(struct context *from, struct context *to);
_Noreturn void context_leave(struct context *from, struct context *to); /* `from` will not be run again */

#endif
