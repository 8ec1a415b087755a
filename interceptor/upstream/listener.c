#include "interceptor/upstream/listener.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { STATE_LISTEN = 0x0a, LINE_SIZE = 512 };

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

uint64_t listener_id(const struct sockaddr *address)
{
    struct target t = {0};
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
