#include "logd/wal/segment.h"

#include <string.h>

#include "common/buf.h"
#include "common/crc32c.h"
#include "common/mutant.h"

static const uint32_t record_magic = 0x31434552;          /* "REC1" */
static const uint64_t segment_magic = 0x3147455343535243;  /* "CRSCSEG1" */
static const uint64_t recycled_magic = 0x3247455343535243; /* "CRSCSEG2" */

enum { CRC_FROM = 8, HEAD = 52, HEADER_USED = 40 };

void segment_header_encode(const struct segment_header *h, uint8_t block[static SEGMENT_HEADER])
{
    memset(block, 0, SEGMENT_HEADER);
    put_u64(block, h->recycled ? recycled_magic : segment_magic);
    put_u64(block + 8, h->id);
    put_u64(block + 16, h->bytes);
    put_u64(block + 24, h->first_seq);
    put_u32(block + 32, h->chain);
    put_u32(block + 36, h->salt);
    put_u32(block + HEADER_USED, crc32c(0, block, HEADER_USED));
}

int segment_header_decode(const uint8_t block[static SEGMENT_HEADER], struct segment_header *ret_h, struct error *e)
{
    uint64_t magic = get_u64(block);
    if (magic != segment_magic && magic != recycled_magic) return error_set(e, ERROR_CORRUPT, "the header is not one of a segment");
    if (get_u32(block + HEADER_USED) != crc32c(0, block, HEADER_USED))
        return error_set(e, ERROR_CORRUPT, "the header's checksum is wrong");
    ret_h->id = get_u64(block + 8);
    ret_h->bytes = get_u64(block + 16);
    ret_h->first_seq = get_u64(block + 24);
    ret_h->chain = get_u32(block + 32);
    ret_h->salt = get_u32(block + 36);
    ret_h->recycled = magic == recycled_magic;
    return 0;
}

uint32_t record_checksum_begin(const uint8_t header[static RECORD_HEADER], uint32_t salt)
{
    return crc32c(salt, header + CRC_FROM, HEAD - CRC_FROM);
}

static uint32_t checksum(uint32_t salt, const uint8_t *header, const void *payload, size_t length)
{
    return crc32c(record_checksum_begin(header, salt), payload, length);
}

void record_encode(struct record *r, uint32_t salt, const void *payload, uint8_t header[static RECORD_HEADER])
{
    put_u32(header, record_magic);
    put_u32(header + 8, r->length);
    put_u16(header + 12, (uint16_t)r->kind);
    put_u16(header + 14, r->type);
    put_u64(header + 16, r->index);
    put_u64(header + 24, r->term);
    put_u64(header + 32, r->seq);
    put_u64(header + 40, r->synced);
    put_u32(header + 48, r->chain);
    r->crc = checksum(salt, header, payload, r->length);
    put_u32(header + 4, r->crc);
    put_u32(header + HEAD, crc32c(salt, header, HEAD));
}

bool record_decode_header(const uint8_t *bytes, size_t len, uint32_t salt, struct record *ret_record)
{
    if (len < RECORD_HEADER || get_u32(bytes) != record_magic) return false;
    if (get_u32(bytes + HEAD) != crc32c(salt, bytes, HEAD)) return false;
    uint32_t length = get_u32(bytes + 8);
    if (length > RECORD_PAYLOAD_MAX || RECORD_HEADER + (uint64_t)length > len) return false;
    unsigned kind = get_u16(bytes + 12);
    if (kind < RECORD_ENTRY || kind > RECORD_MARK) return false;
    *ret_record = (struct record){
        .kind = (enum record_kind)kind,
        .type = get_u16(bytes + 14),
        .length = length,
        .index = get_u64(bytes + 16),
        .term = get_u64(bytes + 24),
        .seq = get_u64(bytes + 32),
        .synced = get_u64(bytes + 40),
        .chain = get_u32(bytes + 48),
        .crc = get_u32(bytes + 4),
    };
    return true;
}

bool record_decode(const uint8_t *bytes, size_t len, uint32_t salt, struct record *ret_record)
{
    struct record r;
    if (!record_decode_header(bytes, len, salt, &r)) return false;
    if (!MUTANT(skip_record_crc) && checksum(salt, bytes, bytes + RECORD_HEADER, r.length) != r.crc) return false;
    *ret_record = r;
    return true;
}

void segment_scan_begin(struct segment_scan *s, const struct segment_header *h, const uint8_t *bytes, size_t len)
{
    *s = (struct segment_scan){.bytes = bytes,
                               .len = len,
                               .at = SEGMENT_HEADER,
                               .seq = h->first_seq,
                               .chain = h->chain,
                               .salt = h->salt,
                               .recycled = h->recycled,
                               .proven = h->first_seq - 1};
}

bool segment_scan_next(struct segment_scan *s, struct record *ret_record, size_t *ret_at)
{
    struct record r;
    if (s->at >= s->len || !record_decode(s->bytes + s->at, s->len - s->at, s->salt, &r)) return false;
    if (r.kind == RECORD_MARK || r.seq != s->seq || r.chain != s->chain) return false;
    *ret_at = s->at;
    *ret_record = r;
    s->at += record_size(r.length);
    s->seq++;
    s->chain = r.crc;
    if (r.synced > s->proven) s->proven = r.synced;
    return true;
}

/* A header alone is evidence: it was written after what it states had been synced, whatever became of its payload. It
 * cannot stand inside a payload by chance or by a client's will, because the salt is in its checksum. */
void segment_scan_end(const struct segment_scan *s, struct segment_end *ret_end)
{
    *ret_end = (struct segment_end){.verdict = SEGMENT_CLEAN, .proven = s->proven};
    struct record r;
    size_t last = s->len, end, clean_to = s->at;
    while (last > s->at && s->bytes[last - 1] == 0) last--;
    end = s->recycled ? s->at : last;
    for (size_t at = s->at; at < last; at += 8) {
        if (!record_decode_header(s->bytes + at, s->len - at, s->salt, &r)) continue;
        if (r.synced > ret_end->proven) ret_end->proven = r.synced;
        if (s->recycled && at + record_size(r.length) > end) end = at + record_size(r.length);
    }
    if (end > s->len) end = s->len; /* the padding of a record that ends there may be cut off */
    ret_end->dirty = end > s->at ? end - s->at : 0;
    if (ret_end->proven >= s->seq) {
        ret_end->verdict = SEGMENT_CORRUPT;
        return;
    }
    if (end > s->at && record_decode(s->bytes + s->at, s->len - s->at, s->salt, &r) && r.kind == RECORD_MARK &&
        r.seq == s->seq && r.chain == s->chain) {
        clean_to = s->at + RECORD_HEADER;
        if (r.index != 0) ret_end->verdict = SEGMENT_SEALED;
    }
    if (end > clean_to && ret_end->verdict == SEGMENT_CLEAN) ret_end->verdict = SEGMENT_TORN;
}
