/* Whether there is room on this server's disk, and what is still taken when there is little.
 *
 *   free space >= reserve   everything
 *   below the reserve       LOW: no appends. What leads to room again is taken: snapshot records, trims; and what keeps the cluster
 *                           whole: fences, elections, entries of the leader. Raft's log is kept as short as it can be.
 *   below half of it        FULL: trims only; a follower takes no entries any more, but for a few bytes at a time down to a quarter (a trim
 *                           must get through when all are full). It stays in the cluster, votes and answers reads, while the others go
 *                           on as long as they are a majority.
 *
 * It ends by itself when there is a quarter of a mark more than it began at, so that it does not flicker. The reserve is what is left for
 * the segment that is being made, the index, and what is on its way when LOW begins.
 *
 * Decides only: space_seen() is told how much is free, by whoever asks the system. Thread: the loop's. */
#ifndef CRSC_LOGD_SERVER_SPACE_H
#define CRSC_LOGD_SERVER_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum space_state { SPACE_ENOUGH, SPACE_LOW, SPACE_FULL };

struct space {
    uint64_t reserve; /* bytes; 0: never mind */
    uint64_t free;    /* as last seen */
    uint64_t written; /* since then */
    uint64_t passed_ms; /* space_pass(): when it last let one through */
    bool stuck;         /* log or index wait for room: FULL, whatever the system says is free (a quota, or it went too fast) */
    enum space_state state;
};

/* True when the state changed. `stuck`: a file could not grow. */
bool space_seen(struct space *s, uint64_t free, bool stuck);
/* So much goes to the disk now. True: look how much is free before the next second has passed. */
bool space_wrote(struct space *s, uint64_t bytes);
/* A client's request of this frame type: 0 or -ERROR_NOSPACE, with a text that says what to do. */
int space_check(const struct space *s, uint16_t frame_type, struct error *e);
/* So many bytes of entries came from the leader: does a follower take them? */
bool space_takes(const struct space *s, uint64_t bytes);
/* It does not. True: take it without its entries, as a sign of life; that is worth it only when
 * our log ends right before them, and is answered at most once in `pause_ms`, since the leader sends them again at once. */
bool space_pass(struct space *s, uint64_t now_ms, uint64_t pause_ms, uint64_t last_index, uint64_t previous_index);
/* "" or what is wrong, for people. */
void space_text(const struct space *s, size_t size, char *ret_text);

#endif
