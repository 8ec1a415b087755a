#include "logd/server/retention.h"

#include "common/mutant.h"
#include "logd/server/exports.h"
#include "logd/server/mover.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/scrub.h"

enum { REMOVED_AT_A_TIME = 4 /* removing a large file takes milliseconds */ };

static uint64_t first_segment(const struct node *node)
{
    for (size_t i = 0; i < wal_segments(node->wal); i++)
        if (wal_segment(node->wal, i).raft) return wal_segment(node->wal, i).id;
    return UINT64_MAX;
}

/* The last entry that may go. */
static uint64_t limit(const struct node *node)
{
    const struct settings *s = node->settings;
    bool all = node->space.state == SPACE_ENOUGH && scrub_wants_beginning(node->scrub) < first_segment(node);
    uint64_t keep = all ? s->log_keep : 0; /* room, or being whole, is worth more than a follower's short way back */
    uint64_t limit = wal_index_before(node->wal, keep), least = wal_index_before(node->wal, s->log_keep_max);
    uint64_t durable = index_applied(node->index);
    /* After a start the index may have applied more than this server knows to be committed, until a leader tells. */
    uint64_t known = consensus_applicable(node->consensus);
    if (durable > known && !MUTANT(compact_uncommitted)) durable = known;
    const struct membership *m = consensus_membership(node->consensus);
    for (unsigned i = 0; i < m->n; i++) { /* of a follower nobody's match is known: the leader keeps what is needed */
        uint64_t match = consensus_match(node->consensus, m->servers[i].id);
        if (match > 0 && match < limit && peers_reachable(node->peers, m->servers[i].id)) limit = match;
    }
    if (limit < least) limit = least;
    if (MUTANT(compact_not_durable) && limit < known) return limit;
    return limit < durable ? limit : durable;
}

static void move_beginning(struct node *node)
{
    uint64_t first = wal_first_index(node->wal);
    struct error e;
    if (wal_compact(node->wal, limit(node), node->members->data, node->members->len, &e) != 0) {
        log_warn("the log's beginning could not be moved; it is tried again", "reason=%s", e.text);
        return;
    }
    uint64_t now_first = wal_first_index(node->wal);
    if (now_first == first) return;
    if (consensus_compact(node->consensus, node_now_ms(), now_first - 1, &e) != 0) node_fatal("consensus failed", &e);
    log_debug("the log begins later", "first=%" PRIu64 " before=%" PRIu64, now_first, first);
}

/* What cannot be looked up stays. */
static bool is_needed(void *user, uint64_t segment)
{
    struct node *node = user;
    uint64_t bytes = 0;
    return !MUTANT(reclaim_live) && (mover_holds(node->mover, segment) || scrub_holds(node->scrub, segment) || index_live(node->index, segment, &bytes, NULL) != 0 || bytes > 0);
}

bool retention_tick(struct node *node)
{
    struct error e;
    if (exports_pinned(node->exports) || node->members == NULL) return false;
    move_beginning(node);
    int removed = wal_reclaim(node->wal, is_needed, node, REMOVED_AT_A_TIME, &e);
    if (removed < 0) log_warn("a segment could not be removed; it is tried again", "reason=%s", e.text);
    if (removed > 0) log_debug("segments removed", "segments=%d log_bytes=%" PRIu64, removed, wal_bytes(node->wal));
    return removed == REMOVED_AT_A_TIME;
}
