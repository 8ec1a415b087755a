/* Files, on a kernel that takes a part of most writes: write() is wrapped (the linker's --wrap), also where others call it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/leftover.h"
#include "checkpoint/tree.h"
#include "common/file.h"

static struct {
    unsigned calls, parts;
    size_t room; /* what still fits on the disk */
} disk;
static char folder[] = "/tmp/crsc-test-file-XXXXXX";

ssize_t __real_write(int fd, const void *bytes, size_t len);
ssize_t __wrap_write(int fd, const void *bytes, size_t len);

ssize_t __wrap_write(int fd, const void *bytes, size_t len)
{
    if (fd <= STDERR_FILENO) return __real_write(fd, bytes, len);
    size_t some = len > 3 ? 1 + len / 3 : len;
    disk.calls++;
    if (disk.calls % 4 == 0) {
        errno = EINTR;
        return -1;
    }
    if (some > disk.room) some = disk.room;
    if (some == 0) {
        errno = ENOSPC;
        return -1;
    }
    disk.parts += some < len;
    disk.room -= some;
    return __real_write(fd, bytes, some);
}

static void place(const char *name, char path[64])
{
    snprintf(path, 64, "%s/%s", folder, name);
}

static void has(const char *path, const char *text)
{
    char found[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && read(fd, found, sizeof found - 1) >= 0);
    close(fd);
    assert_string_equal(found, text);
}

static const char first[] = "what it said at first, in more words than are taken at once", second[] = "and then";

static int begin(void **state)
{
    (void)state;
    disk.parts = 0;
    disk.room = 4096;
    return 0;
}

static void test_replace(void **state)
{
    char path[64], aside[64];
    (void)state;
    place("a", path);
    place("a.new", aside);
    assert_int_equal(file_replace(path, aside, first, strlen(first)), 0);
    assert_true(disk.parts > 0);
    has(path, first);
    assert_int_equal(file_replace(path, aside, second, strlen(second)), 0);
    has(path, second);
    assert_int_equal(file_replace(path, aside, "", 0), 0);
    has(path, "");
    disk.room = 20;
    assert_int_equal(file_replace(path, aside, first, strlen(first)), -ENOSPC);
    has(path, "");
    assert_int_equal(access(aside, F_OK), -1);
    place("nowhere/a", aside);
    assert_int_equal(file_replace(path, aside, first, strlen(first)), -ENOENT);
    place("a", path);
    unlink(path);
}

/* Those who write files in a way of their own. */
static void test_others(void **state)
{
    char path[64];
    struct error e = {0};
    (void)state;
    place("b", path);
    assert_int_equal(tree_replace_file(path, first, strlen(first), &e), 0);
    has(path, first);
    disk.room = 20;
    assert_int_equal(tree_replace_file(path, second, 0, &e), 0);
    assert_int_equal(tree_replace_file(path, first, strlen(first), &e), -ERROR_NOSPACE);
    has(path, "");
    disk.room = 4096;
    assert_int_equal(leftover_note_intent(path), 0);
    has(path, "about to start");
    assert_true(disk.parts > 1);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_replace, begin), cmocka_unit_test_setup(test_others, begin)};
    if (mkdtemp(folder) == NULL) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return rmdir(folder) == 0 ? failed : 1;
}
