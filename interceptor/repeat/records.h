/* What is known of requests with an Idempotency-Key: which are on their way, and what the others were answered.
 *
 * Bounded: a record that is settled (answered, or lost) goes when it is older than `ttl_us`, and the oldest settled ones go
 * when all take more than `bytes_max`; who repeats such a key is executed again. One on its way never goes by itself.
 * Times are given by the caller. Pure. Thread: one. */
#ifndef CRSC_INTERCEPTOR_REPEAT_RECORDS_H
#define CRSC_INTERCEPTOR_REPEAT_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

enum { RECORDS_KEY_MAX = 255, RECORDS_PRINT = 32 };

enum record_state {
    RECORD_OPEN,     /* on its way */
    RECORD_ANSWERED, /* the answer is here */
    RECORD_LOST,     /* executed, and what it was answered is not known */
};

struct record_waiter { /* embedded in what the owner lets wait */
    struct record *record;
    TAILQ_ENTRY(record_waiter) entry;
};
TAILQ_HEAD(record_waiters, record_waiter);

/* To be read only. */
struct record {
    enum record_state state;
    uint64_t offset;              /* of its request; 0: not known yet */
    uint8_t print[RECORDS_PRINT]; /* of what was asked for */
    uint64_t time_us;             /* when it came */
    const uint8_t *answer;
    size_t answer_len;
    struct record_waiters waiters; /* of an open one: the owner's */
};

struct records;

struct records *records_new(uint64_t ttl_us, size_t bytes_max); /* NULL without memory */
struct records *records_free(struct records *t);

/* NULL: none, or it was too old. */
struct record *records_find(struct records *t, const void *key, size_t len, uint64_t now_us);
struct record *records_at(struct records *t, uint64_t offset);
/* A new open one; there is none with this key. NULL without memory. `len` up to RECORDS_KEY_MAX. */
struct record *records_add(struct records *t, const void *key, size_t len, const uint8_t print[RECORDS_PRINT],
                           uint64_t time_us);
void records_place(struct records *t, struct record *r, uint64_t offset); /* its request is in the log there */
/* Settled: with this answer (copied), or (NULL) lost. Nobody waits for it any more. May forget it, or older ones. */
void records_settle(struct records *t, struct record *r, const void *answer, size_t len, uint64_t now_us);
void records_drop(struct records *t, struct record *r); /* as if it had never been */
/* The oldest open one whose request is at or before `offset`; NULL: none. */
struct record *records_open_before(struct records *t, uint64_t offset);
struct record *records_open(struct records *t); /* any open one; NULL: none */
size_t records_bytes(const struct records *t);
unsigned records_count(const struct records *t);

#endif
