/* crsc-appendload --verify: reads every stream from every server by itself and checks what the log promises:
 * L1 each acknowledged append is there, at its offset, unchanged; L2 offsets are dense and the content is the same on
 * every server; L3 nothing is there twice. */
#include "client/appendload.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/sync.h"
#include "common/loop.h"

enum { FINDINGS_SHOWN = 20 };

struct numbers { /* a growing array */
    uint64_t *at;
    size_t n, cap;
};

struct acked { /* a line of the file */
    uint64_t offset, number;
    char name[LOAD_NAME_MAX];
};

struct check {
    const struct load_options *o;
    const char *server;
    char stream[256];
    struct acked *acked; /* of this stream, by offset */
    size_t n_acked, cap_acked, next_acked;
    uint64_t offset;                       /* last seen */
    struct numbers digests, first_digests; /* of this server's events, of the first server's */
    struct numbers ids;
    uint64_t events, lines;
    unsigned findings;
};

static void finding(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void finding(struct check *c, const char *format, ...)
{
    va_list args;
    if (++c->findings > FINDINGS_SHOWN) return;
    printf("VIOLATION %s %s: ", c->server, c->stream);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static void *grow(void *at, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return at;
    *cap = *cap > 0 ? *cap * 2 : 1024;
    void *grown = realloc(at, *cap * size);
    if (grown == NULL) {
        fputs("crsc-appendload: out of memory\n", stderr);
        exit(1);
    }
    return grown;
}

static void add(struct numbers *a, uint64_t number)
{
    a->at = grow(a->at, a->n, &a->cap, sizeof *a->at);
    a->at[a->n++] = number;
}

static uint64_t digest(uint64_t d, const void *data, size_t len) /* FNV-1a */
{
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) d = (d ^ p[i]) * 0x100000001b3u;
    return d;
}

static int by_offset(const void *a, const void *b)
{
    const struct acked *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The file's lines of one stream. 0, or -1 when it cannot be read. */
static int load_lines(struct check *c)
{
    FILE *in = fopen(c->o->out, "r");
    char line[512], stream[256], id[LOAD_NAME_MAX + 32];
    c->n_acked = 0;
    if (in == NULL) return -1;
    while (fgets(line, sizeof line, in) != NULL) {
        struct acked a;
        if (strchr(line, '\n') == NULL) break; /* a last line cut short by a kill was acknowledged to nobody */
        if (sscanf(line, "%255s %" SCNu64 " %" SCNu64 " %71s", stream, &a.offset, &a.number, id) != 4) {
            finding(c, "unreadable line in %s: %s", c->o->out, line);
            continue;
        }
        if (strcmp(stream, c->stream) != 0) continue;
        snprintf(a.name, sizeof a.name, "%.*s", (int)strcspn(id, "/"), id);
        c->acked = grow(c->acked, c->n_acked, &c->cap_acked, sizeof *c->acked);
        c->acked[c->n_acked++] = a;
    }
    fclose(in);
    if (c->n_acked > 0) qsort(c->acked, c->n_acked, sizeof *c->acked, by_offset); /* qsort takes no NULL, C17 7.22.5 */
    for (size_t i = 1; i < c->n_acked; i++)
        if (c->acked[i].offset == c->acked[i - 1].offset)
            finding(c, "offset %" PRIu64 " was acknowledged twice", c->acked[i].offset);
    return 0;
}

static void check_event(struct check *c, const struct crsc_event *e)
{
    char name[LOAD_NAME_MAX];
    uint64_t number = 0, head[5] = {e->kind, e->after, e->ref, e->epoch, e->sequence};
    if (e->offset != c->offset + 1) finding(c, "offset %" PRIu64 " follows %" PRIu64, e->offset, c->offset);
    c->offset = e->offset;
    c->events++;
    add(&c->digests, digest(digest(0xcbf29ce484222325u, head, sizeof head), e->payload, e->size));
    if (load_payload_check(e->payload, e->size, name, &number) != 0) {
        finding(c, "the event at %" PRIu64 " holds bytes that nobody appended", e->offset);
        return;
    }
    add(&c->ids, digest(digest(0xcbf29ce484222325u, name, strlen(name) + 1), &number, sizeof number));
    while (c->next_acked < c->n_acked && c->acked[c->next_acked].offset == e->offset) {
        const struct acked *a = &c->acked[c->next_acked++];
        c->lines++;
        if (a->number != number || strcmp(a->name, name) != 0)
            finding(c, "offset %" PRIu64 " was acknowledged for %s/%" PRIu64 " and holds %s/%" PRIu64, e->offset,
                    a->name, a->number, name, number);
    }
}

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last)
{
    struct check *c = user;
    (void)e, (void)last;
    for (size_t i = 0; i < n; i++) check_event(c, &events[i]);
}

static void check_end(struct check *c, bool first)
{
    for (; c->next_acked < c->n_acked; c->next_acked++)
        finding(c, "the append acknowledged at offset %" PRIu64 " is lost", c->acked[c->next_acked].offset);
    if (c->ids.n > 0) qsort(c->ids.at, c->ids.n, sizeof *c->ids.at, by_value);
    for (size_t i = 1; i < c->ids.n; i++)
        if (c->ids.at[i] == c->ids.at[i - 1])
            finding(c, "a payload is there twice (its digest is %" PRIx64 ")", c->ids.at[i]);
    if (first) {
        struct numbers swap = c->first_digests;
        c->first_digests = c->digests;
        c->digests = swap;
        return;
    }
    if (c->digests.n != c->first_digests.n)
        finding(c, "%zu events, the first server has %zu", c->digests.n, c->first_digests.n);
    for (size_t i = 0; i < c->digests.n && i < c->first_digests.n; i++)
        if (c->digests.at[i] != c->first_digests.at[i])
            finding(c, "the event at offset %zu is not the first server's", i + 1);
}

/* 0, or 3 when the server cannot be read. */
static int check_stream(struct check *c, struct crsc_sync *s, bool first)
{
    struct error e;
    c->offset = 0;
    c->next_acked = 0;
    c->digests.n = c->ids.n = 0;
    uint64_t before;
    do {
        before = c->offset;
        int rv = crsc_sync_read(s, c->stream, c->offset + 1, 0, 4 << 20, on_events, c, &e);
        if (rv == -ERROR_NOT_FOUND && c->n_acked == 0) break; /* nobody got to write it */
        if (rv != 0) {
            printf("UNREADABLE %s %s: %s\n", c->server, c->stream, e.text);
            return 3;
        }
    } while (c->offset > before);
    check_end(c, first);
    return 0;
}

/* ---- waiting until all have the same ends --------------------------------------------------------------------- */

struct ends {
    const struct load_options *o;
    uint64_t last[LOAD_PRODUCERS_MAX];
};

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    struct ends *ends = user;
    size_t prefix = strlen(ends->o->stream);
    (void)e;
    for (size_t i = 0; i < n; i++) {
        char *end;
        if (strncmp(streams[i].name, ends->o->stream, prefix) != 0 || streams[i].name[prefix] != '-') continue;
        unsigned long k = strtoul(streams[i].name + prefix + 1, &end, 10);
        if (*end == '\0' && k < ends->o->producers) ends->last[k] = streams[i].last_offset;
    }
}

/* What a new leader found in its log is committed, and so in the streams, only with its first own entry. */
struct tail {
    uint64_t leader, term, last; /* its log's end when it was first seen to lead */
    bool applied;
};

static void on_leader(void *user, const struct error *e, const struct crsc_status *status)
{
    struct tail *t = user;
    if (e != NULL || strcmp(status->role, "leader") != 0) return;
    if (t->leader != status->node_id || t->term != status->term)
        *t = (struct tail){.leader = status->node_id, .term = status->term, .last = status->last_index};
    t->applied = status->applied_index >= t->last || status->alarm[0] != '\0'; /* a full disk: what is there can be read */
}

/* True if none of them leads, too. */
static bool leader_is_ready(struct tail *t, struct crsc_sync **servers, char **names, unsigned n)
{
    struct error e;
    for (unsigned i = 0; i < n; i++) crsc_sync_status(servers[i], names[i], on_leader, t, &e);
    return t->leader == 0 || t->applied;
}

/* Servers that were down catch up: until all report the same, or the time is over. */
static int wait_for_agreement(const struct load_options *o, struct crsc_sync **servers, char **names, unsigned n)
{
    uint64_t until = loop_monotonic_us() + (uint64_t)o->timeout_ms * 1000;
    struct ends *first = calloc(1, sizeof *first), *other = calloc(1, sizeof *other);
    struct error e = {0};
    struct tail tail = {0};
    int status = 3;
    while (first != NULL && other != NULL) {
        bool same = leader_is_ready(&tail, servers, names, n);
        if (!same) error_set(&e, ERROR_TIMEOUT, "the leader, server %" PRIu64 ", has not applied what it found in its log", tail.leader);
        for (unsigned i = 0; i < n && same; i++) {
            struct ends *ends = i == 0 ? first : other;
            *ends = (struct ends){.o = o};
            if (crsc_sync_streams(servers[i], o->stream, on_streams, ends, &e) != 0) {
                same = false;
                error_prefix(&e, "%s", names[i]);
            } else if (i > 0 && memcmp(first->last, other->last, sizeof first->last) != 0) {
                same = false;
                error_set(&e, ERROR_TIMEOUT, "%s is not where %s is", names[i], names[0]);
            }
        }
        if (same) status = 0;
        if (same || loop_monotonic_us() > until) break;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    if (status != 0) printf("UNREADABLE the servers do not come to agree: %s\n", e.text);
    free(first);
    free(other);
    return status;
}

static int verify_all(struct check *c, struct crsc_sync **servers, char **names, unsigned n)
{
    int status = wait_for_agreement(c->o, servers, names, n);
    for (unsigned k = 0; status == 0 && k < c->o->producers; k++) {
        snprintf(c->stream, sizeof c->stream, "%s-%u", c->o->stream, k);
        c->server = c->o->out;
        if (load_lines(c) != 0) {
            fprintf(stderr, "crsc-appendload: cannot read %s\n", c->o->out);
            return 2;
        }
        for (unsigned i = 0; status == 0 && i < n; i++) {
            c->server = names[i];
            status = check_stream(c, servers[i], i == 0);
        }
    }
    return status == 0 && c->findings > 0 ? 1 : status;
}

int load_verify(const struct load_options *o)
{
    enum { SERVERS_MAX = 16 };
    struct crsc_sync *servers[SERVERS_MAX];
    char *names[SERVERS_MAX], *list = strdup(o->servers), *save = NULL;
    unsigned n = 0;
    int status = 0;
    struct check c = {.o = o};
    signal(SIGPIPE, SIG_IGN);
    for (char *name = strtok_r(list, ",", &save); name != NULL && n < SERVERS_MAX; name = strtok_r(NULL, ",", &save)) {
        struct error e;
        struct crsc_client_options options = {
            .servers = name, .software = "crsc-appendload " CRSC_VERSION, .timeout_ms = o->timeout_ms, .fixed = true,
            .tls_ca = o->tls_ca, .tls_cert = o->tls_cert, .tls_key = o->tls_key};
        if (crsc_sync_new(&options, &servers[n], &e) != 0) {
            fprintf(stderr, "crsc-appendload: %s\n", e.text);
            status = 2;
            break;
        }
        names[n++] = name;
    }
    if (status == 0) status = verify_all(&c, servers, names, n);
    printf("{\"servers\":%u,\"events\":%" PRIu64 ",\"acked\":%" PRIu64 ",\"violations\":%u,\"status\":%d}\n", n,
           c.events, c.lines, c.findings, status);
    for (unsigned i = 0; i < n; i++) crsc_sync_free(servers[i]);
    free(list);
    free(c.acked);
    free(c.digests.at);
    free(c.first_digests.at);
    free(c.ids.at);
    return status;
}
