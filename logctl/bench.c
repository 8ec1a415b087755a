/* bench: appends from closed-loop clients, then reads it all back, against a running cluster. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include <yyjson.h>

#include "client/crsc.h"
#include "common/loop.h"
#include "logctl/format.h"
#include "logctl/progress.h"
#include "logctl/verbs.h"

enum { SAMPLES_MAX = 1 << 24, TELL_MS = 100 };

struct bench;

struct writer {
    struct bench *bench;
    struct crsc_producer *producer;
    char stream[256];
    uint64_t sent_us;
    uint64_t last; /* offset */
};

struct bench {
    const struct options *o;
    uv_loop_t loop;
    uv_timer_t timer;
    struct crsc_client *client;
    struct crsc_follow *follow;
    struct writer *writers;
    unsigned opening, reading; /* how many are still to open; whose stream is being read */
    void *payload;
    uint32_t *us; /* of each append */
    size_t n, cap;
    uint64_t begun_us, ended_us, read_begun_us, read_us, read;
    struct progress progress;
    struct error e; /* code 0: none */
    bool stopping, closed;
};

static void on_closed(void *user)
{
    struct bench *b = user;
    uv_close((uv_handle_t *)&b->timer, NULL);
}

static void finish(struct bench *b)
{
    if (b->closed) return;
    b->closed = true;
    crsc_client_close(b->client, on_closed, b);
}

static void fail_with(struct bench *b, const struct error *e)
{
    if (b->closed) return;
    if (b->e.code == ERROR_NONE) b->e = *e;
    finish(b);
}

/* ---- reading back --------------------------------------------------------------------------------------------- */

static void read_next(struct bench *b);

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last_offset)
{
    struct bench *b = user;
    (void)last_offset;
    if (e != NULL) {
        fail_with(b, e);
        return;
    }
    b->read += n;
    progress_set(&b->progress, b->read);
    if (n == 0 || events[n - 1].offset < b->writers[b->reading].last) return;
    crsc_follow_cancel(b->follow);
    b->reading++;
    read_next(b);
}

static void read_next(struct bench *b)
{
    while (b->reading < b->o->clients && b->writers[b->reading].last == 0) b->reading++;
    if (b->reading == b->o->clients) {
        b->read_us = loop_monotonic_us() - b->read_begun_us;
        finish(b);
        return;
    }
    struct writer *w = &b->writers[b->reading];
    int rv = crsc_follow(b->client, w->stream, 1, on_events, b, &b->follow);
    struct error e;
    if (rv != 0) {
        error_set(&e, (enum error_code)-rv, "%s cannot be read", w->stream);
        fail_with(b, &e);
    }
}

/* ---- appending ------------------------------------------------------------------------------------------------ */

static void on_appended(void *user, const struct error *e, uint64_t offset);

static void append(struct writer *w)
{
    struct bench *b = w->bench;
    struct crsc_event event = {.kind = CRSC_MARK, .payload = b->payload, .size = (uint32_t)b->o->size};
    struct error e;
    w->sent_us = loop_monotonic_us();
    int rv = crsc_append(w->producer, &event, on_appended, w);
    if (rv == 0) return;
    error_set(&e, (enum error_code)-rv, "an append to %s was not taken", w->stream);
    fail_with(b, &e);
}

static void begin_reading(struct bench *b)
{
    b->ended_us = loop_monotonic_us();
    progress_end(&b->progress);
    uv_timer_stop(&b->timer);
    for (unsigned i = 0; i < b->o->clients; i++) crsc_producer_close(b->writers[i].producer);
    progress_begin(&b->progress, "reading back", PROGRESS_COUNT, b->n);
    b->read_begun_us = loop_monotonic_us();
    read_next(b);
}

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct writer *w = user;
    struct bench *b = w->bench;
    if (b->closed || b->ended_us != 0) return;
    if (e != NULL) {
        fail_with(b, e);
        return;
    }
    uint64_t now = loop_monotonic_us();
    w->last = offset;
    if (b->n == b->cap && b->cap < SAMPLES_MAX) {
        size_t cap = b->cap == 0 ? 1 << 16 : b->cap * 2;
        uint32_t *grown = realloc(b->us, cap * sizeof *grown);
        if (grown != NULL) b->us = grown, b->cap = cap;
    }
    if (b->n < b->cap) b->us[b->n++] = (uint32_t)(now - w->sent_us);
    else b->stopping = true; /* enough */
    w->sent_us = 0;
    if (!b->stopping) {
        append(w);
        return;
    }
    for (unsigned i = 0; i < b->o->clients; i++)
        if (b->writers[i].sent_us != 0) return; /* one is on its way still */
    begin_reading(b);
}

static void on_time(uv_timer_t *timer)
{
    struct bench *b = timer->data;
    uint64_t ms = (loop_monotonic_us() - b->begun_us) / 1000;
    progress_set(&b->progress, ms);
    if (ms >= b->o->seconds * 1000) b->stopping = true;
}

static void on_broken(void *user, const struct error *e)
{
    struct writer *w = user;
    fail_with(w->bench, e);
}

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last)
{
    struct writer *w = user;
    struct bench *b = w->bench;
    (void)epoch, (void)last;
    if (e != NULL) fail_with(b, e);
    if (b->closed || --b->opening > 0) return;
    progress_begin(&b->progress, "appending", PROGRESS_MS, b->o->seconds * 1000);
    b->begun_us = loop_monotonic_us();
    uv_timer_start(&b->timer, on_time, TELL_MS, TELL_MS);
    for (unsigned i = 0; i < b->o->clients && !b->closed; i++) append(&b->writers[i]);
}

static int begin(struct bench *b, struct error *e)
{
    const struct options *o = b->o;
    const char *prefix = o->argument != NULL ? o->argument : "crsc-bench";
    struct crsc_client_options options = {
        .servers = o->servers, .software = "crsc-logctl " CRSC_VERSION, .timeout_ms = o->timeout_ms,
        .tls_ca = o->tls_ca, .tls_cert = o->tls_cert, .tls_key = o->tls_key, .tls_name = o->tls_name};
    int rv = crsc_client_new(&b->loop, &options, &b->client, e);
    b->opening = (unsigned)o->clients;
    for (unsigned i = 0; rv == 0 && i < o->clients; i++) {
        struct writer *w = &b->writers[i];
        w->bench = b;
        /* streams of its own for each run: what is read back is what was written */
        snprintf(w->stream, sizeof w->stream, "%.200s/%" PRIx64 "-%u", prefix, loop_wall_us() / 1000000, i);
        rv = crsc_producer_open(b->client, w->stream, "crsc-logctl", false, on_opened, on_broken, w, &w->producer, e);
    }
    return rv;
}

/* ---- results -------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_ms(const struct bench *b, double part)
{
    if (b->n == 0) return 0;
    size_t i = (size_t)(part * (double)b->n);
    return (double)b->us[i < b->n ? i : b->n - 1] / 1000;
}

static void report(struct bench *b)
{
    const struct options *o = b->o;
    double seconds = (double)(b->ended_us - b->begun_us) / 1e6, read_s = (double)b->read_us / 1e6;
    double rate = seconds > 0 ? (double)b->n / seconds : 0, read_rate = read_s > 0 ? (double)b->read / read_s : 0;
    char size[FORMAT_SIZE_MAX];
    if (b->n > 0) qsort(b->us, b->n, sizeof *b->us, compare);
    if (!o->json) {
        printf("appended   %zu events of %s by %" PRIu64 " clients in %.2f s: %.0f/s, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, most %.2f ms\n", b->n,
               format_size(o->size, size), o->clients, seconds, rate, percentile_ms(b, 0.5), percentile_ms(b, 0.99), percentile_ms(b, 0.999),
               percentile_ms(b, 1));
        printf("read back  %" PRIu64 " events in %.2f s: %.0f/s\n", b->read, read_s, read_rate);
        return;
    }
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_uint(doc, root, "clients", o->clients);
    yyjson_mut_obj_add_uint(doc, root, "bytes", o->size);
    yyjson_mut_obj_add_uint(doc, root, "appends", b->n);
    yyjson_mut_obj_add_real(doc, root, "seconds", seconds);
    yyjson_mut_obj_add_real(doc, root, "appends_per_s", rate);
    yyjson_mut_obj_add_real(doc, root, "p50_ms", percentile_ms(b, 0.5));
    yyjson_mut_obj_add_real(doc, root, "p99_ms", percentile_ms(b, 0.99));
    yyjson_mut_obj_add_real(doc, root, "p999_ms", percentile_ms(b, 0.999));
    yyjson_mut_obj_add_uint(doc, root, "read", b->read);
    yyjson_mut_obj_add_real(doc, root, "read_per_s", read_rate);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_PRETTY, NULL, NULL);
    fputs("\n", stdout);
    yyjson_mut_doc_free(doc);
}

static int run(const struct options *o)
{
    struct bench b = {.o = o};
    struct error e = {0};
    int status = EXIT_FAILED;
    b.writers = calloc(o->clients, sizeof *b.writers);
    b.payload = calloc(1, o->size + 1);
    if (b.writers == NULL || b.payload == NULL) {
        error_set(&e, ERROR_NOMEM, "no memory for %llu clients", (unsigned long long)o->clients);
        status = fail(o, &e);
    } else {
        uv_loop_init(&b.loop);
        uv_timer_init(&b.loop, &b.timer);
        b.timer.data = &b;
        if (begin(&b, &e) != 0) {
            if (b.client != NULL) fail_with(&b, &e);
            else on_closed(&b), b.e = e;
        }
        uv_run(&b.loop, UV_RUN_DEFAULT); /* until the client is closed */
        uv_loop_close(&b.loop);
        progress_end(&b.progress);
        if (b.e.code != ERROR_NONE) status = fail(o, &b.e);
        else report(&b), status = EXIT_OK;
    }
    free(b.us);
    free(b.writers);
    free(b.payload);
    return status;
}

const struct verb verb_bench = {
    .name = "bench",
    .summary = "how fast this cluster appends and reads",
    .help = "Usage: crsc-logctl bench [PREFIX] [--clients N] [--size SIZE] [--seconds N]\n"
            "Appends for 10 seconds from 64 clients, each with one append outstanding, to streams of their own that begin with PREFIX\n"
            "(crsc-bench), then reads it all back. Each append counts from its call to its answer: it is on a majority's disks.\n"
            "What it wrote stays: crsc-logctl trim drops it. It needs the role producer, for those streams, or admin.\n\n"
            "  --clients N   1 to 4096 [64]\n"
            "  --size SIZE   of an event, at most 8MiB [1KiB]\n"
            "  --seconds N   of appending, at most an hour [10]\n\n"
            "Examples:\n"
            "  crsc-logctl bench\n"
            "  crsc-logctl bench --clients 1 --seconds 5 --output json | jq .p50_ms\n",
    .options = OPTION_CLIENTS | OPTION_SIZE | OPTION_SECONDS,
    .argument = 2,
    .run = run,
};
