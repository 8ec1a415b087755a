#include <inttypes.h>
#include <string.h>
#include <yyjson.h>

#include "logctl/format.h"
#include "logctl/show.h"

static void print_json(const char *stream, const struct crsc_snapshot *snapshots, size_t n)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "stream", stream);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_snapshot *s = &snapshots[i];
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "id", s->id);
        yyjson_mut_obj_add_uint(doc, o, "offset", s->offset);
        yyjson_mut_obj_add_str(doc, o, "state", crsc_snapshot_state_name(s->state));
        yyjson_mut_obj_add_str(doc, o, "image", s->image);
        yyjson_mut_obj_add_str(doc, o, "sha256", s->sha256);
        yyjson_mut_obj_add_uint(doc, o, "size", s->size);
        yyjson_mut_obj_add_str(doc, o, "node", s->node);
        yyjson_mut_obj_add_str(doc, o, "template_hash", s->template_hash);
        yyjson_mut_obj_add_str(doc, o, "reason", s->reason);
        yyjson_mut_obj_add_uint(doc, o, "started_us", s->started_us);
        yyjson_mut_obj_add_uint(doc, o, "finished_us", s->finished_us);
        yyjson_mut_obj_add_uint(doc, o, "recorded_us", s->recorded_us);
        yyjson_mut_arr_append(list, o);
    }
    yyjson_mut_obj_add_val(doc, root, "snapshots", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static void print_table(const struct crsc_snapshot *snapshots, size_t n)
{
    static const char *const headers[] = {"ID",      "OFFSET", "STATE", "SIZE",  "NODE",
                                          "STARTED", "TOOK",   "IMAGE", "REASON"};
    static const bool right[] = {false, true, false, true, false, false, true, false, false};
    struct table *t = table_new(headers, right, 9);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_snapshot *s = &snapshots[i];
        char offset[24], size[FORMAT_SIZE_MAX], when[FORMAT_TIME_MAX], took[FORMAT_SIZE_MAX] = "-";
        snprintf(offset, sizeof offset, "%" PRIu64, s->offset);
        if (s->finished_us > s->started_us) format_duration((s->finished_us - s->started_us) / 1000, took);
        const char *cells[] = {s->id,
                               offset,
                               crsc_snapshot_state_name(s->state),
                               s->size > 0 ? format_size(s->size, size) : "-",
                               s->node[0] != '\0' ? s->node : "-",
                               format_time(s->started_us, when),
                               took,
                               s->image[0] != '\0' ? s->image : "-",
                               s->reason};
        table_add(t, cells);
    }
    table_print(t, stdout);
    table_free(t);
}

static void on_snapshots(void *user, const struct error *e, const struct crsc_snapshot *snapshots, size_t n)
{
    const struct options *o = user;
    (void)e;
    if (o->json)
        print_json(o->argument, snapshots, n);
    else
        print_table(snapshots, n);
}

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct error e;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    struct ends ends;
    int rv = show_ends(s, o->argument, &ends, &e); /* a stream without records and no stream are different answers */
    if (rv == 0) rv = crsc_sync_snapshots(s, o->argument, on_snapshots, (void *)(uintptr_t)o, &e);
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

const struct verb verb_snapshots = {
    .name = "snapshots",
    .summary = "the checkpoints recorded for a stream",
    .help =
        "Usage: crsc-logctl snapshots STREAM\n"
        "Prints a line for each snapshot record, oldest first. A snapshot contains every request up to its OFFSET and "
        "none\n"
        "after it: a recovery restores the valid one with the highest offset and replays what comes behind. STATE is\n"
        "taking, valid, failed (REASON says why) or deleted.\n\n"
        "Examples:\n"
        "  crsc-logctl snapshots demo/default/workload/pushgateway\n"
        "  crsc-logctl snapshots demo/default/workload/pushgateway --output json |\n"
        "    jq '[.snapshots[] | select(.state == \"valid\")] | max_by(.offset)'\n",
    .argument = 1,
    .run = run,
};
