/* The events of one run: from the frame that appended them to what a reader is answered.
 *
 *   struct run_reader r;
 *   if (run_open(&r, &run, bytes, len, from, &e) == 0) {
 *       while (run_next(&r, &event)) ...
 *       run_close(&r);
 *   }
 *
 * run_open() verifies everything about the bytes: the frame's own checksum, and that it is the append which the run in
 * the index says it is (epoch, sequence, number of events). A mismatch is ERROR_CORRUPT: never served (L6).
 *
 * Pure. Thread: any. Ownership: `bytes` are borrowed until run_close(), also by the events' payloads. */
#ifndef CRSC_LOGD_STREAMS_RUN_READER_H
#define CRSC_LOGD_STREAMS_RUN_READER_H

#include <stdbool.h>

#include "common/frame.h"
#include "logd/streams/streams.h"

struct run_event {
    uint64_t offset;
    uint32_t kind; /* crsc.EventKind */
    uint32_t size; /* bytes of payload */
    uint64_t after, ref, epoch, sequence, time_us;
    const uint8_t *payload; /* borrowed from the bytes */
};

struct run_reader {
    struct streams_run run;
    const uint8_t *body;
    size_t body_at;                /* of the next event's payload */
    uint32_t next;                 /* number of the next event in the run, from 0 */
    struct run_event_head *events; /* owned; run.count of them */
};

/* Starts at the first event with offset >= `from`. 0, -ERROR_CORRUPT, -ERROR_NOMEM. */
int run_open(struct run_reader *r, const struct streams_run *run, const void *bytes, size_t len, uint64_t from,
             struct error *e);

/* The next event; false at the run's end. */
bool run_next(struct run_reader *r, struct run_event *ret_event);

void run_close(struct run_reader *r);

/* Says the frame's head (its body is not looked at: frame_peek()) that it is the append which the run is? 0, -ERROR_CORRUPT: it is another one; -ERROR_NOMEM. */
int run_match(const struct streams_run *run, const struct frame *f, struct error *e);

#endif
