/* The question to the node's agent: may this container be restored, and from what? Every wait has a bound; whatever is not a clear answer is
 * "fresh", with the reason in words. docs/AGENT.md describes the protocol. Blocking; used by one thread. */
#ifndef CRSC_RUNTIME_ASK_H
#define CRSC_RUNTIME_ASK_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ASK_LINE_MAX = 4096,      /* bytes of a line of the agent's, with its end */
    ASK_SNAPSHOT_MAX = 128,
    ASK_REASON_MAX = 256,
    ASK_CONFIG_MAX = 4 << 20, /* bytes of a config.json */
};

struct ask_bounds { /* milliseconds */
    int connect; /* and to take the question */
    int silence; /* between two lines */
    int all;
};
extern const struct ask_bounds ask_bounds; /* those of docs/AGENT.md */

struct answer {
    bool plain;   /* it is not protected: of no interest to the agent */
    bool restore;
    char image[PATH_MAX]; /* CRIU's images; when restore */
    char snapshot[ASK_SNAPSHOT_MAX];
    uint64_t offset; /* of the log: what the restored state contains */
    char reason[ASK_REASON_MAX]; /* why it is fresh */
};

/* Never fails: what goes wrong is a reason. */
void ask(const char *socket_path, const struct ask_bounds *bounds, const char *id, const void *config, size_t config_len,
         struct answer *ret_answer);

/* One line, without its end: 1: it was the answer; 0: a sign of life; -1: not understood. */
int ask_read_line(char *line, struct answer *ret_answer);

#endif
