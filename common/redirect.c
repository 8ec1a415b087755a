#include "common/redirect.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BATCH_MAX = 4096,
    ANSWERS_MAX = 32,      /* a batch has fewer messages */
    PRIORITY_DSTNAT = -100,
    PORT_OFFSET = 2,       /* of the destination port in a TCP header */
    LOOPBACK_INDEX = 1,    /* of lo, in every network namespace */
};

#define TABLE "crsc"
#define CHAIN "in"

/* ---- the words --------------------------------------------------------------------------------------------------- */

/* Digits up to `end`, which is passed over. */
static bool take_port(const char **p, char end, uint16_t *ret_port)
{
    uint32_t port = 0;
    size_t n = strspn(*p, "0123456789");
    if (n == 0 || n > 5 || ((*p)[n] != end && !(end == ',' && (*p)[n] == '\0'))) return false;
    for (size_t i = 0; i < n; i++) port = port * 10 + (uint32_t)((*p)[i] - '0');
    *p += n + ((*p)[n] != '\0');
    *ret_port = (uint16_t)port;
    return port > 0 && port <= UINT16_MAX;
}

int redirect_parse(const char *text, struct redirect *ret_redirect, struct error *e)
{
    struct redirect r = {0};
    const char *p = text;
    bool good = true;
    do {
        uint16_t from, to;
        good = r.n < REDIRECT_PAIRS_MAX && take_port(&p, '=', &from) && take_port(&p, ',', &to) && from != to && (*p != '\0' || p[-1] != ',');
        for (uint32_t i = 0; i < r.n && good; i++) good = r.pairs[i].from != from;
        if (!good) break;
        r.pairs[r.n].from = from;
        r.pairs[r.n++].to = to;
    } while (*p != '\0');
    if (!good) return error_set(e, ERROR_INVALID, "\"%.100s\" is no list of ports: FROM=TO[,FROM=TO] is wanted", text);
    *ret_redirect = r;
    return 0;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* What nfnetlink takes as one transaction: all of it or nothing. */
struct batch {
    unsigned char data[BATCH_MAX];
    size_t len;
    bool full; /* sticky: it did not fit */
    uint32_t sequence;
};

static size_t append(struct batch *b, const void *data, size_t len)
{
    size_t at = b->len, padded = (len + 3) & ~(size_t)3;
    if (b->full || padded > sizeof b->data - b->len) {
        b->full = true;
        return 0;
    }
    memset(b->data + at, 0, padded);
    if (data != NULL) memcpy(b->data + at, data, len);
    b->len += padded;
    return at;
}

static void attribute(struct batch *b, int type, const void *data, size_t len)
{
    struct nlattr head = {.nla_len = (uint16_t)(sizeof head + len), .nla_type = (uint16_t)type};
    append(b, &head, sizeof head);
    append(b, data, len);
}

static void text(struct batch *b, int type, const char *value)
{
    attribute(b, type, value, strlen(value) + 1);
}

static void number(struct batch *b, int type, uint32_t value)
{
    uint32_t wire = htonl(value);
    attribute(b, type, &wire, sizeof wire);
}

static size_t open_nest(struct batch *b, int type)
{
    struct nlattr head = {.nla_type = (uint16_t)(type | NLA_F_NESTED)};
    return append(b, &head, sizeof head);
}

static void close_nest(struct batch *b, size_t at)
{
    uint16_t len = (uint16_t)(b->len - at);
    if (!b->full) memcpy(b->data + at + offsetof(struct nlattr, nla_len), &len, sizeof len);
}

static size_t open_message(struct batch *b, int type, int flags, int family, uint16_t resource)
{
    struct nlmsghdr head = {.nlmsg_type = (uint16_t)type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags), .nlmsg_seq = ++b->sequence};
    struct nfgenmsg more = {.nfgen_family = (uint8_t)family, .version = NFNETLINK_V0, .res_id = htons(resource)};
    size_t at = append(b, &head, sizeof head);
    append(b, &more, sizeof more);
    return at;
}

static void close_message(struct batch *b, size_t at)
{
    uint32_t len = (uint32_t)(b->len - at);
    if (!b->full) memcpy(b->data + at + offsetof(struct nlmsghdr, nlmsg_len), &len, sizeof len);
}

static size_t open_change(struct batch *b, int type, int flags)
{
    return open_message(b, NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_ACK | flags, NFPROTO_INET, 0);
}

/* ---- the rules --------------------------------------------------------------------------------------------------- */

/* An expression of a rule: opened up to its own attributes. */
struct expression {
    size_t element, data;
};

static struct expression open_expression(struct batch *b, const char *name)
{
    struct expression x = {.element = open_nest(b, NFTA_LIST_ELEM)};
    text(b, NFTA_EXPR_NAME, name);
    x.data = open_nest(b, NFTA_EXPR_DATA);
    return x;
}

static void close_expression(struct batch *b, struct expression x)
{
    close_nest(b, x.data);
    close_nest(b, x.element);
}

static void value(struct batch *b, int type, const void *data, size_t len)
{
    size_t nest = open_nest(b, type);
    attribute(b, NFTA_DATA_VALUE, data, len);
    close_nest(b, nest);
}

static void load_meta(struct batch *b, uint32_t key)
{
    struct expression x = open_expression(b, "meta");
    number(b, NFTA_META_DREG, NFT_REG_1);
    number(b, NFTA_META_KEY, key);
    close_expression(b, x);
}

static void load_port(struct batch *b)
{
    struct expression x = open_expression(b, "payload");
    number(b, NFTA_PAYLOAD_DREG, NFT_REG_1);
    number(b, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
    number(b, NFTA_PAYLOAD_OFFSET, PORT_OFFSET);
    number(b, NFTA_PAYLOAD_LEN, sizeof(uint16_t));
    close_expression(b, x);
}

/* Goes on with the rule if what was loaded compares so. */
static void compare(struct batch *b, uint32_t how, const void *data, size_t len)
{
    struct expression x = open_expression(b, "cmp");
    number(b, NFTA_CMP_SREG, NFT_REG_1);
    number(b, NFTA_CMP_OP, how);
    value(b, NFTA_CMP_DATA, data, len);
    close_expression(b, x);
}

static void lead_to(struct batch *b, uint16_t port)
{
    uint16_t wire = htons(port);
    struct expression x = open_expression(b, "immediate");
    number(b, NFTA_IMMEDIATE_DREG, NFT_REG_1);
    value(b, NFTA_IMMEDIATE_DATA, &wire, sizeof wire);
    close_expression(b, x);
    x = open_expression(b, "redir");
    number(b, NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
    close_expression(b, x);
}

static void add_table(struct batch *b, int type, int flags)
{
    size_t at = open_change(b, type, flags);
    text(b, NFTA_TABLE_NAME, TABLE);
    close_message(b, at);
}

static void add_chain(struct batch *b)
{
    int32_t priority = PRIORITY_DSTNAT;
    size_t at = open_change(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE), hook;
    text(b, NFTA_CHAIN_TABLE, TABLE);
    text(b, NFTA_CHAIN_NAME, CHAIN);
    hook = open_nest(b, NFTA_CHAIN_HOOK);
    number(b, NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING);
    number(b, NFTA_HOOK_PRIORITY, (uint32_t)priority);
    close_nest(b, hook);
    text(b, NFTA_CHAIN_TYPE, "nat");
    close_message(b, at);
}

/* iif != lo, tcp dport FROM, redirect to :TO */
static void add_rule(struct batch *b, uint16_t from, uint16_t to)
{
    const int32_t loopback = LOOPBACK_INDEX;
    const uint8_t tcp = IPPROTO_TCP;
    const uint16_t wire = htons(from);
    size_t at = open_change(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND), all;
    text(b, NFTA_RULE_TABLE, TABLE);
    text(b, NFTA_RULE_CHAIN, CHAIN);
    all = open_nest(b, NFTA_RULE_EXPRESSIONS);
    load_meta(b, NFT_META_IIF);
    compare(b, NFT_CMP_NEQ, &loopback, sizeof loopback);
    load_meta(b, NFT_META_L4PROTO);
    compare(b, NFT_CMP_EQ, &tcp, sizeof tcp);
    load_port(b);
    compare(b, NFT_CMP_EQ, &wire, sizeof wire);
    lead_to(b, to);
    close_nest(b, all);
    close_message(b, at);
}

/* The table is made (if it is not there), removed, and made again: so whatever it was, it is as wanted after the one transaction. */
static void write_batch(struct batch *b, const struct redirect *r)
{
    close_message(b, open_message(b, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    add_table(b, NFT_MSG_NEWTABLE, NLM_F_CREATE);
    add_table(b, NFT_MSG_DELTABLE, 0);
    if (r->n > 0) {
        add_table(b, NFT_MSG_NEWTABLE, NLM_F_CREATE);
        add_chain(b);
        for (uint32_t i = 0; i < r->n; i++) add_rule(b, r->pairs[i].from, r->pairs[i].to);
    }
    close_message(b, open_message(b, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
}

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

/* A socket to the netfilter of that namespace; it stays there, the thread does not. */
static int open_there(pid_t pid, struct error *e)
{
    char path[64];
    struct stat here, there;
    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    int ours = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), theirs = open(path, O_RDONLY | O_CLOEXEC), fd = -1, rc = 0;
    if (ours < 0) rc = error_errno(e, ERROR_IO, errno, "/proc/thread-self/ns/net");
    else if (theirs < 0) rc = error_errno(e, ERROR_NOT_FOUND, errno, "%s", path);
    else if (fstat(ours, &here) != 0 || fstat(theirs, &there) != 0) rc = error_errno(e, ERROR_IO, errno, "%s", path);
    else if (here.st_dev == there.st_dev && here.st_ino == there.st_ino)
        rc = error_set(e, ERROR_DENIED, "process %d is in the host's network: nothing is redirected there", (int)pid);
    else if (setns(theirs, CLONE_NEWNET) != 0) rc = error_errno(e, ERROR_IO, errno, "%s cannot be entered", path);
    if (rc == 0) {
        fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
        if (fd < 0) rc = error_errno(e, ERROR_UNAVAILABLE, errno, "this kernel has no netfilter");
        if (setns(ours, CLONE_NEWNET) != 0) _exit(1); /* a thread that is lost in a pod's network must do nothing more */
    }
    if (theirs >= 0) close(theirs);
    if (ours >= 0) close(ours);
    return rc != 0 ? rc : fd;
}

/* The answers lie in the socket when the batch was taken. All went well if nothing is an error and the last change was acknowledged. */
static int hear(int fd, uint32_t last, struct error *e)
{
    unsigned char data[BATCH_MAX];
    for (int i = 0; i < ANSWERS_MAX; i++) {
        ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_errno(e, ERROR_UNAVAILABLE, errno, "nftables did not answer");
        struct nlmsghdr head;
        for (size_t at = 0; at + sizeof head <= (size_t)n; at += NLMSG_ALIGN((size_t)head.nlmsg_len)) {
            int said;
            memcpy(&head, data + at, sizeof head);
            if (head.nlmsg_len < sizeof head || head.nlmsg_len > (size_t)n - at) break;
            if (head.nlmsg_type != NLMSG_ERROR || head.nlmsg_len < NLMSG_LENGTH(sizeof said)) continue;
            memcpy(&said, data + at + NLMSG_HDRLEN, sizeof said); /* the head of struct nlmsgerr: 0 or a negative errno */
            if (said != 0) return error_errno(e, ERROR_UNAVAILABLE, -said, "nftables refused a redirection");
            if (head.nlmsg_seq == last) return 0;
        }
    }
    return error_set(e, ERROR_UNAVAILABLE, "nftables did not confirm a redirection");
}

int redirect_set(pid_t pid, const struct redirect *r, struct error *e)
{
    struct batch b = {.len = 0};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    write_batch(&b, r);
    if (b.full) return error_set(e, ERROR_INTERNAL, "a redirection is longer than it may be");
    int fd = open_there(pid, e);
    if (fd < 0) return fd;
    ssize_t n = sendto(fd, b.data, b.len, 0, (struct sockaddr *)&kernel, sizeof kernel);
    int rc = n == (ssize_t)b.len ? hear(fd, b.sequence - 1, e) : error_errno(e, ERROR_UNAVAILABLE, errno, "nftables cannot be asked");
    close(fd);
    return rc;
}
