#include "checkpoint/runc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/leftover.h"
#include "checkpoint/runc_report.h"
#include "checkpoint/tree.h"
#include "common/file.h"

enum { ARGS_MAX = 32, STATE_MAX = 64 << 10, HELP_MAX = 64 << 10, PROBE_MS = 5000 };

enum kind { KIND_RUN, KIND_QUERY, KIND_KILL, KIND_DELETE, KIND_RESUME, KIND_CHECKPOINT, KIND_RESTORE };

static const char *const kind_names[] = {"run", "state", "kill", "delete", "resume", "checkpoint", "restore"};

/* A checkpoint of a frozen container, as one command. Its words: the container's id, then those of `runc checkpoint`: runc, --root
 * ROOT, --log LOG, --log-format json, checkpoint, ... */
static const char frozen[] = "id=$1; shift; \"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\" \"$7\" pause \"$id\" && \"$@\"; status=$?; "
                             "\"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\" \"$7\" resume \"$id\" || [ $status -ne 0 ] || status=1; exit $status";

struct command {
    struct command *next; /* in runc->commands */
    struct runc *runc;
    enum kind kind;
    char id[RUNC_ID_MAX];
    runc_cb cb;
    void *user;
    uv_process_t process;
    uv_timer_t timer;
    uv_work_t removal; /* of leftovers, after a delete */
    int removal_status;
    struct error removal_error;
    unsigned open_handles;
    bool timed_out;
    int64_t exit_status;
    int term_signal;
    int output; /* memfd with stdout, or -1 */
    uint64_t started_ns;
    /* files below runc->work, removed before the command starts; criu: CRIU's log, or of a delete CRIU's work folder */
    char log[PATH_MAX], pid_file[PATH_MAX], note[PATH_MAX], criu[PATH_MAX];
};

struct runc {
    uv_loop_t *loop;
    char *program, *root, *work;
    char **environment; /* ours, with PATH and CRIU_CONFIG_FILE replaced */
    uint32_t timeout_ms;
    bool ignore_cgroups; /* this runc knows --manage-cgroups-mode ignore */
    bool skip_lock;      /* this CRIU knows --network-lock skip */
    struct command *commands;
    uv_idle_t closer; /* never started; so that on_closed is called from the loop */
    bool closing;
    void (*on_closed)(void *user);
    void *closed_user;
};

/* --- set-up */

static void free_runc(struct runc *r)
{
    for (char **variable = r->environment; variable != NULL && *variable != NULL; variable++) free(*variable);
    free(r->environment);
    free(r->program);
    free(r->root);
    free(r->work);
    free(r);
}

/* runc finds CRIU on PATH (since 1.2 it ignores --criu), and CRIU its defaults by CRIU_CONFIG_FILE. */
static int make_environment(struct runc *r, const char *criu, struct error *e)
{
    extern char **environ;
    size_t n = 0, kept = 0;
    while (environ[n] != NULL) n++;
    r->environment = calloc(n + 3, sizeof *r->environment);
    if (r->environment == NULL) return error_set(e, ERROR_NOMEM, "no memory for runc");
    for (size_t i = 0; i < n; i++) {
        bool replaced = (criu != NULL && strncmp(environ[i], "PATH=", 5) == 0) || strncmp(environ[i], "CRIU_CONFIG_FILE=", 17) == 0;
        if (!replaced && (r->environment[kept++] = strdup(environ[i])) == NULL) return error_set(e, ERROR_NOMEM, "no memory for runc");
    }
    const char *path = getenv("PATH");
    char *text = NULL;
    if (criu != NULL) {
        if (asprintf(&text, "PATH=%s/bin:%s", r->work, path != NULL ? path : "/usr/sbin:/usr/bin:/sbin:/bin") < 0)
            return error_set(e, ERROR_NOMEM, "no memory for runc");
        r->environment[kept++] = text;
    }
    if (asprintf(&text, "CRIU_CONFIG_FILE=%s/criu.conf", r->work) < 0) return error_set(e, ERROR_NOMEM, "no memory for runc");
    r->environment[kept] = text;
    return 0;
}

/* Several may share a work folder, each in a thread of its own: what they write there is replaced at once.
 * tcp-close: established connections are not dumped, and not locked meanwhile; the restored process sees them closed.
 * network-lock skip: nothing has to be kept still then; else a container's whole network namespace is cut off while it is dumped, and with it whoever
 * else is in there (an interceptor and its connections to the log: a packet is lost, and comes again after 200 ms or a second). */
static int write_criu_config(const struct runc *r, struct error *e)
{
    char text[100];
    int len = snprintf(text, sizeof text, "# written at every start\ntcp-close\n%s", r->skip_lock ? "network-lock skip\n" : "");
    char path[PATH_MAX], aside[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/criu.conf", r->work) >= (int)sizeof path ||
        snprintf(aside, sizeof aside, "%s/criu.conf.%d", r->work, gettid()) >= (int)sizeof aside)
        return error_set(e, ERROR_INVALID, "the path is too long");
    int rv = file_replace(path, aside, text, (size_t)len);
    return rv == 0 ? 0 : error_errno(e, ERROR_IO, -rv, "%s cannot be written", path);
}

static int link_criu(const struct runc *r, const char *criu, struct error *e)
{
    char link[PATH_MAX], target[PATH_MAX], aside[PATH_MAX];
    if (criu == NULL) return 0;
    if (realpath(criu, target) == NULL || access(target, X_OK) != 0)
        return error_errno(e, ERROR_NOT_FOUND, errno, "CRIU %s cannot be run", criu);
    if (snprintf(link, sizeof link, "%s/bin", r->work) >= (int)sizeof link - 8) return error_set(e, ERROR_INVALID, "the path is too long");
    int rc = tree_make(link, e);
    if (rc != 0) return rc;
    strcat(link, "/criu");
    if (snprintf(aside, sizeof aside, "%s.%d", link, gettid()) >= (int)sizeof aside) return error_set(e, ERROR_INVALID, "the path is too long");
    if ((unlink(aside) != 0 && errno != ENOENT) || symlink(target, aside) != 0 || rename(aside, link) != 0)
        return error_errno(e, ERROR_IO, errno, "%s cannot be made", link);
    return 0;
}

static int64_t now_ms(void)
{
    return (int64_t)(uv_hrtime() / 1000000);
}

/* Runs a program to its end, once, at start. Its exit status (-1: it was killed), and the first of what it says. */
static int run_once(const struct runc *r, char *const args[], char said[HELP_MAX], int *ret_status, struct error *e)
{
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int status = 0, output = memfd_create("what-it-says", MFD_CLOEXEC);
    if (output < 0) return error_errno(e, ERROR_IO, errno, "no memory for what %s says", args[0]);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, 1);
    posix_spawn_file_actions_adddup2(&actions, output, 2);
    int failed = posix_spawnp(&pid, args[0], &actions, NULL, args, r->environment);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) {
        close(output);
        return error_errno(e, ERROR_NOT_FOUND, failed, "%s cannot be run", args[0]);
    }
    int64_t deadline = now_ms() + PROBE_MS;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (now_ms() > deadline) kill(pid, SIGKILL);
        poll(NULL, 0, 1);
    }
    ssize_t n = pread(output, said, HELP_MAX - 1, 0);
    said[n > 0 ? n : 0] = '\0';
    close(output);
    *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return 0;
}

/* Is there a runc, and does it know the cgroups mode "ignore"? (1.1 does not, and its default works; newer ones need it on cgroup v2.) Can this CRIU
 * leave the network alone? (Since 3.18.) Without a CRIU: no. */
static int probe(struct runc *r, const char *criu, struct error *e)
{
    char *runc[] = {r->program, (char[]){"restore"}, (char[]){"--help"}, NULL};
    char *lock[] = {(char *)(uintptr_t)(criu != NULL ? criu : "criu"), (char[]){"--network-lock"}, (char[]){"skip"}, (char[]){"--version"}, NULL};
    char *said = calloc(1, HELP_MAX);
    int status, rc = said == NULL ? error_set(e, ERROR_NOMEM, "no memory for what runc says") : run_once(r, runc, said, &status, e);
    if (rc == 0) r->ignore_cgroups = strstr(said, "'ignore'") != NULL;
    if (rc == 0 && status != 0) rc = error_set(e, ERROR_NOT_FOUND, "%s is no runc: \"%s restore --help\" failed", r->program, r->program);
    if (rc == 0) r->skip_lock = run_once(r, lock, said, &status, NULL) == 0 && status == 0;
    free(said);
    return rc;
}

int runc_new(uv_loop_t *loop, const struct runc_options *options, struct runc **ret_runc, struct error *e)
{
    if (options->root == NULL || *options->root != '/' || options->work == NULL || *options->work != '/')
        return error_set(e, ERROR_INVALID, "the folders for containers' states and for logs are absolute paths");
    struct runc *r = calloc(1, sizeof *r);
    if (r == NULL) return error_set(e, ERROR_NOMEM, "no memory for runc");
    r->loop = loop;
    r->timeout_ms = options->timeout_ms != 0 ? options->timeout_ms : RUNC_TIMEOUT_MS;
    r->program = strdup(options->runc != NULL ? options->runc : "runc");
    r->root = strdup(options->root);
    r->work = strdup(options->work);
    int rc = r->program == NULL || r->root == NULL || r->work == NULL ? error_set(e, ERROR_NOMEM, "no memory for runc") : 0;
    if (rc == 0) rc = tree_make(r->work, e);
    if (rc == 0) rc = tree_make(r->root, e);
    if (rc == 0) rc = link_criu(r, options->criu, e);
    if (rc == 0) rc = make_environment(r, options->criu, e);
    if (rc == 0) rc = probe(r, options->criu, e);
    if (rc == 0) rc = write_criu_config(r, e);
    if (rc != 0) {
        free_runc(r);
        return rc;
    }
    uv_idle_init(loop, &r->closer);
    r->closer.data = r;
    *ret_runc = r;
    return 0;
}

static void on_closer_closed(uv_handle_t *handle)
{
    struct runc *r = handle->data;
    void (*on_closed)(void *user) = r->on_closed;
    void *user = r->closed_user;
    free_runc(r);
    if (on_closed != NULL) on_closed(user);
}

void runc_close(struct runc *r, void (*on_closed)(void *user), void *user)
{
    if (r->closing) return;
    r->closing = true;
    r->on_closed = on_closed;
    r->closed_user = user;
    if (r->commands == NULL) uv_close((uv_handle_t *)&r->closer, on_closer_closed);
}

/* --- the end of a command */

static void read_pid_file(const struct command *c, struct runc_result *result)
{
    char text[24] = "";
    int fd = open(c->pid_file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0) close(fd);
    bool alive = n > 0 && process_find((int32_t)strtol(text, NULL, 10), &result->process) == 0;
    result->container = alive ? RUNC_RUNNING : RUNC_STOPPED;
}

static void read_state(const struct command *c, struct runc_result *result)
{
    int pid = 0;
    char *text = malloc(STATE_MAX);
    ssize_t n = text != NULL ? pread(c->output, text, STATE_MAX, 0) : -1;
    if (n < 0 || runc_report_state(text, (size_t)n, &result->container, &pid) != 0)
        result->status = error_set(&result->error, ERROR_PROTOCOL, "runc state of %s printed what nobody understands", c->id);
    else if (result->container != RUNC_STOPPED && process_find(pid, &result->process) != 0)
        result->container = RUNC_STOPPED; /* it ended just now */
    free(text);
}

static void describe_failure(const struct command *c, struct runc_result *result, char *detail)
{
    char message[ERROR_TEXT_MAX], first[ERROR_TEXT_MAX];
    const char *verb = kind_names[c->kind];
    runc_report_message(c->log, message, sizeof message);
    first[0] = '\0';
    if (c->kind == KIND_CHECKPOINT || c->kind == KIND_RESTORE) runc_report_criu(c->criu, first, sizeof first, detail, RUNC_DETAIL_MAX);
    if (c->timed_out)
        result->status = error_set(&result->error, ERROR_TIMEOUT, "runc %s of %s was killed after %u ms%s%.120s", verb, c->id,
            c->runc->timeout_ms, first[0] != '\0' ? ": CRIU: " : "", first);
    else if (first[0] != '\0')
        result->status = error_set(&result->error, ERROR_IO, "runc %s of %.40s: CRIU: %.140s (%s)", verb, c->id, first, c->criu);
    else if (message[0] != '\0')
        result->status = error_set(&result->error, runc_report_code(message), "runc %s of %.40s: %s", verb, c->id, message);
    else if (c->term_signal != 0)
        result->status = error_set(&result->error, ERROR_IO, "runc %s of %s ended by signal %d", verb, c->id, c->term_signal);
    else
        result->status = error_set(&result->error, ERROR_IO, "runc %s of %s failed with status %d and said nothing", verb, c->id,
            (int)c->exit_status);
}

static enum runc_criu judge_criu(const struct command *c)
{
    if (c->kind != KIND_CHECKPOINT && c->kind != KIND_RESTORE) return RUNC_CRIU_NONE;
    if (access(c->criu, F_OK) == 0) return runc_report_criu_failed(c->criu) ? RUNC_CRIU_FAILED : RUNC_CRIU_CUT;
    return c->timed_out || c->term_signal != 0 ? RUNC_CRIU_CUT : RUNC_CRIU_NONE; /* it may just be beginning */
}

static void judge(const struct command *c, struct runc_result *result, char *detail)
{
    if (c->timed_out || c->exit_status != 0 || c->term_signal != 0) {
        describe_failure(c, result, detail);
        result->criu = judge_criu(c);
        bool gone = result->error.code == ERROR_NOT_FOUND;
        bool harmless = (c->kind == KIND_QUERY && gone) || (c->kind == KIND_DELETE && gone) ||
                        (c->kind == KIND_KILL && (gone || result->error.code == ERROR_CONFLICT)) ||
                        (c->kind == KIND_RESUME && result->error.code == ERROR_CONFLICT);
        if (!harmless) return;
        result->status = 0;
        result->error = (struct error){0};
        result->container = c->kind == KIND_RESUME ? RUNC_RUNNING : RUNC_ABSENT;
    } else if (c->kind == KIND_RUN || c->kind == KIND_RESTORE) {
        read_pid_file(c, result);
    } else if (c->kind == KIND_QUERY) {
        read_state(c, result);
    }
}

static void unlist(struct command *c)
{
    for (struct command **p = &c->runc->commands; *p != NULL; p = &(*p)->next) {
        if (*p != c) continue;
        *p = c->next;
        return;
    }
}

static void finish(struct command *c)
{
    struct runc *r = c->runc;
    char detail[RUNC_DETAIL_MAX] = "";
    struct runc_result result = {.detail = detail, .elapsed_us = (uv_hrtime() - c->started_ns) / 1000};
    unlist(c);
    unlink(c->note);
    judge(c, &result, detail);
    if (c->removal_status != 0) {
        result.status = c->removal_status;
        result.error = c->removal_error;
    }
    if (c->output >= 0) close(c->output);
    runc_cb cb = c->cb;
    void *user = c->user;
    free(c);
    /* `closing` now: a callback may close, and then it is runc_close() that sees that nothing is left */
    bool last = r->closing && r->commands == NULL;
    cb(user, &result);
    if (last) uv_close((uv_handle_t *)&r->closer, on_closer_closed);
}

static void remove_leftover(uv_work_t *work)
{
    struct command *c = work->data;
    c->removal_status = leftover_remove(c->runc->root, c->id, c->criu, &c->removal_error);
}

static void on_leftover_removed(uv_work_t *work, int status)
{
    (void)status; /* it is never cancelled */
    finish(work->data);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct command *c = handle->data;
    if (--c->open_handles > 0) return;
    c->removal.data = c;
    bool removed = c->kind == KIND_DELETE && !c->timed_out && c->exit_status == 0 && c->term_signal == 0;
    if (removed && uv_queue_work(c->runc->loop, &c->removal, remove_leftover, on_leftover_removed) == 0) return;
    finish(c);
}

static void on_exit_of(uv_process_t *process, int64_t exit_status, int term_signal)
{
    struct command *c = process->data;
    c->exit_status = exit_status;
    c->term_signal = term_signal;
    uv_close((uv_handle_t *)&c->process, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_bound(uv_timer_t *timer)
{
    struct command *c = timer->data;
    c->timed_out = true;
    kill(-c->process.pid, SIGKILL); /* not reaped yet: the group is still the command's own */
}

/* --- what an earlier life left */

bool runc_left(const char *work, const char *id)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s.command", work, id) < (int)sizeof path && access(path, F_OK) == 0;
}

bool runc_cut(const char *work, const char *id)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s.criu/dump.log", work, id) < (int)sizeof path && access(path, F_OK) == 0 && !runc_report_criu_ended(path);
}

/* --- the start of a command */

static void on_stillborn_closed(uv_handle_t *handle)
{
    struct command *c = handle->data;
    if (--c->open_handles > 0) return;
    struct runc *r = c->runc;
    unlist(c);
    if (c->output >= 0) close(c->output);
    free(c);
    if (r->closing && r->commands == NULL) uv_close((uv_handle_t *)&r->closer, on_closer_closed);
}

static bool id_valid(const char *id)
{
    size_t len = strlen(id);
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char all[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-";
    return len > 0 && len < RUNC_ID_MAX && strchr(first, id[0]) != NULL && strspn(id, all) == len;
}

static int prepare(struct runc *r, enum kind kind, const char *id, runc_cb cb, void *user, struct command **ret_command, struct error *e)
{
    if (r->closing) return error_set(e, ERROR_CANCELED, "no more containers' commands: closing");
    if (!id_valid(id)) return error_set(e, ERROR_INVALID, "\"%.100s\" is no id for a container", id);
    for (struct command *c = r->commands; c != NULL; c = c->next)
        if (strcmp(c->id, id) == 0) return error_set(e, ERROR_BUSY, "runc %s of %s is not done yet", kind_names[c->kind], id);
    struct command *c = calloc(1, sizeof *c);
    if (c == NULL) return error_set(e, ERROR_NOMEM, "no memory for a command");
    *c = (struct command){.runc = r, .kind = kind, .cb = cb, .user = user, .output = -1, .started_ns = uv_hrtime()};
    memcpy(c->id, id, strlen(id) + 1);
    const char *criu_log = kind == KIND_CHECKPOINT ? "/dump.log" : kind == KIND_RESTORE ? "/restore.log" : "";
    if (snprintf(c->log, sizeof c->log, "%s/%s.log", r->work, id) >= (int)sizeof c->log ||
        snprintf(c->pid_file, sizeof c->pid_file, "%s/%s.pid", r->work, id) >= (int)sizeof c->pid_file ||
        snprintf(c->note, sizeof c->note, "%s/%s.command", r->work, id) >= (int)sizeof c->note ||
        snprintf(c->criu, sizeof c->criu, "%s/%s.criu%s", r->work, id, criu_log) >= (int)sizeof c->criu) {
        free(c);
        return error_set(e, ERROR_INVALID, "the path of the work folder is too long");
    }
    int rc = leftover_command(c->note, r->root, c->id, r->timeout_ms, e);
    if (rc != 0) {
        free(c);
        return rc;
    }
    unlink(c->log);
    unlink(c->pid_file);
    if (*criu_log != '\0') unlink(c->criu);
    *ret_command = c;
    return 0;
}

/* Takes `c`, and frees it when it cannot be started. `words`: what follows runc's global options and the verb; `before`: what comes before runc. */
static int start_as(struct command *c, const char *const *before, const char *const *words, struct error *e)
{
    struct runc *r = c->runc;
    const char *runc[] = {r->program, "--root", r->root, "--log", c->log, "--log-format", "json", kind_names[c->kind], NULL};
    const char *const *const parts[] = {before, runc, words};
    const char *args[ARGS_MAX] = {NULL};
    size_t n = 0;
    for (size_t i = 0; i < 3; i++)
        for (const char *const *word = parts[i]; *word != NULL && n < ARGS_MAX - 1; word++) args[n++] = *word;
    if (c->kind == KIND_QUERY) {
        c->output = memfd_create("runc-state", MFD_CLOEXEC);
        if (c->output < 0) {
            int rc = error_errno(e, ERROR_IO, errno, "no memory for what runc says");
            free(c);
            return rc;
        }
    }
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_IGNORE}};
    if (c->output >= 0) stdio[1] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = c->output};
    uv_process_options_t options = {.file = args[0], .args = (char **)(uintptr_t)args, .env = r->environment, .cwd = "/",
        .exit_cb = on_exit_of, .flags = UV_PROCESS_DETACHED, .stdio = stdio, .stdio_count = 3};
    c->next = r->commands;
    r->commands = c;
    uv_timer_init(r->loop, &c->timer);
    c->timer.data = c->process.data = c;
    c->open_handles = 2;
    int status = leftover_note_intent(c->note) == 0 ? uv_spawn(r->loop, &c->process, &options) : UV_EIO;
    if (status != 0) {
        int rc = error_uv(e, status == UV_ENOENT ? ERROR_NOT_FOUND : ERROR_IO, status, "%s cannot be run", args[0]);
        unlink(c->note);
        c->id[0] = '\0'; /* in nobody's way */
        uv_close((uv_handle_t *)&c->process, on_stillborn_closed);
        uv_close((uv_handle_t *)&c->timer, on_stillborn_closed);
        return rc;
    }
    leftover_note_command(c->note, c->process.pid); /* if it fails, the intent stays */
    uv_update_time(r->loop);
    uv_timer_start(&c->timer, on_bound, r->timeout_ms, 0);
    return 0;
}

static int start(struct command *c, const char *const *words, struct error *e)
{
    return start_as(c, (const char *const[]){NULL}, words, e);
}

static int check_absolute(const char *path, const char *what, struct error *e)
{
    return path != NULL && *path == '/' ? 0 : error_set(e, ERROR_INVALID, "%s is an absolute path", what);
}

int runc_run(struct runc *r, const char *id, const char *bundle, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    int rc = check_absolute(bundle, "a bundle", e);
    if (rc == 0) rc = prepare(r, KIND_RUN, id, cb, user, &c, e);
    if (rc != 0) return rc;
    return start(c, (const char *const[]){"--detach", "--bundle", bundle, "--pid-file", c->pid_file, c->id, NULL}, e);
}

int runc_query(struct runc *r, const char *id, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    int rc = prepare(r, KIND_QUERY, id, cb, user, &c, e);
    return rc != 0 ? rc : start(c, (const char *const[]){c->id, NULL}, e);
}

int runc_kill(struct runc *r, const char *id, int signal, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    char number[16];
    snprintf(number, sizeof number, "%d", signal);
    int rc = prepare(r, KIND_KILL, id, cb, user, &c, e);
    return rc != 0 ? rc : start(c, (const char *const[]){c->id, number, NULL}, e);
}

int runc_resume(struct runc *r, const char *id, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    int rc = prepare(r, KIND_RESUME, id, cb, user, &c, e);
    return rc != 0 ? rc : start(c, (const char *const[]){c->id, NULL}, e);
}

int runc_delete(struct runc *r, const char *id, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    int rc = prepare(r, KIND_DELETE, id, cb, user, &c, e);
    if (rc != 0) return rc;
    rc = leftover_unmount(r->root, id, e);
    if (rc != 0) {
        free(c);
        return rc;
    }
    return start(c, (const char *const[]){"--force", c->id, NULL}, e);
}

/* Makes a directory for a dump; one that is there must be empty. */
static int make_image_dir(const char *path, struct error *e)
{
    int rc = tree_make(path, e);
    if (rc != 0) return rc;
    DIR *dir = opendir(path);
    if (dir == NULL) return error_errno(e, ERROR_IO, errno, "%s", path);
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = error_set(e, ERROR_EXISTS, "%s is not empty: no place for a dump", path);
    closedir(dir);
    return rc;
}

/* CRIU's work folder: the part of c->criu before the log's name. Returns its argument. */
static char *work_folder(const struct command *c, char path[PATH_MAX])
{
    memcpy(path, c->criu, sizeof c->criu);
    *strrchr(path, '/') = '\0';
    return path;
}

int runc_checkpoint(struct runc *r, const char *id, const char *image_dir, bool leave_running, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    char folder[PATH_MAX];
    int rc = check_absolute(image_dir, "the folder of a dump", e);
    if (rc == 0) rc = prepare(r, KIND_CHECKPOINT, id, cb, user, &c, e);
    if (rc != 0) return rc;
    rc = make_image_dir(image_dir, e);
    if (rc == 0) rc = tree_make(work_folder(c, folder), e);
    if (rc != 0) {
        free(c);
        return rc;
    }
    const char *words[ARGS_MAX] = {"--image-path", image_dir, "--work-path", folder};
    size_t n = 4;
    if (r->ignore_cgroups) words[n++] = "--manage-cgroups-mode", words[n++] = "ignore";
    if (leave_running) words[n++] = "--leave-running";
    words[n] = c->id;
    if (!leave_running) return start(c, words, e);
    return start_as(c, (const char *const[]){"/bin/sh", "-c", frozen, "sh", c->id, NULL}, words, e);
}

int runc_restore(struct runc *r, const char *id, const char *bundle, const char *image_dir, runc_cb cb, void *user, struct error *e)
{
    struct command *c;
    char folder[PATH_MAX], inventory[PATH_MAX];
    int rc = check_absolute(bundle, "a bundle", e);
    if (rc == 0) rc = check_absolute(image_dir, "the folder of a dump", e);
    if (rc == 0 && (snprintf(inventory, sizeof inventory, "%s/inventory.img", image_dir) >= (int)sizeof inventory ||
                       access(inventory, R_OK) != 0))
        rc = error_set(e, ERROR_INVALID, "%s has no dump", image_dir);
    if (rc == 0) rc = prepare(r, KIND_RESTORE, id, cb, user, &c, e);
    if (rc != 0) return rc;
    rc = tree_make(work_folder(c, folder), e);
    if (rc != 0) {
        free(c);
        return rc;
    }
    const char *words[ARGS_MAX] = {"--detach", "--bundle", bundle, "--image-path", image_dir, "--work-path", folder, "--pid-file",
        c->pid_file};
    size_t n = 9;
    if (r->ignore_cgroups) words[n++] = "--manage-cgroups-mode", words[n++] = "ignore";
    words[n] = c->id;
    return start(c, words, e);
}
