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
    char *cluster, *listen, *advertise, *initial_cluster, *data_dir, *log_level;
    uint64_t segment_bytes, cache_bytes, map_bytes, max_entry_bytes;
    uint64_t election_ms, heartbeat_ms, index_commit_ms, stop_ms;
    uint64_t linger_us, in_flight, connections;
    /* derived by settings_load() */
    struct consensus_member members[CONSENSUS_MEMBERS_MAX]; /* sorted by id; addresses point into member_text */
    unsigned n_members;
    char *member_text;
    const char *address; /* what others reach us by */
    enum log_level level;
};

/* 0, or -ERROR_INVALID with a text for the user. */
int settings_load(int argc, char **argv, struct settings *settings, enum config_action *ret_action, struct error *e);
void settings_free(struct settings *settings);

/* "1=host:port,2=host:port" into members, sorted. `text` is cut up and must stay. Its own function for its own test. */
int settings_parse_members(char *text, struct consensus_member *members, unsigned *ret_n, struct error *e);

#endif
