/* crsc-appendload: keeps appending from many producers, notes every acknowledgement, and later checks that the log
 * kept its word (--verify). For tests of the log under failures, and for measuring it. */
#include "client/appendload.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/crsc.h"
#include "common/loop.h"

enum { SUB = 32, BUCKETS = 64 * SUB };

/* Latencies in buckets of about 3 %, so that memory does not grow with the run. */
struct histogram {
    uint64_t counts[BUCKETS], total;
};

struct load;

struct writer {
    struct load *load;
    struct crsc_producer *producer;
    char stream[256], name[LOAD_NAME_MAX];
    uint64_t next;
    unsigned outstanding;
    bool open;
};

struct pending {
    struct writer *writer;
    uint64_t number, begun_us;
};

struct load {
    const struct load_options *o;
    uv_loop_t loop;
    struct crsc_client *client;
    struct loop_signals signals;
    uv_timer_t pace, end;
    FILE *out;
    struct writer *writers;
    unsigned opening, turn;
    char *payload;
    struct histogram latency;
    uint64_t begun_us, measure_us, ended_us, issued, acked, measured, failed; /* measure_us: the warm-up's end */
    bool stopping, broke;
};

static unsigned bucket_of(uint64_t us)
{
    if (us < SUB) return (unsigned)us;
    unsigned top = 63 - (unsigned)__builtin_clzll(us), shift = top - 5;
    return (top - 4) * SUB + (unsigned)((us >> shift) - SUB);
}

static uint64_t bucket_value(unsigned bucket)
{
    if (bucket < SUB) return bucket;
    return ((uint64_t)SUB + bucket % SUB) << (bucket / SUB - 1);
}

static uint64_t percentile(const struct histogram *h, unsigned per_mille)
{
    uint64_t want = (h->total * per_mille + 999) / 1000, seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((seen += h->counts[i]) >= want && seen > 0) return bucket_value(i);
    return 0;
}

uint32_t load_payload(char *to, const char *name, uint64_t number, uint32_t size)
{
    uint32_t n = (uint32_t)sprintf(to, "%s %" PRIu64 " ", name, number);
    uint32_t begin = n;
    for (; n < size && n < begin + 26; n++) to[n] = (char)('a' + (n + number) % 26);
    while (n < size) { /* the same 26 again and again: in pieces that double, as this is done for each append of a measurement */
        uint32_t there = (n - begin) / 26 * 26, part = size - n < there ? size - n : there;
        memcpy(to + n, to + begin, part);
        n += part;
    }
    return n;
}

int load_payload_check(const char *payload, uint32_t size, char ret_name[static LOAD_NAME_MAX], uint64_t *ret_number)
{
    uint32_t n = 0;
    uint64_t number = 0;
    while (n < size && n < LOAD_NAME_MAX - 1 && payload[n] != ' ') {
        ret_name[n] = payload[n];
        n++;
    }
    ret_name[n] = '\0';
    if (n == 0 || n >= size || payload[n++] != ' ') return -1;
    for (; n < size && payload[n] >= '0' && payload[n] <= '9'; n++) number = number * 10 + (uint64_t)(payload[n] - '0');
    if (n >= size || payload[n++] != ' ' || number == 0) return -1;
    for (; n < size; n++)
        if (payload[n] != (char)('a' + (n + number) % 26)) return -1;
    *ret_number = number;
    return 0;
}

/* ---- appending ------------------------------------------------------------------------------------------------ */

static void on_closed(void *user)
{
    struct load *l = user;
    uv_close((uv_handle_t *)&l->pace, NULL);
    uv_close((uv_handle_t *)&l->end, NULL);
    loop_signals_stop(&l->signals);
}

static void maybe_end(struct load *l)
{
    if (!l->stopping || l->ended_us > 0) return;
    for (unsigned i = 0; i < l->o->producers; i++)
        if (l->writers[i].outstanding > 0) return;
    l->ended_us = loop_monotonic_us();
    crsc_client_close(l->client, on_closed, l);
}

static void stop(void *user)
{
    struct load *l = user;
    l->stopping = true;
    maybe_end(l);
}

static void pump(struct load *l);
static bool append(struct writer *w);

static void on_appended(void *user, const struct error *e, uint64_t offset)
{
    struct pending *p = user;
    struct writer *w = p->writer;
    struct load *l = w->load;
    w->outstanding--;
    if (e == NULL) {
        uint64_t now = loop_monotonic_us();
        l->acked++;
        if (now >= l->measure_us) {
            l->measured++;
            l->latency.total++;
            l->latency.counts[bucket_of(now - p->begun_us)]++;
        }
        fprintf(l->out, "%s %" PRIu64 " %" PRIu64 " %s/%" PRIu64 "\n", w->stream, offset, p->number, w->name,
                p->number);
    } else {
        l->failed++;
    }
    free(p);
    if (l->ended_us > 0) return;
    maybe_end(l);
    if (e != NULL || l->ended_us > 0) return;
    if (l->o->rate > 0 || l->opening > 0) pump(l);
    else if (!l->stopping && !append(w)) maybe_end(l); /* a closed loop: the next of the same writer */
}

/* One append of this writer's. False when it has to wait for answers. */
static bool append(struct writer *w)
{
    struct load *l = w->load;
    if (!w->open || w->outstanding >= l->o->window) return false;
    if (l->o->count > 0 && l->issued == l->o->count) {
        l->stopping = true; /* who calls looks whether that was the end */
        return false;
    }
    struct pending *p = malloc(sizeof *p);
    if (p == NULL) return false;
    *p = (struct pending){.writer = w, .number = w->next, .begun_us = loop_monotonic_us()};
    struct crsc_event e = {.kind = CRSC_REQUEST, .payload = l->payload};
    e.size = load_payload(l->payload, w->name, w->next, l->o->size);
    if (crsc_append(w->producer, &e, on_appended, p) != 0) {
        free(p);
        return false;
    }
    w->next++;
    w->outstanding++;
    l->issued++;
    return true;
}

/* Every writer in turn, until all wait or the rate allows no more. */
static void pump(struct load *l)
{
    unsigned waiting = 0, n = l->o->producers;
    while (!l->stopping && l->opening == 0 && waiting < n) {
        if (l->o->rate > 0 && l->issued >= (loop_monotonic_us() - l->begun_us) * l->o->rate / 1000000) return;
        waiting = append(&l->writers[l->turn]) ? 0 : waiting + 1;
        l->turn = (l->turn + 1) % n;
    }
    maybe_end(l);
}

static void on_pace(uv_timer_t *timer)
{
    pump(timer->data);
}

static void on_end(uv_timer_t *timer)
{
    stop(timer->data);
}

static void on_broken(void *user, const struct error *e)
{
    struct writer *w = user;
    fprintf(stderr, "crsc-appendload: producer %s of %s broke: %s (%s)\n", w->name, w->stream, e->text,
            error_name((int)e->code));
    w->open = false;
    w->load->broke = true;
}

static void on_opened(void *user, const struct error *e, uint64_t epoch, uint64_t last)
{
    struct writer *w = user;
    struct load *l = w->load;
    (void)epoch, (void)last;
    l->opening--;
    if (l->ended_us > 0) return;
    if (e != NULL) {
        on_broken(w, e);
        l->stopping = true;
    } else {
        w->open = true;
    }
    if (l->opening > 0) return;
    l->begun_us = loop_monotonic_us();
    l->measure_us = l->begun_us + (uint64_t)(l->o->warmup * 1e6);
    uv_timer_start(&l->end, on_end, (uint64_t)((l->o->warmup + l->o->seconds) * 1000), 0);
    if (l->o->rate > 0) uv_timer_start(&l->pace, on_pace, 1, 1);
    maybe_end(l);
    if (l->ended_us == 0) pump(l);
}

static int begin(struct load *l, struct error *e)
{
    struct crsc_client_options options = {
        .servers = l->o->servers, .software = "crsc-appendload " CRSC_VERSION, .timeout_ms = l->o->timeout_ms,
        .tls_ca = l->o->tls_ca, .tls_cert = l->o->tls_cert, .tls_key = l->o->tls_key};
    uint64_t run = loop_wall_us() ^ (uint64_t)getpid() << 40;
    int rv = crsc_client_new(&l->loop, &options, &l->client, e);
    for (unsigned i = 0; rv == 0 && i < l->o->producers; i++) {
        struct writer *w = &l->writers[i];
        *w = (struct writer){.load = l, .next = 1};
        snprintf(w->stream, sizeof w->stream, "%s-%u", l->o->stream, i);
        snprintf(w->name, sizeof w->name, "%" PRIx64 "-%u", run, i);
        l->opening++;
        rv = crsc_producer_open(l->client, w->stream, w->name, false, on_opened, on_broken, w, &w->producer, e);
    }
    return rv;
}

static int run(const struct load_options *o)
{
    struct load l = {.o = o};
    struct error e;
    l.out = fopen(o->out, "w");
    l.writers = calloc(o->producers, sizeof *l.writers);
    l.payload = malloc((size_t)o->size + LOAD_NAME_MAX + 24);
    if (l.out == NULL || l.writers == NULL || l.payload == NULL) {
        fprintf(stderr, "crsc-appendload: cannot write %s\n", o->out);
        free(l.writers);
        free(l.payload);
        if (l.out != NULL) fclose(l.out);
        return 1;
    }
    struct stat st;
    if (fstat(fileno(l.out), &st) == 0 && S_ISREG(st.st_mode)) setvbuf(l.out, NULL, _IOLBF, 0); /* whoever kills us has every line */
    uv_loop_init(&l.loop);
    uv_timer_init(&l.loop, &l.pace);
    uv_timer_init(&l.loop, &l.end);
    l.pace.data = l.end.data = &l;
    loop_signals_start(&l.loop, &l.signals, stop, &l);
    int rv = begin(&l, &e);
    if (rv != 0) {
        fprintf(stderr, "crsc-appendload: %s\n", e.text);
        l.ended_us = loop_monotonic_us();
        if (l.client != NULL)
            crsc_client_close(l.client, on_closed, &l);
        else
            on_closed(&l);
    }
    uv_run(&l.loop, UV_RUN_DEFAULT); /* until on_closed() has closed the rest too */
    uv_loop_close(&l.loop);
    bool written = fclose(l.out) == 0;
    double seconds = (double)(l.ended_us - l.measure_us) / 1e6;
    printf("{\"acked\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"measured\":%" PRIu64 ",\"seconds\":%.3f,\"p50_us\":%" PRIu64
           ",\"p99_us\":%" PRIu64 ",\"p999_us\":%" PRIu64 "}\n",
           l.acked, l.failed, l.measured, l.begun_us > 0 ? seconds : 0.0, percentile(&l.latency, 500), percentile(&l.latency, 990),
           percentile(&l.latency, 999));
    free(l.writers);
    free(l.payload);
    return rv == 0 && written && !l.broke && l.failed == 0 ? 0 : 1;
}

/* ---- the command line ----------------------------------------------------------------------------------------- */

static const char usage[] =
    "Usage: crsc-appendload --stream S --out FILE [OPTION...]\n"
    "       crsc-appendload --verify --stream S --out FILE [OPTION...]\n"
    "       crsc-appendload --read --stream S [OPTION...]\n"
    "Appends from P producers to the streams S-0 .. S-(P-1), and writes a line to FILE for each acknowledged append:\n"
    "STREAM OFFSET NUMBER ID. With --verify it reads the streams from each server by itself and checks that every line "
    "of FILE is\n"
    "there, that offsets are dense, that no id is there twice, and that all servers hold the same. With --read it follows the\n"
    "streams from beginning to end, one after the other, and says how long that took.\n\n"
    "  --servers LIST    host:port,...            [127.0.0.1:7400]\n"
    "  --producers P     one stream each          [1]\n"
    "  --window W        unanswered, per producer [64]\n"
    "  --seconds T                                [5]\n"
    "  --warmup T        seconds before those, not measured [0]\n"
    "  --count N         appends in all; 0: until the seconds are over [0]\n"
    "  --rate R          events/s, all together; 0: as fast as it goes [0]\n"
    "  --size B          bytes of payload         [100]\n"
    "  --tls-ca, --tls-cert, --tls-key FILE   as in crsc-logctl [$CRSC_TLS_CA, $CRSC_TLS_CERT, $CRSC_TLS_KEY]\n"
    "  --timeout S       seconds until an append is given up; --verify: until the servers must agree [30]\n\n"
    "Exit status: 0 fine, 1 a producer broke or a check failed, 2 usage, 3 a server could not be read.\n";

static int parse(int argc, char **argv, struct load_options *o)
{
    enum { SERVERS = 1, STREAM, OUT, PRODUCERS, WINDOW, SECONDS, RATE, SIZE, TIMEOUT, VERIFY, READ, WARMUP, COUNT, HELP, TLS_CA, TLS_CERT, TLS_KEY };
    static const struct option known[] = {
        {"servers", 1, 0, SERVERS}, {"stream", 1, 0, STREAM},   {"out", 1, 0, OUT},   {"producers", 1, 0, PRODUCERS},
        {"window", 1, 0, WINDOW},   {"seconds", 1, 0, SECONDS}, {"rate", 1, 0, RATE}, {"size", 1, 0, SIZE},
        {"timeout", 1, 0, TIMEOUT}, {"verify", 0, 0, VERIFY}, {"read", 0, 0, READ}, {"warmup", 1, 0, WARMUP}, {"count", 1, 0, COUNT}, {"help", 0, 0, HELP},
        {"tls-ca", 1, 0, TLS_CA}, {"tls-cert", 1, 0, TLS_CERT}, {"tls-key", 1, 0, TLS_KEY}, {0, 0, 0, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case SERVERS: o->servers = optarg; break;
        case STREAM: o->stream = optarg; break;
        case OUT: o->out = optarg; break;
        case PRODUCERS: o->producers = (unsigned)strtoul(optarg, NULL, 10); break;
        case WINDOW: o->window = (unsigned)strtoul(optarg, NULL, 10); break;
        case SECONDS: o->seconds = strtod(optarg, NULL); break;
        case RATE: o->rate = strtoull(optarg, NULL, 10); break;
        case SIZE: o->size = (uint32_t)strtoul(optarg, NULL, 10); break;
        case TIMEOUT: o->timeout_ms = (uint32_t)(strtod(optarg, NULL) * 1000); break;
        case VERIFY: o->verify = true; break;
        case COUNT: o->count = strtoull(optarg, NULL, 10); break;
        case READ: o->read = true; break;
        case WARMUP: o->warmup = strtod(optarg, NULL); break;
        case TLS_CA: o->tls_ca = optarg; break;
        case TLS_CERT: o->tls_cert = optarg; break;
        case TLS_KEY: o->tls_key = optarg; break;
        case HELP: fputs(usage, stdout); exit(0);
        default: return -1;
        }
    }
    bool sane = optind == argc && o->stream != NULL && (o->out != NULL || o->read) && o->producers >= 1 &&
                o->producers <= LOAD_PRODUCERS_MAX && o->window >= 1 && o->seconds > 0 && o->warmup >= 0 && o->size <= LOAD_SIZE_MAX &&
                o->timeout_ms > 0;
    return sane ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct load_options o = {
        .servers = "127.0.0.1:7400", .producers = 1, .window = 64, .seconds = 5, .size = 100, .timeout_ms = 30000,
        .tls_ca = getenv("CRSC_TLS_CA"), .tls_cert = getenv("CRSC_TLS_CERT"), .tls_key = getenv("CRSC_TLS_KEY")};
    if (parse(argc, argv, &o) != 0) {
        fputs(usage, stderr);
        return 2;
    }
    return o.read ? load_read(&o) : o.verify ? load_verify(&o) : run(&o);
}
