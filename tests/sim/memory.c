/* Heaps of the simulated processes: what a process allocated, through whatever library, goes with it.
 *
 * malloc() and its kin are this executable's own; shared libraries use them as well. A block belongs to the heap that is entered when
 * it is made: the one of the process that runs. Heap 0 is the C library's own. Under AddressSanitizer, which wants every block for
 * itself, its hooks keep a list of each heap's blocks instead, and memory_reset() frees those that are left. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/world.h"

static unsigned entered;

void memory_enter(unsigned heap)
{
    entered = heap;
}

unsigned memory_heap(void)
{
    return entered;
}

#if defined __SANITIZE_ADDRESS__

/* <sanitizer/allocator_interface.h>, which gcc does not install */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t), void (*on_free)(const volatile void *));

/* Open addressing: address -> heap and number. */
struct known {
    const volatile void *block;
    size_t size;
    unsigned heap;
};
static struct known *table;
static size_t slots, used;
static uint64_t live[HEAPS + 1];
static int inside;

static size_t place(const volatile void *block)
{
    size_t i = ((uintptr_t)block >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20 & (slots - 1);
    while (table[i].block != NULL && table[i].block != block) i = (i + 1) & (slots - 1);
    return i;
}

static void grow(void)
{
    struct known *old = table;
    size_t n = slots;
    slots = n == 0 ? 1 << 16 : 2 * n;
    table = mmap(NULL, slots * sizeof *table, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) abort();
    for (size_t i = 0; i < n; i++)
        if (old[i].block != NULL) table[place(old[i].block)] = old[i];
    if (old != NULL) munmap(old, n * sizeof *old);
}

static void on_malloc(const volatile void *block, size_t size)
{
    if (entered == 0 || inside || block == NULL) return;
    if (used * 2 >= slots) grow();
    table[place(block)] = (struct known){block, size, entered};
    used++;
    live[entered]++;
}

static void on_free(const volatile void *block)
{
    if (slots == 0 || inside || block == NULL) return;
    size_t i = place(block);
    if (table[i].block == NULL) return;
    live[table[i].heap]--;
    used--;
    table[i].block = NULL;
    for (size_t j = (i + 1) & (slots - 1); table[j].block != NULL; j = (j + 1) & (slots - 1)) { /* close the gap */
        struct known moved = table[j];
        table[j].block = NULL;
        table[place(moved.block)] = moved;
    }
}

__attribute__((constructor)) static void install(void)
{
    __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}

void memory_reset(unsigned heap)
{
    for (size_t i = 0; i < slots && live[heap] > 0;) {
        if (table[i].block != NULL && table[i].heap == heap) free((void *)(uintptr_t)table[i].block); /* another may move here */
        else i++;
    }
    if (live[heap] > 0) memory_reset(heap); /* one moved across the end */
}

void memory_describe(unsigned heap)
{
    unsigned shown = 0;
    for (size_t i = 0; i < slots && shown < 10; i++)
        if (table[i].block != NULL && table[i].heap == heap) shown++, fprintf(stderr, "  %zu bytes at %p\n", table[i].size, (void *)(uintptr_t)table[i].block);
}

uint64_t memory_live(unsigned heap)
{
    return live[heap];
}

#else

/* Blocks of LARGE and more lie by themselves. Those that calloc() gives (tables of which a program uses a corner) consist of pages that the
 * kernel was given back, if somebody had them before: zero without anybody clearing them. */
enum { CLASSES = 72 /* more than blocks of HEAP_BYTES / 8 need */, SMALL = 1024, POISON = 256, PAGE = 4096, LARGE = 256 << 10 };
#define HEAP_BYTES (UINT64_C(512) << 20) /* of address space: valgrind has less of it to give than the kernel */

struct block { /* before the bytes, 16 of it */
    uint32_t class, tag;
    uint64_t size;
};
enum { LIVE = 0x600dc0de, FREE = 0xdeadb10c };

static struct heap {
    uint8_t *base, *next, *large; /* large: the blocks of LARGE and more, from the middle of its space on */
    uint8_t *used;                /* beyond it no large one was ever */
    struct block *free[CLASSES];
    uint64_t live;
} heaps[HEAPS + 1];
static uint8_t *region;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *block);

static bool is_ours(const void *p)
{
    return region != NULL && (const uint8_t *)p >= region && (const uint8_t *)p < region + (HEAPS + 1) * HEAP_BYTES;
}

static struct heap *heap_of(const void *p)
{
    return &heaps[(uint64_t)((const uint8_t *)p - region) / HEAP_BYTES];
}

/* Up to SMALL in steps of 16, above by powers of two and their halves. */
static unsigned class_of(size_t size, size_t *ret_room)
{
    if (size <= SMALL / 2) {
        unsigned c = (unsigned)((size + 15) / 16);
        *ret_room = (size_t)(c == 0 ? 1 : c) * 16;
        return c == 0 ? 0 : c - 1; /* 0..31 */
    }
    unsigned c = SMALL / 2 / 16;
    for (size_t room = SMALL / 2;; room *= 2, c += 2) {
        if (size <= room + room / 2) {
            *ret_room = room + room / 2;
            return c;
        }
        if (size <= 2 * room) {
            *ret_room = 2 * room;
            return c + 1;
        }
    }
}

/* NULL: no more room. */
static struct block *fresh(struct heap *h, size_t room)
{
    struct block *b;
    if (room >= LARGE) {
        b = (struct block *)(void *)h->large;
        if (h->large + sizeof *b + room + PAGE > h->base + HEAP_BYTES) return NULL;
        h->large += (sizeof *b + room + PAGE - 1) / PAGE * PAGE;
    } else {
        b = (struct block *)(void *)h->next;
        if (h->next + sizeof *b + room > h->base + HEAP_BYTES / 2) return NULL;
        h->next += sizeof *b + room;
    }
    return b;
}

/* A large block is zero again. One that was aligned does not begin with a page. */
static void clean(struct block *b, size_t room)
{
    if ((uintptr_t)b % PAGE != 0) memset(b, 0, sizeof *b + room);
    else if (madvise(b, (sizeof *b + room + PAGE - 1) / PAGE * PAGE, MADV_DONTNEED) != 0) abort();
}

/* zeros: of a large block only; of others it is the caller's to see to that */
static void *take(size_t size, bool zeros)
{
    struct heap *h = &heaps[entered];
    size_t room;
    if (region == NULL) {
        region = mmap(NULL, (HEAPS + 1) * HEAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED) abort();
        for (unsigned i = 0; i <= HEAPS; i++) {
            heaps[i].base = heaps[i].next = region + i * HEAP_BYTES;
            heaps[i].large = heaps[i].used = heaps[i].base + HEAP_BYTES / 2;
        }
    }
    if (size >= HEAP_BYTES / 8) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned c = class_of(size, &room);
    struct block *b = h->free[c];
    if (b != NULL) {
        h->free[c] = *(struct block **)(b + 1);
    } else if ((b = fresh(h, room)) == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    if (zeros && room >= LARGE && (uint8_t *)b < h->used) clean(b, room);
    *b = (struct block){c, LIVE, size};
    if (room >= LARGE && h->used < h->large) h->used = h->large;
    h->live++;
    return b + 1;
}

static void give(void *p)
{
    struct block *b = (struct block *)p - 1;
    struct heap *h = heap_of(p);
    if (b->tag != LIVE) {
        entered = 0;
        fprintf(stderr, "simulator: %s\n", b->tag == FREE ? "a block is freed twice" : "what is freed is no block");
        abort();
    }
    b->tag = FREE;
    memset(p, 0xd5, b->size < POISON ? (size_t)b->size : POISON); /* who looks at it again sees no pointer */
    *(struct block **)p = h->free[b->class];
    h->free[b->class] = b;
    h->live--;
}

void *malloc(size_t size)
{
    return entered == 0 ? __libc_malloc(size) : take(size, false);
}

void free(void *p)
{
    if (p == NULL) return;
    if (is_ours(p)) give(p);
    else __libc_free(p);
}

void *calloc(size_t n, size_t size)
{
    size_t bytes;
    if (entered == 0) return __libc_calloc(n, size);
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = take(bytes, true);
    return p == NULL || bytes >= LARGE ? p : memset(p, 0, bytes);
}

void *realloc(void *old, size_t size)
{
    if (old == NULL) return malloc(size);
    if (!is_ours(old)) return __libc_realloc(old, size);
    struct block *b = (struct block *)old - 1;
    size_t room;
    if (size > 0 && class_of(size, &room) == b->class) {
        b->size = size;
        return old;
    }
    unsigned before = entered;
    entered = (unsigned)(heap_of(old) - heaps);
    void *p = take(size, false);
    entered = before;
    if (p == NULL) return NULL;
    memcpy(p, old, b->size < size ? (size_t)b->size : size);
    give(old);
    return p;
}

/* No alignment of more than a page is asked for: the block begins later, with a header of its own. */
static void *aligned(size_t align, size_t size)
{
    if (entered == 0) return __libc_memalign(align, size);
    if (align <= 16) return take(size, false);
    struct heap *h = &heaps[entered];
    void *first = take(16, false);
    if (first == NULL) return NULL;
    give(first);
    size_t room;
    unsigned c = class_of(size, &room);
    uintptr_t at = (uintptr_t)h->next + sizeof(struct block);
    at = (at + align - 1) / align * align;
    struct block *b = (struct block *)at - 1;
    h->next = (uint8_t *)at + room;
    *b = (struct block){c, LIVE, size};
    h->live++;
    return b + 1;
}

void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size)
{
    return aligned(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    return aligned(align, size);
}

int posix_memalign(void **ret, size_t align, size_t size)
{
    *ret = aligned(align, size);
    return *ret == NULL ? ENOMEM : 0;
}

void memory_reset(unsigned heap)
{
    struct heap *h = &heaps[heap];
    h->next = h->base;
    h->large = h->base + HEAP_BYTES / 2;
    memset(h->free, 0, sizeof h->free);
    h->live = 0;
}

void memory_describe(unsigned heap)
{
    const struct heap *h = &heaps[heap];
    unsigned shown = 0;
    for (uint8_t *at = h->base; at < h->next && shown < 10;) { /* blocks of page-aligned memory end the walk */
        const struct block *b = (const struct block *)(const void *)at;
        size_t room;
        if (b->tag != LIVE && b->tag != FREE) break;
        class_of(b->size, &room);
        if (b->tag == LIVE) shown++, fprintf(stderr, "  %llu bytes at %p\n", (unsigned long long)b->size, (const void *)(b + 1));
        at += sizeof *b + room;
    }
}

uint64_t memory_live(unsigned heap)
{
    return heaps[heap].live;
}

#endif
