#include "logd/server/metrics.h"

#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "common/log.h"
#include "common/loop.h"
#include "logd/server/batcher.h"
#include "logd/server/mover.h"
#include "logd/server/node.h"
#include "logd/server/peers.h"
#include "logd/server/scrub.h"
#include "logd/server/session.h"
#include "logd/server/transport.h"

static const char *request_name(unsigned type)
{
    switch (type) {
    case FRAME_OPEN_PRODUCER: return "open_producer";
    case FRAME_APPEND: return "append";
    case FRAME_FENCE: return "fence";
    case FRAME_RECORD_SNAPSHOT: return "record_snapshot";
    case FRAME_TRIM: return "trim";
    case FRAME_SET_RETENTION: return "set_retention";
    case FRAME_READ: return "read";
    case FRAME_FOLLOW: return "follow";
    case FRAME_LATEST_SNAPSHOT: return "latest_snapshot";
    case FRAME_LIST_SNAPSHOTS: return "list_snapshots";
    case FRAME_LIST_STREAMS: return "list_streams";
    case FRAME_STATUS: return "status";
    default: return NULL;
    }
}

static void render_raft(struct prom *p, const struct node *node)
{
    const struct consensus *c = node->consensus;
    static const char *const roles[] = {"leader", "candidate", "follower"};
    const char *role = consensus_role_name(consensus_role(c));
    char label[64];
    prom_family(p, "crsc_logd_role", "gauge", "1 for the role that this server has now.");
    bool known = false;
    for (unsigned i = 0; i < 3; i++) {
        known = known || strcmp(roles[i], role) == 0;
        snprintf(label, sizeof label, "role=\"%s\"", roles[i]);
        prom_count(p, label, strcmp(roles[i], role) == 0);
    }
    if (!known) {
        snprintf(label, sizeof label, "role=\"%s\"", role);
        prom_count(p, label, 1);
    }
    prom_gauge(p, "crsc_logd_has_leader", "1 when this server knows a leader.", consensus_leader(c) != 0);
    prom_family(p, "crsc_logd_leader_id", "gauge", "Id of the leader as this server knows it; 0: none.");
    prom_count(p, NULL, consensus_leader(c));
    prom_counter(p, "crsc_logd_leader_changes_total", "Leaders seen, one after the other.", node->metrics.leader_changes);
    prom_counter(p, "crsc_logd_term", "Raft's term.", consensus_term(c));
    prom_counter(p, "crsc_logd_commit_index", "Last entry known to be on a majority.", consensus_commit_index(c));
    prom_counter(p, "crsc_logd_applied_index", "Last entry whose effects this server shows.", streams_applied(node->streams));
    prom_counter(p, "crsc_logd_persisted_index", "Last entry on this server's disk.", wal_persisted_index(node->wal));
    prom_counter(p, "crsc_logd_index_durable_index", "Last entry whose effects are in the index on disk.", index_applied(node->index));
    prom_family(p, "crsc_logd_first_index", "gauge", "First entry of the Raft log.");
    prom_count(p, NULL, wal_first_index(node->wal));
    prom_family(p, "crsc_logd_last_index", "gauge", "Last entry of the Raft log.");
    prom_count(p, NULL, wal_last_index(node->wal));
}

static uint64_t lag(const struct node *node, uint64_t id)
{
    uint64_t last = wal_last_index(node->wal), match = consensus_match(node->consensus, id);
    return last > match ? last - match : 0;
}

static void render_peers(struct prom *p, const struct node *node)
{
    const struct settings *s = node->settings;
    const struct membership *is = consensus_membership(node->consensus);
    bool leads = consensus_role(node->consensus) == CONSENSUS_LEADER;
    static const char *const names[] = {"crsc_logd_peer_connected", "crsc_logd_peer_lag_entries", "crsc_logd_peer_queue_messages",
                                        "crsc_logd_peer_queue_bytes", "crsc_logd_peer_dropped_messages_total", "crsc_logd_peer_alarm"};
    static const char *const helps[] = {"1 when this server is connected to that one.",
                                        "Entries of the leader's log that are not known to be on that server's disk. Only on the leader.",
                                        "Raft messages that wait for that server.", "Bytes that wait in the connection to that server.",
                                        "Raft messages that were not sent to that server: it was not connected, or too slow.",
                                        "1 when that server says that something is wrong with it, such as a full or slow disk."};
    for (unsigned k = 0; k < 6; k++) {
        if (k == 1 && !leads) continue;
        prom_family(p, names[k], k == 4 ? "counter" : "gauge", helps[k]);
        for (unsigned i = 0; i < is->n; i++) {
            struct peers_state state;
            char label[64];
            if (is->servers[i].id == s->id) continue;
            peers_state(node->peers, is->servers[i].id, &state);
            snprintf(label, sizeof label, "peer=\"%llu\"", (unsigned long long)is->servers[i].id);
            const char *alarm = peers_alarm(node->peers, is->servers[i].id);
            const uint64_t values[] = {state.ready, leads ? lag(node, is->servers[i].id) : 0, state.messages, state.bytes, state.dropped, alarm != NULL && alarm[0] != '\0'};
            prom_count(p, label, values[k]);
        }
    }
}

static void render_queues(struct prom *p, const struct node *node)
{
    uint64_t applicable = consensus_applicable(node->consensus), applied = streams_applied(node->streams);
    prom_gauge(p, "crsc_logd_commands_waiting", "Clients' commands that are not answered yet.", (double)batcher_waiters(node->batcher));
    prom_gauge(p, "crsc_logd_wal_queue_bytes", "Bytes of entries that wait for the disk.", (double)wal_queued_bytes(node->wal));
    prom_gauge(p, "crsc_logd_apply_queue_entries", "Entries that are committed and not applied yet.", (double)(applicable > applied ? applicable - applied : 0));
    prom_gauge(p, "crsc_logd_index_queue_bytes", "Bytes of effects that are not in the index on disk yet.", (double)index_queued_bytes(node->index));
}

static void render_disk(struct prom *p, const struct node *node)
{
    struct statvfs fs;
    prom_gauge(p, "crsc_logd_wal_bytes", "Size of the segment files.", (double)wal_bytes(node->wal));
    prom_gauge(p, "crsc_logd_wal_segments", "Number of segment files.", (double)wal_segments(node->wal));
    prom_gauge(p, "crsc_logd_index_bytes", "Size of the index.", (double)index_bytes(node->index));
    prom_gauge(p, "crsc_logd_disk_reserve_bytes", "Free space below which appends are refused.", (double)node->space.reserve);
    prom_gauge(p, "crsc_logd_disk_alarm", "0: there is room. 1: appends are refused. 2: and entries of the leader too.", node->space.state);
    prom_gauge(p, "crsc_logd_disk_slow", "1: syncs take longer than slow-disk.", node->slow.alarm);
    if (statvfs(node->settings->data_dir, &fs) != 0) return;
    prom_gauge(p, "crsc_logd_disk_free_bytes", "Free space of the data directory's filesystem.", (double)fs.f_bavail * (double)fs.f_frsize);
    prom_gauge(p, "crsc_logd_disk_bytes", "Size of the data directory's filesystem.", (double)fs.f_blocks * (double)fs.f_frsize);
}

static void render_scrub(struct prom *p, const struct node *node)
{
    struct scrub_state s;
    scrub_state(node->scrub, &s);
    prom_counter(p, "crsc_logd_scrub_passes_total", "How often everything on the disk was looked at.", s.passes);
    prom_counter(p, "crsc_logd_scrub_bytes_total", "Bytes that were looked at.", s.bytes);
    prom_counter(p, "crsc_logd_scrub_damaged_records_total", "Records that were found damaged.", s.found);
    prom_counter(p, "crsc_logd_scrub_repaired_records_total", "Records that were fetched from other servers and written anew.", s.repaired);
    prom_gauge(p, "crsc_logd_damaged_segments", "Segments with damaged records that are not repaired yet.", s.damaged);
    prom_gauge(p, "crsc_logd_scrub_progress", "How much of the pass under way is done, 0 to 1; 0: none is.",
               s.pass_of == 0 ? 0 : s.pass_bytes >= s.pass_of ? 1 : (double)s.pass_bytes / (double)s.pass_of);
    if (s.last_pass_us != 0) prom_gauge(p, "crsc_logd_scrub_last_pass_seconds", "When the last one ended, since 1970.", (double)s.last_pass_us / 1e6);
}

static void render_clients(struct prom *p, const struct node *node)
{
    const struct metrics *m = &node->metrics;
    struct sessions_state state;
    char label[64];
    sessions_state(node->sessions, &state);
    prom_family(p, "crsc_logd_connections", "gauge", "Connections that were accepted and are open, by kind.");
    prom_count(p, "kind=\"client\"", state.clients);
    prom_count(p, "kind=\"peer\"", state.peers);
    prom_count(p, "kind=\"new\"", state.unknown);
    prom_counter(p, "crsc_logd_connections_total", "Connections accepted since the start.", m->connections);
    prom_gauge(p, "crsc_logd_follows", "Follows that are open.", state.follows);
    prom_gauge(p, "crsc_logd_reply_queue_bytes", "Bytes of answers that clients have not taken.", (double)state.queued);
    prom_family(p, "crsc_logd_requests_total", "counter", "Requests of clients, by type.");
    for (unsigned i = 0; i < METRICS_TYPES; i++) {
        if (request_name(i) == NULL) continue;
        snprintf(label, sizeof label, "type=\"%s\"", request_name(i));
        prom_count(p, label, m->requests[i]);
    }
    prom_family(p, "crsc_logd_refusals_total", "counter", "Requests and connections that were answered with an error, by its code.");
    for (int i = 1; i < ERROR_CODE_MAX; i++) {
        snprintf(label, sizeof label, "code=\"%s\"", error_name(i));
        prom_count(p, label, m->refusals[i]);
    }
}

int metrics_render(const struct node *node, struct buf *out)
{
    struct prom p = {.out = out};
    char version[64], cluster[300], labels[500];
    const struct settings *s = node->settings;
    prom_family(&p, "crsc_logd_info", "gauge", "1; what this server is.");
    snprintf(labels, sizeof labels, "cluster=\"%s\",id=\"%llu\",version=\"%s\"", prom_label(s->cluster, cluster, sizeof cluster),
             (unsigned long long)s->id, prom_label(CRSC_VERSION, version, sizeof version));
    prom_count(&p, labels, 1);
    render_raft(&p, node);
    render_peers(&p, node);
    prom_histogram(&p, "crsc_logd_append_seconds", "From a command's arrival at the leader to its answer.", &node->metrics.append);
    prom_histogram(&p, "crsc_logd_fsync_seconds", "Writing and syncing a group of entries.", wal_sync_times(node->wal));
    prom_histogram(&p, "crsc_logd_apply_seconds", "Applying an entry: its effects in memory, handed to the index.", &node->metrics.apply);
    prom_counter(&p, "crsc_logd_commands_total", "Commands applied.", node->metrics.commands);
    prom_counter(&p, "crsc_logd_moved_bytes_total", "Bytes of events that were moved out of sparse segments.", mover_bytes(node->mover));
    prom_counter(&p, "crsc_logd_retention_trims_total", "Trims that this server proposed as leader, by streams' retention policies.", node->trimmer.proposed);
    prom_counter(&p, "crsc_logd_command_bytes_total", "Bytes of commands applied.", node->metrics.command_bytes);
    render_queues(&p, node);
    render_disk(&p, node);
    render_scrub(&p, node);
    prom_gauge(&p, "crsc_logd_streams", "Streams.", (double)streams_count(node->streams));
    render_clients(&p, node);
    int64_t expiry = transport_expiry(node->transport);
    if (expiry != 0) prom_gauge(&p, "crsc_logd_tls_certificate_expiry_seconds", "When the first of this server's certificates ends, since 1970.", (double)expiry);
    prom_process(&p, node->started_us);
    return p.rv;
}

void metrics_dump(const struct node *node)
{
    const struct settings *s = node->settings;
    const struct consensus *c = node->consensus;
    const struct membership *is = consensus_membership(c);
    struct sessions_state state;
    sessions_state(node->sessions, &state);
    log_info("state", "id=%" PRIu64 " role=%s term=%" PRIu64 " leader=%" PRIu64 " first=%" PRIu64 " last=%" PRIu64 " persisted=%" PRIu64
             " committed=%" PRIu64 " applied=%" PRIu64 " index_durable=%" PRIu64 " streams=%" PRIu64 " wal_bytes=%" PRIu64 " segments=%" PRIu64
             " wal_queue_bytes=%" PRIu64 " index_queue_bytes=%" PRIu64 " commands_waiting=%" PRIu64 " clients=%u peers=%u follows=%u reply_queue_bytes=%" PRIu64,
             s->id, consensus_role_name(consensus_role(c)), consensus_term(c), consensus_leader(c), wal_first_index(node->wal), wal_last_index(node->wal),
             wal_persisted_index(node->wal), consensus_commit_index(c), streams_applied(node->streams), index_applied(node->index),
             streams_count(node->streams), wal_bytes(node->wal), (uint64_t)wal_segments(node->wal), wal_queued_bytes(node->wal),
             index_queued_bytes(node->index), (uint64_t)batcher_waiters(node->batcher), state.clients, state.peers, state.follows, (uint64_t)state.queued);
    for (unsigned i = 0; i < is->n; i++) {
        struct peers_state peer;
        const struct membership_server *m = &is->servers[i];
        const char *address = node_address_of(node, m->id);
        if (m->id == s->id) continue;
        peers_state(node->peers, m->id, &peer);
        log_info("state of peer", "peer=%" PRIu64 " address=%s connected=%d match=%" PRIu64 " lag=%" PRIu64 " queue_messages=%" PRIu64 " queue_bytes=%" PRIu64
                 " dropped=%" PRIu64, m->id, address == NULL ? "" : address, peer.ready, consensus_match(c, m->id),
                 consensus_role(c) == CONSENSUS_LEADER ? lag(node, m->id) : 0, peer.messages, peer.bytes, peer.dropped);
    }
}
