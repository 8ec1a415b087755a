#include "logd/server/queries.h"

#include <stdlib.h>
#include <string.h>

#include "logd/consensus/read_index.h"
#include "logd/server/members.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/session.h"

struct waiting {
    struct session *session; /* NULL: queries_confirm()'s */
    queries_cb *cb;
    void *user;
    uint64_t id;
    uint16_t type;
    uint64_t round;
    uint64_t index; /* 0 until its round was confirmed */
    struct rpc_query query;
};

struct queries {
    struct node *node;
    struct read_index reads;
    struct waiting *list; /* in order of arrival */
    size_t n, cap;
    struct buf head;
};

struct queries *queries_new(struct node *node)
{
    struct queries *q = calloc(1, sizeof *q);
    if (q == NULL) return NULL;
    q->node = node;
    read_index_init(&q->reads, node->settings->id);
    read_index_members(&q->reads, consensus_membership(node->consensus));
    return q;
}

struct queries *queries_free(struct queries *q)
{
    if (q == NULL) return NULL;
    free(q->list);
    buf_fini(&q->head);
    free(q);
    return NULL;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void answer(struct queries *q, struct session *s, uint16_t type, uint64_t id, int encoded)
{
    struct error e;
    if (encoded == 0) {
        session_reply(s, type | FRAME_REPLY, id, &q->head, NULL, 0);
        return;
    }
    error_set(&e, (enum error_code)-encoded, encoded == -ERROR_TOO_LARGE ? "the answer is too large for one frame: ask for less"
                                                                         : "no memory for the answer");
    session_fail(s, id, &e);
}

static void answer_latest(struct queries *q, struct session *s, uint64_t id, const struct rpc_query *query)
{
    struct streams_snapshot snapshot;
    struct error e;
    uint64_t stream = streams_id(q->node->streams, query->stream, strlen(query->stream));
    if (stream == 0 || streams_latest_snapshot(q->node->streams, stream, query->template_hash, &snapshot) != 0) {
        error_set(&e, ERROR_NOT_FOUND, "stream %s has no valid snapshot", query->stream);
        session_fail(s, id, &e);
        return;
    }
    answer(q, s, FRAME_LATEST_SNAPSHOT, id, rpc_encode_snapshot(FRAME_LATEST_SNAPSHOT, query->stream, &snapshot, 1, &q->head));
}

static void answer_snapshots(struct queries *q, struct session *s, uint64_t id, const struct rpc_query *query)
{
    uint64_t stream = streams_id(q->node->streams, query->stream, strlen(query->stream));
    unsigned n = stream == 0 ? 0 : streams_snapshots(q->node->streams, stream);
    struct streams_snapshot *list = calloc((size_t)n + 1, sizeof *list);
    int rv = list == NULL ? -ERROR_NOMEM : 0;
    for (unsigned i = 0; rv == 0 && i < n; i++) rv = streams_snapshot(q->node->streams, stream, i, &list[i]);
    if (rv == 0) rv = rpc_encode_snapshot(FRAME_LIST_SNAPSHOTS, query->stream, list, n, &q->head);
    answer(q, s, FRAME_LIST_SNAPSHOTS, id, rv);
    free(list);
}

static void answer_stream(struct queries *q, struct session *s, uint64_t id, const struct rpc_query *query)
{
    struct streams_info info;
    uint64_t stream = streams_id(q->node->streams, query->stream, strlen(query->stream));
    bool seen = stream != 0 && session_sees(s, query->stream) && streams_info(q->node->streams, stream, &info) == 0;
    answer(q, s, FRAME_LIST_STREAMS, id, rpc_encode_streams(&info, seen ? 1 : 0, &q->head));
}

static void answer_streams(struct queries *q, struct session *s, uint64_t id, const struct rpc_query *query)
{
    uint64_t count = streams_count(q->node->streams);
    size_t prefix = strlen(query->stream), n = 0;
    struct streams_info *list = calloc((size_t)count + 1, sizeof *list);
    int rv = list == NULL ? -ERROR_NOMEM : 0;
    for (uint64_t i = 1; rv == 0 && i <= count; i++) {
        if ((rv = streams_info(q->node->streams, i, &list[n])) != 0) break;
        if (strncmp(list[n].name, query->stream, prefix) == 0 && session_sees(s, list[n].name)) n++;
    }
    if (rv == 0) rv = rpc_encode_streams(list, n, &q->head);
    answer(q, s, FRAME_LIST_STREAMS, id, rv);
    free(list);
}

static void answer_status(struct queries *q, struct session *s, uint64_t id, bool brief)
{
    struct node *node = q->node;
    struct rpc_member members[CONSENSUS_MEMBERS_MAX];
    unsigned n_members = brief ? 0 : members_list(node, members);
    uint64_t leader = consensus_leader(node->consensus);
    char alarm[128];
    node_alarm(node, sizeof alarm, alarm);
    struct rpc_status status = {
        .node_id = node->settings->id,
        .cluster = brief ? NULL : node->settings->cluster,
        .role = node->stopping ? "stopping" : consensus_role_name(consensus_role(node->consensus)),
        .term = consensus_term(node->consensus),
        .leader_id = leader,
        .leader_address = node_address_of(node, leader),
        .commit_index = consensus_commit_index(node->consensus),
        .applied_index = streams_applied(node->streams),
        .persisted_index = wal_persisted_index(node->wal),
        .durable_applied_index = index_applied(node->index),
        .first_index = wal_first_index(node->wal),
        .last_index = wal_last_index(node->wal),
        .streams = streams_count(node->streams),
        .log_bytes = wal_bytes(node->wal),
        .started_us = node->started_us,
        .alarm = alarm,
        .members = members,
        .n_members = n_members,
    };
    if (node->scrub != NULL) scrub_state(node->scrub, &status.scrub);
    answer(q, s, FRAME_STATUS, id, rpc_encode_status(&status, &q->head));
}

static void answer_query(struct queries *q, struct session *s, uint16_t type, uint64_t id, const struct rpc_query *query)
{
    if (type == FRAME_LATEST_SNAPSHOT) answer_latest(q, s, id, query);
    else if (type == FRAME_LIST_SNAPSHOTS) answer_snapshots(q, s, id, query);
    else if (type == FRAME_LIST_STREAMS && query->exact) answer_stream(q, s, id, query);
    else if (type == FRAME_LIST_STREAMS) answer_streams(q, s, id, query);
    else answer_status(q, s, id, query->brief);
}

/* ---- waiting -------------------------------------------------------------------------------------------------- */

static void begin_round(struct queries *q)
{
    uint64_t index, term = consensus_term(q->node->consensus), round;
    if (consensus_read_index(q->node->consensus, &index) != 0) return; /* its barrier is not committed yet: pumped again then */
    if ((round = read_index_begin(&q->reads, term, index)) != 0) peers_probe(q->node->peers, round, term);
}

static bool room(struct queries *q)
{
    if (q->n == q->cap && q->cap < QUERIES_MAX) {
        size_t cap = q->cap == 0 ? 64 : q->cap * 2;
        struct waiting *grown = realloc(q->list, sizeof *grown * cap);
        if (grown != NULL) q->list = grown, q->cap = cap;
    }
    return q->n < q->cap;
}

void queries_confirm(struct queries *q, queries_cb *cb, void *user, uint64_t id)
{
    if (!room(q)) {
        cb(user, id, false);
        return;
    }
    q->list[q->n++] = (struct waiting){.cb = cb, .user = user, .id = id, .round = read_index_ask(&q->reads)};
    queries_pump(q);
}

/* The wait is over, well or not; its place is free already. */
static void finish(struct queries *q, const struct waiting *w, bool confirmed)
{
    if (w->session == NULL) {
        w->cb(w->user, w->id, confirmed);
        return;
    }
    if (confirmed) answer_query(q, w->session, w->type, w->id, &w->query);
    else node_refuse_not_leader(q->node, w->session, w->id);
    session_paid(w->session, 0);
    session_unref(w->session);
}

static void enqueue(struct queries *q, struct session *s, const struct frame *f, const struct rpc_query *query)
{
    struct error e;
    if (!room(q)) {
        error_set(&e, ERROR_BUSY, "too many queries wait: retry a little later");
        session_fail(s, f->id, &e);
        return;
    }
    q->list[q->n++] = (struct waiting){.session = session_ref(s), .id = f->id, .type = f->type, .round = read_index_ask(&q->reads), .query = *query};
    session_owe(s, 0);
    queries_pump(q);
}

void queries_request(struct queries *q, struct session *s, const struct frame *f)
{
    struct rpc_query query;
    struct error e;
    if (rpc_decode_query(f, &query, &e) != 0) {
        session_fail(s, f->id, &e);
    } else if (!query.linearizable) {
        answer_query(q, s, f->type, f->id, &query);
    } else if (q->node->stopping || consensus_role(q->node->consensus) != CONSENSUS_LEADER) {
        node_refuse_not_leader(q->node, s, f->id);
    } else {
        enqueue(q, s, f, &query);
    }
}

void queries_probe_reply(struct queries *q, uint64_t from, uint64_t round, uint64_t term)
{
    if (consensus_role(q->node->consensus) != CONSENSUS_LEADER || consensus_term(q->node->consensus) != q->reads.term) return;
    if (read_index_reply(&q->reads, from, round, term)) queries_pump(q);
}

/* Reads of a confirmed round learn what they must see applied. A later round's index is as good, only later. */
static void mark_confirmed(struct queries *q)
{
    for (size_t i = 0; i < q->n; i++)
        if (q->list[i].index == 0 && q->list[i].round <= q->reads.confirmed) q->list[i].index = q->reads.index;
}

void queries_pump(struct queries *q)
{
    if (q->n == 0) return;
    mark_confirmed(q);
    begin_round(q);
    mark_confirmed(q); /* alone in the cluster a round is confirmed as it begins */
    uint64_t applied = streams_applied(q->node->streams);
    size_t kept = 0;
    for (size_t i = 0; i < q->n; i++) {
        struct waiting w = q->list[i];
        if (w.index != 0 && w.index <= applied) {
            finish(q, &w, true);
        } else {
            q->list[kept++] = w;
        }
    }
    q->n = kept;
}

void queries_tick(struct queries *q)
{
    uint64_t round = read_index_flying(&q->reads);
    if (q->n > 0 && round != 0) peers_probe(q->node->peers, round, q->reads.term);
}

void queries_members(struct queries *q, const struct membership *m)
{
    read_index_members(&q->reads, m);
    queries_pump(q);
}

void queries_reset(struct queries *q)
{
    read_index_reset(&q->reads);
    for (size_t i = 0; i < q->n; i++) finish(q, &q->list[i], false);
    q->n = 0;
}
