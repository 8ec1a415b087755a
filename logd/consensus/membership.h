/* Who belongs to the cluster: the payload of a CHANGE entry, and the rules by which one may follow another.
 *
 * One server at a time is added (as a standby: it gets the log, and counts in no majority), promoted to voter, or removed: majorities of
 * two memberships that follow each other then always meet. (Ongaro 2014, section 4.)
 *
 * `instance` is the identity of a server's data directory, drawn when the directory is made. It is noted here when the leader first meets
 * the server. A server whose disk was lost and which comes back under its old id has another one: it has forgotten its votes and what
 * it acknowledged, so the others refuse it until it is removed and added again. Who was removed is remembered, for as long as there is
 * room, so that it can be told.
 *
 * Plain values, pure; thread: any. */
#ifndef CRSC_LOGD_CONSENSUS_MEMBERSHIP_H
#define CRSC_LOGD_CONSENSUS_MEMBERSHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

enum { MEMBERSHIP_MAX = 9, MEMBERSHIP_ADDRESS = 256 /* with its zero */, MEMBERSHIP_REMOVED_MAX = 16 };

struct membership_server {
    uint64_t id;                      /* from 1 */
    char address[MEMBERSHIP_ADDRESS]; /* host:port; "": not noted yet */
    bool voter;                       /* else a standby */
    uint64_t instance;                /* 0: not noted yet */
};

struct membership {
    unsigned n, n_removed;
    struct membership_server servers[MEMBERSHIP_MAX]; /* in the order they were added */
    struct {
        uint64_t id, instance;
    } removed[MEMBERSHIP_REMOVED_MAX]; /* oldest first */
};

const struct membership_server *membership_find(const struct membership *m, uint64_t id);
bool membership_votes(const struct membership *m, uint64_t id);
unsigned membership_voters(const struct membership *m);
/* Is this a data directory that was removed? One without a noted instance goes by its id, unless the id is a member again. */
bool membership_was_removed(const struct membership *m, uint64_t id, uint64_t instance);
/* Is it the noted instance of one that was removed? True once, true for ever. */
bool membership_removed_data(const struct membership *m, uint64_t id, uint64_t instance);

/* Each makes the next membership of the present one, or leaves it as it was. Repeating one is no error.
 *  add: -ERROR_EXISTS (another address, or another server there), -ERROR_TOO_LARGE, -ERROR_INVALID
 *  promote: -ERROR_NOT_FOUND
 *  remove: -ERROR_NOT_FOUND, -ERROR_CONFLICT for the last voter. */
int membership_add(struct membership *m, uint64_t id, const char *address, struct error *e);
int membership_promote(struct membership *m, uint64_t id, struct error *e);
int membership_remove(struct membership *m, uint64_t id, struct error *e);
/* What is known now of a member. True when that was not there yet. An instance that is noted stays. */
bool membership_note(struct membership *m, uint64_t id, const char *address, uint64_t instance);

bool membership_equal(const struct membership *a, const struct membership *b);
/* Does `next` follow `m` by at most one voter more or less, and has a voter? */
bool membership_may_follow(const struct membership *m, const struct membership *next);

/* As the payload of an entry (proto/raft.proto, Membership). A new reference. -ERROR_NOMEM. */
int membership_encode(const struct membership *m, struct blob **ret_payload);
/* -ERROR_INVALID when it is none: ids that are 0 or doubled, too many, no voter. */
int membership_decode(const void *bytes, size_t len, struct membership *ret_membership);

#endif
