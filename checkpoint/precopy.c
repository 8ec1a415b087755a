#include "checkpoint/precopy.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "checkpoint/tree.h"

enum { FAMILY_MAX = 1024 /* processes of a container that are counted */ };

struct precopy {
    uv_loop_t *loop;
    struct runc *runc;
    char id[RUNC_ID_MAX], dir[PATH_MAX];
    unsigned most;
    bool stopped, watching;
    struct process process;
    int pidfd;
    uv_poll_t end;     /* of the process */
    uv_timer_t later;  /* calls back from the loop when there is nothing to do */
    unsigned open_handles;
    uv_work_t removal;
    uint64_t resident, begun_ns;
    precopy_cb *cb;
    void *user;
    char detail[RUNC_DETAIL_MAX];
    struct precopy_result result;
};

/* ---- is it worth while? ---------------------------------------------------------------------------------------- */

bool precopy_fits(uint64_t resident, uint64_t room)
{
    return room / 6 >= resident;
}

bool precopy_pays(const uint64_t *bytes, unsigned n)
{
    return n < 2 || bytes[n - 1] < bytes[0] / 2;
}

bool precopy_another(unsigned most, uint64_t resident, const uint64_t *bytes, unsigned n)
{
    if (n >= most || n >= PRECOPY_ROUNDS_MAX) return false;
    if (n == 0) return resident >= PRECOPY_WORTH;
    if (bytes[n - 1] < PRECOPY_ENOUGH) return false;
    return n == 1 || bytes[n - 1] < bytes[n - 2] / 2; /* else it is written about as fast as it is copied */
}

bool precopy_in_vain(const struct precopy_result *r)
{
    return r->futile || (r->status != 0 && !r->ended);
}

static void add_memory(int32_t pid, struct precopy_memory *m)
{
    char path[64], line[128];
    unsigned long long kib;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "RssAnon: %llu", &kib) == 1) m->own += (uint64_t)kib * 1024;
        if (sscanf(line, "RssShmem: %llu", &kib) == 1) m->shared += (uint64_t)kib * 1024;
    }
    if (f != NULL) fclose(f);
}

/* Appends the children that any thread of the process has. */
static size_t add_children(int32_t pid, int32_t *all, size_t n)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *threads = opendir(path);
    for (struct dirent *entry; threads != NULL && (entry = readdir(threads)) != NULL;) {
        int child;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)pid, entry->d_name);
        FILE *f = fopen(path, "re");
        while (f != NULL && n < FAMILY_MAX && fscanf(f, "%d", &child) == 1) all[n++] = child;
        if (f != NULL) fclose(f);
    }
    if (threads != NULL) closedir(threads);
    return n;
}

struct precopy_memory precopy_resident(int32_t pid)
{
    int32_t all[FAMILY_MAX] = {pid};
    struct precopy_memory m = {0};
    size_t n = 1;
    for (size_t i = 0; i < n; i++) {
        add_memory(all[i], &m);
        n = add_children(all[i], all, n);
    }
    return m;
}

/* ---- the links ------------------------------------------------------------------------------------------------- */

/* The N of a "pre-N", 0: it is none. */
static unsigned number_of(const char *name, size_t len)
{
    bool is = len == 5 && strncmp(name, "pre-", 4) == 0 && name[4] >= '1' && name[4] <= '0' + PRECOPY_ROUNDS_MAX;
    return is ? (unsigned)(name[4] - '0') : 0;
}

bool precopy_is_link(const char *name, const char *target)
{
    if (strcmp(name, "parent") == 0) return number_of(target, strlen(target)) != 0;
    unsigned from = number_of(name, strcspn(name, "/"));
    return from != 0 && strcmp(name + 5, "/parent") == 0 && strncmp(target, "../", 3) == 0 && number_of(target + 3, strlen(target + 3)) != 0 &&
           number_of(target + 3, strlen(target + 3)) < from;
}

/* ---- the rounds ------------------------------------------------------------------------------------------------ */

static void on_handle_closed(uv_handle_t *handle)
{
    struct precopy *p = handle->data;
    if (--p->open_handles > 0) return;
    if (p->watching) close(p->pidfd);
    precopy_cb *cb = p->cb;
    void *user = p->user;
    p->result.elapsed_us = (uv_hrtime() - p->begun_ns) / 1000;
    p->result.detail = p->detail;
    if (p->result.rounds > 0) snprintf(p->result.parent, sizeof p->result.parent, "pre-%u", p->result.rounds);
    cb(user, &p->result);
    free(p);
}

static void finish(struct precopy *p)
{
    if (p->watching) uv_close((uv_handle_t *)&p->end, on_handle_closed);
    uv_close((uv_handle_t *)&p->later, on_handle_closed);
}

static void on_later(uv_timer_t *timer)
{
    finish(timer->data);
}

static void remove_all(uv_work_t *work)
{
    struct precopy *p = work->data;
    struct error e;
    int rc = tree_remove(p->dir, &e);
    if (rc == 0) return;
    p->result.status = rc; /* worse than what made it necessary */
    p->result.error = e;
}

static void on_removed(uv_work_t *work, int status)
{
    (void)status; /* it is never cancelled */
    finish(work->data);
}

static void drop(struct precopy *p)
{
    p->result.rounds = 0;
    p->removal.data = p;
    if (uv_queue_work(p->loop, &p->removal, remove_all, on_removed) == 0) return;
    remove_all(&p->removal);
    finish(p);
}

static void fail(struct precopy *p, int status, const struct error *e, const char *detail)
{
    p->result.status = status;
    p->result.error = *e;
    snprintf(p->detail, sizeof p->detail, "%s", detail);
    p->result.rounds = 0;
    if (p->result.ended) finish(p); /* there will be no dump, and somebody waits for a new app */
    else drop(p);
}

static void round_path(const struct precopy *p, unsigned number, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.*s/pre-%u", PATH_MAX - 16, p->dir, number);
}

/* Of the images of pages: the rest is small. */
static uint64_t bytes_of(const char *folder)
{
    uint64_t bytes = 0;
    struct stat st;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, "pages-", 6) == 0 && fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            bytes += (uint64_t)st.st_size;
    if (dir != NULL) closedir(dir);
    return bytes;
}

/* Bytes left on the disk that the folder is, or will be, on. */
static uint64_t room_for(const char *folder)
{
    char path[PATH_MAX];
    struct statvfs fs;
    snprintf(path, sizeof path, "%s", folder);
    while (statvfs(path, &fs) != 0) {
        char *last = strrchr(path, '/');
        if (last == NULL || last == path) return 0;
        *last = '\0';
    }
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static void go_on(struct precopy *p);

static void on_predumped(void *user, const struct runc_result *r)
{
    struct precopy *p = user;
    char path[PATH_MAX];
    p->result.harmed = r->status != 0 && r->criu == RUNC_CRIU_CUT;
    if (r->status != 0) {
        fail(p, r->status, &r->error, r->detail);
        return;
    }
    round_path(p, p->result.rounds + 1, path);
    p->result.bytes[p->result.rounds++] = bytes_of(path);
    go_on(p);
}

static void go_on(struct precopy *p)
{
    unsigned n = p->result.rounds;
    char path[PATH_MAX], parent[32];
    struct error e;
    if (p->stopped || !precopy_another(p->most, p->resident, p->result.bytes, n)) {
        p->result.futile = !precopy_pays(p->result.bytes, n);
        if (p->result.futile) drop(p);
        else finish(p);
        return;
    }
    round_path(p, n + 1, path);
    snprintf(parent, sizeof parent, "../pre-%u", n);
    int rc = runc_predump(p->runc, p->id, &p->process, path, n > 0 ? parent : NULL, on_predumped, p, &e);
    if (rc != 0) fail(p, rc, &e, "");
}

static void on_end(uv_poll_t *handle, int status, int events)
{
    struct precopy *p = handle->data;
    (void)status;
    (void)events;
    uv_poll_stop(handle);
    p->stopped = p->result.ended = true;
    runc_end_predump(p->runc, p->id);
}

static void watch(struct precopy *p)
{
    if (process_open(&p->process, &p->pidfd) != 0) return; /* it has ended: runc_predump() says so */
    if (uv_poll_init(p->loop, &p->end, p->pidfd) != 0) {
        close(p->pidfd);
        return;
    }
    p->end.data = p;
    p->watching = true;
    p->open_handles++;
    uv_poll_start(&p->end, UV_READABLE, on_end);
}

static void on_queried(void *user, const struct runc_result *r)
{
    struct precopy *p = user;
    if (r->status == 0 && r->container == RUNC_RUNNING) {
        p->process = r->process;
        struct precopy_memory memory = precopy_resident(r->process.pid);
        p->resident = memory.shared < PRECOPY_WORTH ? memory.own : 0;
        p->result.cramped = precopy_another(p->most, p->resident, p->result.bytes, 0) && !precopy_fits(p->resident, room_for(p->dir));
        p->stopped = p->stopped || p->result.cramped;
        watch(p);
        go_on(p);
    } else {
        finish(p); /* what is wrong with it, the dump will say */
    }
}

int precopy_start(uv_loop_t *loop, struct runc *r, const char *id, const char *image_dir, unsigned most, precopy_cb *cb, void *user,
                  struct precopy **ret_precopy, struct error *e)
{
    if (strlen(id) >= RUNC_ID_MAX || strlen(image_dir) + 16 >= PATH_MAX) return error_set(e, ERROR_INVALID, "the path of a dump is too long");
    struct precopy *p = calloc(1, sizeof *p);
    if (p == NULL) return error_set(e, ERROR_NOMEM, "no memory for pre-copy");
    *p = (struct precopy){.loop = loop, .runc = r, .most = most, .open_handles = 1, .begun_ns = uv_hrtime(), .cb = cb, .user = user};
    memcpy(p->id, id, strlen(id) + 1);
    memcpy(p->dir, image_dir, strlen(image_dir) + 1);
    uv_timer_init(loop, &p->later);
    p->later.data = p;
    *ret_precopy = p;
    if (most == 0 || !runc_tracks(r) || runc_query(r, id, on_queried, p, e) != 0) uv_timer_start(&p->later, on_later, 0, 0);
    return 0;
}

void precopy_stop(struct precopy *p)
{
    p->stopped = true;
}
