/* What every server of the cluster says about itself, each asked by itself, those learnt from the others too. Thread: one. */
#ifndef CRSC_LOGCTL_CLUSTER_H
#define CRSC_LOGCTL_CLUSTER_H

#include <stdbool.h>

#include "client/sync.h"
#include "logctl/verbs.h"

enum { CLUSTER_SERVERS_MAX = 16, CLUSTER_ADDRESS_MAX = 272 };

struct server {
    char address[CLUSTER_ADDRESS_MAX], role[32], version[64], alarm[160];
    struct crsc_status s; /* its strings are not kept */
    bool reachable;
    uint64_t match; /* as the leader says: what it has for certain on its disk; 0: not known */
    struct error why; /* when it is not */
};

struct cluster {
    struct server servers[CLUSTER_SERVERS_MAX]; /* by id, those that are not known at the end; one that goes by two names is there once */
    unsigned n, asking;
    char name[256];
    struct {
        uint64_t id, match;
    } matches[CLUSTER_SERVERS_MAX]; /* as the leader says */
    unsigned n_matches;
    uint64_t leader_last; /* the last entry of its log */
    uint64_t leader_id, leader_term; /* as said with the highest term; 0: nobody says that it leads */
};

void cluster_ask(struct cluster *c, struct crsc_sync *s, const struct options *o);
uint64_t cluster_lag(const struct cluster *c, const struct server *one); /* of a server with a match */
bool cluster_leads(const struct cluster *c, const struct server *one);

#endif
