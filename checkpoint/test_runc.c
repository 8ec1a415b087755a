/* The handling of runc's commands, against a script that plays runc: what is passed, what comes back, bounds in time, closing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/leftover.h"
#include "checkpoint/precopy.h"
#include "checkpoint/runc.h"
#include "checkpoint/runc_report.h"
#include "checkpoint/tree.h"

/* Its global options are: --root R --log L --log-format json VERB ... */
static const char script[] =
    "#!/bin/sh\n"
    "here=$(dirname \"$0\")\n"
    "[ \"$1\" = restore ] && { echo \"cgroups mode: 'soft', 'full', 'strict', 'ignore'\"; exit 0; }\n"
    "echo \"$*\" >>$here/calls\n"
    "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 >>$here/stdio\n"
    "log=$4; verb=$7; shift 7\n"
    "say() { echo \"{\\\"level\\\":\\\"error\\\",\\\"msg\\\":\\\"$1\\\"}\" >>$log; exit 1; }\n"
    "for last in \"$@\"; do :; done\n"
    "case $verb:$last in\n"
    "  run:sleeper|restore:sleeper) echo $PPID >$5;;\n" /* a process that is alive: the test itself */
    "  run:dead) echo 999999999 >$5;;\n"
    "  run:slow|checkpoint:slow) (sleep 60; echo late >$here/late) & echo $! >$here/grandchild; wait;;\n"
    "  run:brief) sleep 0.2; echo $PPID >$5;;\n"
    "  run:there) say 'container with id already exists';;\n"
    "  run:broken) kill -9 $$;;\n"
    "  run:mute) exit 7;;\n"
    "  state:sleeper) echo \"{\\\"id\\\":\\\"sleeper\\\",\\\"pid\\\":$PPID,\\\"status\\\":\\\"running\\\"}\";;\n"
    "  state:babble) echo 'hello';;\n"
    "  state:*) say 'container does not exist';;\n"
    "  kill:*) say 'container not running';;\n"
    "  delete:*) exit 0;;\n"
    "  checkpoint:refused) echo '(00.1) Error (criu/util.c:1): rlimit: Can'\"'\"'t setup RLIMIT_NOFILE for self' >$4/dump.log\n"
    "    echo '(00.2) Error (criu/sk-inet.c:200): inet: not today' >>$4/dump.log\n"
    "    echo '(00.3) Error (criu/cr-dump.c:1975): Dumping FAILED.' >>$4/dump.log; say 'criu failed: type NOTIFY';;\n"
    "  checkpoint:cut) echo '(00.1) Dumping' >$4/dump.log; kill -9 $$;;\n"
    "  checkpoint:done) echo '(00.2) Dumping finished successfully' >$4/dump.log;;\n"
    "  checkpoint:*) criu >$here/criu-said; echo $CRIU_CONFIG_FILE >>$here/criu-said;;\n"
    "esac\n";

/* CRIU, which is asked what it can, and for rounds of pre-copy: pre-dump --tree PID --images-dir DIR --work-dir WORK ... */
static const char criu_script[] =
    "#!/bin/sh\n"
    "here=$(dirname \"$(readlink -f \"$0\")\")\n"
    "[ \"$1 $2\" = \"check --feature\" ] && { [ -e $here/tracks ]; exit; }\n"
    "[ \"$1\" = pre-dump ] || { echo I am criu; exit; }\n"
    "echo \"$*\" >>$here/calls\n"
    "log=$7/dump.log; echo '(0.1) Pre-dumping task' >$log\n"
    "[ -e $here/criu-cut ] && kill -9 $$\n"
    "[ -e $here/criu-refuses ] && { echo '(0.2) Error (criu/x.c:1): not today' >>$log; echo '(0.3) Error (criu/cr-dump.c:1): Pre-dumping FAILED.' >>$log; exit 1; }\n"
    "[ -e $here/criu-hangs ] && { sleep 600 & echo $! >$here/grandchild; wait; }\n"
    "echo \"(0.2) Pre-dumping tasks' memory\" >>$log; head -c 400000 /dev/zero | tr '\\0' p | fold >>$log\n" /* a line for each piece of it */
    "[ -e $here/criu-cut-late ] && kill -9 $$\n"
    "head -c 5000000 /dev/zero >$5/pages-1.img\n"
    "echo '(0.3) Pre-dumping finished successfully' >>$log\n";

static char base[64];
static uv_loop_t loop;
static struct runc *runc;
static struct runc_result last;
static char last_detail[RUNC_DETAIL_MAX];
static int called, closed;

static char *at(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", base, name);
    return path;
}

static void write_program(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, 0755), 0);
}

static void on_result(void *user, const struct runc_result *result)
{
    (void)user;
    last = *result;
    snprintf(last_detail, sizeof last_detail, "%s", result->detail);
    called++;
}

static void on_closed(void *user)
{
    (void)user;
    closed++;
}

static void start(uint32_t timeout_ms)
{
    struct error e = {0};
    struct runc_options options = {.runc = at("runc"), .criu = at("some-criu"), .root = at("root"), .work = at("work"),
        .timeout_ms = timeout_ms, .precopy = true};
    if (runc_new(&loop, &options, &runc, &e) != 0) fail_msg("%s", e.text);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(base, sizeof base, "/tmp/crsc-test-runc-XXXXXX");
    if (mkdtemp(base) == NULL || uv_loop_init(&loop) != 0) return 1;
    write_program(at("runc"), script);
    write_program(at("some-criu"), criu_script);
    called = closed = 0;
    start(60000);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (closed == 0) runc_close(runc, on_closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (closed != 1 || uv_loop_close(&loop) != 0) return 1;
    return tree_remove(base, NULL);
}

static void wait_result(int rc)
{
    int before = called;
    assert_int_equal(rc, 0);
    while (called == before) uv_run(&loop, UV_RUN_ONCE);
}

static void read_text(const char *path, char *text, size_t cap)
{
    FILE *f = fopen(path, "r");
    text[0] = '\0';
    if (f == NULL) return;
    text[fread(text, 1, cap - 1, f)] = '\0';
    fclose(f);
}

static void test_success(void **state)
{
    (void)state;
    char text[4096];
    wait_result(runc_run(runc, "sleeper", at("bundle"), on_result, NULL, NULL));
    assert_int_equal(last.status, 0);
    assert_int_equal(last.container, RUNC_RUNNING);
    assert_int_equal(last.process.pid, getpid());
    assert_true(process_alive(&last.process));
    assert_true(last.elapsed_us > 0);
    wait_result(runc_query(runc, "sleeper", on_result, NULL, NULL));
    assert_int_equal(last.container, RUNC_RUNNING);
    assert_int_equal(last.process.pid, getpid());
    wait_result(runc_query(runc, "nobody", on_result, NULL, NULL));
    assert_int_equal(last.status, 0);
    assert_int_equal(last.container, RUNC_ABSENT);
    wait_result(runc_kill(runc, "nobody", SIGKILL, on_result, NULL, NULL));
    assert_int_equal(last.status, 0);
    wait_result(runc_delete(runc, "nobody", on_result, NULL, NULL));
    assert_int_equal(last.status, 0);
    wait_result(runc_run(runc, "dead", at("bundle"), on_result, NULL, NULL));
    assert_int_equal(last.status, 0);
    assert_int_equal(last.container, RUNC_STOPPED);
    assert_int_equal(last.process.pid, 0);
    wait_result(runc_checkpoint(runc, "c", at("img"), NULL, true, on_result, NULL, NULL));
    assert_int_equal(last.status, 0);
    read_text(at("criu-said"), text, sizeof text);
    assert_non_null(strstr(text, "I am criu")); /* the CRIU that was configured is the one on runc's PATH */
    assert_non_null(strstr(text, "work/criu.conf"));
    read_text(at("calls"), text, sizeof text);
    assert_non_null(strstr(text, "checkpoint --image-path"));
    assert_non_null(strstr(text, "--manage-cgroups-mode ignore --leave-running c"));
    const char *frozen = strstr(text, "json pause c\n"), *dumped = strstr(text, "--leave-running c\n"), *thawed = strstr(text, "json resume c\n");
    assert_true(frozen != NULL && frozen < dumped && dumped < thawed);
    read_text(at("stdio"), text, sizeof text);
    assert_null(strstr(text, "pipe:"));
    assert_null(strstr(text, "socket:"));
}

static void test_failures(void **state)
{
    (void)state;
    wait_result(runc_run(runc, "there", at("bundle"), on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_EXISTS);
    wait_result(runc_run(runc, "broken", at("bundle"), on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_IO);
    assert_non_null(strstr(last.error.text, "signal 9"));
    wait_result(runc_run(runc, "mute", at("bundle"), on_result, NULL, NULL));
    assert_non_null(strstr(last.error.text, "status 7"));
    wait_result(runc_query(runc, "babble", on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_PROTOCOL);
    wait_result(runc_checkpoint(runc, "refused", at("img"), NULL, true, on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_IO);
    assert_non_null(strstr(last.error.text, "inet: not today"));
    assert_null(strstr(last.error.text, "rlimit"));
    assert_non_null(strstr(last_detail, "Dumping FAILED"));
    assert_int_equal(last.criu, RUNC_CRIU_FAILED);
}

/* Whatever ends CRIU or runc: the container is thawed, and the caller learns that it may be harmed. */
static void test_cut_short(void **state)
{
    (void)state;
    char text[4096];
    wait_result(runc_checkpoint(runc, "cut", at("img"), NULL, true, on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_IO);
    assert_int_equal(last.criu, RUNC_CRIU_CUT);
    assert_true(runc_cut(at("work"), "cut"));
    assert_false(runc_left(at("work"), "cut")); /* its end was seen */
    assert_false(runc_cut(at("work"), "never"));
    wait_result(runc_checkpoint(runc, "done", at("img3"), NULL, true, on_result, NULL, NULL));
    assert_false(runc_cut(at("work"), "done"));
    wait_result(runc_checkpoint(runc, "refused", at("img4"), NULL, true, on_result, NULL, NULL));
    assert_false(runc_cut(at("work"), "refused")); /* CRIU itself gave up, and undid what it had done */
    write_program(at("work/lost.command"), "about to start");
    assert_true(runc_left(at("work"), "lost"));
    read_text(at("calls"), text, sizeof text);
    assert_non_null(strstr(text, "json resume cut\n"));
    assert_int_equal(unlink(at("runc")), 0);
    wait_result(runc_checkpoint(runc, "gone", at("img2"), NULL, true, on_result, NULL, NULL));
    assert_int_not_equal(last.status, 0);
    assert_int_equal(last.criu, RUNC_CRIU_NONE);
}

static void test_refused_calls(void **state)
{
    (void)state;
    struct error e;
    static const char *const ids[] = {"", "-x", "a/b", "a b", "..", "a\n"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        assert_int_equal(runc_query(runc, ids[i], on_result, NULL, &e), -ERROR_INVALID);
    assert_int_equal(runc_run(runc, "x", "bundle", on_result, NULL, &e), -ERROR_INVALID);
    assert_int_equal(runc_restore(runc, "x", at("bundle"), at("nothing"), on_result, NULL, &e), -ERROR_INVALID);
    assert_int_equal(tree_make(at("full/x"), &e), 0);
    assert_int_equal(runc_checkpoint(runc, "x", at("full"), NULL, true, on_result, NULL, &e), -ERROR_EXISTS);
    assert_int_equal(runc_run(runc, "brief", at("bundle"), on_result, NULL, &e), 0);
    assert_int_equal(runc_query(runc, "brief", on_result, NULL, &e), -ERROR_BUSY);
    wait_result(runc_query(runc, "other", on_result, NULL, &e)); /* another container is independent */
    assert_int_equal(called, 1);
    wait_result(0);
    assert_int_equal(last.container, RUNC_RUNNING);
    wait_result(runc_query(runc, "brief", on_result, NULL, &e));
    /* no such runc, no such criu */
    struct runc *none;
    struct runc_options options = {.runc = "/nowhere/runc", .root = at("root"), .work = at("work2")};
    assert_int_equal(runc_new(&loop, &options, &none, &e), -ERROR_NOT_FOUND);
    options.runc = at("runc");
    options.criu = "/nowhere/criu";
    assert_int_equal(runc_new(&loop, &options, &none, &e), -ERROR_NOT_FOUND);
    options.root = "relative";
    assert_int_equal(runc_new(&loop, &options, &none, &e), -ERROR_INVALID);
    assert_int_equal(unlink(at("runc")), 0);
    int before = called;
    assert_int_equal(runc_query(runc, "gone", on_result, NULL, &e), -ERROR_NOT_FOUND);
    while (uv_run(&loop, UV_RUN_NOWAIT) != 0) {}
    assert_int_equal(called, before); /* an error from the call: no callback */
}

static void set_age(const char *path, time_t seconds)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = time(NULL) - seconds}};
    if (seconds == 0) times[1] = times[0];
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void start_again(uint32_t timeout_ms)
{
    runc_close(runc, on_closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(closed, 1);
    closed = 0;
    start(timeout_ms);
}

static void test_time_bound(void **state)
{
    (void)state;
    char text[32];
    start_again(3000); /* until then the command has begun */
    wait_result(runc_checkpoint(runc, "slow", at("img"), NULL, true, on_result, NULL, NULL));
    assert_int_equal(last.status, -ERROR_TIMEOUT);
    assert_true(last.elapsed_us >= 3000000 && last.elapsed_us < 60000000);
    read_text(at("grandchild"), text, sizeof text);
    struct process p;
    int tries = 0;
    while (process_find(atoi(text), &p) == 0 && tries++ < 6000) usleep(10000); /* the whole group is dead */
    assert_true(atoi(text) > 0 && tries < 6000);
}

/* Where the kernel does not track written pages, and where it does. */
static void test_tracking(void **state)
{
    (void)state;
    struct runc *other;
    assert_false(runc_tracks(runc));
    write_program(at("tracks"), "");
    start_again(60000);
    assert_true(runc_tracks(runc));
    struct runc_options options = {.runc = at("runc"), .criu = at("some-criu"), .root = at("root"), .work = at("work3")};
    assert_int_equal(runc_new(&loop, &options, &other, NULL), 0);
    assert_false(runc_tracks(other)); /* nobody asked */
    runc_close(other, NULL, NULL);
}

/* By its name alone it is looked for on PATH. */
static void test_criu_on_path(void **state)
{
    (void)state;
    struct error e = {0};
    struct runc *other;
    char target[PATH_MAX], before[8192], path[8192 + 128];
    snprintf(before, sizeof before, "%s", getenv("PATH") != NULL ? getenv("PATH") : "/bin");
    snprintf(path, sizeof path, "/nowhere::%s:%s", base, before);
    assert_int_equal(setenv("PATH", path, 1), 0);
    struct runc_options options = {.runc = at("runc"), .criu = "some-criu", .root = at("root"), .work = at("work4")};
    int rc = runc_new(&loop, &options, &other, &e);
    options.criu = "no-criu-of-that-name";
    struct runc *none;
    assert_int_equal(runc_new(&loop, &options, &none, NULL), -ERROR_NOT_FOUND);
    assert_int_equal(setenv("PATH", before, 1), 0);
    if (rc != 0) fail_msg("%s", e.text);
    assert_non_null(realpath(at("work4/bin/criu"), target));
    assert_string_equal(target, at("some-criu"));
    runc_close(other, NULL, NULL);
}

static void test_predump(void **state)
{
    (void)state;
    struct error e = {0};
    struct process self, gone = {.pid = 999999999, .start_time = 1};
    char text[8192], expected[512];
    assert_int_equal(process_find(getpid(), &self), 0);
    wait_result(runc_predump(runc, "c", &self, at("img/pre-1"), NULL, on_result, NULL, &e));
    assert_int_equal(last.status, 0);
    wait_result(runc_predump(runc, "c", &self, at("img/pre-2"), "../pre-1", on_result, NULL, &e));
    assert_int_equal(last.status, 0);
    assert_false(runc_cut(at("work"), "c") || runc_left(at("work"), "c"));
    wait_result(runc_checkpoint(runc, "c", at("img"), "pre-2", true, on_result, NULL, &e));
    assert_int_equal(last.status, 0);
    read_text(at("calls"), text, sizeof text);
    snprintf(expected, sizeof expected, "pre-dump --tree %d --images-dir %s --work-dir %s --log-file dump.log -v4\n", (int)getpid(), at("img/pre-1"), at("work/c.criu"));
    assert_non_null(strstr(text, expected));
    assert_non_null(strstr(text, "-v4 --prev-images-dir ../pre-1\n"));
    assert_non_null(strstr(text, "--parent-path pre-2 --leave-running c\n"));
    assert_null(strstr(strstr(text, "pre-dump"), "json pause c\npre-dump")); /* it serves meanwhile */
    assert_int_equal(runc_predump(runc, "c", &self, at("img"), NULL, on_result, NULL, &e), -ERROR_EXISTS);
    assert_int_equal(runc_predump(runc, "c", &gone, at("img2"), NULL, on_result, NULL, &e), -ERROR_CONFLICT);
    assert_int_equal(runc_predump(runc, "c", &self, "img2", NULL, on_result, NULL, &e), -ERROR_INVALID);
}

/* When CRIU gives up, or is ended before the processes go on, or after. */
static void test_failed_predump(void **state)
{
    (void)state;
    static const struct {
        const char *how;
        enum runc_criu criu;
        bool cut;
    } cases[] = {{"criu-refuses", RUNC_CRIU_FAILED, false}, {"criu-cut", RUNC_CRIU_CUT, true}, {"criu-cut-late", RUNC_CRIU_FAILED, false}};
    struct error e = {0};
    struct process self;
    char dir[32];
    assert_int_equal(process_find(getpid(), &self), 0);
    for (unsigned i = 0; i < 3; i++) {
        write_program(at(cases[i].how), "");
        snprintf(dir, sizeof dir, "img%u", i);
        wait_result(runc_predump(runc, "c", &self, at(dir), NULL, on_result, NULL, &e));
        assert_int_equal(last.status, -ERROR_IO);
        assert_non_null(strstr(last.error.text, "criu pre-dump of c"));
        assert_int_equal(last.criu, cases[i].criu);
        assert_int_equal(runc_cut(at("work"), "c"), cases[i].cut);
        assert_int_equal(unlink(at(cases[i].how)), 0);
    }
}

/* One that hangs is known to a later life by its words, and ended with the container. */
static void test_predump_is_ended(void **state)
{
    (void)state;
    struct error e = {0};
    struct process self;
    assert_int_equal(process_find(getpid(), &self), 0);
    write_program(at("criu-hangs"), "");
    assert_int_equal(runc_predump(runc, "c", &self, at("img"), NULL, on_result, NULL, &e), 0);
    for (int i = 0; i < 9000 && access(at("grandchild"), F_OK) != 0; i++) usleep(10000);
    assert_int_equal(leftover_note_intent(at("work/c.command")), 0); /* as if that life had ended before it could note more */
    set_age(at("work/c.command"), 60);
    assert_int_equal(leftover_command(at("work/c.command"), at("root"), "c", 600000, &e), -ERROR_BUSY);
    assert_int_equal(leftover_command(at("work/c.command"), at("root"), "d", 600000, &e), 0);
    runc_end_predump(runc, "d"); /* another one */
    runc_end_predump(runc, "c");
    wait_result(0);
    assert_int_equal(last.status, -ERROR_IO);
    assert_int_equal(last.criu, RUNC_CRIU_CUT);
    runc_end_predump(runc, "c");
}

static struct precopy_result copied;

static void on_precopied(void *user, const struct precopy_result *r)
{
    (void)user;
    copied = *r;
    called++;
}

/* None where the kernel does not track written pages, none of what is not there, none of what is small: the test itself. */
static void test_no_rounds(void **state)
{
    (void)state;
    struct error e = {0};
    struct precopy *p;
    static const char *const ids[] = {"sleeper", "nobody", "babble"};
    write_program(at("tracks"), "");
    for (int tracks = 0; tracks < 2; tracks++) {
        for (size_t i = 0; i < 3; i++) {
            wait_result(precopy_start(&loop, runc, ids[i], at("img"), 2, on_precopied, NULL, &p, &e));
            assert_int_equal(copied.status, 0);
            assert_int_equal(copied.rounds, 0);
            assert_string_equal(copied.parent, "");
        }
        assert_int_equal(access(at("img"), F_OK), -1);
        if (!tracks) start_again(60000);
    }
    wait_result(precopy_start(&loop, runc, "sleeper", at("img"), 0, on_precopied, NULL, &p, &e));
    assert_int_equal(copied.rounds, 0);
}

static void test_close_waits(void **state)
{
    (void)state;
    assert_int_equal(runc_run(runc, "brief", at("bundle"), on_result, NULL, NULL), 0);
    runc_close(runc, on_closed, NULL);
    struct error e;
    assert_int_equal(runc_query(runc, "other", on_result, NULL, &e), -ERROR_CANCELED);
    while (closed == 0) {
        assert_true(called == 0 || last.status == 0);
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(called, 1);
    assert_int_equal(last.container, RUNC_RUNNING);
}

static void test_command_of_an_earlier_run(void **state)
{
    (void)state;
    struct error e;
    struct process p;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        pause();
        _exit(0);
    }
    assert_int_equal(setpgid(pid, pid), 0);
    assert_int_equal(leftover_note_command(at("work/sleeper.command"), pid), 0);
    assert_int_equal(runc_query(runc, "sleeper", on_result, NULL, &e), -ERROR_BUSY);
    wait_result(runc_query(runc, "other", on_result, NULL, &e));
    assert_int_equal(process_find(pid, &p), 0);
    usleep(50000); /* older than its bound: it is killed */
    assert_int_equal(leftover_command(at("work/sleeper.command"), at("root"), "sleeper", 1, &e), -ERROR_BUSY);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    wait_result(runc_query(runc, "sleeper", on_result, NULL, &e));
    assert_int_equal(last.status, 0);
    assert_int_equal(access(at("work/sleeper.command"), F_OK), -1);
    FILE *f = fopen(at("work/sleeper.command"), "w"); /* a note of nobody is in nobody's way */
    fputs("nonsense", f);
    fclose(f);
    wait_result(runc_query(runc, "sleeper", on_result, NULL, &e));
    assert_int_equal(last.status, 0);
}

/* The earlier run was killed between its intent and the note of what it had started: the command is found all the same. */
static void test_intent_of_an_earlier_run(void **state)
{
    (void)state;
    struct error e;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        execl("/bin/sh", "sh", "-c", "sleep 60; :", "runc", "--root", at("root"), "restore", "sleeper", (char *)NULL);
        _exit(1);
    }
    setpgid(pid, pid);
    assert_int_equal(leftover_note_intent(at("work/sleeper.command")), 0);
    assert_int_equal(runc_query(runc, "sleeper", on_result, NULL, &e), -ERROR_BUSY);
    set_age(at("work/sleeper.command"), 60);
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    for (; strcmp(line, "sh") != 0; usleep(1000)) read_text(path, line, sizeof line); /* its first word: the exec has happened */
    usleep(50000);                                                                    /* older than its bound */
    assert_int_equal(runc_query(runc, "sleeper", on_result, NULL, &e), -ERROR_BUSY);
    assert_int_equal(leftover_command(at("work/sleeper.command"), at("root"), "another", 1, &e), 0);
    assert_int_equal(leftover_command(at("work/sleeper.command"), at("root"), "sleeper", 1, &e), -ERROR_BUSY); /* and kills it */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    set_age(at("work/sleeper.command"), 0);
    assert_int_equal(runc_query(runc, "sleeper", on_result, NULL, &e), -ERROR_BUSY); /* it could be between fork and exec */
    set_age(at("work/sleeper.command"), 60);
    wait_result(runc_query(runc, "sleeper", on_result, NULL, &e));
    assert_int_equal(last.status, 0);
}

static void test_reports(void **state)
{
    (void)state;
    char text[64], detail[96];
    enum runc_status status;
    int pid;
    FILE *f = fopen(at("log"), "w");
    for (int i = 0; i < 20000; i++) fprintf(f, "(%05d) Error (a.c:%d): number %d\n", i, i, i);
    fprintf(f, "{\"level\":\"warning\",\"msg\":\"no\"}\nnot json\n{\"level\":\"error\",\"msg\":\"a\\nb\"}\n{\"level\":3}\n[]\n");
    fclose(f);
    runc_report_criu(at("log"), text, sizeof text, detail, sizeof detail);
    assert_non_null(strstr(text, "Error (a.c:"));
    assert_non_null(strstr(detail, "number 19999"));
    assert_true(strlen(detail) < sizeof detail);
    runc_report_message(at("log"), text, sizeof text);
    assert_string_equal(text, "a b");
    runc_report_message(at("nothing"), text, sizeof text);
    assert_string_equal(text, "");
    static const char *const bad[] = {"", "{}", "[1]", "{\"status\":\"new\"}", "{\"status\":7}", "{\"status\":\"running\""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(runc_report_state(bad[i], strlen(bad[i]), &status, &pid), -ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_success, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut_short, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused_calls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_time_bound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tracking, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_criu_on_path, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_predump, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failed_predump, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_predump_is_ended, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_rounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close_waits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_command_of_an_earlier_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_intent_of_an_earlier_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reports, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
