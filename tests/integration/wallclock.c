/* For LD_PRELOAD: the wall clock of a program under test is so many seconds beside the machine's as the file $CRSC_WALLCLOCK says. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long beside(void)
{
    static int fd = -1;
    char text[32] = "";
    const char *path = getenv("CRSC_WALLCLOCK");
    if (fd < 0 && path != NULL) fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && pread(fd, text, sizeof text - 1, 0) > 0 ? strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    long rv = syscall(SYS_clock_gettime, id, now);
    if (rv == 0 && id == CLOCK_REALTIME) now->tv_sec += beside();
    return (int)rv;
}
