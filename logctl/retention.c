#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <yyjson.h>

#include "logctl/format.h"
#include "logctl/verbs.h"

enum { BOUNDS = OPTION_KEEP_SNAPSHOTS | OPTION_MAX_AGE | OPTION_MAX_BYTES | OPTION_BEYOND };

static bool is_set(const struct crsc_retention *r)
{
    return r->keep_snapshots > 0 || r->max_age_us > 0 || r->max_bytes > 0;
}

static void print_json(const struct crsc_stream_info *streams, size_t n)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, root);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_retention *r = &streams[i].retention;
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "stream", streams[i].name);
        yyjson_mut_obj_add_uint(doc, o, "keep_snapshots", r->keep_snapshots);
        yyjson_mut_obj_add_uint(doc, o, "max_age_us", r->max_age_us);
        yyjson_mut_obj_add_uint(doc, o, "max_bytes", r->max_bytes);
        yyjson_mut_obj_add_bool(doc, o, "beyond_snapshots", r->beyond_snapshots);
        yyjson_mut_arr_append(list, o);
    }
    yyjson_mut_obj_add_val(doc, root, "retention", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static void print_table(const struct crsc_stream_info *streams, size_t n)
{
    static const char *const headers[] = {"STREAM", "KEEP SNAPSHOTS", "MAX AGE", "MAX BYTES", "BEYOND SNAPSHOTS", "FIRST", "LAST"};
    static const bool right[] = {false, true, true, true, false, true, true};
    struct table *t = table_new(headers, right, 7);
    for (size_t i = 0; i < n; i++) {
        const struct crsc_retention *r = &streams[i].retention;
        char keep[24], age[FORMAT_SIZE_MAX], bytes[FORMAT_SIZE_MAX], first[24], last[24];
        /* Bounds without a number of snapshots keep what one needs. */
        snprintf(keep, sizeof keep, "%" PRIu32, r->keep_snapshots > 0 ? r->keep_snapshots : 1);
        snprintf(first, sizeof first, "%" PRIu64, streams[i].first_offset);
        snprintf(last, sizeof last, "%" PRIu64, streams[i].last_offset);
        const char *cells[] = {streams[i].name,
                               is_set(r) && !r->beyond_snapshots ? keep : "-",
                               r->max_age_us > 0 ? format_duration(r->max_age_us / 1000, age) : "-",
                               r->max_bytes > 0 ? format_size(r->max_bytes, bytes) : "-",
                               !is_set(r) ? "-" : r->beyond_snapshots ? "yes" : "no",
                               first,
                               last};
        table_add(t, cells);
    }
    table_print(t, stdout);
    table_free(t);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    const struct options *o = user;
    (void)e;
    if (o->json) print_json(streams, n);
    else print_table(streams, n);
}

static int get(const struct options *o)
{
    int status = EXIT_OK;
    struct error e;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = crsc_sync_streams(s, o->argument2 != NULL ? o->argument2 : "", on_streams, (void *)(uintptr_t)o, &e);
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

static int set(const struct options *o, const struct crsc_retention *r)
{
    int status = EXIT_OK;
    struct error e;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    int rv = crsc_sync_set_retention(s, o->argument2, r, &e);
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

static int wrong(const char *text)
{
    fprintf(stderr, "crsc-logctl: %s: see crsc-logctl help retention\n", text);
    return EXIT_USAGE;
}

static int run(const struct options *o)
{
    bool sets = strcmp(o->argument, "set") == 0, clears = strcmp(o->argument, "clear") == 0;
    if (!sets && !clears && strcmp(o->argument, "get") != 0) return wrong("retention knows get, set and clear");
    if (!sets && (o->given & BOUNDS) != 0) return wrong("only retention set takes these options");
    if (!sets && !clears) return get(o);
    if (o->argument2 == NULL) return wrong("the stream's name is missing");
    if (clears) return set(o, &(struct crsc_retention){0});
    struct crsc_retention r = {.beyond_snapshots = (o->given & OPTION_BEYOND) != 0};
    if ((o->given & OPTION_KEEP_SNAPSHOTS) != 0) r.keep_snapshots = (uint32_t)o->keep_snapshots;
    if ((o->given & OPTION_MAX_AGE) != 0) r.max_age_us = o->max_age_ms * 1000;
    if ((o->given & OPTION_MAX_BYTES) != 0) r.max_bytes = o->max_bytes;
    if (!is_set(&r)) return wrong("retention set needs --keep-snapshots, --max-age or --max-bytes; retention clear takes a policy away");
    return set(o, &r);
}

const struct verb verb_retention = {
    .name = "retention",
    .summary = "which events of a stream go by themselves: get, set, clear",
    .help =
        "Usage: crsc-logctl retention get [PREFIX]\n"
        "       crsc-logctl retention set STREAM [--keep-snapshots K] [--max-age DURATION] [--max-bytes SIZE] [--beyond-snapshots]\n"
        "       crsc-logctl retention clear STREAM\n"
        "A stream without a policy keeps everything until somebody trims it. With one, the leader trims it every retention-interval (10s):\n"
        "  --keep-snapshots K  events that none of the newest K valid snapshots needs for the replay after its restore may go; as long as\n"
        "                      there are less than K, none may. Older snapshots cannot be restored from any more then. At least 1 [1]\n"
        "  --max-age DURATION, --max-bytes SIZE\n"
        "                      of those, only events that are older than that (30m, 12h, 7d) go, or such as have more than SIZE (500MiB, 10GiB)\n"
        "                      of payload from there on; with both, what either lets go. Without either all of them go\n"
        "  --beyond-snapshots  age and size bind whatever snapshots need, and when there is none: a restore then finds that events are\n"
        "                      missing. For streams that nobody restores from. Not with --keep-snapshots\n"
        "set takes the place of the policy there was. It belongs to the stream: every server, a new leader and a backup have it.\n"
        "What goes, goes for every reader at once, and cannot be brought back.\n\n"
        "Examples:\n"
        "  crsc-logctl retention set demo/default/workload/pushgateway --keep-snapshots 3\n"
        "  crsc-logctl retention set demo/default/workload/pushgateway --keep-snapshots 2 --max-age 7d\n"
        "  crsc-logctl retention get demo/\n",
    .options = BOUNDS,
    .argument = 1,
    .words = "get set clear",
    .argument2 = true,
    .run = run,
};
