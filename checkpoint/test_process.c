/* Identities of processes: right for the living, refused for zombies, the dead and for text that is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/process.h"
#include "common/error.h"

static void test_self(void **state)
{
    (void)state;
    struct process self, back;
    char text[PROCESS_IDENTITY_MAX];
    assert_int_equal(prctl(PR_SET_NAME, ") Z 1 2 3 ("), 0); /* a name that would lead a careless reader astray */
    assert_int_equal(process_find(getpid(), &self), 0);
    assert_true(self.start_time > 0);
    assert_true(process_alive(&self));
    assert_int_equal(process_parse(process_identity(&self, text), &back), 0);
    assert_int_equal(back.pid, getpid());
    assert_int_equal(back.start_time, self.start_time);
    back.start_time++;
    assert_false(process_alive(&back)); /* the same pid, another process */
    assert_int_equal(process_open(&back, &(int){0}), -ERROR_NOT_FOUND);
}

static void test_end(void **state)
{
    (void)state;
    struct process child;
    int fd;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pause();
        _exit(0);
    }
    assert_int_equal(process_find(pid, &child), 0);
    assert_int_equal(process_open(&child, &fd), 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(process_signal(fd, SIGKILL), 0);
    assert_int_equal(poll(&p, 1, 5000), 1); /* the pidfd says so */
    assert_false(process_alive(&child));    /* a zombie has ended */
    assert_int_equal(process_find(pid, &child), -ERROR_NOT_FOUND);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(process_signal(fd, SIGKILL), -ERROR_NOT_FOUND);
    assert_false(process_alive(&child));
    close(fd);
}

static void test_text(void **state)
{
    (void)state;
    struct process p = {7, 7};
    static const char *const bad[] = {"", ":", "1", "1:", ":1", "0:1", "-1:5", "1:-5", " 1:5", "1:5 ", "1:5x", "4294967297:5",
        "99999999999999999999999:1", "1:99999999999999999999999", "+1:5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(process_parse(bad[i], &p), -ERROR_INVALID);
    assert_int_equal(process_parse(NULL, &p), -ERROR_INVALID);
    assert_int_equal(p.pid, 7);
    assert_int_equal(process_find(0, &p), -ERROR_NOT_FOUND);
    assert_int_equal(process_find(-1, &p), -ERROR_NOT_FOUND);
    assert_int_equal(process_parse("12:34", &p), 0);
    assert_int_equal(p.pid, 12);
    assert_int_equal(p.start_time, 34);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_self), cmocka_unit_test(test_end), cmocka_unit_test(test_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
