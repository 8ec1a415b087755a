#include "agent/ear.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/netns.h"
#include "common/conn.h"
#include "common/loop.h"

enum { CONNECT_MS = 100, REST_MS = 5 }; /* rest: changes that follow each other at once are one */

void ear_init(struct ear *ear, const struct process *p)
{
    *ear = (struct ear){.pidfd = -1, .fd = -1};
    if (process_open(p, &ear->pidfd) != 0) ear->pidfd = -1;
}

static void hang_up(struct ear *ear)
{
    if (ear->fd >= 0) close(ear->fd);
    ear->fd = -1;
}

void ear_fini(struct ear *ear)
{
    hang_up(ear);
    if (ear->pidfd >= 0) close(ear->pidfd);
}

static void ring_up(struct ear *ear, const struct sidecar *s)
{
    static const char question[] = "GET /watch HTTP/1.1\r\nHost: crsc\r\n\r\n";
    struct sockaddr_storage where;
    struct error e;
    int failed = 0;
    socklen_t size = sizeof failed;
    if (address_numeric(s->admin, &where, &e) != 0) return;
    ear->fd = netns_socket(s->pid, where.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (ear->fd < 0) return;
    struct pollfd p = {.fd = ear->fd, .events = POLLOUT};
    socklen_t len = where.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    bool ok = connect(ear->fd, (struct sockaddr *)&where, len) == 0 || (errno == EINPROGRESS && poll(&p, 1, CONNECT_MS) == 1);
    ok = ok && getsockopt(ear->fd, SOL_SOCKET, SO_ERROR, &failed, &size) == 0 && failed == 0;
    if (!ok || send(ear->fd, question, sizeof question - 1, MSG_NOSIGNAL) != (ssize_t)(sizeof question - 1)) hang_up(ear);
}

/* All that was said so far; the end hangs up. */
static void listen_to(struct ear *ear)
{
    char words[16 << 10];
    ssize_t n;
    while ((n = recv(ear->fd, words, sizeof words, 0)) > 0) {}
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) hang_up(ear);
}

static uint64_t now_ms(void)
{
    return loop_monotonic_us() / 1000;
}

void ear_wait(struct ear *ear, const struct sidecar *s, int ms)
{
    if (ear->fd < 0 && now_ms() >= ear->not_before_ms) { /* who takes calls and ends them at once would keep us busy */
        ear->not_before_ms = now_ms() + (uint64_t)ms;
        ring_up(ear, s);
    }
    struct pollfd p[] = {{.fd = ear->fd, .events = POLLIN}, {.fd = ear->pidfd, .events = POLLIN}}; /* -1 is passed over */
    if (poll(p, 2, ms) <= 0) return;
    if (p[0].revents != 0) listen_to(ear);
    if (p[1].revents == 0 && ear->fd >= 0) poll(NULL, 0, REST_MS);
}
