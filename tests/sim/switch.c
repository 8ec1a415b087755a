#include "tests/sim/switch.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
enum { STACK = 1 << 20 };
#else
enum { STACK = 256 << 10 };
#endif

struct stack {
    uint8_t *bytes;
};

struct stack *stack_new(void)
{
    struct stack *s = malloc(sizeof *s);
    if (s == NULL) abort();
    uint8_t *all = mmap(NULL, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED || mprotect(all, 4096, PROT_NONE) != 0) abort(); /* an overflow is seen */
    s->bytes = all + 4096;
    return s;
}

static struct context *starting; /* handed to enter() */
static struct context *came_from;

static void before(struct context *from, struct context *to, int leaves)
{
    came_from = from;
#if defined __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(leaves ? NULL : &from->fake, to->bottom, to->size);
#else
    (void)to;
    (void)leaves;
#endif
}

static void after(struct context *here)
{
#if defined __SANITIZE_ADDRESS__
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(here->fake, &bottom, &size);
    if (came_from->bottom == NULL) came_from->bottom = bottom, came_from->size = size;
#else
    (void)here;
#endif
}

static _Noreturn void enter(void)
{
    struct context *c = starting;
    c->fake = NULL;
    after(c);
    c->main(c->arg);
    abort();
}

#ifdef __x86_64__
void sim_switch(void **ret_from, void *to);
__asm__(".text\n"
        ".globl sim_switch\n"
        ".hidden sim_switch\n"
        ".type sim_switch, @function\n"
        "sim_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size sim_switch, .-sim_switch\n");

static void make(struct context *c, struct stack *stack)
{
    void **top = (void **)(void *)(stack->bytes + STACK);
    *--top = NULL;              /* keeps the stack aligned as after a call */
    *--top = (void *)enter;     /* where sim_switch returns to */
    for (int i = 0; i < 6; i++) *--top = NULL;
    c->sp = top;
}

static void jump(struct context *from, struct context *to)
{
    sim_switch(&from->sp, to->sp);
}
#else
static void make(struct context *c, struct stack *stack)
{
    getcontext(&c->u);
    c->u.uc_stack.ss_sp = stack->bytes;
    c->u.uc_stack.ss_size = STACK;
    c->u.uc_link = NULL;
    makecontext(&c->u, enter, 0);
}

static void jump(struct context *from, struct context *to)
{
    swapcontext(&from->u, &to->u);
}
#endif

void context_make(struct context *c, struct stack *stack, void (*main)(void *arg), void *arg)
{
#if defined __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack->bytes, STACK); /* of the frames of a fiber that was left in the middle */
#endif
    c->bottom = stack->bytes;
    c->size = STACK;
    c->main = main;
    c->arg = arg;
    make(c, stack);
}

void context_switch(struct context *from, struct context *to)
{
    starting = to;
    before(from, to, 0);
    jump(from, to);
    after(from);
}

_Noreturn void context_leave(struct context *from, struct context *to)
{
    before(from, to, 1);
    jump(from, to);
    abort();
}
