#include "checkpoint/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"

enum { STAT_MAX = 1024, FIELD_STATE = 3, FIELD_START_TIME = 22 };

/* Reads state and start time. The name, field 2, is in parentheses and may contain any byte: fields are counted from the last
 * parenthesis. */
static int read_stat(int32_t pid, char *ret_state, uint64_t *ret_start_time)
{
    char path[32], text[STAT_MAX];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -ERROR_NOT_FOUND;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return -ERROR_NOT_FOUND;
    text[n] = '\0';
    char *field = strrchr(text, ')');
    if (field == NULL || field[1] == '\0') return -ERROR_INTERNAL;
    field += 2;
    char state = *field;
    for (int i = FIELD_STATE; i < FIELD_START_TIME; i++) {
        field = strchr(field, ' ');
        if (field == NULL) return -ERROR_INTERNAL;
        field++;
    }
    *ret_state = state;
    *ret_start_time = strtoull(field, NULL, 10);
    return 0;
}

int process_find(int32_t pid, struct process *ret_process)
{
    char state;
    uint64_t start_time;
    if (pid <= 0) return -ERROR_NOT_FOUND;
    int rc = read_stat(pid, &state, &start_time);
    if (rc != 0) return rc;
    if (state == 'Z' || state == 'X') return -ERROR_NOT_FOUND;
    *ret_process = (struct process){pid, start_time};
    return 0;
}

bool process_stopped(const struct process *p)
{
    char state;
    uint64_t start_time;
    return p->pid > 0 && read_stat(p->pid, &state, &start_time) == 0 && start_time == p->start_time && (state == 'T' || state == 't');
}

bool process_alive(const struct process *p)
{
    struct process now;
    return process_find(p->pid, &now) == 0 && now.start_time == p->start_time;
}

char *process_identity(const struct process *p, char text[PROCESS_IDENTITY_MAX])
{
    snprintf(text, PROCESS_IDENTITY_MAX, "%" PRId32 ":%" PRIu64, p->pid, p->start_time);
    return text;
}

int process_parse(const char *text, struct process *ret_process)
{
    char *end, *begin;
    if (text == NULL || *text < '0' || *text > '9') return -ERROR_INVALID;
    errno = 0;
    unsigned long long pid = strtoull(text, &end, 10);
    if (errno != 0 || pid == 0 || pid > INT32_MAX || *end != ':') return -ERROR_INVALID;
    begin = end + 1;
    if (*begin < '0' || *begin > '9') return -ERROR_INVALID;
    unsigned long long start_time = strtoull(begin, &end, 10);
    if (errno != 0 || *end != '\0') return -ERROR_INVALID;
    *ret_process = (struct process){(int32_t)pid, start_time};
    return 0;
}

int process_open(const struct process *p, int *ret_pidfd)
{
    if (p->pid <= 0) return -ERROR_NOT_FOUND;
    int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (fd < 0) return errno == ESRCH ? -ERROR_NOT_FOUND : -ERROR_IO;
    if (!process_alive(p)) { /* checked after opening: from here on the pidfd cannot change its meaning */
        close(fd);
        return -ERROR_NOT_FOUND;
    }
    *ret_pidfd = fd;
    return 0;
}

int process_signal(int pidfd, int signal)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0) return 0;
    return errno == ESRCH ? -ERROR_NOT_FOUND : -ERROR_IO;
}
