/* What tests of streams/ and of what stands on it share: commands as clients make them, entries, random numbers.
 * Failing allocations abort: these are tests. Not linked into any program. */
#ifndef CRSC_LOGD_STREAMS_TESTING_H
#define CRSC_LOGD_STREAMS_TESTING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/frame.h"
#include "logd/streams/streams.h"

/* Each appends one frame to `out`. */
void testing_open(struct buf *out, const char *stream, const char *producer, bool shared);
void testing_fence(struct buf *out, const char *stream, uint64_t epoch);
void testing_trim(struct buf *out, const char *stream, uint64_t offset, bool force);
void testing_set_retention(struct buf *out, const char *stream, const struct streams_policy *policy);
void testing_retain(struct buf *out, const char *stream, uint64_t offset, const struct streams_policy *policy);

struct testing_event {
    uint32_t kind, size; /* payload: testing_payload() */
    uint64_t after, ref;
};
struct testing_append {
    const char *stream;
    uint64_t epoch, sequence;
    const struct testing_event *events; /* NULL: n requests of 5 bytes */
    uint32_t n;
    bool if_last;
    uint64_t last_offset;
    int body_extra; /* this many bytes more than the sizes say, or fewer */
};
void testing_append(struct buf *out, const struct testing_append *a);

/* The byte at `at` in the payload of the event with this sequence: so that every event is told from every other. */
uint8_t testing_payload(const char *stream, uint64_t epoch, uint64_t sequence, uint32_t at);

struct testing_snapshot {
    const char *stream, *id;
    uint64_t offset;
    int state;
    const char *image, *sha256, *node, *template_hash, *reason; /* NULL: "" */
    uint64_t size, started_us, finished_us;
};
void testing_snapshot(struct buf *out, const struct testing_snapshot *s);

/* A frame of any type and content with a right checksum. */
void testing_raw(struct buf *out, uint16_t type, const void *head, size_t head_len, const void *body, size_t body_len);

/* An entry of the whole frames in `frames`. */
void testing_entry(struct buf *out, uint64_t time_us, const struct buf *frames);

/* Random numbers: splitmix64 (Steele, Lea, Flood 2014). The seed is CRSC_SEED of the environment, or new; printed. */
struct testing_random {
    uint64_t state;
};
struct testing_random testing_seed(const char *test);
uint64_t testing_next(struct testing_random *r);
uint64_t testing_below(struct testing_random *r, uint64_t n); /* 0 to n - 1 */
static inline bool testing_chance(struct testing_random *r, unsigned percent)
{
    return testing_below(r, 100) < percent;
}

#endif
