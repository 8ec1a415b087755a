#include "logd/wal/sieve.h"

#include <string.h>

#include "common/crc32c.h"
#include "common/frame.h"
#include "logd/wal/segment.h"

void sieve_begin(struct sieve *s, const struct sieve_options *o)
{
    *s = (struct sieve){.o = *o, .at = SEGMENT_HEADER, .seq = o->first_seq, .salt = o->salt};
}

static const uint8_t *read_at(const struct sieve *s, uint64_t at, size_t len)
{
    return at <= s->o.bytes && len <= s->o.bytes - at ? s->o.read(s->o.user, at, len) : NULL;
}

/* Goes on with a checksum over so many bytes. False: they cannot be read. */
static bool sum(const struct sieve *s, uint64_t at, uint64_t len, uint32_t *crc)
{
    while (len > 0) {
        size_t part = len < SIEVE_PIECE ? (size_t)len : SIEVE_PIECE;
        const uint8_t *bytes = read_at(s, at, part);
        if (bytes == NULL) return false;
        *crc = crc32c(*crc, bytes, part);
        at += part;
        len -= part;
    }
    return true;
}

/* Everything from here to the end. */
static enum sieve_answer doubt_rest(struct sieve *s, uint64_t from, struct sieve_range *ret_bad)
{
    bool records = !s->o.frames && s->seq != 0;
    *ret_bad = (struct sieve_range){.from = from, .to = s->o.bytes};
    if (records) ret_bad->seq = s->seq, ret_bad->chain = s->chain, ret_bad->synced = s->synced;
    s->ended = true;
    return SIEVE_BAD;
}

/* ---- records -------------------------------------------------------------------------------------------------- */

static bool header_at(const struct sieve *s, uint64_t at, uint8_t copy[static RECORD_HEADER], struct record *ret_record)
{
    const uint8_t *bytes = read_at(s, at, RECORD_HEADER);
    if (bytes == NULL) return false;
    memcpy(copy, bytes, RECORD_HEADER);
    return record_decode_header(copy, (size_t)(s->o.bytes - at), s->salt, ret_record);
}

/* The segment's own header: what it says is known to who has the log open, else it is believed. */
static enum sieve_answer begin_records(struct sieve *s, struct sieve_range *ret_bad)
{
    struct segment_header h;
    const uint8_t *block = read_at(s, 0, SEGMENT_HEADER);
    bool good = block != NULL && segment_header_decode(block, &h, NULL) == 0 && h.id == s->o.id;
    s->begun = true;
    if (good && (s->o.first_seq == 0 || (h.first_seq == s->o.first_seq && h.salt == s->o.salt))) {
        s->seq = h.first_seq;
        s->chain = h.chain;
        s->salt = h.salt;
        return SIEVE_GOOD;
    }
    if (s->o.first_seq == 0) return doubt_rest(s, 0, ret_bad);
    uint8_t copy[RECORD_HEADER];
    struct record r;
    if (header_at(s, SEGMENT_HEADER, copy, &r) && r.seq == s->seq) s->chain = r.chain; /* else it is adrift at once */
    *ret_bad = (struct sieve_range){.from = 0, .to = SEGMENT_HEADER, .seq = s->seq, .chain = s->chain, .header = true};
    return SIEVE_BAD;
}

/* Looks some bytes further for a record behind the damage. */
static enum sieve_answer search(struct sieve *s, struct sieve_range *ret_bad)
{
    uint8_t copy[RECORD_HEADER];
    struct record r;
    uint64_t until = s->search + SIEVE_PIECE;
    for (; s->search < until && s->search + RECORD_HEADER <= s->o.bytes; s->search += 8) {
        const uint8_t *magic = read_at(s, s->search, 8);
        if (magic == NULL || magic[0] != 'R' || !header_at(s, s->search, copy, &r)) continue;
        if (r.seq <= s->seq || (s->o.last_seq != 0 && r.seq > s->o.last_seq + 1)) continue;
        *ret_bad = (struct sieve_range){.from = s->at, .to = s->search, .seq = s->seq, .chain = s->chain, .synced = s->synced, .next_seq = r.seq, .next_chain = r.chain};
        s->at = s->search;
        s->seq = r.seq;
        s->chain = r.chain;
        s->synced = r.synced;
        s->search = 0;
        return SIEVE_BAD;
    }
    return s->search + RECORD_HEADER <= s->o.bytes ? SIEVE_GOOD : doubt_rest(s, s->at, ret_bad);
}

static enum sieve_answer step_record(struct sieve *s, struct sieve_range *ret_bad)
{
    uint8_t header[RECORD_HEADER];
    struct record r;
    if (s->search != 0) return search(s, ret_bad);
    bool all = s->o.open ? s->at == s->o.bytes : s->o.last_seq != 0 && s->seq == s->o.last_seq + 1; /* what the mark says is known: the next segment is there */
    bool found = !all && header_at(s, s->at, header, &r) && r.seq == s->seq && r.chain == s->chain;
    if (all || (found && r.kind == RECORD_MARK && s->o.last_seq == 0)) {
        s->ended = true;
        return SIEVE_END;
    }
    if (!found || r.kind == RECORD_MARK) {
        s->search = s->at + 8;
        return SIEVE_GOOD;
    }
    uint32_t crc = record_checksum_begin(header, s->salt);
    bool good = sum(s, s->at + RECORD_HEADER, r.length, &crc) && crc == r.crc;
    uint64_t end = s->at + record_size(r.length);
    if (end > s->o.bytes) end = s->o.bytes;
    *ret_bad = (struct sieve_range){.from = s->at, .to = end, .seq = s->seq, .chain = s->chain, .synced = s->synced, .next_seq = s->seq + 1, .next_chain = r.crc};
    s->at = end;
    s->seq++;
    s->chain = r.crc;
    s->synced = r.synced;
    return good ? SIEVE_GOOD : SIEVE_BAD;
}

/* ---- frames --------------------------------------------------------------------------------------------------- */

/* Does a frame begin here that ends within the file? Its size, or 0. */
static uint64_t frame_at(const struct sieve *s, uint64_t at, uint8_t copy[static FRAME_HEADER])
{
    const uint8_t *bytes = read_at(s, at, FRAME_HEADER);
    if (bytes == NULL) return 0;
    memcpy(copy, bytes, FRAME_HEADER);
    int64_t size = frame_size(copy, NULL);
    return size > 0 && (uint64_t)size <= s->o.bytes - at ? (uint64_t)size : 0;
}

static enum sieve_answer step_frame(struct sieve *s, struct sieve_range *ret_bad)
{
    uint8_t header[FRAME_HEADER], next[FRAME_HEADER];
    uint32_t crc, wanted;
    if (s->at == s->o.bytes) {
        s->ended = true;
        return SIEVE_END;
    }
    uint64_t size = frame_at(s, s->at, header), end = s->at + size;
    if (size == 0) return doubt_rest(s, s->at, ret_bad);
    bool good = frame_checksum(header, &crc, &wanted) && sum(s, s->at + FRAME_HEADER, size - FRAME_HEADER, &crc) && crc == wanted;
    /* Was it the length that changed? Then no frame begins behind it. */
    if (!good && end != s->o.bytes && frame_at(s, end, next) == 0) return doubt_rest(s, s->at, ret_bad);
    *ret_bad = (struct sieve_range){.from = s->at, .to = end};
    s->at = end;
    return good ? SIEVE_GOOD : SIEVE_BAD;
}

enum sieve_answer sieve_step(struct sieve *s, struct sieve_range *ret_bad)
{
    if (s->ended) return SIEVE_END;
    if (s->o.frames) return step_frame(s, ret_bad);
    return s->begun ? step_record(s, ret_bad) : begin_records(s, ret_bad);
}
