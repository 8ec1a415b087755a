#include "operator/criu_check.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The last line that is not empty, without its end. */
static void last_line(FILE *from, char *ret_line, size_t size)
{
    char line[512];
    while (fgets(line, sizeof line, from) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] != '\0') snprintf(ret_line, size, "%.*s", (int)size - 1, line);
    }
}

static int run(const char *criu, int output, pid_t *ret_pid)
{
    extern char **environ;
    char *argv[] = {(char *)criu, "check", NULL};
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", 0, 0);
    posix_spawn_file_actions_adddup2(&files, output, 1);
    posix_spawn_file_actions_adddup2(&files, output, 2);
    int rv = posix_spawnp(ret_pid, criu, &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    return rv;
}

int criu_check(const char *criu, struct error *e)
{
    char line[200] = "";
    int ends[2], status = 0;
    pid_t pid;
    if (geteuid() != 0) return error_set(e, ERROR_UNAVAILABLE, "CRIU needs root");
    if (pipe2(ends, O_CLOEXEC) != 0) return error_errno(e, ERROR_UNAVAILABLE, errno, "pipe");
    int rv = run(criu, ends[1], &pid);
    close(ends[1]);
    FILE *from = fdopen(ends[0], "r");
    if (rv == 0 && from != NULL) last_line(from, line, sizeof line);
    if (from != NULL) fclose(from);
    else close(ends[0]);
    if (rv != 0) return error_errno(e, ERROR_UNAVAILABLE, rv, "%.150s", criu);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return error_set(e, ERROR_UNAVAILABLE, "%.100s check: %s", criu, line[0] != '\0' ? line : "it failed and said nothing");
}
