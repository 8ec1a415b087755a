#include "checkpoint/runc_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/leftover.h"
#include "checkpoint/runc_report.h"
#include "checkpoint/tree.h"

enum { ARGS_MAX = 32, STATE_MAX = 64 << 10 };

enum kind { KIND_RUN, KIND_QUERY, KIND_KILL, KIND_DELETE, KIND_RESUME, KIND_CHECKPOINT, KIND_RESTORE, KIND_PREDUMP };

static const char *const kind_names[] = {"run", "state", "kill", "delete", "resume", "checkpoint", "restore", "pre-dump"};

/* A checkpoint of a frozen container, as one command. Its words: the container's id, then those of `runc checkpoint`: runc, --root
 * ROOT, --log LOG, --log-format json, checkpoint, ... */
static const char frozen[] = "id=$1; shift; \"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\" \"$7\" pause \"$id\" && \"$@\"; status=$?; "
                             "\"$1\" \"$2\" \"$3\" \"$4\" \"$5\" \"$6\" \"$7\" resume \"$id\" || [ $status -ne 0 ] || status=1; exit $status";

/* A pre-dump, as one command. Its words: runc's root and the container's id, by which a later life knows it (leftover.h), then criu and its own. */
static const char predump[] = "shift 2; \"$@\"; exit $?";

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
    if (rc == 0) rc = runc_set_up(r, options->criu, options->precopy, e);
    if (rc != 0) {
        runc_free_parts(r);
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
    runc_free_parts(r);
    if (on_closed != NULL) on_closed(user);
}

bool runc_tracks(const struct runc *r)
{
    return r->tracks;
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

static bool is_by_criu(enum kind kind)
{
    return kind == KIND_CHECKPOINT || kind == KIND_RESTORE || kind == KIND_PREDUMP;
}

static void describe_failure(const struct command *c, struct runc_result *result, char *detail)
{
    char message[ERROR_TEXT_MAX], first[ERROR_TEXT_MAX];
    const char *verb = kind_names[c->kind], *who = c->kind == KIND_PREDUMP ? "criu" : "runc";
    runc_report_message(c->log, message, sizeof message);
    first[0] = '\0';
    if (is_by_criu(c->kind)) runc_report_criu(c->criu, first, sizeof first, detail, RUNC_DETAIL_MAX);
    if (c->timed_out)
        result->status = error_set(&result->error, ERROR_TIMEOUT, "%s %s of %s was killed after %u ms%s%.120s", who, verb, c->id,
            c->runc->timeout_ms, first[0] != '\0' ? ": CRIU: " : "", first);
    else if (first[0] != '\0')
        result->status = error_set(&result->error, ERROR_IO, "%s %s of %.40s: CRIU: %.140s (%s)", who, verb, c->id, first, c->criu);
    else if (message[0] != '\0')
        result->status = error_set(&result->error, runc_report_code(message), "%s %s of %.40s: %s", who, verb, c->id, message);
    else if (c->term_signal != 0)
        result->status = error_set(&result->error, ERROR_IO, "%s %s of %s ended by signal %d", who, verb, c->id, c->term_signal);
    else
        result->status = error_set(&result->error, ERROR_IO, "%s %s of %s failed with status %d and said nothing", who, verb, c->id,
            (int)c->exit_status);
}

static enum runc_criu judge_criu(const struct command *c)
{
    if (!is_by_criu(c->kind)) return RUNC_CRIU_NONE;
    if (access(c->criu, F_OK) == 0) return runc_report_criu_failed(c->criu) || runc_report_criu_let_go(c->criu) ? RUNC_CRIU_FAILED : RUNC_CRIU_CUT;
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
    return snprintf(path, sizeof path, "%s/%s.criu/dump.log", work, id) < (int)sizeof path && access(path, F_OK) == 0 && !runc_report_criu_ended(path) &&
           !runc_report_criu_let_go(path);
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

/* The log of a dump tells runc_cut() of the container that was dumped: one that begins is another one, with an id that may have been used before. */
static void forget_dump(const struct command *c)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s.criu/dump.log", c->runc->work, c->id) < (int)sizeof path) unlink(path);
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
    const char *criu_log = kind == KIND_CHECKPOINT || kind == KIND_PREDUMP ? "/dump.log" : kind == KIND_RESTORE ? "/restore.log" : "";
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
    if (kind == KIND_RUN || kind == KIND_RESTORE) forget_dump(c);
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
    const char *none[] = {NULL}, *runc[] = {r->program, "--root", r->root, "--log", c->log, "--log-format", "json", kind_names[c->kind], NULL};
    const char *const *const parts[] = {before, c->kind == KIND_PREDUMP ? none : runc, words};
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

/* Makes a directory for a dump; one that is there must be empty, or has the rounds before that dump. */
static int make_image_dir(const char *path, const char *parent, struct error *e)
{
    int rc = tree_make(path, e);
    if (rc != 0 || parent != NULL) return rc;
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

/* prepare(), and the folders of a command by CRIU: the one that a dump goes to (`image_dir`; NULL: it is there), and CRIU's work folder. */
static int prepare_criu(struct runc *r, enum kind kind, const char *id, const char *image_dir, const char *parent, runc_cb cb, void *user,
    struct command **ret_command, char folder[PATH_MAX], struct error *e)
{
    struct command *c;
    int rc = prepare(r, kind, id, cb, user, &c, e);
    if (rc != 0) return rc;
    if (image_dir != NULL) rc = make_image_dir(image_dir, parent, e);
    if (rc == 0) rc = tree_make(work_folder(c, folder), e);
    if (rc != 0) free(c);
    else *ret_command = c;
    return rc;
}

int runc_predump(struct runc *r, const char *id, const struct process *init, const char *image_dir, const char *parent, runc_cb cb, void *user,
    struct error *e)
{
    struct command *c;
    char folder[PATH_MAX], pid[16];
    int rc = check_absolute(image_dir, "the folder of a dump", e);
    if (rc == 0 && !process_alive(init)) rc = error_set(e, ERROR_CONFLICT, "the process of %.100s has ended", id);
    if (rc == 0) rc = prepare_criu(r, KIND_PREDUMP, id, image_dir, NULL, cb, user, &c, folder, e);
    if (rc != 0) return rc;
    snprintf(pid, sizeof pid, "%d", (int)init->pid);
    const char *words[] = {"criu", "pre-dump", "--tree", pid, "--images-dir", image_dir, "--work-dir", folder, "--log-file", "dump.log", "-v4",
        parent != NULL ? "--prev-images-dir" : NULL, parent, NULL};
    return start_as(c, (const char *const[]){"/bin/sh", "-c", predump, "sh", r->root, c->id, NULL}, words, e);
}

void runc_end_predump(struct runc *r, const char *id)
{
    for (struct command *c = r->commands; c != NULL; c = c->next)
        if (c->kind == KIND_PREDUMP && strcmp(c->id, id) == 0 && uv_is_active((uv_handle_t *)&c->process)) kill(-c->process.pid, SIGKILL);
}

int runc_checkpoint(struct runc *r, const char *id, const char *image_dir, const char *parent, bool leave_running, runc_cb cb, void *user,
    struct error *e)
{
    struct command *c;
    char folder[PATH_MAX];
    int rc = check_absolute(image_dir, "the folder of a dump", e);
    if (rc == 0) rc = prepare_criu(r, KIND_CHECKPOINT, id, image_dir, parent, cb, user, &c, folder, e);
    if (rc != 0) return rc;
    const char *words[ARGS_MAX] = {"--image-path", image_dir, "--work-path", folder};
    size_t n = 4;
    if (r->ignore_cgroups) words[n++] = "--manage-cgroups-mode", words[n++] = "ignore";
    if (parent != NULL) words[n++] = "--parent-path", words[n++] = parent;
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
    if (rc == 0) rc = prepare_criu(r, KIND_RESTORE, id, NULL, NULL, cb, user, &c, folder, e);
    if (rc != 0) return rc;
    const char *words[ARGS_MAX] = {"--detach", "--bundle", bundle, "--image-path", image_dir, "--work-path", folder, "--pid-file",
        c->pid_file};
    size_t n = 9;
    if (r->ignore_cgroups) words[n++] = "--manage-cgroups-mode", words[n++] = "ignore";
    words[n] = c->id;
    return start(c, words, e);
}
