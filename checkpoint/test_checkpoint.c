/* A real container, a real CRIU: an app that counts in memory is checkpointed while a connection is open, packed, unpacked,
 * killed and restored; it goes on counting where the checkpoint was.
 *
 *   test_checkpoint MAKE-BUNDLE COUNTER CRIU
 *
 * CRIU may name a file that does not exist: then "criu" on PATH is used. Exits with 77, and says why, where it cannot run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/oci_image.h"
#include "checkpoint/runc.h"
#include "checkpoint/tree.h"

enum { SKIPPED = 77, ANSWER_MAX = 64 << 10, BEFORE = 50 };

static const char *make_bundle, *counter, *criu;
static char base[64], id[64], bundle[128];
static uint16_t port;
static uv_loop_t loop;
static struct runc *runc, *hasty;
static struct runc_result last;
static char last_detail[RUNC_DETAIL_MAX];
static bool called;

/* --- where it cannot run */

static int quiet(const char *const args[])
{
    pid_t pid = fork();
    int status = -1;
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execvp(args[0], (char **)(uintptr_t)args);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *why_not(void)
{
    static char on_path[PATH_MAX];
    if (geteuid() != 0) return "containers and CRIU need root";
    if (quiet((const char *const[]){"runc", "--version", NULL}) != 0) return "there is no runc: scripts/install-deps";
    if (access(criu, X_OK) != 0) { /* runc_new() wants a path */
        FILE *f = popen("command -v criu", "r");
        if (f == NULL || fgets(on_path, sizeof on_path, f) == NULL) on_path[0] = '\0';
        if (f != NULL) pclose(f);
        on_path[strcspn(on_path, "\n")] = '\0';
        if (on_path[0] == '\0') return "there is no CRIU: scripts/install-deps";
        criu = on_path;
    }
    if (quiet((const char *const[]){criu, "check", NULL}) != 0) return "CRIU does not work on this kernel: criu check";
    return NULL;
}

/* --- the app's HTTP */

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 60};
    for (int tries = 0; tries < 6000; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
        close(fd);
        usleep(10000);
    }
    fail_msg("the app does not listen");
    return -1;
}

/* Sends a request and returns the answer's body, in memory that the next call uses again; NULL when the connection has ended. */
static const char *ask(int fd, const char *method, const char *path)
{
    static char answer[ANSWER_MAX];
    char request[256];
    int n = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n", method, path);
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n) return NULL;
    for (size_t len = 0; len < sizeof answer - 1;) {
        ssize_t got = recv(fd, answer + len, sizeof answer - 1 - len, 0);
        if (got <= 0) return NULL;
        len += (size_t)got;
        answer[len] = '\0';
        char *body = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "content-length:");
        if (body == NULL) continue;
        assert_non_null(length);
        if (len - (size_t)(body + 4 - answer) >= strtoul(length + 15, NULL, 10)) return body + 4;
    }
    fail_msg("an answer without end");
    return NULL;
}

static void add(int fd, int number)
{
    char path[64], expected[32];
    snprintf(path, sizeof path, "/add?id=%d", number);
    snprintf(expected, sizeof expected, "\"n\":%d,", number);
    const char *body = ask(fd, "POST", path);
    assert_non_null(body);
    if (strstr(body, expected) == NULL) fail_msg("%s was answered with %s", path, body);
}

static void assert_list(int fd, int count)
{
    char expected[ANSWER_MAX];
    size_t n = 0;
    for (int i = 1; i <= count; i++) n += (size_t)snprintf(expected + n, sizeof expected - n, "%d\n", i);
    assert_string_equal(ask(fd, "GET", "/list"), expected);
}

/* --- the container */

static void on_result(void *user, const struct runc_result *result)
{
    (void)user;
    last = *result;
    snprintf(last_detail, sizeof last_detail, "%s", result->detail);
    called = true;
}

static void wait_result(int rc)
{
    assert_int_equal(rc, 0);
    called = false;
    while (!called) uv_run(&loop, UV_RUN_ONCE);
}

static void wait_success(int rc)
{
    wait_result(rc);
    if (last.status != 0) fail_msg("%s\n%s", last.error.text, last_detail);
}

static char *at(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", base, name);
    return path;
}

static uint16_t free_port(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof any;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&any, &len), 0);
    close(fd);
    return ntohs(any.sin_port);
}

static int set_up(void **state)
{
    (void)state;
    char listen_at[32];
    struct error e = {0};
    snprintf(base, sizeof base, "/tmp/crsc-test-checkpoint-XXXXXX");
    if (mkdtemp(base) == NULL || uv_loop_init(&loop) != 0) return 1;
    snprintf(id, sizeof id, "crsc-test-%d", (int)getpid());
    snprintf(bundle, sizeof bundle, "%s/bundle", base);
    port = free_port();
    snprintf(listen_at, sizeof listen_at, "127.0.0.1:%u", port);
    if (quiet((const char *const[]){make_bundle, "--binary", counter, "--out", bundle, "--", "/counter", "--listen", listen_at, NULL}) != 0) {
        print_error("the bundle could not be made: %s --binary %s\n", make_bundle, counter);
        return 1;
    }
    struct runc_options options = {.criu = criu, .root = at("runc"), .work = at("work")};
    if (runc_new(&loop, &options, &runc, &e) == 0) return 0;
    print_error("%s\n", e.text);
    return 1;
}

/* Nothing may stay, however the test ended: no container, cgroup, mount or file. */
static int tear_down(void **state)
{
    (void)state;
    int left = 0;
    called = false;
    while (runc_delete(runc, id, on_result, NULL, NULL) == -ERROR_BUSY) uv_run(&loop, UV_RUN_ONCE);
    while (!called) uv_run(&loop, UV_RUN_ONCE);
    runc_close(runc, NULL, NULL);
    if (hasty != NULL) runc_close(hasty, NULL, NULL);
    hasty = NULL;
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) print_error("the loop has handles left\n"), left++;
    DIR *dir = opendir("/sys/fs/cgroup");
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", entry->d_name, id);
        if (access(path, F_OK) == 0) print_error("left: %s\n", path), left++;
    }
    if (dir != NULL) closedir(dir);
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    char line[4096];
    while (mounts != NULL && fgets(line, sizeof line, mounts) != NULL)
        if (strstr(line, base) != NULL) print_error("left: mount %s", line), left++;
    if (mounts != NULL) fclose(mounts);
    return tree_remove(base, NULL) == 0 && left == 0 ? 0 : 1;
}

static void kill_now(const struct process *p)
{
    int fd;
    assert_int_equal(process_open(p, &fd), 0);
    assert_int_equal(process_signal(fd, SIGKILL), 0);
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&ended, 1, 10000), 1);
    close(fd);
    assert_false(process_alive(p));
}

static void test_checkpoint_and_restore(void **state)
{
    (void)state;
    struct error e = {0};
    struct oci_image image, back;
    struct oci_image_labels labels = {.container = "counter", .stream = "test/counter", .offset = BEFORE};
    wait_success(runc_run(runc, id, bundle, on_result, NULL, NULL));
    assert_int_equal(last.container, RUNC_RUNNING);
    struct process first = last.process, second;
    int open_before = dial();
    for (int i = 1; i <= BEFORE; i++) add(open_before, i);

    wait_success(runc_checkpoint(runc, id, at("dump"), NULL, true, on_result, NULL, NULL));
    print_message("checkpoint: %llu ms\n", (unsigned long long)last.elapsed_us / 1000);
    assert_true(process_alive(&first)); /* it runs on, and so does the connection */
    add(open_before, BEFORE + 1);
    add(open_before, BEFORE + 2);
    wait_success(runc_query(runc, id, on_result, NULL, NULL));
    assert_int_equal(last.container, RUNC_RUNNING);
    assert_int_equal(last.process.start_time, first.start_time);
    if (oci_image_pack(at("dump"), at("image"), &labels, &image, &e) != 0) fail_msg("%s", e.text);
    assert_int_equal(tree_remove(at("dump"), &e), 0);

    kill_now(&first);
    wait_success(runc_query(runc, id, on_result, NULL, NULL));
    assert_int_equal(last.container, RUNC_STOPPED);
    if (oci_image_unpack(at("image"), image.digest, at("restored"), UINT64_MAX, &back, &e) != 0) fail_msg("%s", e.text);
    assert_int_equal(back.labels.offset, BEFORE);
    wait_result(runc_restore(runc, id, bundle, at("restored"), on_result, NULL, NULL));
    assert_true(last.status != 0); /* what is left of the old one is in the way */
    wait_success(runc_delete(runc, id, on_result, NULL, NULL));
    wait_success(runc_restore(runc, id, bundle, at("restored"), on_result, NULL, NULL));
    print_message("restore: %llu ms\n", (unsigned long long)last.elapsed_us / 1000);
    assert_int_equal(last.container, RUNC_RUNNING);
    second = last.process;
    assert_true(second.start_time != first.start_time);
    assert_null(ask(open_before, "GET", "/count")); /* that connection ended with its process */
    close(open_before);
    int fd = dial();
    assert_list(fd, BEFORE); /* what came after the checkpoint is not in it */
    add(fd, BEFORE + 1);

    /* a restored one can be checkpointed again, also for good */
    wait_success(runc_checkpoint(runc, id, at("dump"), NULL, false, on_result, NULL, NULL));
    assert_false(process_alive(&second));
    close(fd);
    wait_success(runc_delete(runc, id, on_result, NULL, NULL));
    wait_success(runc_query(runc, id, on_result, NULL, NULL));
    assert_int_equal(last.container, RUNC_ABSENT);
    wait_success(runc_restore(runc, id, bundle, at("dump"), on_result, NULL, NULL));
    fd = dial();
    assert_list(fd, BEFORE + 1);
    close(fd);
    wait_success(runc_kill(runc, id, SIGKILL, on_result, NULL, NULL));
}

static void test_failures(void **state)
{
    (void)state;
    struct error e;
    wait_result(runc_checkpoint(runc, id, at("none"), NULL, true, on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_NOT_FOUND);
    wait_success(runc_run(runc, id, bundle, on_result, NULL, NULL));
    struct process p = last.process;
    wait_result(runc_run(runc, id, bundle, on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_EXISTS);
    int fd = dial();
    add(fd, 1);
    wait_success(runc_checkpoint(runc, id, at("dump"), NULL, true, on_result, NULL, NULL));
    assert_true(process_alive(&p));
    close(fd);
    wait_success(runc_delete(runc, id, on_result, NULL, NULL));
    assert_false(process_alive(&p));
    /* half a dump: an error that says what CRIU said, and nothing is in the way afterwards */
    assert_int_equal(truncate(at("dump/pstree.img"), 9), 0);
    wait_result(runc_restore(runc, id, bundle, at("dump"), on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_IO);
    if (strstr(last.error.text, "CRIU") == NULL || last_detail[0] == '\0') fail_msg("%s\n%s", last.error.text, last_detail);
    wait_success(runc_delete(runc, id, on_result, NULL, NULL));
    assert_int_equal(tree_remove(at("dump"), &e), 0);
    wait_success(runc_run(runc, id, bundle, on_result, NULL, NULL));
    fd = dial();
    assert_list(fd, 0);
    close(fd);
}

/* Commands that are killed at every stage: a delete always clears the way, and the dump taken before is restored after each. */
static void test_killed_commands(void **state)
{
    (void)state;
    struct error e;
    int killed = 0;
    wait_success(runc_run(runc, id, bundle, on_result, NULL, NULL));
    int fd = dial();
    add(fd, 1);
    close(fd);
    wait_success(runc_checkpoint(runc, id, at("good"), NULL, false, on_result, NULL, NULL));
    for (uint32_t ms = 5; ms <= 125; ms += 15) {
        struct runc_options options = {.criu = criu, .root = at("runc"), .work = at("work"), .timeout_ms = ms};
        assert_int_equal(runc_new(&loop, &options, &hasty, &e), 0);
        wait_success(runc_delete(runc, id, on_result, NULL, NULL));
        wait_result(runc_restore(hasty, id, bundle, at("good"), on_result, NULL, NULL));
        assert_true(last.status == 0 || last.status == -ERROR_TIMEOUT);
        killed += last.status != 0;
        wait_success(runc_delete(runc, id, on_result, NULL, NULL));
        wait_success(runc_restore(runc, id, bundle, at("good"), on_result, NULL, NULL));
        assert_int_equal(tree_remove(at("bad"), &e), 0);
        wait_result(runc_checkpoint(hasty, id, at("bad"), NULL, true, on_result, NULL, NULL));
        assert_true(last.status == 0 || last.status == -ERROR_TIMEOUT);
        killed += last.status != 0;
        runc_close(hasty, NULL, NULL);
        hasty = NULL;
        assert_int_equal(access(at("bundle/rootfs/counter"), X_OK), 0); /* runc's own delete would have emptied it */
    }
    assert_true(killed >= 4);
    print_message("%d commands killed\n", killed);
    wait_success(runc_delete(runc, id, on_result, NULL, NULL));
    wait_success(runc_restore(runc, id, bundle, at("good"), on_result, NULL, NULL));
    fd = dial();
    assert_list(fd, 1);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: test_checkpoint MAKE-BUNDLE COUNTER CRIU\n");
        return 2;
    }
    make_bundle = argv[1], counter = argv[2], criu = argv[3];
    const char *why = why_not();
    if (why != NULL) {
        printf("%s\n", why);
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_checkpoint_and_restore, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_commands, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
