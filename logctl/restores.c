/* The recoveries of a stream: the events that crsc-operator appends to "STREAM/restores" (operator/restores.h), newest last. What is in them is
 * shown as it is: fields that this version does not know are in the JSON too, and what is not there is "-". */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "logctl/format.h"
#include "logctl/show.h"

enum { COLUMNS = 14, CELL_MAX = 48, STREAM_MAX = 512, REPEATED_WITHIN = 256 };

struct list {
    yyjson_doc **all; /* the newest `want`, in order */
    size_t n, want;
    uint64_t strange; /* events that are no such record */
};

static void forget_first(struct list *l)
{
    yyjson_doc_free(l->all[0]);
    memmove(l->all, l->all + 1, --l->n * sizeof *l->all);
}

/* What was appended again because its answer was lost is the same in all, its time too. Others' may have come in between. */
static bool is_repeated(const struct list *l, yyjson_val *record)
{
    for (size_t i = l->n; i > 0 && l->n - i < REPEATED_WITHIN; i--)
        if (yyjson_equals(yyjson_doc_get_root(l->all[i - 1]), record)) return true;
    return false;
}

static void take(void *user, const struct crsc_event *event)
{
    struct list *l = user;
    yyjson_doc *doc = event->size > 0 ? yyjson_read(event->payload, event->size, 0) : NULL;
    yyjson_val *record = doc != NULL ? yyjson_doc_get_root(doc) : NULL;
    bool sound = yyjson_is_obj(record);
    if (!sound || is_repeated(l, record)) {
        l->strange += !sound;
        yyjson_doc_free(doc);
        return;
    }
    if (l->n == l->want) forget_first(l);
    l->all[l->n++] = doc;
}

/* ---- printing ------------------------------------------------------------------------------------------------- */

static void print_json(const char *stream, const struct list *l)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *list = yyjson_mut_arr(doc);
    yyjson_val *newest = l->n > 0 ? yyjson_doc_get_root(l->all[l->n - 1]) : NULL;
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "stream", stream);
    if (newest != NULL) yyjson_mut_obj_add_val(doc, root, "availability", yyjson_val_mut_copy(doc, yyjson_obj_get(newest, "availability")));
    for (size_t i = 0; i < l->n; i++) yyjson_mut_arr_append(list, yyjson_val_mut_copy(doc, yyjson_doc_get_root(l->all[i])));
    yyjson_mut_obj_add_val(doc, root, "restores", list);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY | YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static const char *text(yyjson_val *record, const char *name)
{
    const char *value = yyjson_get_str(yyjson_obj_get(record, name));
    return value != NULL && value[0] != '\0' ? value : "-";
}

static const char *number(yyjson_val *record, const char *name, char cell[CELL_MAX])
{
    yyjson_val *value = yyjson_obj_get(record, name);
    if (!yyjson_is_uint(value)) return "-";
    snprintf(cell, CELL_MAX, "%" PRIu64, yyjson_get_uint(value));
    return cell;
}

static const char *milliseconds(yyjson_val *record, const char *name, char cell[CELL_MAX])
{
    yyjson_val *value = yyjson_obj_get(record, name);
    double ms = yyjson_get_num(value);
    if (!yyjson_is_num(value) || !(ms >= 0 && ms < 1e15)) return "-";
    if (ms < 1000) snprintf(cell, CELL_MAX, "%.1fms", ms);
    else format_duration((uint64_t)ms, cell);
    return cell;
}

static const char *share(yyjson_val *record, char cell[CELL_MAX])
{
    yyjson_val *value = yyjson_obj_get(record, "availability");
    double part = yyjson_get_num(value);
    if (!yyjson_is_num(value) || !(part >= 0 && part <= 1)) return "-";
    snprintf(cell, CELL_MAX, "%.4f%%", part * 100);
    return cell;
}

static void print_table(const struct list *l)
{
    static const char *const headers[COLUMNS] = {"FINISHED", "WORKLOAD", "FROM",   "OFFSET",   "REPLAYED", "DETECT",       "REACTION",
                                                 "RESTORE",  "REPLAY",   "REPAIR", "RECOVERY", "OUTAGE",   "AVAILABILITY", "CAUSE"};
    static const bool right[COLUMNS] = {false, false, false, true, true, true, true, true, true, true, true, true, true, false};
    struct table *t = table_new(headers, right, COLUMNS);
    for (size_t i = 0; i < l->n; i++) {
        yyjson_val *r = yyjson_doc_get_root(l->all[i]);
        char when[FORMAT_TIME_MAX], cells[10][CELL_MAX];
        const char *from = strcmp(text(r, "began"), "fresh") == 0 ? "(fresh)" : text(r, "snapshot");
        const char *row[COLUMNS] = {format_time(yyjson_get_uint(yyjson_obj_get(r, "finished_us")), when),
                                    text(r, "workload"),
                                    from,
                                    number(r, "offset", cells[0]),
                                    number(r, "replayed", cells[1]),
                                    milliseconds(r, "detect_ms", cells[2]),
                                    milliseconds(r, "reaction_ms", cells[3]),
                                    milliseconds(r, "restore_ms", cells[4]),
                                    milliseconds(r, "replay_ms", cells[5]),
                                    milliseconds(r, "repair_ms", cells[6]),
                                    milliseconds(r, "recovery_ms", cells[7]),
                                    milliseconds(r, "outage_ms", cells[8]),
                                    share(r, cells[9]),
                                    text(r, "cause")};
        table_add(t, row);
    }
    table_print(t, stdout);
    table_free(t);
}

/* ---- the verb ------------------------------------------------------------------------------------------------- */

static int read_all(struct crsc_sync *s, const char *stream, struct list *l, struct error *e)
{
    struct ends ends;
    int rv = show_ends(s, stream, &ends, e);
    if (rv == -ERROR_NOT_FOUND) return 0; /* nothing was ever recovered, or by who does not say so */
    return rv == 0 ? show_each(s, stream, ends.first, ends.last, take, l, e) : rv;
}

static int show(const struct options *o, struct crsc_sync *s, struct list *l, struct error *e)
{
    char stream[STREAM_MAX];
    struct ends ends;
    int rv = show_ends(s, o->argument, &ends, e); /* a stream without recoveries and no stream are different answers */
    if (rv != 0) return rv;
    snprintf(stream, sizeof stream, "%.400s/restores", o->argument);
    rv = read_all(s, stream, l, e);
    if (rv != 0) return rv;
    if (o->json) print_json(o->argument, l);
    else print_table(l);
    if (l->strange > 0) fprintf(stderr, "crsc-logctl: %" PRIu64 " events of %s are no records of recoveries\n", l->strange, stream);
    return 0;
}

static int run(const struct options *o)
{
    enum { MOST = 100000 };
    int status = EXIT_OK;
    struct error e;
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    struct list l = {.want = (o->given & OPTION_COUNT) != 0 && o->count < MOST ? (size_t)o->count : MOST};
    l.all = calloc(l.want, sizeof *l.all);
    int rv = l.all == NULL ? error_set(&e, ERROR_NOMEM, "no memory") : show(o, s, &l, &e);
    while (l.n > 0) yyjson_doc_free(l.all[--l.n]);
    free(l.all);
    crsc_sync_free(s);
    return rv == 0 ? EXIT_OK : fail(o, &e);
}

const struct verb verb_restores = {
    .name = "restores",
    .summary = "the recoveries of a stream's app: how long each took, from which checkpoint",
    .help =
        "Usage: crsc-logctl restores STREAM [-n K]\n"
        "Prints a line for each time that crsc-operator on one machine brought the app, or a replica of it, back; oldest first. The log\n"
        "keeps about the newest 600, as events of the stream STREAM/restores. (On Kubernetes: kubectl get restores.)\n"
        "  -n K       the newest K            [all]\n"
        "FROM is the snapshot that was restored, OFFSET what it contains, REPLAYED how many requests came after it. The times:\n"
        "  DETECT     from when the interceptor missed the app until the operator knew; 0 if the operator knew first\n"
        "  REACTION   from then until something was done about it\n"
        "  RESTORE    of which runc and CRIU (or the start) took that\n"
        "  REPLAY     and the replay that\n"
        "  REPAIR     from the reaction until this replica was whole again\n"
        "  RECOVERY   from the reaction until clients were served again, by any replica\n"
        "  OUTAGE     reaction and recovery, of the service; 0 if others served all the time\n"
        "AVAILABILITY is the part of the time, since that operator saw the stream served first, in which any replica served. A \"-\" is\n"
        "not known: the loss was not seen.\n\n"
        "Examples:\n"
        "  crsc-logctl restores demo/default/workload/pushgateway -n 5\n"
        "  crsc-logctl restores demo/default/workload/pushgateway --output json | jq '[.restores[].outage_ms] | max'\n",
    .options = OPTION_COUNT,
    .argument = 1,
    .run = run,
};
