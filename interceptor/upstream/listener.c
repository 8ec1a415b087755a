#include "interceptor/upstream/listener.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { STATE_LISTEN = 0x0a, LINE_SIZE = 512 };

/* ---- by reading procfs, which takes milliseconds where the kernel's table of connections is large ------------------------ */

struct target {
    in_port_t port; /* host order */
    bool v4;
    uint32_t words[4]; /* as the kernel prints them: network order read as native integers */
};

/* Listens on just that address, or on all. An IPv6 wildcard takes IPv4 too. */
static bool covers(const struct target *t, const uint32_t *words, bool v6_table)
{
    static const uint32_t any[4];
    if (!v6_table) return t->v4 && (words[0] == 0 || words[0] == t->words[0]);
    if (memcmp(words, any, sizeof any) == 0) return true;
    if (!t->v4) return memcmp(words, t->words, sizeof t->words) == 0;
    return words[0] == 0 && words[1] == 0 && words[2] == htonl(0xffff) && (words[3] == t->words[0] || words[3] == 0);
}

static uint64_t scan(const char *path, const struct target *t, bool v6_table)
{
    char line[LINE_SIZE], address[40];
    uint64_t id = 0;
    FILE *f = fopen(path, "re");
    if (f == NULL) return 0;
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned port, state;
        uint64_t inode;
        uint32_t words[4] = {0};
        if (sscanf(line, " %*d: %32[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*x:%*x %*x:%*x %*x %*u %*u %" SCNu64, address,
                   &port, &state, &inode) != 4)
            continue;                     /* the heading */
        if (state != STATE_LISTEN) break; /* the kernel lists these first */
        for (size_t i = 0; i < (v6_table ? 4 : 1); i++)
            if (sscanf(address + 8 * i, "%8" SCNx32, &words[i]) != 1) break;
        if (port == t->port && covers(t, words, v6_table)) id += inode * UINT64_C(0x9e3779b97f4a7c15) | 1;
    }
    fclose(f);
    return id;
}

/* ---- by asking the kernel for the one socket that a connection would reach ------------------------------------------ */

/* 0 or a negative errno. */
static int exchange(int fd, const struct sockaddr *address, uint64_t *ret_inode)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } ask = {.head = {.nlmsg_len = sizeof ask, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
             .body = {.sdiag_family = (uint8_t)address->sa_family,
                      .sdiag_protocol = IPPROTO_TCP,
                      .idiag_states = UINT32_MAX,
                      .id.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}};
    union {
        struct nlmsghdr head;
        char bytes[1024];
    } answer;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        ask.body.id.idiag_sport = in->sin_port;
        memcpy(ask.body.id.idiag_src, &in->sin_addr, 4);
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        ask.body.id.idiag_sport = in6->sin6_port;
        memcpy(ask.body.id.idiag_src, &in6->sin6_addr, 16);
    }
    if (send(fd, &ask, sizeof ask, 0) != (ssize_t)sizeof ask) return -errno;
    ssize_t n = recv(fd, &answer, sizeof answer, 0); /* the kernel has answered within send() */
    if (n < 0) return -errno;
    if ((size_t)n >= NLMSG_LENGTH(sizeof(struct nlmsgerr)) && answer.head.nlmsg_type == NLMSG_ERROR)
        return ((const struct nlmsgerr *)NLMSG_DATA(&answer.head))->error;
    if ((size_t)n < NLMSG_LENGTH(sizeof(struct inet_diag_msg)) || answer.head.nlmsg_type != SOCK_DIAG_BY_FAMILY) return -EPROTO;
    const struct inet_diag_msg *found = NLMSG_DATA(&answer.head);
    *ret_inode = found->idiag_state == STATE_LISTEN ? found->idiag_inode : 0;
    return 0;
}

/* False: the kernel cannot say. A kernel without sock_diag says ENOENT as well: that counts only after it has once found one. */
static bool ask_kernel(const struct sockaddr *address, uint64_t *ret_id)
{
    static atomic_bool works;
    uint64_t inode = 0;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    if (fd < 0) return false;
    int rv = exchange(fd, address, &inode);
    close(fd);
    if (rv == 0) atomic_store(&works, true);
    *ret_id = inode;
    return rv == 0 || (rv == -ENOENT && atomic_load(&works));
}

/* Of a Unix socket its file: bind() makes a new one. Inode numbers are used again, so its time goes in too (the one that chmod leaves alone). */
static uint64_t file_id(const char *path)
{
    struct stat s;
    if (stat(path, &s) != 0 || !S_ISSOCK(s.st_mode)) return 0;
    uint64_t id = s.st_ino * UINT64_C(0x9e3779b97f4a7c15) + s.st_dev;
    id = (id ^ (uint64_t)s.st_mtim.tv_sec) * UINT64_C(0x9e3779b97f4a7c15);
    return (id ^ (uint64_t)s.st_mtim.tv_nsec) | 1;
}

uint64_t listener_id(const struct sockaddr *address)
{
    if (address->sa_family == AF_UNIX) return file_id(((const struct sockaddr_un *)address)->sun_path);
    struct target t = {0};
    uint64_t id;
    if ((address->sa_family == AF_INET || address->sa_family == AF_INET6) && ask_kernel(address, &id)) return id;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        t.v4 = true;
        t.port = ntohs(in->sin_port);
        memcpy(t.words, &in->sin_addr, 4);
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        t.port = ntohs(in6->sin6_port);
        memcpy(t.words, &in6->sin6_addr, 16);
    } else {
        return 0;
    }
    return scan("/proc/self/net/tcp", &t, false) + scan("/proc/self/net/tcp6", &t, true);
}
