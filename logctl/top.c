/* top: servers and the busiest streams, again and again. */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <yyjson.h>

#include "common/loop.h"
#include "logctl/cluster.h"
#include "logctl/format.h"
#include "logctl/verbs.h"

enum { BUSIEST = 10 };

struct stream {
    char *name;
    uint64_t last, bytes;
    double rate, byte_rate; /* since the look before */
};

struct look {
    struct cluster cluster;
    struct stream *streams; /* by name */
    size_t n;
    uint64_t at_us;
    struct error why; /* of the streams; code 0: they are known */
};

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct stream *)a)->name, ((const struct stream *)b)->name);
}

static int by_rate(const void *a, const void *b)
{
    const struct stream *x = a, *y = b;
    return x->rate != y->rate ? (x->rate < y->rate ? 1 : -1) : by_name(a, b);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct look *l = user;
    (void)e;
    l->streams = calloc(n + 1, sizeof *l->streams);
    for (size_t i = 0; l->streams != NULL && i < n; i++) {
        struct stream *s = &l->streams[l->n];
        if ((s->name = strdup(streams[i].name)) == NULL) break;
        s->last = streams[i].last_offset;
        s->bytes = streams[i].bytes;
        l->n++;
    }
    if (l->n > 1) qsort(l->streams, l->n, sizeof *l->streams, by_name);
}

static void look_fini(struct look *l)
{
    for (size_t i = 0; i < l->n; i++) free(l->streams[i].name);
    free(l->streams);
    *l = (struct look){0};
}

static void take_look(struct look *l, struct crsc_sync *s, const struct options *o, const struct look *before)
{
    memset(l, 0, sizeof *l);
    cluster_ask(&l->cluster, s, o);
    crsc_sync_streams(s, "", on_streams, l, &l->why);
    l->at_us = loop_monotonic_us();
    double seconds = (double)(l->at_us - before->at_us) / 1e6;
    for (size_t i = 0; i < l->n && before->at_us != 0; i++) {
        struct stream *now = &l->streams[i], *old = before->n > 0 ? bsearch(now, before->streams, before->n, sizeof *now, by_name) : NULL;
        now->rate = (double)(now->last - (old != NULL ? old->last : 0)) / seconds;
        now->byte_rate = (double)(now->bytes - (old != NULL ? old->bytes : 0)) / seconds;
    }
}

/* Entries per second that a server applied; less than nothing after it was started anew. */
static double applied_rate(const struct look *l, const struct look *before, const struct server *one)
{
    for (unsigned i = 0; i < before->cluster.n; i++) {
        const struct server *old = &before->cluster.servers[i];
        if (old->reachable && old->s.node_id == one->s.node_id && one->s.applied_index >= old->s.applied_index)
            return (double)(one->s.applied_index - old->s.applied_index) / ((double)(l->at_us - before->at_us) / 1e6);
    }
    return 0;
}

static void show_servers(const struct look *l, const struct look *before)
{
    static const char *const headers[] = {"", "ID", "ADDRESS", "ROLE", "TERM", "APPLIED", "ENTRIES/S", "BEHIND", "LOG", "UP"};
    static const bool right[] = {false, true, false, false, true, true, true, true, true, true};
    struct table *t = table_new(headers, right, 10);
    uint64_t commit = 0, now = loop_wall_us();
    for (unsigned i = 0; i < l->cluster.n; i++)
        if (l->cluster.servers[i].s.commit_index > commit) commit = l->cluster.servers[i].s.commit_index;
    for (unsigned i = 0; i < l->cluster.n; i++) {
        const struct server *one = &l->cluster.servers[i];
        const struct crsc_status *s = &one->s;
        char id[24], term[24], applied[24], rate[24], behind[24], log[FORMAT_SIZE_MAX], up[FORMAT_SIZE_MAX];
        snprintf(id, sizeof id, "%" PRIu64, s->node_id);
        snprintf(term, sizeof term, "%" PRIu64, s->term);
        snprintf(applied, sizeof applied, "%" PRIu64, s->applied_index);
        snprintf(rate, sizeof rate, "%.0f", applied_rate(l, before, one));
        snprintf(behind, sizeof behind, "%" PRIu64, commit - s->applied_index);
        format_size(s->log_bytes, log);
        format_duration(now > s->started_us ? (now - s->started_us) / 1000 : 0, up);
        const char *known[] = {cluster_leads(&l->cluster, one) ? "*" : "", id, one->address, one->role, term, applied, rate, behind, log, up};
        const char *unknown[] = {"", "?", one->address, "unreachable", "-", "-", "-", "-", "-", "-"};
        table_add(t, one->reachable ? known : unknown);
    }
    table_print(t, stdout);
    table_free(t);
}

static void show_streams(struct look *l)
{
    static const char *const headers[] = {"STREAM", "LAST", "EVENTS/S", "BYTES/S"};
    static const bool right[] = {false, true, true, true};
    struct table *t = table_new(headers, right, 4);
    for (size_t i = 0; i < l->n && i < BUSIEST; i++) {
        const struct stream *s = &l->streams[i];
        char last[24], rate[24], bytes[FORMAT_SIZE_MAX];
        snprintf(last, sizeof last, "%" PRIu64, s->last);
        snprintf(rate, sizeof rate, "%.0f", s->rate);
        format_size((uint64_t)s->byte_rate, bytes);
        const char *cells[] = {s->name, last, rate, bytes};
        table_add(t, cells);
    }
    table_print(t, stdout);
    table_free(t);
}

static void show(struct look *l, const struct look *before, bool terminal)
{
    double rate = 0, bytes = 0;
    char size[FORMAT_SIZE_MAX], now[FORMAT_TIME_MAX];
    for (size_t i = 0; i < l->n; i++) rate += l->streams[i].rate, bytes += l->streams[i].byte_rate;
    if (terminal) fputs("\033[H\033[J", stdout);
    printf("cluster %s  %s  %zu streams  %.0f events/s  %s/s\n\n", l->cluster.name[0] != '\0' ? l->cluster.name : "?", format_time(loop_wall_us(), now), l->n, rate,
           format_size((uint64_t)bytes, size));
    show_servers(l, before);
    fputs("\n", stdout);
    if (l->why.code != ERROR_NONE) {
        printf("the streams are not known: %s\n", l->why.text);
    } else {
        struct look sorted = *l; /* the next look needs them by name */
        sorted.streams = malloc((l->n + 1) * sizeof *sorted.streams);
        if (sorted.streams != NULL && l->n > 0) {
            memcpy(sorted.streams, l->streams, l->n * sizeof *sorted.streams);
            qsort(sorted.streams, l->n, sizeof *sorted.streams, by_rate);
            show_streams(&sorted);
        }
        free(sorted.streams);
    }
    if (!terminal) fputs("\n", stdout);
    fflush(stdout);
}

static void show_json(const struct look *l, const struct look *before)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *servers = yyjson_mut_arr(doc), *streams = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_uint(doc, root, "time_us", loop_wall_us());
    yyjson_mut_obj_add_uint(doc, root, "leader_id", l->cluster.leader_id);
    for (unsigned i = 0; i < l->cluster.n; i++) {
        const struct server *one = &l->cluster.servers[i];
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "address", one->address);
        yyjson_mut_obj_add_bool(doc, o, "reachable", one->reachable);
        if (one->reachable) {
            yyjson_mut_obj_add_uint(doc, o, "id", one->s.node_id);
            yyjson_mut_obj_add_str(doc, o, "role", one->role);
            yyjson_mut_obj_add_uint(doc, o, "applied_index", one->s.applied_index);
            yyjson_mut_obj_add_real(doc, o, "entries_per_s", applied_rate(l, before, one));
        }
        yyjson_mut_arr_append(servers, o);
    }
    for (size_t i = 0; i < l->n; i++) {
        yyjson_mut_val *o = yyjson_mut_obj(doc);
        yyjson_mut_obj_add_str(doc, o, "name", l->streams[i].name);
        yyjson_mut_obj_add_uint(doc, o, "last_offset", l->streams[i].last);
        yyjson_mut_obj_add_real(doc, o, "events_per_s", l->streams[i].rate);
        yyjson_mut_obj_add_real(doc, o, "bytes_per_s", l->streams[i].byte_rate);
        yyjson_mut_arr_append(streams, o);
    }
    yyjson_mut_obj_add_val(doc, root, "servers", servers);
    yyjson_mut_obj_add_val(doc, root, "streams", streams);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL, NULL);
    fputs("\n", stdout);
    fflush(stdout);
    yyjson_mut_doc_free(doc);
}

static void pause_ms(uint64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL); /* a signal ends it early, as it should */
}

static int run(const struct options *o)
{
    int status = EXIT_OK;
    bool once = (o->given & OPTION_ONCE) != 0, terminal = isatty(STDOUT_FILENO) == 1 && !once;
    struct look before = {0}, now = {0};
    struct sigaction act = {.sa_handler = on_signal};
    struct crsc_sync *s = open_client(o, &status);
    if (s == NULL) return status;
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    take_look(&before, s, o, &now);
    while (stopped == 0) {
        pause_ms(o->interval_ms);
        if (stopped != 0) break;
        take_look(&now, s, o, &before);
        if (o->json) show_json(&now, &before);
        else show(&now, &before, terminal);
        look_fini(&before);
        before = now;
        now = (struct look){0};
        if (once || ferror(stdout)) break;
    }
    status = before.cluster.leader_id != 0 ? EXIT_OK : EXIT_UNREACHABLE;
    look_fini(&before);
    crsc_sync_free(s);
    return status;
}

const struct verb verb_top = {
    .name = "top",
    .summary = "servers and the busiest streams, live",
    .help = "Usage: crsc-logctl top [--interval DURATION] [--once]\n"
            "Shows each server (how far it is, how fast it goes, how far it is behind) and the ten busiest streams, anew every second,\n"
            "until it is interrupted. BEHIND counts entries of the Raft log that are committed and not applied there.\n\n"
            "  --interval DURATION   between two looks, 100ms to 1m [1s]\n"
            "  --once                one picture, after one interval, then the end; also what to use in a pipe\n\n"
            "Examples:\n"
            "  crsc-logctl top\n"
            "  crsc-logctl top --once --output json | jq '.streams[] | select(.events_per_s > 0)'\n",
    .options = OPTION_INTERVAL | OPTION_ONCE,
    .run = run,
};
