#include <inttypes.h>
#include <stdlib.h>
#include <yyjson.h>

#include "common/loop.h"
#include "logctl/cluster.h"
#include "logctl/format.h"
#include "logctl/verbs.h"

/* The leader had a majority confirm it for this answer, so that "it can commit" is seen and not believed. */
static void on_leader(void *user, const struct error *e, const struct crsc_status *status)
{
    struct crsc_status *leader = user;
    (void)e;
    *leader = *status; /* its strings are not kept */
}

static void print_table(const struct cluster *c, const struct crsc_status *leader, const struct error *why, uint64_t us)
{
    if (leader->node_id != 0)
        printf("ok      the cluster commits: server %" PRIu64 " leads, and a majority confirmed it in %.1f ms\n", leader->node_id, (double)us / 1000);
    else
        printf("FAILED  the cluster cannot commit: %s\n", why->text);
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
        uint64_t behind = leader->commit_index > one->s.applied_index ? leader->commit_index - one->s.applied_index : 0;
        if (!one->reachable) printf("FAILED  %s: %s\n", one->address, one->why.text);
        else if (one->alarm[0] != '\0') printf("FAILED  server %" PRIu64 " at %s: %s\n", one->s.node_id, one->address, one->alarm);
        else printf("ok      server %" PRIu64 " at %s: %s, %" PRIu64 " entries behind\n", one->s.node_id, one->address, one->role, behind);
    }
}

static void print_json(const struct cluster *c, const struct crsc_status *leader, const struct error *why, uint64_t us)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    bool all = leader->node_id != 0;
    yyjson_mut_doc_set_root(doc, root);
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "address", one->address);
        yyjson_mut_obj_add_bool(doc, o, "reachable", one->reachable);
        if (one->reachable) {
            yyjson_mut_obj_add_uint(doc, o, "id", one->s.node_id);
            yyjson_mut_obj_add_uint(doc, o, "behind", leader->commit_index > one->s.applied_index ? leader->commit_index - one->s.applied_index : 0);
            yyjson_mut_obj_add_str(doc, o, "alarm", one->alarm);
            all = all && one->alarm[0] == '\0';
        } else {
            yyjson_mut_obj_add_str(doc, o, "error", one->why.text);
            all = false;
        }
        yyjson_mut_arr_append(list, o);
    }
    yyjson_mut_obj_add_bool(doc, root, "healthy", all);
    yyjson_mut_obj_add_bool(doc, root, "commits", leader->node_id != 0);
    yyjson_mut_obj_add_uint(doc, root, "leader_id", leader->node_id);
    if (leader->node_id != 0) yyjson_mut_obj_add_uint(doc, root, "confirmed_us", us);
    else yyjson_mut_obj_add_str(doc, root, "error", why->text);
    yyjson_mut_obj_add_val(doc, root, "servers", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct error why = {0};
    struct crsc_status leader = {0};
    struct crsc_sync *s = open_client(o, &status);
    struct cluster *c = s != NULL ? calloc(1, sizeof *c) : NULL;
    if (s == NULL) return status;
    if (c == NULL) {
        crsc_sync_free(s);
        return EXIT_FAILED;
    }
    /* The first finds the leader; the second is what a client with a connection meets. */
    uint64_t begun = 0;
    for (unsigned i = 0; i < 2; i++) {
        begun = loop_monotonic_us();
        leader = (struct crsc_status){0};
        if (crsc_sync_status(s, NULL, on_leader, &leader, &why) != 0) break;
    }
    uint64_t us = loop_monotonic_us() - begun;
    cluster_ask(c, s, o);
    crsc_sync_free(s);
    if (o->json) print_json(c, &leader, &why, us);
    else print_table(c, &leader, &why, us);
    status = leader.node_id != 0 ? EXIT_OK : EXIT_UNREACHABLE;
    for (unsigned i = 0; i < c->n && status == EXIT_OK; i++)
        if (!c->servers[i].reachable || c->servers[i].alarm[0] != '\0') status = EXIT_FAILED;
    free(c);
    return status;
}

const struct verb verb_health = {
    .name = "health",
    .summary = "whether the cluster can commit now, and which servers are missing",
    .help = "Usage: crsc-logctl health\n"
            "Has a majority confirm the leader, which is what a commit needs, and asks each server by itself how far it is.\n"
            "Exit status: 0 all is well, 1 it commits but a server cannot be reached, 3 it cannot commit.\n\n"
            "Examples:\n"
            "  crsc-logctl health\n"
            "  crsc-logctl health --output json | jq .healthy\n",
    .run = run,
};
