/* Leads TCP connections that come from outside into a network namespace to another port of it: what `crsc.io/traffic: redirect` does in a pod.
 *
 * One nftables table, `inet crsc`, written by netlink: no program has to be on the node, and no container in the pod needs a right. What begins inside the
 * namespace (over lo: the interceptor's own connections to its app) is left alone. Connections that are there already go on as they are.
 * Linux 5.2 or newer (NAT for both families in one table). Blocking, some milliseconds; the calling thread alone enters the namespace, and is back when the
 * call returns. Thread: any. */
#ifndef CRSC_COMMON_REDIRECT_H
#define CRSC_COMMON_REDIRECT_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

enum { REDIRECT_PAIRS_MAX = 4, REDIRECT_TEXT_MAX = 64 };

struct redirect {
    uint32_t n; /* 0: nothing is led anywhere */
    struct {
        uint16_t from, to;
    } pairs[REDIRECT_PAIRS_MAX];
};

/* "8080=15020,15023=8080". -ERROR_INVALID: another form, more than REDIRECT_PAIRS_MAX, a port twice, or a port led to itself. */
int redirect_parse(const char *text, struct redirect *ret_redirect, struct error *e);

/* In the network namespace of process `pid` these rules hold from now on, and no others of ours, in one step; n 0: none. The same again is no failure.
 * -ERROR_DENIED: it is our own namespace, which is the host's: a pod's words are no reason to change that. -ERROR_NOT_FOUND: no such process.
 * -ERROR_UNAVAILABLE: this kernel cannot. */
int redirect_set(pid_t pid, const struct redirect *r, struct error *e);

#endif
