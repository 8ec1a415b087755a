#include "logd/wal/mend.h"

#include <stdbool.h>
#include <string.h>

#include "common/error.h"
#include "logd/wal/segment.h"
#include "logd/wal/writer.h"

enum { FREELY = 10 /* of so few records every choice is tried */, CHANGES = 3 /* of more, those that do not change more often */ };
#define WORK_MAX (UINT64_C(512) << 20) /* bytes that are summed up before it is given up */

struct mending {
    const struct sieve_range *range;
    const struct mend_record *records;
    unsigned n, changes;
    uint32_t salt;
    uint8_t *bytes;
    uint64_t work;
};

/* What the record at position i of the range was chosen to be: of the group of the one before, or the first of its own. */
struct choice {
    size_t at;
    uint32_t chain;
    uint64_t synced; /* of the one before */
    bool fresh;      /* the one before was a first one */
    unsigned changes;
};

static void put(const struct mending *m, unsigned i, const struct choice *c, uint64_t synced, uint32_t *ret_crc)
{
    const struct mend_record *from = &m->records[i];
    struct record r = {.kind = RECORD_ENTRY, .type = from->type, .length = from->length, .index = from->index, .term = from->term,
                       .seq = m->range->seq + i, .synced = synced, .chain = c->chain};
    record_encode(&r, m->salt, from->payload, m->bytes + c->at);
    *ret_crc = r.crc;
}

static bool fits(struct mending *m, unsigned i, const struct choice *c)
{
    if (i == m->n) return c->chain == m->range->next_chain;
    for (unsigned k = 0; k < 2; k++) {
        bool fresh = (k == 0) == c->fresh; /* as the one before, first */
        uint64_t own = m->range->seq + i - 1;
        struct choice next = {.at = c->at + record_size(m->records[i].length), .synced = fresh ? own : c->synced, .fresh = fresh,
                              .changes = c->changes + (fresh != c->fresh && i > 0)};
        if (!fresh && (c->synced == 0 || c->synced == own)) continue; /* nothing is before it, or it is the same */
        if (next.changes > m->changes || m->work > WORK_MAX) return false;
        m->work += RECORD_HEADER + m->records[i].length;
        put(m, i, c, next.synced, &next.chain);
        if (fits(m, i + 1, &next)) return true;
    }
    return false;
}

int mend_range(const struct sieve_range *range, uint32_t salt, uint64_t next_segment, const struct mend_record *records, unsigned n, uint8_t *bytes)
{
    size_t len = (size_t)(range->to - range->from), at = 0;
    struct mending m = {.range = range, .records = records, .n = n, .salt = salt, .bytes = bytes, .changes = n <= FREELY ? n : CHANGES};
    if (n == 0 || n > MEND_RECORDS_MAX || range->seq == 0 || range->next_seq != range->seq + n) return -ERROR_CORRUPT;
    memset(bytes, 0, len);
    for (unsigned i = 0; i < n; i++) {
        uint64_t size = record_size(records[i].length);
        if (size > len - at) return -ERROR_CORRUPT;
        memcpy(bytes + at + RECORD_HEADER, records[i].payload, records[i].length);
        at += (size_t)size;
    }
    if (at != len && (next_segment == 0 || at + RECORD_HEADER > len)) return -ERROR_CORRUPT;
    struct choice first = {.chain = range->chain, .synced = range->synced, .fresh = true};
    if (!fits(&m, 0, &first)) return -ERROR_CORRUPT;
    if (at != len) writer_mark(salt, range->next_seq, range->next_chain, next_segment, bytes + at);
    return 0;
}
