#include "agent/netns.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int netns_socket(pid_t of, int family, int type, int protocol)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", of);
    int theirs = open(path, O_RDONLY | O_CLOEXEC), ours = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), fd = -1;
    if (theirs >= 0 && ours >= 0 && setns(theirs, CLONE_NEWNET) == 0) {
        fd = socket(family, type | SOCK_CLOEXEC, protocol);
        if (setns(ours, CLONE_NEWNET) != 0) abort(); /* a thread that is lost in a pod's network must do nothing more */
    }
    if (theirs >= 0) close(theirs);
    if (ours >= 0) close(ours);
    return fd;
}
