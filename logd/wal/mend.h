/* Records of the log made anew, byte for byte, from the entries that they held.
 *
 * Of what a record's header says, one thing is remembered nowhere else: how far the disk was synced when it was written. It was as far as the last
 * group of records before its own, so that only where groups began has to be found out; the record behind states the checksum of
 * the last one in the gap, and each states that of the one before: one wrong guess, or one wrong byte in an entry, and they do not meet.
 *
 * Pure. Thread: any. */
#ifndef CRSC_LOGD_WAL_MEND_H
#define CRSC_LOGD_WAL_MEND_H

#include <stdint.h>

#include "logd/wal/sieve.h"

enum { MEND_RECORDS_MAX = 512 /* in one range */ };

struct mend_record {
    uint64_t index, term;
    uint16_t type;
    const void *payload;
    uint32_t length;
};

/* Writes the bytes of the range into ret_bytes (to - from of them): these records, which must fill it, or, where it goes to the
 * end of the file, are followed by a mark that names the next segment. 0, or -ERROR_CORRUPT: they are not what stood there. */
int mend_range(const struct sieve_range *range, uint32_t salt, uint64_t next_segment, const struct mend_record *records, unsigned n, uint8_t *ret_bytes);

#endif
