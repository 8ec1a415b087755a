/* What the tests of the wal share: a log on its own loop, entries whose content follows from index and term, waiting.
 */
#ifndef CRSC_LOGD_WAL_TEST_LOG_H
#define CRSC_LOGD_WAL_TEST_LOG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "logd/wal/wal.h"

struct log {
    uv_loop_t loop;
    struct wal *wal;
    uint64_t persisted, term; /* of the newest on_persisted() */
    unsigned reports, failures;
    struct error error; /* of wal_open() or on_failed() */
    void (*on_report)(void *user, uint64_t index);
    void *user;
};

/* 0 or wal_open()'s error, with the text in l->error; after an error there is nothing to close. */
int log_open(struct log *l, const struct disk *disk, const char *dir, uint64_t segment_bytes, uint64_t cache_bytes);
void log_close(struct log *l);

/* A payload whose content follows from index and term. */
struct blob *log_payload(uint64_t index, uint64_t term, size_t len);
/* Queues one entry of `len` bytes, its content following from index and term. */
int log_append(struct log *l, uint64_t index, uint64_t term, size_t len);
/* Runs the loop until the entry is persisted, or the log has failed. */
void log_wait(struct log *l, uint64_t index);
/* The entry is there, by wal_read() and by wal_read_at(), and its content is right. */
void log_check(struct log *l, uint64_t index, uint64_t term);

#endif
