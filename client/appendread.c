/* crsc-appendload --read: follows each stream from its beginning to its present end, one after the other over one
 * connection at a time, and says how fast that was. What it was given must be dense. */
#include "client/appendload.h"

#include <inttypes.h>
#include <stdio.h>

#include "client/sync.h"
#include "common/loop.h"

struct reading {
    struct crsc_sync *sync;
    uint64_t next; /* offset */
    uint64_t events, bytes, gaps;
};

static void on_events(void *user, const struct error *e, const struct crsc_event *events, size_t n, uint64_t last_offset)
{
    struct reading *r = user;
    (void)e; /* only successes come here */
    for (size_t i = 0; i < n; i++) {
        r->gaps += events[i].offset != r->next;
        r->next = events[i].offset + 1;
        r->bytes += events[i].size;
    }
    r->events += n;
    if (r->next > last_offset) crsc_sync_stop(r->sync);
}

static void on_streams(void *user, const struct error *e, const struct crsc_stream_info *streams, size_t n)
{
    uint64_t *last = user;
    (void)e;
    for (size_t i = 0; i < n; i++) *last += streams[i].last_offset;
}

int load_read(const struct load_options *o)
{
    struct crsc_client_options options = {.servers = o->servers, .software = "crsc-appendload " CRSC_VERSION, .timeout_ms = o->timeout_ms,
        .tls_ca = o->tls_ca, .tls_cert = o->tls_cert, .tls_key = o->tls_key};
    struct reading r = {0};
    struct error e;
    char stream[256];
    uint64_t last = 0, begun = 0, took = 0;
    int rv = crsc_sync_new(&options, &r.sync, &e);
    for (unsigned i = 0; rv == 0 && i < o->producers; i++) {
        snprintf(stream, sizeof stream, "%s-%u", o->stream, i);
        last = 0;
        rv = crsc_sync_streams(r.sync, stream, on_streams, &last, &e); /* also: the leader is known now */
        if (rv != 0 || last == 0) continue;
        r.next = 1;
        begun = loop_monotonic_us();
        rv = crsc_sync_follow(r.sync, stream, 1, on_events, &r, &e);
        took += loop_monotonic_us() - begun;
    }
    if (r.sync != NULL) crsc_sync_free(r.sync);
    if (rv != 0) fprintf(stderr, "crsc-appendload: %s\n", e.text);
    printf("{\"events\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"gaps\":%" PRIu64 ",\"seconds\":%.3f}\n", r.events, r.bytes, r.gaps, (double)took / 1e6);
    return rv == 0 && r.gaps == 0 ? 0 : 1;
}
