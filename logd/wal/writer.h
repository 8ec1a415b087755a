/* The writer thread: where bytes become durable. Everything queued since the last sync is written with as few system
 * calls as possible and synced once (group commit); then the loop's thread hears of it.
 *
 * Queue and reports are the only things that two threads share. The loop's thread decides where a record goes (so that
 * it can be located at once); the writer fills in what only it knows: how far the disk has been synced, and the
 * checksum. */
#ifndef CRSC_LOGD_WAL_WRITER_H
#define CRSC_LOGD_WAL_WRITER_H

#include <stdbool.h>
#include <uv.h>

#include "common/buf.h"
#include "common/error.h"
#include "logd/wal/disk.h"
#include "logd/wal/segment.h"

struct writer;
struct prom_histogram;

struct writer_op {
    struct writer_op *next;
    enum { WRITER_RECORD, WRITER_SEGMENT } kind;
    struct record record; /* WRITER_RECORD: synced, chain and crc are the writer's to fill */
    struct blob *payload; /* its reference is the loop's thread's; may be NULL */
    uint64_t position;
    struct segment_header segment; /* WRITER_SEGMENT: go on in this new one; chain is the writer's to fill */
};

/* Where a log that was just recovered goes on. */
struct writer_tail {
    int fd; /* the writer's from then on; -1: the first op is a WRITER_SEGMENT */
    uint64_t position, segment_bytes;
    uint64_t synced; /* highest seq on the disk */
    uint32_t chain, salt;
};

struct writer_handlers {
    /* `done` are ops in order, on the disk now; the receiver frees them. */
    void (*on_done)(void *user, struct writer_op *done);
    void (*on_failed)(void *user, const struct error *e); /* once; what is queued stays unwritten */
};

/* `prepare_bytes`: of the segments that are made ahead. On an error tail->fd is still the caller's. */
int writer_start(uv_loop_t *loop, const struct disk *disk, const char *dir, uint64_t prepare_bytes,
                 const struct writer_tail *tail, const struct writer_handlers *handlers, void *user,
                 struct writer **ret_writer, struct error *e);

/* How long writing and syncing took, group by group. Any thread. */
const struct prom_histogram *writer_sync_times(const struct writer *w);

/* It waits for room on the disk for the next segment, and goes on by itself. Any thread. */
bool writer_no_room(struct writer *w);

/* For how long the group that is being written and synced has been; 0: none is. Any thread. */
uint64_t writer_busy_us(const struct writer *w);

/* Queues ops (a list). Loop's thread. */
void writer_push(struct writer *w, struct writer_op *ops);

/* A segment nobody needs becomes a later one: preparer_recycle(). Loop's thread. */
bool writer_recycle(struct writer *w, const char *path, uint64_t bytes, unsigned most);

/* Writes what is queued (the handlers may still be called from here), ends the thread, and from the loop calls
 * `stopped` with the ops that were not written (after a failure). */
void writer_stop(struct writer *w, void (*stopped)(void *user, struct writer_op *unwritten));

/* "DIR/00000000000000000007.seg"; 0 or -ERROR_INVALID (too long). */
int writer_segment_path(char *ret_path, size_t size, const char *dir, uint64_t id);

/* The mark that says: every record before `seq` is on the disk (`next`: and so is segment `next`). */
void writer_mark(uint32_t salt, uint64_t seq, uint32_t chain, uint64_t next, uint8_t ret_header[static RECORD_HEADER]);

#endif
