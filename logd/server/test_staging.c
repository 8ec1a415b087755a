/* The files of a fetched state: sizes that are no multiple of a block, one that is gone on with, notes that are not true any more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "logd/server/staging.h"

static const char name[] = "wal/00000000000000000007.seg";
static const uint8_t block[4096] = {1, 2, 3};

static int setup(void **state)
{
    struct staging *s = calloc(1, sizeof *s);
    struct state_file file = {.size = 10000};
    struct state_manifest m = {.id = 5, .applied_index = 1, .applied_term = 1, .n_files = 1, .files = &file};
    struct error e;
    s->lock = -1;
    snprintf(s->data, sizeof s->data, "/tmp/crsc-staging-XXXXXX");
    if (mkdtemp(s->data) == NULL) return -1;
    snprintf(file.name, sizeof file.name, "%s", name);
    if (staging_begin(s, 1, 1, &m, &e) != 0) fail_msg("%s", e.text);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct staging *s = *state;
    staging_forget(s);
    int rv = rmdir(s->data);
    free(s);
    return rv;
}

static int open_file(const struct staging *s, uint64_t size, bool keep)
{
    struct error e;
    int fd;
    if (staging_open_file(s, name, keep, &fd, &e) != 0 || staging_reserve(name, fd, size, &e) != 0) fail_msg("%s", e.text);
    return fd;
}

static void put(int fd, off_t at)
{
    assert_int_equal(pwrite(fd, block, sizeof block, at), sizeof block);
}

static void close_file(const struct staging *s, uint64_t size, int fd)
{
    struct error e;
    if (staging_close_file(s, name, size, fd, &e) != 0) fail_msg("%s", e.text);
}

static void note(const struct staging *s, int fd, uint64_t bytes)
{
    struct error e;
    if (staging_note(s, 5, name, fd, bytes, &e) != 0) fail_msg("%s", e.text);
}

static void closed_it_has_its_size(void **state)
{
    struct staging *s = *state;
    struct stat st;
    char path[PATH_MAX];
    int fd = open_file(s, 10000, false);
    for (off_t at = 0; at < 10000; at += 4096) put(fd, at);
    assert_int_equal(staging_has(s, 5, name, 10000), 0); /* nothing of it was synced */
    close_file(s, 10000, fd);
    staging_path(s, name, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 10000);
    assert_int_equal(staging_has(s, 5, name, 10000), 10000);
    assert_int_equal(staging_has(s, 5, name, 10001), 0);
}

static void gone_on_with(void **state)
{
    struct staging *s = *state;
    uint8_t is[sizeof block];
    int fd = open_file(s, 10000, false);
    put(fd, 0);
    note(s, fd, 4096);
    put(fd, 4096);
    close(fd);
    assert_int_equal(staging_has(s, 5, name, 10000), 4096);
    assert_int_equal(staging_has(s, 6, name, 10000), 0); /* of another copy */
    fd = open_file(s, 10000, true);
    assert_int_equal(pread(fd, is, sizeof is, 0), sizeof is);
    assert_memory_equal(is, block, sizeof is);
    close_file(s, 10000, fd);
}

/* It was noted, finished, found damaged and removed. What is fetched anew has room for all of it from the beginning, and none of it is there. */
static void an_old_note(void **state)
{
    struct staging *s = *state;
    char path[PATH_MAX];
    int fd = open_file(s, 10000, false);
    put(fd, 0);
    note(s, fd, 8192);
    close_file(s, 10000, fd);
    staging_path(s, name, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(staging_has(s, 5, name, 10000), 0);
    fd = open_file(s, 10000, false);
    close(fd);
    assert_int_equal(staging_has(s, 5, name, 10000), 0);
}

static void no_room(void **state)
{
    struct staging *s = *state;
    struct error e;
    int fd;
    assert_int_equal(staging_open_file(s, name, false, &fd, &e), 0);
    put(fd, 0);
    int rv = staging_reserve(name, fd, UINT64_C(1) << 42 /* 4 TB */, &e);
    if (rv == 0) { /* a file system without promises, or with that much room */
        close(fd);
        skip();
    }
    assert_int_equal(rv, -ERROR_NOSPACE);
    assert_int_equal(lseek(fd, 0, SEEK_END), 0); /* others need what it got */
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(closed_it_has_its_size, setup, teardown), cmocka_unit_test_setup_teardown(gone_on_with, setup, teardown),
                                       cmocka_unit_test_setup_teardown(an_old_note, setup, teardown), cmocka_unit_test_setup_teardown(no_room, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
