/* One HTTP call, from begin to end: libcurl's easy interface. The agent's work is sequences of steps that block (drain, dump, hash, push), each in a thread
 * of its own, so its calls block as well.
 *
 * A call may be made from inside a network namespace: that of a pod, whose interceptor listens on loopback only. The socket is made there; the
 * thread is back before the call goes on. Proxies of the environment are not used. Thread: any. Strings are borrowed for the call. */
#ifndef CRSC_AGENT_CALL_H
#define CRSC_AGENT_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct call_tls {
    const char *ca, *cert, *key; /* files; cert "": show none */
    bool anybody;                /* believe whoever answers; else `ca` says whom */
};

struct call {
    const char *method; /* NULL: GET */
    const char *url;
    const char *const *headers; /* "Name: value", NULL at the end; NULL: none */
    const void *body;           /* sent when not NULL */
    size_t body_len;
    int upload_fd;              /* else, when > 0: a file is sent, upload_len bytes from where it stands */
    uint64_t upload_len;
    const struct call_tls *tls; /* for https: our certificate and whom we believe; NULL: the system's */
    pid_t netns_of;             /* > 0: call from the network namespace of this process */
    uint32_t timeout_ms;        /* of the whole; 0: none, but a minute without a byte ends it */
    bool *sent;                 /* when not NULL: becomes true with the first byte of the request that may have gone out, however the call ends */
    size_t answer_max;          /* 0: 1 MiB */
    int sink_fd;                /* when > 0: the answer's body goes there, at most sink_max bytes */
    uint64_t sink_max;
};

enum { CALL_LOCATION_MAX = 2048 };

struct call_reply {
    int code;
    char *body; /* zero-terminated; call_reply_fini() */
    size_t len;
    char location[CALL_LOCATION_MAX]; /* "" : none */
};

/* 0: an answer came, whatever its code. -ERROR_UNAVAILABLE, -ERROR_TIMEOUT, -ERROR_TOO_LARGE, -ERROR_IO (the file), -ERROR_INVALID. */
int call_do(const struct call *c, struct call_reply *ret_reply, struct error *e);
void call_reply_fini(struct call_reply *r);

#endif
