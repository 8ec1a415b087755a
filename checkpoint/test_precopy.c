/* When another round of pre-copy is worth while, which links belong to one, how much memory a container has. The rounds themselves: test_runc.c, and
 * operator/drivers/test_local.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/precopy.h"

#define MIB (UINT64_C(1) << 20)

static void another_round(void **state)
{
    (void)state;
    const uint64_t none[1] = {0}, shrinking[] = {1000 * MIB, 100 * MIB, 40 * MIB, 3 * MIB}, busy[] = {1000 * MIB, 600 * MIB};
    assert_false(precopy_another(0, 1000 * MIB, none, 0)); /* off */
    assert_false(precopy_another(2, 0, none, 0));          /* it has ended */
    assert_false(precopy_another(2, PRECOPY_WORTH - 1, none, 0));
    assert_true(precopy_another(2, PRECOPY_WORTH, none, 0));
    assert_true(precopy_another(2, 1000 * MIB, shrinking, 1));
    assert_false(precopy_another(2, 1000 * MIB, shrinking, 2)); /* so many may be */
    assert_true(precopy_another(8, 1000 * MIB, shrinking, 2));
    assert_true(precopy_another(8, 1000 * MIB, shrinking, 3));
    assert_false(precopy_another(8, 1000 * MIB, shrinking, 4)); /* so little is dumped at once */
    assert_false(precopy_another(8, 1000 * MIB, busy, 2));      /* it is written as fast as it is copied */
    const uint64_t little[] = {PRECOPY_ENOUGH - 1}, all[PRECOPY_ROUNDS_MAX] = {256 * MIB, 127 * MIB, 63 * MIB, 31 * MIB, 15 * MIB, 7 * MIB, 7 * MIB / 2, MIB};
    assert_false(precopy_another(8, 1000 * MIB, little, 1));
    assert_false(precopy_another(1000, 1000 * MIB, all, PRECOPY_ROUNDS_MAX));
}

static void paying(void **state)
{
    (void)state;
    assert_true(precopy_pays(NULL, 0));
    assert_true(precopy_pays((const uint64_t[]){100 * MIB}, 1)); /* nobody knows yet */
    assert_true(precopy_pays((const uint64_t[]){100 * MIB, 49 * MIB}, 2));
    assert_false(precopy_pays((const uint64_t[]){100 * MIB, 50 * MIB}, 2));
    assert_true(precopy_pays((const uint64_t[]){100 * MIB, 30 * MIB, 40 * MIB}, 3));
    assert_false(precopy_pays((const uint64_t[]){100 * MIB, 30 * MIB, 90 * MIB}, 3));
}

static void room(void **state)
{
    (void)state;
    assert_true(precopy_fits(100 * MIB, 600 * MIB));
    assert_false(precopy_fits(100 * MIB, 600 * MIB - 1));
    assert_false(precopy_fits(1, 0));
    assert_false(precopy_fits(UINT64_MAX, UINT64_MAX));
}

static void links(void **state)
{
    (void)state;
    assert_true(precopy_is_link("parent", "pre-1"));
    assert_true(precopy_is_link("parent", "pre-8"));
    assert_true(precopy_is_link("pre-2/parent", "../pre-1"));
    assert_true(precopy_is_link("pre-8/parent", "../pre-1"));
    static const char *const bad[][2] = {{"parent", ""}, {"parent", "pre-0"}, {"parent", "pre-9"}, {"parent", "pre-10"}, {"parent", "../pre-1"}, {"parent", "/pre-1"},
        {"parent", "pre-1/"}, {"parent", "pre-1/.."}, {"parent", "./pre-1"}, {"parent", "parent"}, {"parent", ".."}, {"parent", "."}, {"Parent", "pre-1"},
        {"parents", "pre-1"}, {"inventory.img", "pre-1"}, {"pre-1", "pre-2"}, {"pre-1/parent", "../pre-1"}, {"pre-1/parent", "../pre-2"}, {"pre-2/parent", "pre-1"},
        {"pre-2/parent", "../../pre-1"}, {"pre-2/parent", "../pre-2"}, {"pre-2/parent", "/pre-1"}, {"pre-2/parent", "../pre-1/x"}, {"pre-2/parent", ".."},
        {"pre-2/pages-1.img", "../pre-1"}, {"pre-2/x/parent", "../pre-1"}, {"pre-22/parent", "../pre-1"}, {"pre-/parent", "../pre-1"}, {"x/parent", "../pre-1"},
        {"/parent", "pre-1"}, {"", "pre-1"}, {"pre-2", "../pre-1"}, {"pre-2/", "../pre-1"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (precopy_is_link(bad[i][0], bad[i][1])) fail_msg("%s -> %s", bad[i][0], bad[i][1]);
}

/* Of a process and its children's children. */
static void resident(void **state)
{
    (void)state;
    enum { BIG = 40 << 20 };
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    struct precopy_memory before = precopy_resident(getpid());
    assert_true(before.own > 0 && before.own < UINT64_C(1) << 40);
    volatile char *shared = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    for (size_t i = 0; i < BIG; i += 512) shared[i] = 1;
    assert_true(precopy_resident(getpid()).shared >= before.shared + BIG);
    munmap((void *)(uintptr_t)shared, BIG);
    pid_t pid = fork();
    if (pid == 0) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            volatile char *memory = malloc(BIG);
            for (size_t i = 0; memory != NULL && i < BIG; i += 512) memory[i] = 1;
            if (write(ready[1], "", 1) != 1) _exit(1);
            pause();
            _exit(memory[0]);
        }
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(precopy_resident(pid).own >= BIG);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(precopy_resident(pid).own, 0);
    close(ready[0]);
    close(ready[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(another_round), cmocka_unit_test(paying), cmocka_unit_test(room), cmocka_unit_test(links), cmocka_unit_test(resident)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
