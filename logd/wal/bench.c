/* wal-bench DIR [ENTRIES [BYTES [OUTSTANDING]]]: appends through the log on a real disk, a number of them outstanding,
 * and prints rate and latency. For a person; not a test, and not built unless asked for: ninja logd/wal/wal-bench */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logd/wal/wal.h"

struct bench {
    struct wal *wal;
    uint64_t *queued_at, *took; /* ns, per entry */
    uint64_t n, next, done, outstanding;
    struct blob *payload;
};

static void fill(struct bench *b)
{
    while (b->next <= b->n && b->next - b->done - 1 < b->outstanding) {
        struct wal_entry entry = {.index = b->next, .term = 1, .type = 1, .payload = b->payload};
        b->queued_at[b->next - 1] = uv_hrtime();
        if (wal_append(b->wal, &entry, 1) != 0) exit(1);
        b->next++;
    }
}

static void on_persisted(void *user, uint64_t index, uint64_t term)
{
    struct bench *b = user;
    (void)term;
    for (; b->done < index; b->done++) b->took[b->done] = uv_hrtime() - b->queued_at[b->done];
    fill(b);
}

static void on_failed(void *user, const struct error *e)
{
    (void)user;
    fprintf(stderr, "wal-bench: %s\n", e->text);
    exit(1);
}

static void on_closed(void *user)
{
    (void)user;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: wal-bench DIR [ENTRIES [BYTES [OUTSTANDING]]]\n");
        return 2;
    }
    uv_loop_t *loop = uv_default_loop();
    struct error e;
    struct bench b = {.n = argc > 2 ? strtoull(argv[2], NULL, 10) : 20000,
                      .next = 1,
                      .outstanding = argc > 4 ? strtoull(argv[4], NULL, 10) : 64};
    struct wal_options options = {
        .dir = argv[1], .segment_bytes = 64 << 20, .user = &b, .on_persisted = on_persisted, .on_failed = on_failed};
    b.queued_at = calloc(b.n + 1, sizeof *b.queued_at);
    b.took = calloc(b.n + 1, sizeof *b.took);
    b.payload = blob_new(argc > 3 ? strtoull(argv[3], NULL, 10) : 1024);
    if (b.queued_at == NULL || b.took == NULL || b.payload == NULL) return 1;
    memset(b.payload->data, 'x', b.payload->len);
    if (wal_open(loop, &options, &b.wal, &e) != 0) on_failed(NULL, &e);
    if (wal_last_index(b.wal) != 0) {
        fprintf(stderr, "wal-bench: %s holds a log already: give an empty directory\n", argv[1]);
        return 1;
    }
    uint64_t start = uv_hrtime();
    fill(&b);
    while (b.done < b.n) uv_run(loop, UV_RUN_ONCE);
    double seconds = (double)(uv_hrtime() - start) / 1e9;
    qsort(b.took, b.n, sizeof *b.took, by_value);
    printf("%.0f appends/s of %zu bytes, %llu outstanding; p50 %.3f ms, p99 %.3f ms\n", (double)b.n / seconds,
           b.payload->len, (unsigned long long)b.outstanding, (double)b.took[b.n / 2] / 1e6,
           (double)b.took[b.n * 99 / 100] / 1e6);
    wal_close(b.wal, on_closed, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    blob_unref(b.payload);
    free(b.queued_at);
    free(b.took);
    return 0;
}
