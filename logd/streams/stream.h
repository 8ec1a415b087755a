/* The state in memory, of one stream and of all of them. Internal to streams/: nobody outside includes this.
 * Who changes it: commands.c (a committed command), load.c (start-up), streams.c (what is common to an entry).
 * Thread: the loop's. */
#ifndef CRSC_LOGD_STREAMS_STREAM_H
#define CRSC_LOGD_STREAMS_STREAM_H

#include "common/frame.h"
#include "logd/streams/names.h"
#include "logd/streams/overlay.h"
#include "logd/streams/session.h"
#include "logd/streams/snapshot.h"

struct stream {
    uint64_t id;
    uint64_t first_offset, last_offset; /* [first, last]; an empty stream has first 1, last 0 */
    uint64_t epoch;                     /* highest ever given; 0: none */
    uint64_t min_epoch;                 /* lowest that may append */
    uint64_t bytes;                     /* of payload ever appended */
    uint64_t last_time_us;              /* of the newest event */
    uint64_t snapshots_ever;            /* number of the newest snapshot record ever made */
    struct streams_policy policy;
    char *name, *producer;              /* owned, zero-terminated; name NULL: only parts of it were loaded so far */
    struct session **sessions;          /* owned; the live ones, by epoch */
    uint32_t n_sessions, cap_sessions;
    struct snapshots snapshots;
    struct overlay overlay;
    bool dirty;                         /* this entry changed it: in the list of the entry's streams */
    bool overlaid;                      /* the overlay is not empty: in the list of such streams */
    struct stream *next_dirty, *next_overlaid;
};

/* A command's frame within the entry being applied. */
struct stream_frame {
    struct frame frame;
    size_t at, len;
};

struct streams {
    struct stream **all; /* owned; the stream with id i is all[i - 1] */
    uint64_t n, cap;
    struct names names;
    uint64_t applied;    /* Raft index */
    bool loading;        /* from the first streams_load() to streams_loaded() */
    struct stream *dirty, **dirty_tail; /* streams this entry changed, in the order it did */
    struct stream *overlaid;            /* streams with events whose place is not durably in the index */
    struct stream_frame *frames;        /* owned; those of the entry being applied */
    uint32_t cap_frames;
};

/* The stream, or NULL. */
static inline struct stream *stream_by_id(const struct streams *s, uint64_t id)
{
    return id >= 1 && id <= s->n ? s->all[id - 1] : NULL;
}

/* A stream with the next id, empty and without a name; NULL without memory. Owned by `s`. */
struct stream *stream_new(struct streams *s);

/* The index must hear of this stream at the end of the entry. */
void stream_touch(struct streams *s, struct stream *t);

/* Keeps `session`, taking it, which has the highest epoch so far. 0 or -ERROR_NOMEM (not taken). */
int stream_add_session(struct stream *t, struct session *session);

#endif
