#include "checkpoint/runc_internal.h"

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
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/tree.h"
#include "common/file.h"

enum { HELP_MAX = 64 << 10, PROBE_MS = 30000 };

void runc_free_parts(struct runc *r)
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

/* Where the program is, by path or from PATH. */
static bool find_program(const char *name, char found[PATH_MAX])
{
    char candidate[PATH_MAX];
    if (strchr(name, '/') != NULL) return realpath(name, found) != NULL && access(found, X_OK) == 0;
    const char *folder = getenv("PATH");
    for (size_t len; folder != NULL && *folder != '\0'; folder += len + (folder[len] == ':')) {
        len = strcspn(folder, ":");
        if (len > 0 && snprintf(candidate, sizeof candidate, "%.*s/%s", (int)len, folder, name) < (int)sizeof candidate && access(candidate, X_OK) == 0)
            return realpath(candidate, found) != NULL;
    }
    errno = ENOENT;
    return false;
}

static int link_criu(const struct runc *r, const char *criu, struct error *e)
{
    char link[PATH_MAX], target[PATH_MAX], aside[PATH_MAX];
    if (criu == NULL) return 0;
    if (!find_program(criu, target)) return error_errno(e, ERROR_NOT_FOUND, errno, "CRIU %s cannot be run", criu);
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
 * leave the network alone? (Since 3.18.) Can it track here which pages are written? (The kernel must be able to: CONFIG_MEM_SOFT_DIRTY.) Without a CRIU: no. */
static int probe(struct runc *r, const char *criu, bool precopy, struct error *e)
{
    char *program = (char *)(uintptr_t)(criu != NULL ? criu : "criu");
    char *runc[] = {r->program, (char[]){"restore"}, (char[]){"--help"}, NULL};
    char *lock[] = {program, (char[]){"--network-lock"}, (char[]){"skip"}, (char[]){"--version"}, NULL};
    char *track[] = {program, (char[]){"check"}, (char[]){"--feature"}, (char[]){"mem_dirty_track"}, NULL};
    char *said = calloc(1, HELP_MAX);
    int status, rc = said == NULL ? error_set(e, ERROR_NOMEM, "no memory for what runc says") : run_once(r, runc, said, &status, e);
    if (rc == 0) r->ignore_cgroups = strstr(said, "'ignore'") != NULL;
    if (rc == 0 && status != 0) rc = error_set(e, ERROR_NOT_FOUND, "%s is no runc: \"%s restore --help\" failed", r->program, r->program);
    if (rc == 0) r->skip_lock = run_once(r, lock, said, &status, NULL) == 0 && status == 0;
    if (rc == 0 && precopy) r->tracks = run_once(r, track, said, &status, NULL) == 0 && status == 0;
    free(said);
    return rc;
}

int runc_set_up(struct runc *r, const char *criu, bool precopy, struct error *e)
{
    int rc = tree_make(r->work, e);
    if (rc == 0) rc = tree_make(r->root, e);
    if (rc == 0) rc = link_criu(r, criu, e);
    if (rc == 0) rc = make_environment(r, criu, e);
    if (rc == 0) rc = probe(r, criu, precopy, e);
    if (rc == 0) rc = write_criu_config(r, e);
    return rc;
}
