#include "runtime/command.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int command_run(char *const argv[], int bound_ms)
{
    posix_spawnattr_t attributes;
    pid_t pid;
    int status = 0;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    int failed = posix_spawnp(&pid, argv[0], NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    if (failed != 0) return -1;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = 1;
    if (fd >= 0)
        do n = poll(&p, 1, bound_ms);
        while (n < 0 && errno == EINTR);
    if (fd >= 0) close(fd);
    if (n == 0) kill(-pid, SIGKILL); /* not reaped yet: the group is still its own */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (n == 0) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
