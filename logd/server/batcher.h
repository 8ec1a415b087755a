/* Group commit: gathers clients' commands, byte for byte, into Raft entries, and remembers who waits for which.
 *
 * Commands gather in *drafts*. A draft becomes an entry when the disk is idle, when it is full (max_entry), or when it
 * has waited linger_us: alone, a command leaves at once; under load many share one write and one message per follower.
 * Also with an idle disk it waits up to linger_us while it has fewer commands than the entry before, if those were several: clients that were
 * answered together come back together. Else they part into halves that wait for each other's writes for ever. Not behind a large entry: there
 * the processor is what is short, not the disk.
 * At most in_flight entries (and BATCHER_FLIGHT_BYTES) are proposed and not yet applied; what comes meanwhile gathers
 * further, at most BATCHER_PENDING_BYTES, then ERROR_BUSY.
 *
 * Decides and stores only: no I/O, no clock, no Raft. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_BATCHER_H
#define CRSC_LOGD_SERVER_BATCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/frame.h"

enum { BATCHER_GATHER_FROM = 4, BATCHER_GATHER_BYTES = 96 << 10 };
enum { BATCHER_FLIGHT_BYTES = 32 << 20, BATCHER_PENDING_BYTES = 32 << 20, BATCHER_WAITERS_MAX = 1 << 17 };

struct batcher;
struct session;

struct batcher_waiter { /* who asked for a command; the reference to the session is the batcher's until it hands it on */
    struct session *session; /* NULL: the command is this server's own */
    uint64_t id;
    uint16_t type;
    uint32_t bytes; /* of the frame */
    uint64_t since_us; /* when it came */
};

struct batcher *batcher_new(size_t max_entry, uint64_t linger_us, unsigned in_flight);
struct batcher *batcher_free(struct batcher *b); /* nobody may be waiting any more: batcher_take_all() first */

/* Adds a command. Takes its own reference to the session, which may be NULL. -ERROR_BUSY, -ERROR_TOO_LARGE, -ERROR_NOMEM. */
int batcher_add(struct batcher *b, const struct frame *f, struct session *session, uint64_t now_us, uint64_t wall_us,
                struct error *e);

/* The next entry to propose, if one is due: a blob (the caller's) of entry.h's format, or NULL. Follow with batcher_proposed(),
 * or with batcher_take_all() when it could not be proposed. */
struct blob *batcher_cut(struct batcher *b, uint64_t now_us, bool disk_idle);
void batcher_proposed(struct batcher *b, uint64_t index, uint64_t term);
bool batcher_gathers(const struct batcher *b); /* what was not cut just now is due within linger_us: ask again soon, also if nothing comes */

/* The entry at `index` was applied: those who wait for it, if it is ours and of that term, in the order of its commands.
 * Entries proposed before it that never came are impossible (Raft applies in order). The list is valid until the next
 * call; its references are the caller's. */
size_t batcher_take(struct batcher *b, uint64_t index, uint64_t term, const struct batcher_waiter **ret_waiters);

/* Everybody, proposed or not, oldest first: leadership is lost. As above. */
size_t batcher_take_all(struct batcher *b, const struct batcher_waiter **ret_waiters);

bool batcher_idle(const struct batcher *b); /* nobody waits */
size_t batcher_waiters(const struct batcher *b); /* how many do */

#endif
