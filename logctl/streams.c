#include <inttypes.h>
#include <string.h>
#include <yyjson.h>

#include "logctl/format.h"
#include "logctl/verbs.h"

static void print_json(const struct crsc_stream_info *streams, size_t n)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, root);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_stream_info *s = &streams[i];
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "name", s->name);
        yyjson_mut_obj_add_uint(doc, o, "first_offset", s->first_offset);
        yyjson_mut_obj_add_uint(doc, o, "last_offset", s->last_offset);
        yyjson_mut_obj_add_uint(doc, o, "bytes", s->bytes);
        yyjson_mut_obj_add_uint(doc, o, "epoch", s->epoch);
        yyjson_mut_obj_add_uint(doc, o, "min_epoch", s->min_epoch);
        yyjson_mut_obj_add_str(doc, o, "producer", s->producer);
        yyjson_mut_obj_add_uint(doc, o, "last_time_us", s->last_time_us);
        yyjson_mut_obj_add_uint(doc, o, "snapshots_valid", s->snapshots_valid);
        yyjson_mut_obj_add_uint(doc, o, "latest_snapshot_offset", s->latest_snapshot_offset);
        yyjson_mut_arr_append(list, o);
    }
    yyjson_mut_obj_add_val(doc, root, "streams", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static void print_table(const struct crsc_stream_info *streams, size_t n)
{
    static const char *const headers[] = {"STREAM",   "FIRST",      "LAST",      "BYTES",    "EPOCH",
                                          "PRODUCER", "LAST EVENT", "SNAPSHOTS", "NEWEST AT"};
    static const bool right[] = {false, true, true, true, true, false, false, true, true};
    struct table *t = table_new(headers, right, 9);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_stream_info *s = &streams[i];
        char first[24], last[24], epoch[24], valid[24], newest[24], bytes[FORMAT_SIZE_MAX], when[FORMAT_TIME_MAX];
        snprintf(first, sizeof first, "%" PRIu64, s->first_offset);
        snprintf(last, sizeof last, "%" PRIu64, s->last_offset);
        snprintf(epoch, sizeof epoch, "%" PRIu64, s->epoch);
        snprintf(valid, sizeof valid, "%" PRIu32, s->snapshots_valid);
        snprintf(newest, sizeof newest, "%" PRIu64, s->latest_snapshot_offset);
        const char *cells[] = {s->name,
                               first,
                               last,
                               format_size(s->bytes, bytes),
                               epoch,
                               s->producer,
                               format_time(s->last_time_us, when),
                               valid,
                               s->snapshots_valid > 0 ? newest : "-"};
        table_add(t, cells);
    }
    table_print(t, stdout);
    table_free(t);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    const struct options *o = user;
    (void)e;
    if (o->json)
        print_json(streams, n);
    else
        print_table(streams, n);
}

static int run(const struct options *o)
{
    int status = EXIT_OK;
    struct error e;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = crsc_sync_streams(s, o->argument != NULL ? o->argument : "", on_streams, (void *)(uintptr_t)o, &e);
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

const struct verb verb_streams = {
    .name = "streams",
    .summary = "the streams there are, one protected workload each",
    .help = "Usage: crsc-logctl streams [PREFIX]\n"
            "Prints a line for each stream whose name begins with PREFIX: its first and last offset, the payload ever "
            "appended,\n"
            "the epoch of its newest producer and that one's name, when its last event came, how many valid snapshots\n"
            "it has, and the offset the newest of them contains everything up to.\n\n"
            "Examples:\n"
            "  crsc-logctl streams\n"
            "  crsc-logctl streams demo/default/\n"
            "  crsc-logctl streams --output json | jq -r '.streams[].name'\n",
    .argument = 2,
    .run = run,
};
