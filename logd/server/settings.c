#include "logd/server/settings.h"

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
     "All servers, this one included: 1=host:port,2=host:port,3=host:port. The same on each. Empty: this server alone."},
    {"data-dir", CONFIG_STRING, AT(data_dir), "crsc-logd.data", 0, 0, "Folder of the log and its index; made if it is missing."},
    {"segment-size", CONFIG_SIZE, AT(segment_bytes), "64MiB", 64 << 10, 1ull << 30, "Size of a segment file, a multiple of 4096."},
    {"cache-size", CONFIG_SIZE, AT(cache_bytes), "32MiB", 1 << 20, 1ull << 34, "Newest entries kept in memory for the other servers and readers."},
    {"index-map-size", CONFIG_SIZE, AT(map_bytes), "1GiB", 1 << 20, 1ull << 44, "Map size the index begins with; it grows by itself."},
    {"index-commit", CONFIG_DURATION, AT(index_commit_ms), "100ms", 1, 60000, "How long effects gather before the index commits them."},
    {"max-entry", CONFIG_SIZE, AT(max_entry_bytes), "1MiB", 4 << 10, 8 << 20, "A group commit is cut when it is this large."},
    {"linger", CONFIG_UINT, AT(linger_us), "200", 0, 100000, "Microseconds a group commit waits for more while the disk is busy."},
    {"in-flight", CONFIG_UINT, AT(in_flight), "128", 1, 4096, "Group commits proposed and not yet committed."},
    {"connections", CONFIG_UINT, AT(connections), "4096", 8, 1 << 20, "Connections accepted at a time."},
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
              "SIGTERM or SIGINT hands leadership over and stops; a second one ends at once.\n"
              "Exit status: 0 stopped cleanly, 1 failed while running (the last log line says why),\n"
              "2 wrong configuration, 3 the stored data is damaged or does not fit together.",
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
        members[n++] = (struct consensus_member){id, equals + 1};
    }
    qsort(members, n, sizeof *members, compare_ids);
    *ret_n = n;
    return 0;
}

static int derive(struct settings *s, struct error *e)
{
    int rv = log_level_parse(s->log_level, &s->level);
    if (rv != 0) return error_set(e, ERROR_INVALID, "log-level is \"%s\", not debug, info, warn or error", s->log_level);
    if (s->cluster[0] == '\0' || strlen(s->cluster) > 255)
        return error_set(e, ERROR_INVALID, "cluster must have a name of 1 to 255 bytes");
    struct sockaddr_storage address;
    if (address_numeric(s->listen, &address, e) != 0) return error_prefix(e, "listen");
    if (s->segment_bytes % 4096 != 0) return error_set(e, ERROR_INVALID, "segment-size must be a multiple of 4096");
    if (s->heartbeat_ms == 0) s->heartbeat_ms = s->election_ms / 10;
    if (s->heartbeat_ms * 2 > s->election_ms)
        return error_set(e, ERROR_INVALID, "heartbeat must be at most half of election-timeout");
    if (s->initial_cluster[0] != '\0') {
        if ((s->member_text = strdup(s->initial_cluster)) == NULL) return error_set(e, ERROR_NOMEM, "no memory");
        if ((rv = settings_parse_members(s->member_text, s->members, &s->n_members, e)) != 0) return rv;
    } else {
        const char *own = s->advertise[0] != '\0' ? s->advertise : s->listen;
        s->members[0] = (struct consensus_member){s->id, own};
        s->n_members = 1;
    }
    for (unsigned i = 0; i < s->n_members; i++)
        if (s->members[i].id == s->id) {
            if (s->advertise[0] != '\0') s->members[i].address = s->advertise;
            s->address = s->members[i].address;
        }
    if (s->address == NULL)
        return error_set(e, ERROR_INVALID, "initial-cluster does not name this server: id %llu is missing", (unsigned long long)s->id);
    return 0;
}

int settings_load(int argc, char **argv, struct settings *s, enum config_action *ret_action, struct error *e)
{
    int rv = config_load(&program, argc, argv, s, ret_action, e);
    if (rv != 0 || *ret_action == CONFIG_EXIT) return rv;
    if ((rv = derive(s, e)) != 0) settings_free(s);
    return rv;
}

void settings_free(struct settings *s)
{
    free(s->member_text);
    s->member_text = NULL;
    config_free(&program, s);
}
