#include "logd/server/settings.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/conn.h"

#define AT(field) offsetof(struct settings, field)

static const struct config_setting table[] = {
    {"id", CONFIG_UINT, AT(id), "1", 1, UINT32_MAX, "This server's number in initial-cluster."},
    {"cluster", CONFIG_STRING, AT(cluster), "crsc", 0, 0, "Name of the cluster: servers and clients of another one are refused."},
    {"listen", CONFIG_STRING, AT(listen), "127.0.0.1:7400", 0, 0,
     "Numeric address and port to listen on, for clients and the other servers alike; port 0 takes a free one."},
    {"advertise", CONFIG_STRING, AT(advertise), "", 0, 0, "host:port others reach this server by; empty: as in initial-cluster, else listen."},
    {"initial-cluster", CONFIG_STRING, AT(initial_cluster), "", 0, 0,
     "The servers a new cluster is made of, this one included: 1=host:port,2=host:port,3=host:port. The same on each; all have to be there once. Empty: this server alone. "
     "Later the cluster itself knows its members."},
    {"initial-cluster-state", CONFIG_STRING, AT(initial_state), "new", 0, 0,
     "With an empty data-dir. new: initial-cluster makes a cluster. existing: wait to be added to one (crsc-logctl members add)."},
    {"data-dir", CONFIG_STRING, AT(data_dir), "crsc-logd.data", 0, 0, "Folder of the log and its index; made if it is missing."},
    {"restore", CONFIG_STRING, AT(restore), "", 0, 0,
     "Make data-dir, which must be empty, from this backup (crsc-logctl backup) for a new cluster with the members of initial-cluster, and exit. Once for each of them, "
     "from the same file; then start them without this."},
    {"segment-size", CONFIG_SIZE, AT(segment_bytes), "64MiB", 64 << 10, 1ull << 30, "Size of a segment file, a multiple of 4096."},
    {"log-keep", CONFIG_SIZE, AT(log_keep), "256MiB", 0, 1ull << 44,
     "Raft log kept for servers that are behind, in whole segments; who lacks more than that fetches the state."},
    {"log-keep-max", CONFIG_SIZE, AT(log_keep_max), "4GiB", 0, 1ull << 44, "The same for a server that is connected: kept at most until it has caught up."},
    {"catch-up-rate", CONFIG_SIZE, AT(catch_up_rate), "0", 0, 1ull << 40,
     "Bytes a second in which this server gives its state to servers that fetch it, and to backups: at least 1MiB. 0: as fast as it goes."},
    {"retention-interval", CONFIG_DURATION, AT(retention_interval_ms), "10s", 1, 86400000,
     "How often the leader looks at the streams that have a retention policy (crsc-logctl retention)."},
    {"background-rate", CONFIG_SIZE, AT(background_rate), "32MiB", 0, 1ull << 40,
     "Bytes a second that are moved out of segments of which little is still needed; 0: as fast as it goes."},
    {"slow-disk", CONFIG_DURATION, AT(slow_disk_ms), "1s", 0, 600000,
     "When syncs take that long on average for 5 seconds, there is an alarm, and a leader hands over to a healthy server. 0: never."},
    {"scrub-interval", CONFIG_DURATION, AT(scrub_interval_ms), "7d", 0, UINT64_C(366) * 86400000,
     "Everything on the disk is read and checked so often; what is damaged is repaired from the other servers, as is what a reader meets. 0: only that."},
    {"scrub-rate", CONFIG_SIZE, AT(scrub_rate), "16MiB", 0, 1ull << 40, "Bytes a second that are read for that, at most; 0: as fast as it goes."},
    {"disk-reserve", CONFIG_SIZE, AT(disk_reserve), "0", 0, 1ull << 44,
     "Free space below which appends are refused, until there is more again; at least 4 segments. 0: 8 segments."},
    {"cache-size", CONFIG_SIZE, AT(cache_bytes), "32MiB", 1 << 20, 1ull << 34, "Newest entries kept in memory for the other servers and readers."},
    {"index-map-size", CONFIG_SIZE, AT(map_bytes), "1GiB", 1 << 20, 1ull << 44, "Map size the index begins with; it grows by itself."},
    {"index-commit", CONFIG_DURATION, AT(index_commit_ms), "100ms", 1, 60000, "How long effects gather before the index commits them."},
    {"max-entry", CONFIG_SIZE, AT(max_entry_bytes), "1MiB", 4 << 10, 8 << 20, "A group commit is cut when it is this large."},
    {"linger", CONFIG_UINT, AT(linger_us), "200", 0, 100000, "Microseconds a group commit waits for more while the disk is busy, or while fewer commands came than the time before."},
    {"in-flight", CONFIG_UINT, AT(in_flight), "128", 1, 4096, "Group commits proposed and not yet committed."},
    {"connections", CONFIG_UINT, AT(connections), "4096", 8, 1 << 20, "Connections accepted at a time."},
    {"client-frame-max", CONFIG_SIZE, AT(client_frame_max), "17MiB", 9 << 20, 17 << 20, "Largest request of a client; one that sends more is cut off."},
    {"client-requests", CONFIG_UINT, AT(client_requests), "4096", 16, 1 << 20,
     "Requests of one client's connection that are not answered yet; at this many it is not read any more."},
    {"client-bytes", CONFIG_SIZE, AT(client_bytes), "32MiB", 1 << 20, 1ull << 32, "The same in bytes."},
    {"client-idle", CONFIG_DURATION, AT(client_idle_ms), "5m", 0, 86400000,
     "A client's connection is closed when nothing came for so long; 0: never. libcrsc is heard twice a second."},
    {"tls-ca", CONFIG_STRING, AT(tls_ca), "", 0, 0, "PEM file of the CAs that clients' certificates come from."},
    {"tls-cert", CONFIG_STRING, AT(tls_cert), "", 0, 0,
     "PEM file of this server's certificate, with its chain. Empty: no TLS. Read again when it changes, and on SIGHUP."},
    {"tls-key", CONFIG_STRING, AT(tls_key), "", 0, 0, "PEM file of its key, without a password."},
    {"tls-peer-ca", CONFIG_STRING, AT(tls_peer_ca), "", 0, 0, "The same for the other servers: their CAs. Empty, all three: as for clients."},
    {"tls-peer-cert", CONFIG_STRING, AT(tls_peer_cert), "", 0, 0, "This server's certificate among servers; it names crsc://role/peer/ID."},
    {"tls-peer-key", CONFIG_STRING, AT(tls_peer_key), "", 0, 0, "Its key."},
    {"allow-plaintext", CONFIG_BOOL, AT(allow_plaintext), "false", 0, 0,
     "Listen without TLS on an address that is not loopback: whoever reaches it may do everything."},
    {"metrics-listen", CONFIG_STRING, AT(metrics_listen), "", 0, 0,
     "Numeric address and port of /metrics, /healthz and /readyz; port 0 takes a free one. Empty: none."},
    {"metrics-tls", CONFIG_BOOL, AT(metrics_tls), "false", 0, 0, "Serve them over TLS with tls-cert; clients need no certificate."},
    {"election-timeout", CONFIG_DURATION, AT(election_ms), "1s", 50, 60000,
     "A server that hears nothing from its leader for 1 to 2 times this stands for election."},
    {"heartbeat", CONFIG_DURATION, AT(heartbeat_ms), "0ms", 0, 10000, "How often an idle leader is heard; 0: a tenth of election-timeout."},
    {"stop-timeout", CONFIG_DURATION, AT(stop_ms), "5s", 0, 600000, "How long a leader tries to hand over before it stops anyway."},
    {"log-level", CONFIG_STRING, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static const struct config_program program = {
    .name = "crsc-logd",
    .summary = "The replicated log of CRSC: stores ordered streams of events on a majority of servers before it acknowledges them.",
    .epilog = "Examples:\n"
              "  crsc-logd --data-dir /var/lib/crsc-logd\n"
              "  crsc-logd --id 2 --listen 127.0.0.1:7402 --data-dir /var/lib/crsc-logd-2 \\\n"
              "    --initial-cluster 1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403\n\n"
              "SIGHUP reads the TLS files again; SIGUSR1 writes the state to the log.\n"
              "SIGTERM or SIGINT hands leadership over and stops; a second one ends at once.\n"
              "Exit status: 0 stopped cleanly, 1 failed while running (the last log line says why),\n"
              "2 wrong configuration, 3 the stored data is damaged or does not fit together, 4 this server was removed from the\n"
              "cluster, or comes with other data than the member of its id.",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
};

static int compare_ids(const void *a, const void *b)
{
    const struct consensus_member *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

int settings_parse_members(char *text, struct consensus_member *members, unsigned *ret_n, struct error *e)
{
    unsigned n = 0;
    char *rest = text, *item;
    while ((item = strsep(&rest, ",")) != NULL) {
        char *equals = strchr(item, '='), *end, host[256], port[8];
        if (n == CONSENSUS_MEMBERS_MAX) return error_set(e, ERROR_INVALID, "initial-cluster: at most %d servers", CONSENSUS_MEMBERS_MAX);
        if (equals == NULL) return error_set(e, ERROR_INVALID, "initial-cluster: \"%s\" is not id=host:port", item);
        unsigned long long id = strtoull(item, &end, 10);
        if (end != equals || item[0] < '0' || item[0] > '9' || id == 0 || id > UINT32_MAX)
            return error_set(e, ERROR_INVALID, "initial-cluster: \"%s\" does not begin with an id from 1 on", item);
        int rv = address_split(equals + 1, host, sizeof host, port, sizeof port, e);
        if (rv != 0) {
            error_prefix(e, "initial-cluster");
            return rv;
        }
        for (unsigned i = 0; i < n; i++)
            if (members[i].id == id || strcmp(members[i].address, equals + 1) == 0)
                return error_set(e, ERROR_INVALID, "initial-cluster: %llu=%s is there twice", id, equals + 1);
        members[n++] = (struct consensus_member){id, equals + 1, 0};
    }
    qsort(members, n, sizeof *members, compare_ids);
    *ret_n = n;
    return 0;
}

/* Who listens without TLS is for this machine only, unless that was said in so many words. */
static int check_tls(const struct settings *s, const struct sockaddr_storage *address, struct error *e)
{
    bool own = s->tls_ca[0] != '\0' && s->tls_cert[0] != '\0' && s->tls_key[0] != '\0';
    bool own_any = s->tls_ca[0] != '\0' || s->tls_cert[0] != '\0' || s->tls_key[0] != '\0';
    bool peer = s->tls_peer_ca[0] != '\0' && s->tls_peer_cert[0] != '\0' && s->tls_peer_key[0] != '\0';
    bool peer_any = s->tls_peer_ca[0] != '\0' || s->tls_peer_cert[0] != '\0' || s->tls_peer_key[0] != '\0';
    if (own_any && !own) return error_set(e, ERROR_INVALID, "tls-ca, tls-cert and tls-key go together");
    if (peer_any && !peer) return error_set(e, ERROR_INVALID, "tls-peer-ca, tls-peer-cert and tls-peer-key go together");
    if (peer && !own) return error_set(e, ERROR_INVALID, "tls-peer-cert needs tls-cert: servers with TLS and clients without would not be safe");
    if (s->metrics_tls && !own) return error_set(e, ERROR_INVALID, "metrics-tls needs tls-cert");
    bool loopback = address->ss_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr)
                                                   : ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    if (own || loopback || s->allow_plaintext) return 0;
    return error_set(e, ERROR_INVALID, "listen is %s, which others can reach, and there is no TLS: set tls-ca, tls-cert and tls-key, or listen on "
                     "loopback, or say allow-plaintext", s->listen);
}

static int derive(struct settings *s, struct error *e)
{
    int rv = log_level_parse(s->log_level, &s->level);
    if (rv != 0) return error_set(e, ERROR_INVALID, "log-level is \"%s\", not debug, info, warn or error", s->log_level);
    if (s->cluster[0] == '\0' || strlen(s->cluster) > 255)
        return error_set(e, ERROR_INVALID, "cluster must have a name of 1 to 255 bytes");
    struct sockaddr_storage address;
    if (address_numeric(s->listen, &address, e) != 0) return error_prefix(e, "listen");
    if ((rv = check_tls(s, &address, e)) != 0) return rv;
    if (s->metrics_listen[0] != '\0' && address_numeric(s->metrics_listen, &address, e) != 0) return error_prefix(e, "metrics-listen");
    if (s->segment_bytes % 4096 != 0) return error_set(e, ERROR_INVALID, "segment-size must be a multiple of 4096");
    if (s->log_keep_max < s->log_keep) return error_set(e, ERROR_INVALID, "log-keep-max must not be less than log-keep");
    if (s->catch_up_rate != 0 && s->catch_up_rate < 1 << 20)
        return error_set(e, ERROR_INVALID, "catch-up-rate must be at least 1MiB, or 0 for no limit");
    if (s->disk_reserve == 0) s->disk_reserve = 8 * s->segment_bytes;
    if (s->disk_reserve < 4 * s->segment_bytes)
        return error_set(e, ERROR_INVALID, "disk-reserve must be at least 4 segments: what is on its way has to find room");
    if (s->heartbeat_ms == 0) s->heartbeat_ms = s->election_ms / 10;
    if (s->heartbeat_ms * 2 > s->election_ms)
        return error_set(e, ERROR_INVALID, "heartbeat must be at most half of election-timeout");
    if (s->initial_cluster[0] != '\0') {
        if ((s->member_text = strdup(s->initial_cluster)) == NULL) return error_set(e, ERROR_NOMEM, "no memory");
        if ((rv = settings_parse_members(s->member_text, s->members, &s->n_members, e)) != 0) return rv;
    } else {
        const char *own = s->advertise[0] != '\0' ? s->advertise : s->listen;
        s->members[0] = (struct consensus_member){s->id, own, 0};
        s->n_members = 1;
    }
    for (unsigned i = 0; i < s->n_members; i++)
        if (s->members[i].id == s->id) {
            if (s->advertise[0] != '\0') s->members[i].address = s->advertise;
            s->address = s->members[i].address;
        }
    s->joins = strcmp(s->initial_state, "existing") == 0;
    if (!s->joins && strcmp(s->initial_state, "new") != 0)
        return error_set(e, ERROR_INVALID, "initial-cluster-state is \"%s\", neither new nor existing", s->initial_state);
    if (s->address == NULL)
        return error_set(e, ERROR_INVALID, "initial-cluster does not name this server: id %llu is missing", (unsigned long long)s->id);
    return 0;
}

int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e)
{
    int rv = config_load(&program, argc, argv, s, ret_action, e);
    if (rv != 0 || *ret_action == CONFIG_EXIT) return rv;
    s->argv = argv;
    if ((rv = derive(s, e)) != 0) settings_free(s);
    return rv;
}

void settings_free(struct settings *s)
{
    free(s->member_text);
    s->member_text = NULL;
    config_free(&program, s);
}
