/* The reader of segment files, as start-up runs it: one or two segments of a log. The bytes are a small program that writes
 * records, right ones and damaged ones, because random bytes never pass a checksum. Recovery gives a log that a second recovery
 * gives as well, or an error; what was synced and proven is there or it is an error (W2). */
#include <stdlib.h>
#include <string.h>

#include "logd/wal/memory_disk.h"
#include "logd/wal/recovery.h"
#include "logd/wal/segment.h"
#include "tests/fuzz/fuzz.h"

enum { BYTES = 16384, SALT = 77 };

struct maker {
    uint8_t file[BYTES];
    size_t at;
    uint64_t seq, index, proven; /* proven: highest `synced` in an undamaged record */
    uint32_t chain;
};

/* -1: the file is full. */
static int write_record(struct maker *m, struct fuzz_input *in)
{
    uint64_t what = fuzz_number(in, 1);
    struct record r = {.kind = what % 8 == 0 ? RECORD_TRUNCATE : what % 8 == 1 ? RECORD_MARK : RECORD_ENTRY,
                       .type = (uint16_t)(what % 3), .length = (uint32_t)fuzz_number(in, 1) * 2, .term = 1 + m->seq / 4,
                       .seq = m->seq, .synced = m->seq - 1, .chain = m->chain};
    if (r.kind != RECORD_ENTRY) r.length = 0;
    r.index = r.kind == RECORD_ENTRY ? m->index : r.kind == RECORD_TRUNCATE ? 1 + fuzz_number(in, 1) % m->index : 0;
    if (what & 64) r.synced = fuzz_number(in, 1);
    if (what & 128) r.seq += fuzz_number(in, 1);
    uint8_t payload[512];
    memset(payload, (int)what, sizeof payload);
    if (m->at + record_size(r.length) + RECORD_HEADER > BYTES) return -1;
    record_encode(&r, SALT, payload, m->file + m->at);
    memcpy(m->file + m->at + RECORD_HEADER, payload, r.length);
    if (r.kind == RECORD_MARK) return 0;
    m->at += record_size(r.length);
    m->chain = r.crc;
    m->seq++;
    m->index = r.kind == RECORD_ENTRY ? m->index + 1 : r.index;
    return 0;
}

static void put_file(const struct disk *d, const char *path, const uint8_t *bytes, size_t len)
{
    int fd = d->open(d, path, 0x42 /* O_RDWR | O_CREAT */);
    FUZZ_CHECK(fd >= 0 && disk_write_all(d, fd, bytes, len, 0) == 0 && d->datasync(d, fd) == 0 && d->close(d, fd) == 0);
}

static void recover_twice(struct memory_disk *m)
{
    const struct disk *d = memory_disk_table(m);
    struct recovered first, second;
    struct error e;
    if (recovery_run(d, "wal", &first, &e) != 0) return;
    int rv = recovery_run(d, "wal", &second, &e);
    FUZZ_CHECK(rv == 0 && second.n == first.n && second.next_seq == first.next_seq);
    for (uint64_t i = first.base.index; i < first.n; i++) {
        const struct recovered_entry *a = &first.entries[i - first.base.index], *b = &second.entries[i - first.base.index];
        FUZZ_CHECK(a->term == b->term && a->crc == b->crc && a->length == b->length);
    }
    recovered_free(&first);
    recovered_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct maker m; /* large */
    struct fuzz_input in = {data, size};
    struct memory_disk *disk = memory_disk_new();
    FUZZ_CHECK(disk != NULL);
    const struct disk *d = memory_disk_table(disk);
    struct segment_header h = {.id = 1, .bytes = BYTES, .first_seq = 1, .salt = SALT};
    memset(&m, 0, sizeof m);
    m.at = SEGMENT_HEADER, m.seq = 1, m.index = 1;
    segment_header_encode(&h, m.file);
    for (uint64_t n = fuzz_number(&in, 1) % 24; n > 0 && write_record(&m, &in) == 0; n--) {}
    for (uint64_t n = fuzz_number(&in, 1) % 4; n > 0; n--) m.file[fuzz_number(&in, 2) % BYTES] ^= (uint8_t)fuzz_number(&in, 1);
    d->mkdir(d, "wal");
    put_file(d, "wal/1.seg", m.file, BYTES - fuzz_number(&in, 1) % 2 * (fuzz_number(&in, 2) % BYTES));
    recover_twice(disk);
    memory_disk_free(disk);
    return 0;
}
