#include "logd/wal/test_log.h"

#include <stdlib.h>
#include <string.h>

static void on_persisted(void *user, uint64_t index, uint64_t term)
{
    struct log *l = user;
    assert_int_equal(wal_persisted_index(l->wal), index);
    l->persisted = index;
    l->term = term;
    l->reports++;
    if (l->on_report != NULL) l->on_report(l->user, index);
}

static void on_failed(void *user, const struct error *e)
{
    struct log *l = user;
    l->failures++;
    l->error = *e;
}

static void finish_loop(struct log *l)
{
    uv_run(&l->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&l->loop), 0);
}

int log_open(struct log *l, const struct disk *disk, const char *dir, uint64_t segment_bytes, uint64_t cache_bytes)
{
    *l = (struct log){.wal = NULL};
    struct wal_options options = {.dir = dir,
                                  .segment_bytes = segment_bytes,
                                  .cache_bytes = cache_bytes,
                                  .disk = disk,
                                  .salt_seed = 7,
                                  .user = l,
                                  .on_persisted = on_persisted,
                                  .on_failed = on_failed};
    assert_int_equal(uv_loop_init(&l->loop), 0);
    int rv = wal_open(&l->loop, &options, &l->wal, &l->error);
    if (rv != 0) finish_loop(l);
    return rv;
}

static void on_closed(void *user)
{
    struct log *l = user;
    l->wal = NULL;
}

void log_close(struct log *l)
{
    wal_close(l->wal, on_closed, l);
    finish_loop(l);
    assert_null(l->wal);
}

static uint8_t content(uint64_t index, uint64_t term, size_t at)
{
    return (uint8_t)(index * 131 + term * 31 + at * (at + 7) / 3 + 1);
}

struct blob *log_payload(uint64_t index, uint64_t term, size_t len)
{
    struct blob *b = blob_new(len);
    assert_non_null(b);
    for (size_t i = 0; i < len; i++) b->data[i] = content(index, term, i);
    return b;
}

int log_append(struct log *l, uint64_t index, uint64_t term, size_t len)
{
    struct blob *b = log_payload(index, term, len);
    struct wal_entry entry = {.index = index, .term = term, .type = (uint32_t)(1 + index % 3), .payload = b};
    int rv = wal_append(l->wal, &entry, 1);
    blob_unref(b);
    return rv;
}

void log_wait(struct log *l, uint64_t index)
{
    while (wal_persisted_index(l->wal) < index && l->failures == 0) uv_run(&l->loop, UV_RUN_ONCE);
}

void log_check(struct log *l, uint64_t index, uint64_t term)
{
    struct wal_entry entry;
    struct wal_location where;
    struct error e = {0};
    if (wal_read(l->wal, index, &entry, &e) != 0) fail_msg("entry %lu: %s", (unsigned long)index, e.text);
    assert_int_equal(entry.index, index);
    assert_int_equal(entry.term, term);
    assert_int_equal(entry.type, 1 + index % 3);
    assert_int_equal(wal_term_at(l->wal, index), term);
    size_t len = entry.payload->len;
    for (size_t i = 0; i < len; i++) assert_int_equal(entry.payload->data[i], content(index, term, i));
    blob_unref(entry.payload);
    assert_int_equal(wal_locate(l->wal, index, &where), 0);
    if (len < 3) return;
    uint8_t some[64];
    size_t from = len / 3, n = len - from < sizeof some ? len - from : sizeof some;
    where.position += from;
    assert_int_equal(wal_read_at(l->wal, where, n, some, NULL), 0);
    for (size_t i = 0; i < n; i++) assert_int_equal(some[i], content(index, term, from + i));
}
