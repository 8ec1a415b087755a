#include "logd/server/startup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/loop.h"
#include "logd/server/founding.h"
#include "logd/server/identity.h"
#include "logd/server/node.h"
#include "logd/server/rebuild.h"

static void consensus_options_of(const struct settings *s, uint64_t instance, struct consensus_options *o)
{
    *o = (struct consensus_options){
        .id = s->id,
        .instance = instance,
        .election_ms = (uint32_t)s->election_ms,
        .heartbeat_ms = (uint32_t)s->heartbeat_ms,
        .max_in_flight = 256,
        .seed = (uint32_t)(loop_wall_us() * 2654435761u + s->id * 40503u),
    };
}

/* A cluster of one has nobody to agree with on the entry that names the members. */
static int found_alone(struct node *node, struct error *e)
{
    struct consensus_member self = node->settings->members[0];
    struct blob *payload;
    self.instance = node->instance;
    int rv = consensus_first_entry(&self, 1, &payload, e);
    if (rv != 0) return rv;
    struct wal_entry entry = {1, 1, CONSENSUS_CHANGE, payload};
    rv = wal_append(node->wal, &entry, 1);
    blob_unref(payload);
    if (rv != 0) return error_set(e, (enum error_code)-rv, "the first entry could not be written");
    while (wal_persisted_index(node->wal) < 1) uv_run(node->loop, UV_RUN_ONCE);
    return 0;
}

/* Nothing was ever promised from this directory. Whatever was there before (an identity that somebody left when he removed the rest): it
 * is a new one. The term says that it was begun, before anybody hears of it; it is the first entry's, so a crash in between leaves an empty log to begin again. */
static int begin_empty(struct node *node, struct error *e)
{
    const struct settings *s = node->settings;
    int rv = 0;
    if (wal_last_index(node->wal) != 0) return 0;
    if (wal_term(node->wal) == 0) {
        rv = identity_renew(s->data_dir, s->id, s->cluster, &node->instance, e);
        if (rv == 0) rv = founding_forget(s->data_dir, e);
        if (rv == 0) rv = wal_set_hard_state(node->wal, 1, 0, e);
    }
    if (rv == 0 && !s->joins) {
        rv = founding_open(node, &node->founding, e);
        if (rv != 0 || s->n_members > 1) return rv;
        node->founding = founding_free(node->founding);
        return found_alone(node, e);
    }
    if (rv == 0) log_info("the data directory is empty: waiting to be added to the cluster", "id=%llu address=%s", (unsigned long long)s->id, s->address);
    return rv;
}

struct found {
    struct consensus_found *list;
    unsigned n, cap;
};

static int keep(struct found *f, uint64_t index, struct blob *payload, struct error *e)
{
    if (f->n == f->cap) {
        unsigned cap = f->cap == 0 ? 8 : 2 * f->cap;
        struct consensus_found *grown = realloc(f->list, cap * sizeof *grown);
        if (grown == NULL) return error_set(e, ERROR_NOMEM, "no memory for the membership");
        f->list = grown;
        f->cap = cap;
    }
    f->list[f->n++] = (struct consensus_found){index, payload};
    return 0;
}

/* The membership as of what the index has applied, which it noted (members.c), or else that of entry 1; and those after it in the log. */
static int find_changes(struct node *node, struct found *f, struct error *e)
{
    const struct buf *note = index_opened_note(node->index);
    uint64_t at = index_applied(node->index) + 1;
    int rv = 0;
    if (note->len > 8) {
        struct blob *payload = blob_new(note->len - 8);
        if (payload == NULL) return error_set(e, ERROR_NOMEM, "no memory for the membership");
        memcpy(payload->data, note->data + 8, note->len - 8);
        node->members = blob_ref(payload);
        node->members_index = get_u64(note->data);
        rv = keep(f, node->members_index, payload, e);
    } else {
        at = 1;
    }
    if (at < wal_first_index(node->wal)) at = wal_first_index(node->wal);
    for (; rv == 0 && at <= wal_last_index(node->wal); at++) {
        struct wal_entry entry;
        if ((rv = wal_read(node->wal, at, &entry, e)) != 0) break;
        if (entry.type == CONSENSUS_CHANGE) rv = keep(f, at, entry.payload, e);
        else blob_unref(entry.payload);
    }
    return rv;
}

static int start_consensus(struct node *node, struct consensus_update *u, struct error *e)
{
    struct consensus_options options;
    uint64_t before = wal_first_index(node->wal) - 1, n = wal_last_index(node->wal) - before;
    struct consensus_base base = {before, wal_term_at(node->wal, before)};
    struct found changes = {0};
    uint64_t *terms = malloc(sizeof *terms * (n + 1));
    if (terms == NULL) return error_set(e, ERROR_NOMEM, "no memory for the terms of %llu entries", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) terms[i] = wal_term_at(node->wal, before + i + 1);
    consensus_options_of(node->settings, node->instance, &options);
    int rv = find_changes(node, &changes, e);
    if (rv == 0) rv = consensus_new(&options, &node->consensus, e);
    if (rv == 0)
        rv = consensus_start(node->consensus, node_now_ms(), wal_term(node->wal), wal_vote(node->wal), base, terms, n, changes.list,
                             changes.n, u, e);
    for (unsigned i = 0; i < changes.n; i++) blob_unref((struct blob *)(uintptr_t)changes.list[i].payload);
    free(changes.list);
    free(terms);
    return rv;
}

int startup_founded(struct node *node, struct consensus_update *ret_update, struct error *e)
{
    node->consensus = consensus_free(node->consensus);
    return start_consensus(node, ret_update, e);
}

int startup_run(struct node *node, void (*on_persisted)(void *, uint64_t, uint64_t),
                 void (*on_wal_failed)(void *, const struct error *), void (*on_durable)(void *, uint64_t),
                 void (*on_index_failed)(void *, const struct error *), struct consensus_update *u, struct error *e)
{
    const struct settings *s = node->settings;
    char wal_dir[4096], index_dir[4096];
    int rv = identity_check(s->data_dir, s->id, s->cluster, &node->instance, e);
    if (rv != 0) return rv;
    snprintf(wal_dir, sizeof wal_dir, "%s/wal", s->data_dir);
    snprintf(index_dir, sizeof index_dir, "%s/index", s->data_dir);
    struct wal_options wal = {.dir = wal_dir, .segment_bytes = s->segment_bytes, .cache_bytes = s->cache_bytes,
                              .user = node, .on_persisted = on_persisted,
                              .on_failed = on_wal_failed};
    struct index_options index = {.dir = index_dir, .map_bytes = s->map_bytes, .commit_ms = (uint32_t)s->index_commit_ms,
                                  .user = node, .on_durable = on_durable, .on_failed = on_index_failed};
    if ((rv = rebuild_run(node->loop, s, node->instance, e)) != 0) return rv;
    if ((rv = wal_open(node->loop, &wal, &node->wal, e)) != 0) return rv;
    if (wal_cut_bytes(node->wal) > 0)
        log_info("cut the torn tail of a write that nobody was told about", "bytes=%llu",
                 (unsigned long long)wal_cut_bytes(node->wal));
    if ((rv = index_open(node->loop, &index, &node->index, e)) != 0) return rv;
    if (index_applied(node->index) + 1 < wal_first_index(node->wal))
        return error_set(e, ERROR_CORRUPT, "the index has applied entry %llu, but the log begins at %llu: log and index are not of "
                         "one server", (unsigned long long)index_applied(node->index), (unsigned long long)wal_first_index(node->wal));
    if (index_applied(node->index) > wal_last_index(node->wal))
        return error_set(e, ERROR_CORRUPT, "the index has applied entry %llu, but the log ends at %llu: log and index are not of "
                         "one server, or segments were lost",
                         (unsigned long long)index_applied(node->index), (unsigned long long)wal_last_index(node->wal));
    if ((rv = begin_empty(node, e)) != 0) return rv;
    if ((node->streams = streams_new()) == NULL) return error_set(e, ERROR_NOMEM, "no memory for the streams");
    if ((rv = index_load(node->index, node->streams, e)) != 0) return rv;
    return start_consensus(node, u, e);
}
