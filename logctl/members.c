/* members and leader: who belongs to the cluster, and who leads it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "logctl/format.h"
#include "logctl/verbs.h"

struct view {
    bool json;
    uint64_t leader_id, last_index;
};

static void print_table(const struct view *v, const struct crsc_member *members, size_t n)
{
    static const char *const headers[] = {"", "ID", "ADDRESS", "ROLE", "REACHABLE", "MATCH", "LAG", "INSTANCE"};
    static const bool right[] = {false, true, false, false, false, true, true, false};
    struct table *t = table_new(headers, right, 8);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_member *m = &members[i];
        char id[24], match[24] = "-", lag[24] = "-", instance[24] = "-";
        snprintf(id, sizeof id, "%" PRIu64, m->id);
        if (m->match_index > 0) snprintf(match, sizeof match, "%" PRIu64, m->match_index);
        if (m->match_index > 0 && v->last_index > 0)
            snprintf(lag, sizeof lag, "%" PRIu64, v->last_index > m->match_index ? v->last_index - m->match_index : 0);
        if (m->instance != 0) snprintf(instance, sizeof instance, "%016" PRIx64, m->instance);
        const char *cells[] = {m->id == v->leader_id ? "*" : "", id, m->address, m->role, m->reachable ? "yes" : "no", match, lag, instance};
        table_add(t, cells);
    }
    table_print(t, stdout);
    table_free(t);
}

static void print_json(const struct view *v, const struct crsc_member *members, size_t n)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, root);
    if (v->leader_id != 0) yyjson_mut_obj_add_uint(doc, root, "leader_id", v->leader_id);
    else yyjson_mut_obj_add_null(doc, root, "leader_id");
    for (size_t i = 0; i < n; i++) {
        char instance[24];
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        snprintf(instance, sizeof instance, "%016" PRIx64, members[i].instance);
        yyjson_mut_obj_add_uint(doc, o, "id", members[i].id);
        yyjson_mut_obj_add_str(doc, o, "address", members[i].address);
        yyjson_mut_obj_add_str(doc, o, "role", members[i].role);
        yyjson_mut_obj_add_bool(doc, o, "reachable", members[i].reachable);
        yyjson_mut_obj_add_uint(doc, o, "match_index", members[i].match_index);
        if (members[i].instance != 0) yyjson_mut_obj_add_strcpy(doc, o, "instance", instance);
        else yyjson_mut_obj_add_null(doc, o, "instance");
        yyjson_mut_arr_append(list, o);
    }
    yyjson_mut_obj_add_val(doc, root, "members", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static void on_members(void *user, const struct error *e, const struct crsc_member *members, size_t n, uint64_t leader_id)
{
    struct view *v = user;
    (void)e;
    v->leader_id = leader_id;
    if (v->json) print_json(v, members, n);
    else print_table(v, members, n);
}

static void on_status(void *user, const struct error *e, const struct crsc_status *status)
{
    struct view *v = user;
    v->last_index = status->last_index;
    on_members(user, e, status->members, status->n_members, status->leader_id);
}

static int wrong(const char *text)
{
    fprintf(stderr, "crsc-logctl: %s\n", text);
    return EXIT_USAGE;
}

static bool parse_id(const char *text, uint64_t *ret_id)
{
    char *end;
    if (text == NULL || text[0] < '0' || text[0] > '9') return false;
    *ret_id = strtoull(text, &end, 10);
    return *end == '\0' && *ret_id > 0 && *ret_id <= UINT32_MAX;
}

static int change(const struct options *o, enum crsc_change what, uint64_t id, const char *address)
{
    struct view v = {.json = o->json};
    struct error e;
    int status = EXIT_OK;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = crsc_sync_change_server(s, what, id, address, (o->given & OPTION_FORCE) != 0, on_members, &v, &e);
    crsc_sync_free(s);
    if (rv == 0) return EXIT_OK;
    if (e.code != ERROR_NOT_FOUND) return fail(o, &e);
    fprintf(stderr, "crsc-logctl: %s (%s)\nWho is a member: crsc-logctl members\n", e.text, error_name((int)e.code));
    return EXIT_NOT_FOUND;
}

static int list(const struct options *o)
{
    struct view v = {.json = o->json};
    struct error e;
    int status = EXIT_OK;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = crsc_sync_status(s, NULL, on_status, &v, &e);
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

static int run_members(const struct options *o)
{
    const char *what = o->argument, *text = o->argument2;
    uint64_t id;
    if (what == NULL || (strcmp(what, "list") == 0 && text == NULL)) return list(o);
    bool add = strcmp(what, "add") == 0, promote = strcmp(what, "promote") == 0, removes = strcmp(what, "remove") == 0;
    if (!add && !promote && !removes) return wrong("members knows list, add, promote and remove: see crsc-logctl help members");
    if (text == NULL) return wrong(add ? "members add needs ID=HOST:PORT: see crsc-logctl help members" : "the server's ID is missing: crsc-logctl members lists them");
    if (!add) return parse_id(text, &id) ? change(o, promote ? CRSC_PROMOTE_SERVER : CRSC_REMOVE_SERVER, id, NULL) : wrong("a server's ID is a number from 1 on");
    char number[24];
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals[1] == '\0' || equals - text >= (ptrdiff_t)sizeof number) return wrong("members add needs ID=HOST:PORT, as in initial-cluster");
    snprintf(number, sizeof number, "%.*s", (int)(equals - text), text);
    return parse_id(number, &id) ? change(o, CRSC_ADD_SERVER, id, equals + 1) : wrong("a server's ID is a number from 1 on");
}

static int run_leader(const struct options *o)
{
    uint64_t id = 0;
    if (strcmp(o->argument, "transfer") != 0) return wrong("leader knows one word, transfer: see crsc-logctl help leader");
    if (o->argument2 != NULL && !parse_id(o->argument2, &id)) return wrong("a server's ID is a number from 1 on");
    return change(o, CRSC_TRANSFER_LEADERSHIP, id, NULL);
}

const struct verb verb_members = {
    .name = "members",
    .summary = "who belongs to the cluster: list, add, promote, remove",
    .help =
        "Usage: crsc-logctl members [list]\n"
        "       crsc-logctl members add ID=HOST:PORT\n"
        "       crsc-logctl members promote ID\n"
        "       crsc-logctl members remove ID [--force]\n"
        "Lists the members as the leader sees them; * marks the leader. MATCH is the last entry that a server has on its disk for\n"
        "certain, LAG how many it lacks, INSTANCE the identity of its data directory.\n"
        "A server is added as a standby: it gets the log and counts in no majority. Start it with an empty data-dir and\n"
        "--initial-cluster-state existing. When it has caught up it is promoted to voter; promote waits for that, up to --timeout.\n"
        "remove refuses when the voters that would be left and can be reached are no majority, unless --force is given. A leader that is\n"
        "removed hands leadership over first; the server that was removed stops with status 4.\n"
        "A server whose data were lost must not come back under its ID as if nothing had happened: it is refused until it is removed\n"
        "and added again. Repeating a command is harmless. Exit status 3: not done within --timeout.\n\n"
        "Examples:\n"
        "  crsc-logctl members\n"
        "  crsc-logctl members add 4=10.0.0.4:7400\n"
        "  crsc-logctl members promote 4 --timeout 10m\n"
        "  crsc-logctl members remove 3\n",
    .options = OPTION_FORCE,
    .argument = 2,
    .words = "list add promote remove",
    .argument2 = true,
    .run = run_members,
};

const struct verb verb_leader = {
    .name = "leader",
    .summary = "hands leadership over to another server",
    .help =
        "Usage: crsc-logctl leader transfer [ID]\n"
        "Leadership goes to voter ID, or to the reachable one that has most of the log; appends wait meanwhile, none fails. Prints the members\n"
        "as the old leader sees them then. Refused when the server is no voter or cannot be reached; exit status 3 when it did not take over.\n\n"
        "Examples:\n"
        "  crsc-logctl leader transfer\n"
        "  crsc-logctl leader transfer 2\n",
    .argument = 1,
    .words = "transfer",
    .argument2 = true,
    .run = run_leader,
};
