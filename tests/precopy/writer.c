/* writer: an app with much memory that is written to slowly, which can say whether every page of it is as it was left.
 *
 *   writer MEBIBYTES [huge]
 *
 * The kernel tracks writes by pages, as it maps them: of a huge one it knows no more than that something in its 2 MiB was written. So there are none, but with `huge`.
 *
 * A thousand times in a second it writes a few pages of the first ones, and one anywhere. Every page has a filler made of its number, and the number of the last
 * write to it: what is in it is known from the count of writes alone. SIGUSR1: all is compared. SIGUSR2: the longest time between two writes is forgotten.
 * Each answers in /status, replaced at once, with a line: ANSWERS WRITES GAP_US WRONG_PAGES. Linked statically, so that it runs in an empty container. */
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, HOT = 1024 /* pages */, HOT_WRITES = 8, TICK_NS = 1000000 };

static volatile sig_atomic_t compare, forget;
static uint64_t *memory, *last, pages, writes;
static unsigned long answers;

static void on_signal(int number)
{
    if (number == SIGUSR1) compare = 1;
    else forget = 1;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

/* Which page the write of that number goes to. */
static uint64_t page_of(uint64_t number)
{
    uint64_t among = number % (HOT_WRITES + 1) != 0 && pages > HOT ? HOT : pages;
    return mix(number) % among;
}

static void write_once(void)
{
    uint64_t *page = memory + page_of(++writes) * WORDS;
    page[0] = writes;
    page[WORDS - 1] = ~writes;
}

static uint64_t wrong_pages(void)
{
    uint64_t wrong = 0;
    memset(last, 0, pages * sizeof *last);
    for (uint64_t i = 1; i <= writes; i++) last[page_of(i)] = i;
    for (uint64_t p = 0; p < pages; p++) {
        const uint64_t *page = memory + p * WORDS;
        int good = page[0] == last[p] && page[WORDS - 1] == (last[p] != 0 ? ~last[p] : 0);
        for (uint64_t i = 1; good && i < WORDS - 1; i++) good = page[i] == mix(p * WORDS + i);
        wrong += !good;
    }
    return wrong;
}

static void answer(uint64_t gap_us, uint64_t wrong)
{
    FILE *f = fopen("/status.new", "w");
    if (f == NULL) exit(1);
    fprintf(f, "%lu %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", ++answers, writes, gap_us, wrong);
    if (fclose(f) != 0 || rename("/status.new", "/status") != 0) exit(1);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
    pages = argc > 1 ? strtoull(argv[1], NULL, 10) * 256 : 0;
    if (pages == 0) return 2;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    last = calloc(pages, sizeof *last);
    if (memory == MAP_FAILED || last == NULL) return 1;
    if (argc < 3) madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
    for (uint64_t p = 0; p < pages; p++)
        for (uint64_t i = 1; i < WORDS - 1; i++) memory[p * WORDS + i] = mix(p * WORDS + i);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    answer(0, wrong_pages());
    uint64_t before = now_us(), gap = 0;
    for (;;) {
        for (int i = 0; i < HOT_WRITES + 1; i++) write_once();
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
        uint64_t now = now_us();
        if (now - before > gap) gap = now - before;
        before = now;
        if (!compare && !forget) continue;
        int compares = compare, forgets = forget;
        compare = forget = 0; /* before the answer: the next one may be asked for at once */
        answer(gap, compares ? wrong_pages() : 0);
        if (forgets) gap = 0;
        before = now_us();
    }
}
