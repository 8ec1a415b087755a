#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "common/loop.h"
#include "logctl/cluster.h"
#include "logctl/format.h"
#include "logctl/verbs.h"

static void print_table(const struct cluster *c)
{
    static const char *const headers[] = {"",       "ID",      "ADDRESS", "REACHABLE", "ROLE", "TERM",
                                          "COMMIT", "APPLIED", "MATCH", "LAG", "STREAMS", "LOG",       "UP",   "VERSION"};
    static const bool right[] = {false, true, false, false, false, true, true, true, true, true, true, true, true, false};
    struct table *t = table_new(headers, right, 14);
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
        char id[24], term[24], commit[24], applied[24], match[24] = "-", lag[24] = "-", streams[24], log[FORMAT_SIZE_MAX], up[FORMAT_SIZE_MAX];
        const struct crsc_status *s = &one->s;
        uint64_t now = loop_wall_us();
        snprintf(id, sizeof id, "%" PRIu64, s->node_id);
        snprintf(term, sizeof term, "%" PRIu64, s->term);
        snprintf(commit, sizeof commit, "%" PRIu64, s->commit_index);
        snprintf(applied, sizeof applied, "%" PRIu64, s->applied_index);
        snprintf(streams, sizeof streams, "%" PRIu64, s->streams);
        if (one->match > 0) snprintf(match, sizeof match, "%" PRIu64, one->match);
        if (one->match > 0) snprintf(lag, sizeof lag, "%" PRIu64, cluster_lag(c, one));
        format_duration(now > s->started_us ? (now - s->started_us) / 1000 : 0, up);
        format_size(s->log_bytes, log);
        const char *known[] = {cluster_leads(c, one) ? "*" : "",
                               id,
                               one->address,
                               "yes",
                               one->role,
                               term,
                               commit,
                               applied,
                               match,
                               lag,
                               streams,
                               log,
                               up,
                               one->version};
        const char *unknown[] = {"", "?", one->address, "no", "?", "-", "-", "-", "-", "-", "-", "-", "-", "-"};
        table_add(t, one->reachable ? known : unknown);
    }
    table_print(t, stdout);
    table_free(t);
}

static void add_scrub(yyjson_mut_doc *doc, yyjson_mut_val *o, const struct crsc_scrub *s)
{
    yyjson_mut_val *x = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_uint(doc, x, "passes", s->passes);
    yyjson_mut_obj_add_uint(doc, x, "bytes", s->bytes);
    yyjson_mut_obj_add_uint(doc, x, "found", s->found);
    yyjson_mut_obj_add_uint(doc, x, "repaired", s->repaired);
    yyjson_mut_obj_add_uint(doc, x, "damaged_segments", s->damaged_segments);
    yyjson_mut_obj_add_uint(doc, x, "last_pass_us", s->last_pass_us);
    yyjson_mut_obj_add_uint(doc, x, "pass_bytes", s->pass_bytes);
    yyjson_mut_obj_add_uint(doc, x, "pass_of", s->pass_of);
    yyjson_mut_obj_add_val(doc, o, "scrub", x);
}

static void print_json(const struct cluster *c)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "cluster", c->name);
    if (c->leader_id != 0)
        yyjson_mut_obj_add_uint(doc, root, "leader_id", c->leader_id);
    else
        yyjson_mut_obj_add_null(doc, root, "leader_id");
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
        const struct crsc_status *s = &one->s;
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "address", one->address);
        yyjson_mut_obj_add_bool(doc, o, "reachable", one->reachable);
        yyjson_mut_obj_add_bool(doc, o, "leader", cluster_leads(c, one));
        yyjson_mut_arr_append(list, o);
        if (!one->reachable) {
            yyjson_mut_obj_add_str(doc, o, "error", one->why.text);
            continue;
        }
        yyjson_mut_obj_add_uint(doc, o, "id", s->node_id);
        yyjson_mut_obj_add_str(doc, o, "role", one->role);
        yyjson_mut_obj_add_uint(doc, o, "term", s->term);
        yyjson_mut_obj_add_uint(doc, o, "commit_index", s->commit_index);
        yyjson_mut_obj_add_uint(doc, o, "applied_index", s->applied_index);
        yyjson_mut_obj_add_uint(doc, o, "persisted_index", s->persisted_index);
        yyjson_mut_obj_add_uint(doc, o, "durable_applied_index", s->durable_applied_index);
        yyjson_mut_obj_add_uint(doc, o, "first_index", s->first_index);
        yyjson_mut_obj_add_uint(doc, o, "last_index", s->last_index);
        if (one->match > 0) {
            yyjson_mut_obj_add_uint(doc, o, "match_index", one->match);
            yyjson_mut_obj_add_uint(doc, o, "lag", cluster_lag(c, one));
        }
        yyjson_mut_obj_add_uint(doc, o, "streams", s->streams);
        yyjson_mut_obj_add_uint(doc, o, "log_bytes", s->log_bytes);
        yyjson_mut_obj_add_uint(doc, o, "started_us", s->started_us);
        yyjson_mut_obj_add_str(doc, o, "version", one->version);
        yyjson_mut_obj_add_str(doc, o, "alarm", one->alarm);
        add_scrub(doc, o, &s->scrub);
    }
    yyjson_mut_obj_add_val(doc, root, "servers", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    struct cluster *c = calloc(1, sizeof *c);
    if (c != NULL) cluster_ask(c, s, o);
    crsc_sync_free(s);
    if (c == NULL) return EXIT_FAILED;
    if (o->json)
        print_json(c);
    else
        print_table(c);
    fflush(stdout);
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
        if (one->reachable && one->alarm[0] != '\0')
            fprintf(stderr, "crsc-logctl: server %" PRIu64 ": %s\n", one->s.node_id, one->alarm);
        if (one->reachable) continue;
        bool named = strstr(one->why.text, one->address) != NULL;
        fprintf(stderr, "crsc-logctl: %s%s%s\n", named ? "" : one->address, named ? "" : ": ", one->why.text);
    }
    if (c->leader_id == 0) {
        fputs("crsc-logctl: no leader: a majority of the servers must be up and reach each other. If they are, ask "
              "again in "
              "a second: an election may be under way.\n",
              stderr);
        status = EXIT_UNREACHABLE;
    }
    free(c);
    return status;
}

const struct verb verb_status = {
    .name = "status",
    .summary = "who leads, and how far each server is",
    .help =
        "Usage: crsc-logctl status\n"
        "Asks every server of the cluster by itself, those learnt from the others too, and prints a line for each; * "
        "marks\n"
        "the leader. COMMIT is the last entry of the Raft log known to be on a majority, APPLIED the last one whose\n"
        "effects this server shows; MATCH the last one that it has for certain on its disk, as the leader knows, LAG how many the leader has beyond\n"
        "that; LOG is the size of its segment files.\n"
        "A server whose APPLIED stays behind is slow or cut off. What keeps a server from its work, such as a full disk, is\n"
        "said below the table (in JSON: alarm; scrub says how far the checks of its disk are, and what they found). Exit status 3 when no server says that it leads.\n\n"
        "Examples:\n"
        "  crsc-logctl status\n"
        "  crsc-logctl status --servers 10.0.0.1:7400 --output json | jq .leader_id\n",
    .run = run,
};
