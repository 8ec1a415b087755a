/* What crsc-logd can be told: one table for the file, the flags and --help. Blocking; start-up only. */
#ifndef CRSC_LOGD_SERVER_SETTINGS_H
#define CRSC_LOGD_SERVER_SETTINGS_H

#include <stdint.h>

#include "common/config.h"
#include "common/log.h"
#include "logd/consensus/consensus.h"

struct settings {
    /* as configured */
    uint64_t id;
    char *cluster, *listen, *advertise, *initial_cluster, *initial_state, *data_dir, *restore, *log_level;
    uint64_t segment_bytes, cache_bytes, map_bytes, max_entry_bytes;
    uint64_t election_ms, heartbeat_ms, index_commit_ms, stop_ms;
    uint64_t linger_us, in_flight, connections, log_keep, log_keep_max, retention_interval_ms, background_rate;
    uint64_t slow_disk_ms; /* 0: never mind */
    uint64_t scrub_interval_ms; /* 0: never */
    uint64_t scrub_rate;        /* bytes/s; 0: no limit */
    uint64_t catch_up_rate; /* bytes/s; 0: no limit */
    uint64_t disk_reserve; /* never 0 */
    uint64_t client_frame_max, client_requests, client_bytes, client_idle_ms; /* bounds of one client's connection */
    char *tls_ca, *tls_cert, *tls_key, *tls_peer_ca, *tls_peer_cert, *tls_peer_key, *metrics_listen;
    bool allow_plaintext, metrics_tls;
    /* derived by settings_load() */
    struct consensus_member members[CONSENSUS_MEMBERS_MAX]; /* sorted by id; addresses point into member_text */
    unsigned n_members;
    char *member_text;
    bool joins; /* with an empty data-dir: wait to be added instead of making a cluster */
    const char *address; /* what others reach us by */
    enum log_level level;
    char **argv; /* of the process: to start itself again */
};

/* 0, or -ERROR_INVALID with a text for the user. */
int settings_load(int argc, char **argv, struct settings *settings, enum config_action *ret_action, struct error *e);
void settings_free(struct settings *settings);

/* "1=host:port,2=host:port" into members, sorted. `text` is cut up and must stay. Its own function for its own test. */
int settings_parse_members(char *text, struct consensus_member *members, unsigned *ret_n, struct error *e);

#endif
