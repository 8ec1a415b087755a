/* What the scrub looks at next, and what is known to be damaged. Decides only: scrub.c does it.
 *
 * A pass goes over every segment, in order, as far as it is not written to any more, and then over the index; it begins `interval_ms` after the one before. A segment in which damage was met,
 * by a pass or by a reader, is a *suspect*: it comes before all others, again and again, with growing pauses, until a look finds nothing wrong
 * with it, or it is gone. While there is one, there is an alarm. Where a reader meets damage again although the disk was found right just before (memory, or what the
 * index says of it), it stays one for a while: neither the alarm flickers, nor is the disk read all the time.
 *
 * Times are milliseconds of a clock that never goes back. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_SCRUB_PLAN_H
#define CRSC_LOGD_SERVER_SCRUB_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCRUB_SUSPECTS = 64, SCRUB_CLEARED = 8, SCRUB_SEAL_MS = 200, SCRUB_RETRY_MS = 2000, SCRUB_RETRY_MOST_MS = 60000, SCRUB_PATIENCE_MS = 1000, SCRUB_HAND_OVER_MS = 30000, SCRUB_STATE_MS = 6000 };

enum scrub_why {
    SCRUB_MET,     /* not looked at yet */
    SCRUB_REPAIRS, /* what is missing is being asked for, or written */
    SCRUB_FILLS,   /* it is still written to */
    SCRUB_LOST,    /* no server that could be asked has it */
    SCRUB_LOG,     /* what Raft's log needs of it cannot be made anew: the log has to begin behind it */
    SCRUB_FAILS,   /* this machine cannot write the repaired file */
    SCRUB_AGAIN,   /* a look found nothing, and then damage was met there again: it is not the disk's */
};

struct scrub_suspect {
    uint64_t segment, next_ms; /* next_ms: when it is looked at */
    unsigned tries, writes, bad; /* bad: records and appends that are damaged, as of the last look */
    enum scrub_why why;
};

struct scrub_plan {
    uint64_t interval_ms; /* 0: no passes */
    uint64_t due_ms;      /* the next one */
    bool passing, index;  /* index: it is looked at, as the pass' last step */
    uint64_t at;          /* the last segment the pass has looked at */
    struct scrub_suspect suspects[SCRUB_SUSPECTS];
    unsigned n;
    struct {
        uint64_t segment, at_ms;
    } cleared[SCRUB_CLEARED]; /* found whole lately, though somebody had met damage */
    unsigned n_cleared;
    bool index_damaged;
    uint64_t index_since_ms;
    uint64_t since_ms, handed_ms; /* since when there is something wrong */
    uint64_t passes, found, repaired;
};

struct scrub_segment {
    uint64_t id;
    bool sealed, held; /* held: not to be looked at now */
    bool settled;      /* not sealed, but some of it is not written to any more: a pass looks at that */
};

enum scrub_step { SCRUB_NOTHING, SCRUB_LOOK, SCRUB_ROLL, SCRUB_INDEX };

/* The segments there are, in ascending order. SCRUB_LOOK, SCRUB_ROLL (it must be sealed first): *ret_segment. SCRUB_INDEX: scrub_plan_index() will be told. */
enum scrub_step scrub_plan_next(struct scrub_plan *p, uint64_t now_ms, const struct scrub_segment *segments, size_t n, uint64_t *ret_segment);

/* Damage was met there. True: that is new. */
bool scrub_plan_suspect(struct scrub_plan *p, uint64_t segment, uint64_t now_ms);
/* A look found nothing wrong. True: it was a suspect. */
bool scrub_plan_whole(struct scrub_plan *p, uint64_t segment, uint64_t now_ms);
/* A look found so many damaged records. */
void scrub_plan_damaged(struct scrub_plan *p, uint64_t segment, unsigned bad, uint64_t now_ms);
/* So many of them are written anew: look again. */
void scrub_plan_repaired(struct scrub_plan *p, uint64_t segment, unsigned n, uint64_t now_ms);
/* It did not get any better: try again, later. */
void scrub_plan_stuck(struct scrub_plan *p, uint64_t segment, enum scrub_why why, uint64_t now_ms);
/* The pass is over. */
void scrub_plan_index(struct scrub_plan *p, bool damaged, uint64_t now_ms);
/* Not at a pass' end: a row of the index turned out to be wrong. */
void scrub_plan_blame_index(struct scrub_plan *p, uint64_t now_ms);
/* The index is damaged, and has been for so long that the others have heard of it (SCRUB_STATE_MS): another server's state is to take its place, when they are well. */
bool scrub_plan_wants_state(const struct scrub_plan *p, uint64_t now_ms);

const struct scrub_suspect *scrub_plan_find(const struct scrub_plan *p, uint64_t segment); /* NULL: it is none */
bool scrub_plan_alarm(const struct scrub_plan *p);
/* A leader with damaged data tries to give leadership to a healthy server, when it was not repaired at once, and once in SCRUB_HAND_OVER_MS. True: now. */
bool scrub_plan_hands_over(struct scrub_plan *p, uint64_t now_ms);
/* "" or what is wrong, and what to do when it will not be right by itself, for people. */
void scrub_plan_text(const struct scrub_plan *p, size_t size, char *ret_text);

#endif
