/* The format of a segment file, and what its bytes prove after a crash. Pure: bytes in, decisions out; any thread.
 *
 * A segment is a header block of SEGMENT_HEADER bytes and then records, each on an 8-byte border, into zero-filled
 * space, or, in a recycled segment, over what it held before:
 *
 *      0  u32  magic    "REC1"
 *      4  u32  crc      CRC32C over bytes 8..51 and the payload, begun with the segment's salt
 *      8  u32  length   payload bytes
 *     12  u16  kind     enum record_kind
 *     14  u16  type     of the Raft entry; opaque here
 *     16  u64  index    Raft index (truncate: the first index that is dropped; mark: id of the next segment, 0: none
 * yet) 24  u64  term 32  u64  seq      1, 2, 3, ... over all segments; a mark has the seq that comes next 40  u64
 * synced   every record with seq <= this one was on the disk when this one was written 48  u32  chain    crc of the
 * record before: records that stood here in an earlier life do not follow 52  u32  head     CRC32C over bytes 0..51,
 * begun with the salt: a header can be believed without its payload 56  payload, zeros to the next border
 *
 * The salt is random per segment, so that no payload can contain something that passes for a record. It also tells the records of
 * this life of a file from those of an earlier one, in a segment that was recycled: the same bytes never have the same checksum under
 * two salts. And were two salts equal, the old ones would still prove nothing and follow nothing, as seq and synced only grow.
 *
 * What recovery may cut (W2). Reading stops at the first place P that holds no record with the expected seq and chain.
 * If anything behind P proves that the record at P had been on the disk (a record or mark with synced >= that seq, or a
 * later segment: one is begun only after the one before is synced), bytes were lost or changed: corruption. If nothing
 * does, P is the torn tail of a write that nobody was told about, and is cut. A mark behind the last record, written as
 * soon as the log is idle, extends the proof to the last group; every segment keeps room for one. The mark that ends a
 * full segment is synced and names the next one, so that the loss of the newest file is seen as well. */
#ifndef CRSC_LOGD_WAL_SEGMENT_H
#define CRSC_LOGD_WAL_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { SEGMENT_HEADER = 4096, RECORD_HEADER = 56, RECORD_PAYLOAD_MAX = 64 << 20 };

struct segment_header {
    uint64_t id;        /* from 1 */
    uint64_t bytes;     /* of the whole file */
    uint64_t first_seq; /* of its first record */
    uint32_t chain;     /* crc of the last record of the segment before; 0 in the first */
    uint32_t salt;
    bool recycled; /* the space behind the records is not zeros: it holds what stood there in an earlier life of the file */
};

enum record_kind {
    RECORD_ENTRY = 1,    /* a Raft entry */
    RECORD_TRUNCATE = 2, /* entries from `index` on are dropped (W3) */
    RECORD_MARK = 3,     /* says `synced`; takes no place: the next record is written over it */
};

struct record {
    enum record_kind kind;
    uint16_t type;
    uint32_t length;
    uint64_t index, term, seq, synced;
    uint32_t chain;
    uint32_t crc; /* filled by encode and decode */
};

/* Bytes that a record with this much payload takes, padding included. */
static inline uint64_t record_size(uint64_t length)
{
    return (RECORD_HEADER + length + 7) & ~UINT64_C(7);
}

void segment_header_encode(const struct segment_header *h, uint8_t ret_block[static SEGMENT_HEADER]);
/* 0 or -ERROR_CORRUPT. */
int segment_header_decode(const uint8_t block[static SEGMENT_HEADER], struct segment_header *ret_h, struct error *e);

/* Fills the header bytes, computing the crc (also into r->crc) over them and the payload. */
void record_encode(struct record *r, uint32_t salt, const void *payload, uint8_t ret_header[static RECORD_HEADER]);

/* A record's header at the start of the bytes, of a record that ends within `len`? Says nothing of the payload. */
bool record_decode_header(const uint8_t *bytes, size_t len, uint32_t salt, struct record *ret_record);

/* What the checksum of the record with this header begins with: crc32c() goes on over its payload, and must come to the record's crc. For who
 * has not all of it in one place. */
uint32_t record_checksum_begin(const uint8_t header[static RECORD_HEADER], uint32_t salt);

/* The same, with its payload whole. */
bool record_decode(const uint8_t *bytes, size_t len, uint32_t salt, struct record *ret_record);

/* Reads a segment's records one by one. */
struct segment_scan {
    const uint8_t *bytes; /* of the whole file; borrowed */
    size_t len;
    size_t at;      /* next record */
    uint64_t seq;   /* expected there */
    uint32_t chain; /* expected there */
    uint32_t salt;
    bool recycled;
    uint64_t proven; /* highest `synced` that a record so far stated; at least what came before the segment */
};
void segment_scan_begin(struct segment_scan *s, const struct segment_header *h, const uint8_t *bytes, size_t len);

/* Next entry or truncate record, and where it stands; false at the stop P, which is then s->at. */
bool segment_scan_next(struct segment_scan *s, struct record *ret_record, size_t *ret_at);

/* What the bytes from the stop on say, in a segment that no other follows. */
struct segment_end {
    enum segment_verdict {
        SEGMENT_CLEAN,   /* nothing of this life of the file, after the right mark or without one */
        SEGMENT_TORN,    /* a write that was not finished: cut it at the stop */
        SEGMENT_CORRUPT, /* what stood at the stop had been on the disk */
        SEGMENT_SEALED,  /* clean, but another segment did follow: that file is lost */
    } verdict;
    uint64_t proven; /* records up to this seq are known to have been on the disk; < first_seq: none of this segment */
    size_t dirty;    /* bytes from the stop to the last one that is not zero; in a recycled segment, to the end of the last
                        thing that has this one's salt. The mark is included */
};
void segment_scan_end(const struct segment_scan *s, struct segment_end *ret_end);

#endif
