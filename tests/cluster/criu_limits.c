/* Preloaded into CRIU on test nodes only: asking for the limits of another user's process needs CAP_SYS_RESOURCE, which root lacks on some virtual machines.
 * /proc/PID/limits says the same to anybody. Ordinary hosts do not need this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const names[RLIM_NLIMITS] = {
    [RLIMIT_CPU] = "Max cpu time", [RLIMIT_FSIZE] = "Max file size", [RLIMIT_DATA] = "Max data size", [RLIMIT_STACK] = "Max stack size",
    [RLIMIT_CORE] = "Max core file size", [RLIMIT_RSS] = "Max resident set", [RLIMIT_NPROC] = "Max processes",
    [RLIMIT_NOFILE] = "Max open files", [RLIMIT_MEMLOCK] = "Max locked memory", [RLIMIT_AS] = "Max address space",
    [RLIMIT_LOCKS] = "Max file locks", [RLIMIT_SIGPENDING] = "Max pending signals", [RLIMIT_MSGQUEUE] = "Max msgqueue size",
    [RLIMIT_NICE] = "Max nice priority", [RLIMIT_RTPRIO] = "Max realtime priority", [RLIMIT_RTTIME] = "Max realtime timeout"};

static rlim_t value(const char *text)
{
    return strcmp(text, "unlimited") == 0 ? RLIM_INFINITY : strtoull(text, NULL, 10);
}

static int from_proc(pid_t pid, unsigned resource, struct rlimit *to)
{
    char line[256], soft[32], hard[32];
    int found = -1;
    snprintf(line, sizeof line, "/proc/%d/limits", pid);
    FILE *f = fopen(line, "r");
    while (f != NULL && found != 0 && fgets(line, sizeof line, f) != NULL) {
        size_t len = strlen(names[resource]);
        if (strncmp(line, names[resource], len) != 0 || sscanf(line + len, "%31s %31s", soft, hard) != 2) continue;
        *to = (struct rlimit){value(soft), value(hard)};
        found = 0;
    }
    if (f != NULL) fclose(f);
    if (found != 0) errno = EPERM;
    return found;
}

/* CRIU calls prlimit64 through this. */
long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(args, long);
    va_end(args);
    if (real == NULL) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    bool refused = number == SYS_prlimit64 && result == -1 && errno == EPERM && a[2] == 0 && a[3] != 0 && a[0] > 0;
    if (refused && (unsigned long)a[1] < RLIM_NLIMITS) return from_proc((pid_t)a[0], (unsigned)a[1], (struct rlimit *)a[3]);
    return result;
}

int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *new_limit, struct rlimit *old_limit)
{
    return (int)syscall(SYS_prlimit64, (long)pid, (long)resource, new_limit, old_limit, 0L, 0L);
}

int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *new_limit, struct rlimit64 *old_limit)
{
    return (int)syscall(SYS_prlimit64, (long)pid, (long)resource, new_limit, old_limit, 0L, 0L);
}
