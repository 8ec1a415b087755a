#include "runtime/ask.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

const struct ask_bounds ask_bounds = {.connect = 1000, .silence = 3000, .all = 100000};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void fresh(struct answer *a, const char *format, const char *detail)
{
    a->restore = false;
    snprintf(a->reason, sizeof a->reason, format, detail);
}

/* Waits for `events`, until the moment `deadline`. */
static bool ready(int fd, short events, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n > 0) return true;
        if (n == 0 || errno != EINTR) return false;
    }
}

static int open_socket(const char *path, int64_t deadline)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    /* a full backlog is EAGAIN for a unix socket, not a wait */
    while (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if ((errno == EAGAIN || errno == EINTR) && now_ms() < deadline) {
            poll(NULL, 0, 10);
            continue;
        }
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

static bool send_all(int fd, const void *data, size_t len, int64_t deadline)
{
    const char *p = data;
    while (len > 0) {
        if (!ready(fd, POLLOUT, deadline)) return false;
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

int ask_read_line(char *line, struct answer *ret_answer)
{
    struct answer a = {.restore = true};
    char *rest = line, *word = strsep(&rest, " ");
    if (strcmp(word, "wait") == 0) return 0;
    if (strcmp(word, "plain") == 0 && rest == NULL) {
        *ret_answer = (struct answer){.plain = true};
        return 1;
    }
    if (strcmp(word, "fresh") == 0) {
        fresh(&a, "%s", rest != NULL && *rest != '\0' ? rest : "the agent says so");
        *ret_answer = a;
        return 1;
    }
    if (strcmp(word, "restore") != 0) return -1;
    const char *offset = strsep(&rest, " "), *snapshot = strsep(&rest, " ");
    char *end;
    if (offset == NULL || snapshot == NULL || rest == NULL) return -1;
    if (*offset == '\0' || strlen(offset) > 19 || strspn(offset, "0123456789") != strlen(offset)) return -1;
    if (*snapshot == '\0' || strlen(snapshot) >= sizeof a.snapshot || *rest != '/' || strlen(rest) >= sizeof a.image) return -1;
    a.offset = strtoull(offset, &end, 10);
    strcpy(a.snapshot, snapshot);
    strcpy(a.image, rest);
    *ret_answer = a;
    return 1;
}

/* Reads lines until one is the answer. */
static void hear(int fd, const struct ask_bounds *bounds, int64_t begun, struct answer *a)
{
    char line[ASK_LINE_MAX];
    size_t len = 0;
    for (;;) {
        int64_t silence = now_ms() + bounds->silence, all = begun + bounds->all;
        if (!ready(fd, POLLIN, silence < all ? silence : all)) {
            fresh(a, silence < all ? "the agent fell silent%s" : "the agent took too long%s", "");
            return;
        }
        ssize_t n = recv(fd, line + len, sizeof line - len, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0) {
            fresh(a, "the agent hung up%s", "");
            return;
        }
        len += (size_t)n;
        for (char *end; (end = memchr(line, '\n', len)) != NULL;) {
            size_t used = (size_t)(end - line) + 1;
            *end = '\0';
            int what = memchr(line, '\0', used - 1) != NULL ? -1 : ask_read_line(line, a);
            if (what < 0) fresh(a, "the agent's answer is not understood%s", "");
            if (what != 0) return;
            len -= used;
            memmove(line, line + used, len);
        }
        if (len == sizeof line) {
            fresh(a, "the agent's answer is not understood%s", "");
            return;
        }
    }
}

void ask(const char *socket_path, const struct ask_bounds *bounds, const char *id, const void *config, size_t config_len,
         struct answer *ret_answer)
{
    char head[512];
    int64_t begun = now_ms(), deadline = begun + bounds->connect;
    *ret_answer = (struct answer){0};
    int len = snprintf(head, sizeof head, "create %s %zu\n", id, config_len);
    int fd = len < (int)sizeof head ? open_socket(socket_path, deadline) : -1;
    if (fd < 0) {
        fresh(ret_answer, "the agent cannot be asked: %s", strerror(errno));
        return;
    }
    if (send_all(fd, head, (size_t)len, deadline) && send_all(fd, config, config_len, deadline)) hear(fd, bounds, begun, ret_answer);
    else fresh(ret_answer, "the agent does not listen%s", "");
    close(fd);
}
