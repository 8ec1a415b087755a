/* Are the bytes of a segment, as far as nobody writes to them any more, what was written? Goes through them once and says which are not.
 *
 * Two kinds of file: segments of the log (segment.h), where each record has its checksum and that of the one before, and those that events were
 * moved to (moved.h): frames, one behind the other, each with its own checksum. A damaged payload is one range. Behind a damaged header the next
 * record is looked for, by its salt and number; behind a damaged frame's header nothing is known, so that all that follows is in doubt, and who knows
 * where events are must look at each. The same is true of a segment whose salt is lost.
 *
 * Pure: it asks for bytes, at most SIEVE_PIECE at a time; nobody needs memory for a whole file. Thread: any. */
#ifndef CRSC_LOGD_WAL_SIEVE_H
#define CRSC_LOGD_WAL_SIEVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIEVE_PIECE = 64 << 10 };

/* `len` bytes at `at`, within the file, good until the next call. NULL: the disk does not give them. */
typedef const uint8_t *sieve_read_cb(void *user, uint64_t at, size_t len);

struct sieve_options {
    sieve_read_cb *read;
    void *user;
    uint64_t id, bytes; /* of the file, as they should be */
    bool frames;        /* it is one of moved.h */
    bool open;          /* `bytes` is where a record begins, and the segment goes on there: it is still written to */
    uint64_t first_seq, last_seq; /* of its records; 0: not known */
    uint32_t salt;                /* with first_seq */
};

/* Bytes [from, to) that are not what was written. For a segment of the log also what mend.h makes them anew from. */
struct sieve_range {
    uint64_t from, to;
    uint64_t seq;        /* of the record that stood at `from`; 0: nothing is known of records */
    uint32_t chain;      /* crc of the one before it */
    uint64_t synced;     /* as that one stated; 0: there is none in this segment */
    uint64_t next_seq;   /* of the record (or mark) at `to`; 0: none was found */
    uint32_t next_chain; /* crc of the last record in the range, as that one states */
    bool header;         /* it is the segment's own header block */
};

struct sieve {
    struct sieve_options o;
    uint64_t at, seq, synced;
    uint32_t chain, salt;
    bool begun, ended;
    uint64_t search; /* goes on there to find the record behind the damage at `at`; 0: there is none */
};

void sieve_begin(struct sieve *s, const struct sieve_options *o);

/* One step further. SIEVE_GOOD: s->at tells how far. SIEVE_BAD: a range. SIEVE_END: that was all. */
enum sieve_answer { SIEVE_GOOD, SIEVE_BAD, SIEVE_END };
enum sieve_answer sieve_step(struct sieve *s, struct sieve_range *ret_bad);

#endif
