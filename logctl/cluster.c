#include "logctl/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void know(struct cluster *c, const char *address, size_t len)
{
    if (len == 0 || len >= CLUSTER_ADDRESS_MAX || c->n == CLUSTER_SERVERS_MAX) return;
    for (unsigned i = 0; i < c->n; i++)
        if (strlen(c->servers[i].address) == len && memcmp(c->servers[i].address, address, len) == 0) return;
    memcpy(c->servers[c->n].address, address, len);
    c->n++;
}

static void on_status(void *user, const struct error *e, const struct crsc_status *status)
{
    struct cluster *c = user;
    struct server *one = &c->servers[c->asking];
    (void)e;
    one->s = *status;
    one->reachable = true;
    snprintf(one->role, sizeof one->role, "%s", status->role);
    snprintf(one->version, sizeof one->version, "%s", status->version);
    snprintf(one->alarm, sizeof one->alarm, "%s", status->alarm);
    snprintf(c->name, sizeof c->name, "%s", status->cluster);
    if (strcmp(status->role, "leader") == 0 && status->term >= c->leader_term) {
        c->leader_term = status->term;
        c->leader_id = status->node_id;
        c->leader_last = status->last_index;
        c->n_matches = 0;
        for (size_t i = 0; i < status->n_members && i < CLUSTER_SERVERS_MAX; i++) {
            c->matches[c->n_matches].id = status->members[i].id;
            c->matches[c->n_matches++].match = status->members[i].match_index;
        }
    }
    for (size_t i = 0; i < status->n_members; i++)
        know(c, status->members[i].address, strlen(status->members[i].address));
}

/* A name such as localhost:7400 and the address the members know may be one server: the later one is left out. */
static bool seen_before(const struct cluster *c, unsigned kept, unsigned at)
{
    for (unsigned i = 0; i < kept; i++)
        if (c->servers[i].reachable && c->servers[at].reachable && c->servers[i].s.node_id == c->servers[at].s.node_id)
            return true;
    return false;
}

/* By id, those that are not known at the end. */
static int by_id(const void *a, const void *b)
{
    const struct server *x = a, *y = b;
    if (x->reachable != y->reachable) return x->reachable ? -1 : 1;
    return x->s.node_id < y->s.node_id ? -1 : x->s.node_id > y->s.node_id;
}

uint64_t cluster_lag(const struct cluster *c, const struct server *one)
{
    return c->leader_last > one->match ? c->leader_last - one->match : 0;
}

bool cluster_leads(const struct cluster *c, const struct server *one)
{
    return one->reachable && c->leader_id != 0 && one->s.node_id == c->leader_id;
}

void cluster_ask(struct cluster *c, struct crsc_sync *s, const struct options *o)
{
    memset(c, 0, sizeof *c);
    for (const char *at = o->servers; *at != '\0';) {
        at += strspn(at, ", ");
        size_t len = strcspn(at, ", ");
        know(c, at, len);
        at += len;
    }
    for (; c->asking < c->n; c->asking++) /* grows while members are learnt */
        crsc_sync_status(s, c->servers[c->asking].address, on_status, c, &c->servers[c->asking].why);
    unsigned kept = 0;
    for (unsigned i = 0; i < c->n; i++)
        if (!seen_before(c, kept, i)) c->servers[kept++] = c->servers[i];
    c->n = kept;
    for (unsigned i = 0; i < c->n; i++)
        for (unsigned k = 0; k < c->n_matches; k++)
            if (c->servers[i].reachable && c->servers[i].s.node_id == c->matches[k].id) c->servers[i].match = c->matches[k].match;
    qsort(c->servers, c->n, sizeof *c->servers, by_id);
}
