#include "logd/server/startup.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/loop.h"
#include "logd/server/identity.h"
#include "logd/server/node.h"

static void consensus_options_of(const struct settings *s, struct consensus_options *o)
{
    *o = (struct consensus_options){
        .id = s->id,
        .members = s->members,
        .n_members = s->n_members,
        .election_ms = (uint32_t)s->election_ms,
        .heartbeat_ms = (uint32_t)s->heartbeat_ms,
        .max_in_flight = 256,
        .seed = (uint32_t)(loop_wall_us() * 2654435761u + s->id * 40503u),
    };
}

/* An empty log gets the entry that names the members; the term is made durable first, so that a crash in between leaves an
 * empty log to begin again. */
static int make_first_entry(struct node *node, const struct consensus_options *options, struct error *e)
{
    struct blob *payload;
    int rv = wal_set_hard_state(node->wal, 1, 0, e);
    if (rv == 0) rv = consensus_first_entry(options, &payload, e);
    if (rv != 0) return rv;
    struct wal_entry entry = {1, 1, CONSENSUS_CHANGE, payload};
    rv = wal_append(node->wal, &entry, 1);
    blob_unref(payload);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "the first entry could not be written");
    while (wal_persisted_index(node->wal) < 1) uv_run(node->loop, UV_RUN_ONCE);
    return 0;
}

static int start_consensus(struct node *node, const struct consensus_options *options, struct consensus_update *u,
                           struct error *e)
{
    struct wal_entry first;
    uint64_t last = wal_last_index(node->wal);
    if (wal_first_index(node->wal) != 1)
        return error_set(e, ERROR_CORRUPT, "the log begins at entry %llu instead of 1: segment files are missing",
                         (unsigned long long)wal_first_index(node->wal));
    uint64_t *terms = malloc(sizeof *terms * last);
    if (terms == NULL) return error_set(e, ERROR_NOMEM, "no memory for the terms of %llu entries", (unsigned long long)last);
    for (uint64_t i = 0; i < last; i++) terms[i] = wal_term_at(node->wal, i + 1);
    int rv = wal_read(node->wal, 1, &first, e);
    if (rv == 0) rv = consensus_new(options, &node->consensus, e);
    if (rv == 0) {
        rv = consensus_start(node->consensus, node_now_ms(), wal_term(node->wal), wal_vote(node->wal), terms, last,
                             first.payload, u, e);
        blob_unref(first.payload);
    }
    free(terms);
    return rv;
}

int startup_run(struct node *node, void (*on_persisted)(void *, uint64_t, uint64_t),
                 void (*on_wal_failed)(void *, const struct error *), void (*on_durable)(void *, uint64_t),
                 void (*on_index_failed)(void *, const struct error *), struct consensus_update *u, struct error *e)
{
    const struct settings *s = node->settings;
    struct consensus_options options;
    char wal_dir[4096], index_dir[4096];
    int rv = identity_check(s->data_dir, s->id, s->cluster, e);
    if (rv != 0) return rv;
    snprintf(wal_dir, sizeof wal_dir, "%s/wal", s->data_dir);
    snprintf(index_dir, sizeof index_dir, "%s/index", s->data_dir);
    struct wal_options wal = {.dir = wal_dir, .segment_bytes = s->segment_bytes, .cache_bytes = s->cache_bytes,
                              .user = node, .on_persisted = on_persisted,
                              .on_failed = on_wal_failed};
    struct index_options index = {.dir = index_dir, .map_bytes = s->map_bytes, .commit_ms = (uint32_t)s->index_commit_ms,
                                  .user = node, .on_durable = on_durable, .on_failed = on_index_failed};
    if ((rv = wal_open(node->loop, &wal, &node->wal, e)) != 0) return rv;
    if (wal_cut_bytes(node->wal) > 0)
        log_info("cut the torn tail of a write that nobody was told about", "bytes=%llu",
                 (unsigned long long)wal_cut_bytes(node->wal));
    if ((rv = index_open(node->loop, &index, &node->index, e)) != 0) return rv;
    if (index_applied(node->index) > wal_last_index(node->wal))
        return error_set(e, ERROR_CORRUPT, "the index has applied entry %llu, but the log ends at %llu: log and index are not of "
                         "one server, or segments were lost",
                         (unsigned long long)index_applied(node->index), (unsigned long long)wal_last_index(node->wal));
    consensus_options_of(s, &options);
    if (wal_last_index(node->wal) == 0 && (rv = make_first_entry(node, &options, e)) != 0) return rv;
    if ((node->streams = streams_new()) == NULL) return error_set(e, ERROR_NOMEM, "no memory for the streams");
    if ((rv = index_load(node->index, node->streams, e)) != 0) return rv;
    return start_consensus(node, &options, u, e);
}
