#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "common/loop.h"
#include "logctl/format.h"
#include "logctl/verbs.h"

enum { SERVERS_MAX = 16, NAME_MAX_BYTES = 272 };

struct server {
    char address[NAME_MAX_BYTES], role[32], version[64];
    struct crsc_status s; /* its strings are not kept */
    bool reachable;
    struct error why; /* when it is not */
};

struct cluster {
    struct server servers[SERVERS_MAX];
    unsigned n, asking;
    char name[256];
    uint64_t leader_id, leader_term; /* as said with the highest term */
};

static void know(struct cluster *c, const char *address, size_t len)
{
    if (len == 0 || len >= NAME_MAX_BYTES || c->n == SERVERS_MAX) return;
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
    snprintf(c->name, sizeof c->name, "%s", status->cluster);
    if (strcmp(status->role, "leader") == 0 && status->term >= c->leader_term) {
        c->leader_term = status->term;
        c->leader_id = status->node_id;
    }
    for (size_t i = 0; i < status->n_members; i++)
        know(c, status->members[i].address, strlen(status->members[i].address));
}

/* A name such as localhost:7400 and the address the members know may be one server: the later one is left out. */
static bool seen_before(const struct cluster *c, unsigned at)
{
    for (unsigned i = 0; i < at; i++)
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

static bool leads(const struct cluster *c, const struct server *one)
{
    return one->reachable && c->leader_id != 0 && one->s.node_id == c->leader_id;
}

static void print_table(const struct cluster *c)
{
    static const char *const headers[] = {"",       "ID",      "ADDRESS", "REACHABLE", "ROLE", "TERM",
                                          "COMMIT", "APPLIED", "STREAMS", "LOG",       "UP",   "VERSION"};
    static const bool right[] = {false, true, false, false, false, true, true, true, true, true, true, false};
    struct table *t = table_new(headers, right, 12);
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
        char id[24], term[24], commit[24], applied[24], streams[24], log[FORMAT_SIZE_MAX], up[FORMAT_SIZE_MAX];
        const struct crsc_status *s = &one->s;
        uint64_t now = loop_wall_us();
        if (seen_before(c, i)) continue;
        snprintf(id, sizeof id, "%" PRIu64, s->node_id);
        snprintf(term, sizeof term, "%" PRIu64, s->term);
        snprintf(commit, sizeof commit, "%" PRIu64, s->commit_index);
        snprintf(applied, sizeof applied, "%" PRIu64, s->applied_index);
        snprintf(streams, sizeof streams, "%" PRIu64, s->streams);
        format_duration(now > s->started_us ? (now - s->started_us) / 1000 : 0, up);
        format_size(s->log_bytes, log);
        const char *known[] = {leads(c, one) ? "*" : "",
                               id,
                               one->address,
                               "yes",
                               one->role,
                               term,
                               commit,
                               applied,
                               streams,
                               log,
                               up,
                               one->version};
        const char *unknown[] = {"", "?", one->address, "no", "?", "-", "-", "-", "-", "-", "-", "-"};
        table_add(t, one->reachable ? known : unknown);
    }
    table_print(t, stdout);
    table_free(t);
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
        if (seen_before(c, i)) continue;
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "address", one->address);
        yyjson_mut_obj_add_bool(doc, o, "reachable", one->reachable);
        yyjson_mut_obj_add_bool(doc, o, "leader", leads(c, one));
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
        yyjson_mut_obj_add_uint(doc, o, "streams", s->streams);
        yyjson_mut_obj_add_uint(doc, o, "log_bytes", s->log_bytes);
        yyjson_mut_obj_add_uint(doc, o, "started_us", s->started_us);
        yyjson_mut_obj_add_str(doc, o, "version", one->version);
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
    for (const char *at = o->servers; c != NULL && *at != '\0';) {
        at += strspn(at, ", ");
        size_t len = strcspn(at, ", ");
        know(c, at, len);
        at += len;
    }
    for (; c != NULL && c->asking < c->n; c->asking++) /* grows while members are learnt */
        crsc_sync_status(s, c->servers[c->asking].address, on_status, c, &c->servers[c->asking].why);
    crsc_sync_free(s);
    if (c == NULL) return EXIT_FAILED;

    qsort(c->servers, c->n, sizeof *c->servers, by_id);
    if (o->json)
        print_json(c);
    else
        print_table(c);
    fflush(stdout);
    for (unsigned i = 0; i < c->n; i++) {
        const struct server *one = &c->servers[i];
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
        "effects this server shows; LOG is the size of its segment files.\n"
        "A server whose APPLIED stays behind is slow or cut off. Exit status 3 when no server says that it leads.\n\n"
        "Examples:\n"
        "  crsc-logctl status\n"
        "  crsc-logctl status --servers 10.0.0.1:7400 --output json | jq .leader_id\n",
    .run = run,
};
