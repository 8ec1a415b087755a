/* The roll of a new cluster's servers: whom this one has met of initial-cluster, by the identity of their data directories, and whether they all
 * have met the same.
 *
 * Entry 1 of the log names every voter with its instance, so that from the first vote on a server whose data were lost is told from the one that it
 * was (membership.h). For that the founders have to agree on entry 1 before there is a log, a leader or a majority:
 *
 *  R1  A full roll is the first entry. It is durable before it is told, and never changes once it was: neither places nor ids.
 *  R2  Each server tells it to the others; who has heard from all of them that theirs is the very same founds the cluster. So does who hears it from one that
 *      has founded, which has heard the same from all.
 *  R3  So two servers that found have the same first entry: either has heard the other's roll, or it was heard for it, and neither can have changed since.
 *
 * All of initial-cluster have to be there once for this, as with Consul's bootstrap_expect; a majority of them would not do: a server that was not among
 * it would take an emptied one for a founder. Who has founded tells its roll again to those that have not; and a leader sends them entry 1 as any other.
 *
 * A plain value, pure; thread: any. Source: Ongaro 2014, section 3.8 (persisted state is what Raft's safety rests on). */
#ifndef CRSC_LOGD_SERVER_ROLL_H
#define CRSC_LOGD_SERVER_ROLL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "logd/consensus/consensus.h"

struct roll {
    unsigned n;
    struct roll_place {
        uint64_t id, instance; /* instance 0: not met yet */
        bool agrees;           /* it has told the roll that ours is */
        bool founded;          /* and that it has founded */
        struct blob *said;     /* what it told; NULL: nothing yet */
    } places[CONSENSUS_MEMBERS_MAX];
    struct blob *entry; /* the first entry's payload; NULL until the roll is full */
    bool founded;       /* by one that agrees */
};

/* The members of initial-cluster, of which `own` is this server, with its instance. -ERROR_INVALID, see consensus_first_entry(). */
int roll_init(struct roll *r, const struct consensus_member *members, unsigned n, uint64_t own, uint64_t instance, struct error *e);
void roll_fini(struct roll *r);

/* A server says who it is. 1: with it the roll is full, to be made durable before it is told; 0: it is not full, or was, or the server is none of it.
 * -ERROR_CONFLICT: it is full, and has another data directory there, which stays; -ERROR_NOMEM. */
int roll_met(struct roll *r, uint64_t id, uint64_t instance, struct error *e);
/* It is not there any more: as long as the roll is not full it has to be met again, and may then be another one. */
void roll_left(struct roll *r, uint64_t id);
/* That one tells its full roll (a first entry's payload); `founded`: it has a log that begins with it. 0, or -ERROR_CONFLICT: it is another one, which will not
 * change; -ERROR_NOMEM. What another instance of it says than the one that was met is not counted. */
int roll_told(struct roll *r, uint64_t id, uint64_t instance, const void *entry, size_t len, bool founded, struct error *e);

/* The roll is full, and all others have told the same, or one that has founded. */
bool roll_agreed(const struct roll *r);
/* Who is waited for, for people: "server 2 (not met yet), server 3 (has not said that it has met all)". */
void roll_missing(const struct roll *r, size_t size, char *ret_text);

#endif
