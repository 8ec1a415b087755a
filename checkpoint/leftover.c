#include "checkpoint/leftover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/process.h"
#include "checkpoint/tree.h"
#include "common/file.h"

enum {
    WAIT_STEPS = 100,
    WAIT_STEP_US = 10000,
    ARGUMENTS_MAX = 64 << 10,
    INTENT_MS = 1000, /* from the intent to the running program, at most: a fork and an exec */
};

static const char INTENT[] = "about to start";

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t ignored = write(fd, text, strlen(text));
    (void)ignored; /* best effort: the outcome is looked at */
    close(fd);
}

/* --- commands */

/* At once: whoever reads it finds the text before or this one. */
static int replace_text(const char *path, const char *text)
{
    char new[PATH_MAX];
    if (snprintf(new, sizeof new, "%s.new", path) >= (int)sizeof new) return -ERROR_INVALID;
    return file_replace(path, new, text, strlen(text)) == 0 ? 0 : -ERROR_IO;
}

int leftover_note_intent(const char *path)
{
    return replace_text(path, INTENT);
}

int leftover_note_command(const char *path, int32_t pid)
{
    struct process p;
    char text[PROCESS_IDENTITY_MAX];
    if (process_find(pid, &p) != 0) return 0; /* it has ended already */
    return replace_text(path, process_identity(&p, text));
}

/* Has the process both words among its arguments? Every command has: runc's --root and the container's id. */
static bool has_words(const char *pid, const char *root, const char *id)
{
    char path[64], text[ARGUMENTS_MAX];
    snprintf(path, sizeof path, "/proc/%.20s/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0) close(fd);
    if (n <= 0) return false;
    text[n] = '\0';
    bool has_root = false, has_id = false;
    for (const char *word = text; word < text + n; word += strlen(word) + 1) {
        has_root = has_root || strcmp(word, root) == 0;
        has_id = has_id || strcmp(word, id) == 0;
    }
    return has_root && has_id;
}

/* The leader of the process group of a command about that container; -ERROR_NOT_FOUND when none runs. */
static int search_command(const char *root, const char *id, struct process *ret_process)
{
    struct dirent *entry;
    int rc = -ERROR_NOT_FOUND;
    DIR *proc = opendir("/proc");
    while (proc != NULL && rc != 0 && (entry = readdir(proc)) != NULL) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !has_words(entry->d_name, root, id)) continue;
        pid_t group = getpgid((pid_t)strtol(entry->d_name, NULL, 10));
        if (group > 1 && group != getpgrp()) rc = process_find(group, ret_process);
    }
    if (proc != NULL) closedir(proc);
    return rc;
}

static uint64_t age_ms(const struct process *p)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t born = p->start_time * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    uint64_t at = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return at > born ? at - born : 0;
}

static uint64_t file_age_ms(int fd)
{
    struct stat st;
    struct timespec now;
    if (fstat(fd, &st) != 0 || clock_gettime(CLOCK_REALTIME, &now) != 0) return 0;
    int64_t ms = (int64_t)(now.tv_sec - st.st_mtim.tv_sec) * 1000 + (now.tv_nsec - st.st_mtim.tv_nsec) / 1000000;
    return ms > 0 ? (uint64_t)ms : 0;
}

int leftover_command(const char *path, const char *root, const char *id, uint32_t bound_ms, struct error *e)
{
    char text[PROCESS_IDENTITY_MAX] = "";
    struct process p;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    uint64_t age = file_age_ms(fd);
    close(fd);
    if (strcmp(text, INTENT) == 0) {
        if (search_command(root, id, &p) != 0) /* not found: not begun, or between fork and exec */
            return age >= INTENT_MS ? 0 : error_set(e, ERROR_BUSY, "a command of an earlier run may be about to begin");
    } else if (n <= 0 || process_parse(text, &p) != 0 || !process_alive(&p)) {
        return 0;
    }
    if (age_ms(&p) > bound_ms) kill(-p.pid, SIGKILL);
    return error_set(e, ERROR_BUSY, "a command of an earlier run is not done yet: process %d", (int)p.pid);
}

/* --- containers */

static void kill_all(const char *cgroup)
{
    char path[PATH_MAX], line[32];
    snprintf(path, sizeof path, "%.3900s/cgroup.kill", cgroup); /* version 2 */
    write_text(path, "1");
    snprintf(path, sizeof path, "%.3900s/cgroup.procs", cgroup);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        pid_t pid = (pid_t)strtol(line, NULL, 10);
        if (pid > 1 && pid != getpid()) kill(pid, SIGKILL);
    }
    if (f != NULL) fclose(f);
    snprintf(path, sizeof path, "%.3900s/freezer.state", cgroup); /* version 1: the frozen die only when thawed */
    write_text(path, "THAWED");
    snprintf(path, sizeof path, "%.3900s/cgroup.freeze", cgroup);
    write_text(path, "0");
}

/* Where runc made the container's cgroup, for a line of /proc/self/cgroup ("N:CONTROLLERS:/PATH"). False for a line of another
 * form. */
static bool cgroup_path(char *line, const char *id, char path[PATH_MAX])
{
    char *controllers = strchr(line, ':'), *own = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (own == NULL) return false;
    *own++ = '\0';
    own[strcspn(own, "\n")] = '\0';
    controllers++;
    if (strncmp(controllers, "name=", 5) == 0) controllers += 5;
    if (*controllers == '\0') controllers = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0 ? "." : "unified";
    return snprintf(path, PATH_MAX, "/sys/fs/cgroup/%s/%s/%s", controllers, own, id) < PATH_MAX;
}

static bool remove_cgroups(const char *id)
{
    char line[PATH_MAX], path[PATH_MAX];
    bool gone = true;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (!cgroup_path(line, id, path) || access(path, F_OK) != 0) continue;
        kill_all(path);
        if (rmdir(path) != 0 && errno != ENOENT) gone = false;
    }
    if (f != NULL) fclose(f);
    return gone;
}

int leftover_unmount(const char *root, const char *id, struct error *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s/criu-root", root, id) >= (int)sizeof path)
        return error_set(e, ERROR_INVALID, "the path of the containers' states is too long");
    while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {}
    if (errno != EINVAL && errno != ENOENT) return error_errno(e, ERROR_IO, errno, "%s cannot be unmounted", path);
    return 0; /* EINVAL: it is no mount */
}

/* The path of a line of mountinfo, its fifth word, with the octal escapes undone in place; NULL for a line of another form. */
static char *mount_point(char *line)
{
    char *word = line;
    for (int i = 0; i < 4 && word != NULL; i++) word = (word = strchr(word, ' ')) != NULL ? word + 1 : NULL;
    char *end = word != NULL ? strchr(word, ' ') : NULL, *out = word;
    if (end == NULL) return NULL;
    for (char *in = word; in < end; out++) {
        if (*in == '\\' && end - in > 3) {
            *out = (char)((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
            in += 4;
        } else {
            *out = *in++;
        }
    }
    *out = '\0';
    return word;
}

/* Detaches one mount below the folder, with all that is mounted in it. False when there is none, or it does not go. */
static bool detach_one(const char *folder)
{
    char *line = NULL, *path;
    size_t cap = 0, len = strlen(folder);
    bool done = false;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    while (f != NULL && !done && getline(&line, &cap, f) > 0) {
        path = mount_point(line);
        if (path != NULL && strncmp(path, folder, len) == 0 && path[len] == '/')
            done = umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
    }
    if (f != NULL) fclose(f);
    free(line);
    return done;
}

int leftover_remove(const char *root, const char *id, const char *criu, struct error *e)
{
    char path[PATH_MAX], real[PATH_MAX];
    bool gone = remove_cgroups(id);
    for (int i = 0; i < WAIT_STEPS && !gone; i++) {
        usleep(WAIT_STEP_US);
        gone = remove_cgroups(id);
    }
    if (!gone) return error_set(e, ERROR_IO, "processes in the cgroup of %s do not end", id);
    if (realpath(criu, real) != NULL) /* as the kernel names it */
        while (detach_one(real)) {}
    int rc = leftover_unmount(root, id, e);
    if (rc != 0) return rc;
    snprintf(path, sizeof path, "%s/%s", root, id);
    return tree_remove(path, e);
}
