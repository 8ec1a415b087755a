/* Looks at everything on this server's disk, again and again, before somebody needs it; and what is damaged, whoever met it, is fetched from the other servers
 * and written anew.
 *
 * A damaged record is never served, as every read checks it (reads.c, wal_read()); who meets one tells it here. Segment by segment: look (sift.h), on a thread
 * of libuv's pool and past the page cache, at most scrub-rate bytes a second; ask for what is missing (repair.h); write a file beside and rename it (wal/patch.h); look again.
 * Appends go on meanwhile, and reads of all that is good.
 *
 * A segment that is still written to is looked at when the next one is begun. What cannot be put back into Raft's part of the log byte for byte is repaired append by
 * append, when the log begins behind it, which is then made to happen (scrub_wants_beginning()).
 *
 * Then the index: each row is compared with the append that it leads to (collate.h), and none may be missing. It changes all the while, so what the worker meets is a doubt
 * until the loop's thread has looked at that row as it is then, its segment and the bytes in it. What is wrong in it cannot be repaired row by row, as a
 * page that is not what was written may hide others: all of it is replaced (scrub_wants_state()).
 *
 * Thread: the loop's. What it decides: scrub_plan.h. */
#ifndef CRSC_LOGD_SERVER_SCRUB_H
#define CRSC_LOGD_SERVER_SCRUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct node;
struct scrub;

struct scrub *scrub_new(struct node *node);                              /* NULL: no memory */
void scrub_close(struct scrub *s, void (*done)(void *user), void *user); /* it is gone then */
void scrub_tick(struct scrub *s);                                        /* about once a second */

/* Somebody met damaged bytes there; `why` says which. Nothing may be served from them. */
void scrub_suspect(struct scrub *s, uint64_t segment, const struct error *why);
void scrub_suspect_entry(struct scrub *s, uint64_t index, const struct error *why);
/* What a client is told who asked for them: another server may have them, unless it is known that none has. Returns -e->code. */
int scrub_explain(const struct scrub *s, uint64_t segment, struct error *e);

/* Another server's answer to one of our questions (repair.h); bytes NULL: it has not got it. */
void scrub_answer(struct scrub *s, uint64_t peer, uint64_t question, const void *bytes, size_t len);

/* Its file is being written anew: it must stay. */
bool scrub_holds(const struct scrub *s, uint64_t segment);
/* Segments up to this one must not be Raft's any more, as soon as that is possible; 0: never mind. */
uint64_t scrub_wants_beginning(const struct scrub *s);

bool scrub_alarm(const struct scrub *s);
void scrub_text(const struct scrub *s, size_t size, char *ret_text); /* "" or what is wrong */
bool scrub_hands_over(struct scrub *s);                              /* a leader should give leadership to somebody else now */
bool scrub_wants_state(const struct scrub *s);                       /* the index is damaged: another server's state should take its place (node.c) */

/* For those who watch. */
struct scrub_state {
    uint64_t passes, bytes, found, repaired; /* since the start */
    uint64_t pass_bytes, pass_of;            /* of the pass under way; 0: none is */
    uint64_t last_pass_us;                   /* wall time when the last one ended; 0: never */
    unsigned damaged;                        /* segments */
};
void scrub_state(const struct scrub *s, struct scrub_state *ret_state);

#endif
