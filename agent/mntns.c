#include "agent/mntns.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

struct visit {
    const char *mount_namespace;
    int (*work)(void *user, struct error *e);
    void *user;
    int rc;
    struct error *error;
};

static int enter(const char *mount_namespace, struct error *e)
{
    if (*mount_namespace == '\0') return 0;
    int fd = open(mount_namespace, O_RDONLY | O_CLOEXEC);
    /* this thread alone: its root and working folder are no more shared with the others */
    int rc = fd >= 0 && unshare(CLONE_FS) == 0 && setns(fd, CLONE_NEWNS) == 0
                 ? 0 : error_errno(e, ERROR_IO, errno, "the host's mount namespace %s cannot be entered", mount_namespace);
    if (fd >= 0) close(fd);
    return rc;
}

static void *run(void *user)
{
    struct visit *v = user;
    v->rc = enter(v->mount_namespace, v->error);
    if (v->rc == 0) v->rc = v->work(v->user, v->error);
    return NULL;
}

int mntns_do(const char *mount_namespace, int (*work)(void *user, struct error *e), void *user, struct error *e)
{
    struct visit v = {.mount_namespace = mount_namespace, .work = work, .user = user, .error = e};
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, run, &v);
    if (failed != 0) return error_errno(e, ERROR_NOMEM, failed, "no thread");
    pthread_join(thread, NULL);
    return v.rc;
}
