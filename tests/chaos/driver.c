/* Clients for the chaos test: each does one operation after the other on the log, chosen at random, and writes when it began, when it
 * ended and what it was told. An independent checker (linearizable/, on Porcupine) then looks for one order of all of them that
 * explains every answer.
 *
 *   chaos-driver --servers A,B,C --out FILE --clients N --seconds S --seed N
 *
 * Stream chaos/f takes opens, appends and fences; chaos/s snapshot records and questions for the latest; status asks the leader. A line:
 *   {"client":3,"op":"append","call":12,"return":57,"epoch":4,"value":17,"outcome":"ok"}
 * Times are microseconds of one clock. outcome: ok; fenced (an append: it may have had its effect before the fence, and
 * will not have it later); unknown (it may have had its effect, or have it later).
 * A question that failed is not written: it says nothing. */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/crsc.h"
#include "common/loop.h"

enum { CLIENTS_MAX = 64, TIMEOUT_MS = 8000 };
static const char stream_f[] = "chaos/f", stream_s[] = "chaos/s";

struct worker {
    struct driver *driver;
    unsigned number;
    struct crsc_client *client;
    struct crsc_producer *producer;
    bool opened;
    uint64_t epoch, begun_us, argument, turns;
    char name[32];
    uv_timer_t pause;
};

struct driver {
    uv_loop_t loop;
    uv_timer_t end;
    struct worker workers[CLIENTS_MAX];
    unsigned n, closing;
    uint64_t seed, written, newest_epoch, newest_offset;
    double seconds;
    const char *servers;
    FILE *out;
    bool stopping;
};

static uint64_t random_next(struct driver *d)
{
    d->seed ^= d->seed << 13, d->seed ^= d->seed >> 7, d->seed ^= d->seed << 17;
    return d->seed;
}

static void note(struct worker *w, const char *op, uint64_t epoch, uint64_t value, const char *outcome)
{
    fprintf(w->driver->out, "{\"client\":%u,\"op\":\"%s\",\"call\":%" PRIu64 ",\"return\":%" PRIu64 ",\"epoch\":%" PRIu64 ",\"value\":%" PRIu64
            ",\"outcome\":\"%s\"}\n", w->number, op, w->begun_us, loop_monotonic_us(), epoch, value, outcome);
    w->driver->written++;
}

static void next(uv_timer_t *timer);

static void rest(struct worker *w)
{
    if (!w->driver->stopping) uv_timer_start(&w->pause, next, 2 + random_next(w->driver) % 20, 0);
}

static const char *outcome_of(const struct error *e)
{
    return e == NULL ? "ok" : e->code == ERROR_FENCED ? "fenced" : "unknown";
}

/* ---- stream f --------------------------------------------------------------------------------------------------- */

static void give_up(struct worker *w)
{
    if (w->producer != NULL) crsc_producer_close(w->producer);
    w->producer = NULL;
    w->opened = false;
}

static void on_broken(void *user, const struct error *e)
{
    (void)user, (void)e; /* each outstanding append is answered too */
}

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last_offset)
{
    struct worker *w = user;
    (void)last_offset;
    if (w->driver->stopping) return;
    if (e == NULL) {
        note(w, "open", epoch, 0, "ok");
        w->opened = true;
        w->epoch = epoch;
        if (epoch > w->driver->newest_epoch) w->driver->newest_epoch = epoch;
    } else {
        give_up(w);
    }
    rest(w);
}

static void open_producer(struct worker *w)
{
    struct error e;
    /* shared, and under a name that nobody else ever uses: an opening that was repeated on the way fences nobody else */
    snprintf(w->name, sizeof w->name, "w%u-%" PRIu64, w->number, w->turns);
    if (crsc_producer_open(w->client, stream_f, w->name, true, on_opened, on_broken, w, &w->producer, &e) != 0) rest(w);
}

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct worker *w = user;
    if (w->driver->stopping && e != NULL) {
        note(w, "append", w->epoch, 0, "unknown");
        return;
    }
    note(w, "append", w->epoch, e == NULL ? offset : 0, outcome_of(e));
    if (e != NULL) w->opened = false; /* the producer is closed outside of its own callback */
    else if (offset > w->driver->newest_offset) w->driver->newest_offset = offset;
    rest(w);
}

static void on_fenced(void *user, const struct error *e, uint64_t epoch)
{
    struct worker *w = user;
    note(w, "fence", w->argument, e == NULL ? epoch : 0, outcome_of(e));
    rest(w);
}

/* ---- stream s, status --------------------------------------------------------------------------------------------- */

static void on_recorded(void *user, const struct error *e, const struct crsc_snapshot *s, size_t n)
{
    struct worker *w = user;
    (void)s, (void)n;
    if (e == NULL || e->code == ERROR_TIMEOUT || e->code == ERROR_UNAVAILABLE || e->code == ERROR_CANCELED)
        note(w, "record", 0, w->argument, outcome_of(e));
    else
        fprintf(stderr, "chaos-driver: record %" PRIu64 ": %s\n", w->argument, e->text);
    rest(w);
}

static void on_latest(void *user, const struct error *e, const struct crsc_snapshot *s, size_t n)
{
    struct worker *w = user;
    if (e == NULL && n == 1) note(w, "latest", 0, s->offset, "ok");
    else if (e != NULL && e->code == ERROR_NOT_FOUND) note(w, "latest", 0, 0, "ok");
    rest(w);
}

static void on_status(void *user, const struct error *e, const struct crsc_status *s)
{
    struct worker *w = user;
    if (e == NULL) note(w, "status", 0, s->commit_index, "ok");
    rest(w);
}

static void record(struct worker *w)
{
    char id[48];
    w->argument = 1 + random_next(w->driver) % 1000000;
    snprintf(id, sizeof id, "s%u-%" PRIu64, w->number, w->turns);
    struct crsc_snapshot s = {.stream = stream_s, .id = id, .offset = w->argument, .state = CRSC_VALID, .image = "image", .sha256 = "sha256",
                              .node = "node", .template_hash = "hash"};
    if (crsc_record_snapshot(w->client, &s, on_recorded, w) != 0) rest(w);
}

static void next(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    struct driver *d = w->driver;
    struct crsc_event event = {.kind = CRSC_REQUEST, .payload = w->name, .size = (uint32_t)strlen(w->name)};
    uint64_t dice = random_next(d) % 100;
    w->turns++;
    w->begun_us = loop_monotonic_us();
    if (w->producer != NULL && !w->opened) give_up(w);
    if (dice < 10) {
        record(w);
    } else if (dice < 30) {
        if (crsc_latest_snapshot(w->client, stream_s, NULL, on_latest, w) != 0) rest(w);
    } else if (dice < 35) {
        if (crsc_status(w->client, NULL, on_status, w) != 0) rest(w);
    } else if (dice < 38) {
        w->argument = d->newest_epoch > 4 ? d->newest_epoch - random_next(d) % 4 : 1;
        if (crsc_fence(w->client, stream_f, w->argument, on_fenced, w) != 0) rest(w);
    } else if (!w->opened) {
        open_producer(w);
    } else if (crsc_append(w->producer, &event, on_appended, w) != 0) {
        w->opened = false;
        rest(w);
    }
}

/* ---- the whole ---------------------------------------------------------------------------------------------------- */

static void on_client_closed(void *user)
{
    struct worker *w = user;
    if (--w->driver->closing == 0) uv_close((uv_handle_t *)&w->driver->end, NULL);
}

static void on_end(uv_timer_t *timer)
{
    struct driver *d = timer->data;
    d->stopping = true;
    d->closing = d->n;
    for (unsigned i = 0; i < d->n; i++) {
        struct worker *w = &d->workers[i];
        uv_close((uv_handle_t *)&w->pause, NULL);
        crsc_client_close(w->client, on_client_closed, w); /* what was under way is told as canceled: unknown */
    }
}

static int run(struct driver *d)
{
    struct error e;
    uv_loop_init(&d->loop);
    uv_timer_init(&d->loop, &d->end);
    d->end.data = d;
    for (unsigned i = 0; i < d->n; i++) {
        struct worker *w = &d->workers[i];
        struct crsc_client_options o = {.servers = d->servers, .software = "chaos-driver", .timeout_ms = TIMEOUT_MS};
        *w = (struct worker){.driver = d, .number = i};
        if (crsc_client_new(&d->loop, &o, &w->client, &e) != 0) {
            fprintf(stderr, "chaos-driver: %s\n", e.text);
            return 1;
        }
        uv_timer_init(&d->loop, &w->pause);
        w->pause.data = w;
        rest(w);
    }
    uv_timer_start(&d->end, on_end, (uint64_t)(d->seconds * 1000), 0);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    uv_loop_close(&d->loop);
    printf("{\"operations\":%" PRIu64 "}\n", d->written);
    return fclose(d->out) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct driver d = {.n = 8, .seconds = 10, .seed = 1};
    static const struct option known[] = {{"servers", 1, 0, 's'}, {"out", 1, 0, 'o'},  {"clients", 1, 0, 'c'},
                                          {"seconds", 1, 0, 't'}, {"seed", 1, 0, 'r'}, {0, 0, 0, 0}};
    const char *out = NULL;
    signal(SIGPIPE, SIG_IGN); /* crsc.h: a server may be killed while it is written to */
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 's': d.servers = optarg; break;
        case 'o': out = optarg; break;
        case 'c': d.n = (unsigned)strtoul(optarg, NULL, 10); break;
        case 't': d.seconds = strtod(optarg, NULL); break;
        case 'r': d.seed = strtoull(optarg, NULL, 10) * 2654435761u + 1; break;
        default: return 2;
        }
    }
    if (d.servers == NULL || out == NULL || d.n < 1 || d.n > CLIENTS_MAX || (d.out = fopen(out, "w")) == NULL) {
        fprintf(stderr, "usage: chaos-driver --servers A,B,C --out FILE [--clients 1..%d] [--seconds S] [--seed N]\n", CLIENTS_MAX);
        return 2;
    }
    return run(&d);
}
