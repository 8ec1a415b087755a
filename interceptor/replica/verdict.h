/* Which replica's app is not like the others?
 *
 * Every replica executes the same requests, so all answers to one should be the same. The one that has the client records a digest of
 * the answer (the completion); the others compare theirs with it as they follow the log. That costs nothing. When two differ
 * nobody knows yet who is wrong, so a vote is held in the log: who sees a difference appends its own digest of that request with its name; who
 * reads a vote and has not voted does the same. All read the same votes in the same order.
 *
 *   a majority of all replicas has one digest     who has another one has diverged
 *   two differ and there is no majority           a disagreement: for people, until a majority is found
 *
 * `All replicas` are those of one version of the app: another version may well answer differently, also what it replays that was answered years ago. So a vote
 * says of which version it is, and those of others than one's own are passed over. How many they are may change; 0: nobody is judged until another number is
 * told, and then what is not decided yet is judged again.
 *
 * What counts for ourselves is what our present app answered, not what an earlier one voted: a rebuilt app that replays the disputed
 * request is judged anew. An app that is not deterministic disagrees all the time: a vote is begun at most once in VERDICT_EVERY
 * offsets. Pure. Thread: one. */
#ifndef CRSC_INTERCEPTOR_REPLICA_VERDICT_H
#define CRSC_INTERCEPTOR_REPLICA_VERDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "interceptor/replay/digests.h"

enum {
    VERDICT_OWN = 8192,       /* own answers remembered, by offset */
    VERDICT_REPLICAS_MAX = 15,
    VERDICT_NAME_MAX = 255,
    VERDICT_VERSION_MAX = 127,
    VERDICT_OPEN = 4,         /* disputes remembered; the oldest goes */
    VERDICT_EVERY = 64,
    VERDICT_TEXT_MAX = DIGEST_TEXT_MAX + 16 + VERDICT_VERSION_MAX + VERDICT_NAME_MAX,
};

enum verdict {
    VERDICT_NOTHING,
    VERDICT_CAST,         /* append our vote: verdict_print() */
    VERDICT_DISAGREEMENT, /* no majority yet */
    VERDICT_SETTLED,      /* a majority, and we are of it, or have no answer of ours to this */
    VERDICT_DIVERGED,     /* a majority, and our app is not of it */
};

struct verdict_vote {
    char replica[VERDICT_NAME_MAX + 1];
    char version[VERDICT_VERSION_MAX + 1]; /* of its app; "": nobody said, as of all votes before there were versions */
    struct answer_digest digest;
};

struct dispute {
    uint64_t offset; /* 0: none */
    unsigned n_votes;
    bool cast;
    enum verdict told;
    struct verdict_vote votes[VERDICT_REPLICAS_MAX];
};

struct verdicts {
    char name[VERDICT_NAME_MAX + 1], version[VERDICT_VERSION_MAX + 1];
    unsigned replicas; /* of that version */
    uint64_t newest; /* dispute begun by us */
    struct dispute disputes[VERDICT_OPEN];
    unsigned next; /* of them to be used */
    struct { uint64_t offset; struct answer_digest digest; } own[VERDICT_OWN];
};

struct verdicts *verdicts_new(const char *name, const char *version, unsigned replicas); /* NULL without memory; neither has a space or a newline */
/* So many are there from now on. What is decided stays so; of the rest, verdicts_again() tells what comes of it. */
void verdicts_count(struct verdicts *v, unsigned replicas);
/* The next undecided dispute after *offset, in order of offsets: what comes of it now. False: there is no other. */
bool verdicts_again(struct verdicts *v, uint64_t *offset, enum verdict *ret);
struct verdicts *verdicts_free(struct verdicts *v);
void verdicts_attached(struct verdicts *v); /* another app: what the one before answered is forgotten */

/* Our app answered a logged request, about which votes may have been read before. What came of it; with *ret_cast our vote is to be appended. */
enum verdict verdicts_own(struct verdicts *v, uint64_t offset, const struct answer_digest *digest, bool *ret_cast);
/* Ours to that request differs from the recorded one. VERDICT_CAST or nothing. */
enum verdict verdicts_differs(struct verdicts *v, uint64_t offset);
/* A vote was read from the log. What came of it; with *ret_cast our own vote is to be appended. */
enum verdict verdicts_read(struct verdicts *v, uint64_t offset, const struct verdict_vote *vote, bool *ret_cast);

/* A vote as a mark's payload; the mark's `ref` is the request's offset. verdict_print: our own; 0: we have none. */
size_t verdict_print(const struct verdicts *v, uint64_t offset, char text[static VERDICT_TEXT_MAX]);
int verdict_parse(const void *text, size_t len, struct verdict_vote *ret); /* 0 or -ERROR_CORRUPT: it is something else */

#endif
