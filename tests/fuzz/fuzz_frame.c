/* The frame decoder: whatever it takes, it would have made itself; a prefix is never refused when the whole is not. */
#include <string.h>

#include "common/crc32c.h"
#include "tests/fuzz/fuzz.h"

static void check(const uint8_t *data, size_t size)
{
    struct frame f, again;
    struct buf out = BUF_INIT;
    int64_t n = frame_decode(data, size, &f, NULL);
    if (n <= 0) return;
    FUZZ_CHECK((size_t)n <= size && (size_t)n == frame_length(&f) && frame_size(data, NULL) == n);
    for (size_t cut = (size_t)n - 1, step = cut / 7 + 1;; cut -= step) {
        FUZZ_CHECK(frame_decode(data, cut, &again, NULL) == 0);
        if (cut < step) break;
    }
    FUZZ_CHECK(frame_encode(&out, &f) == 0);
    FUZZ_CHECK(frame_decode(out.data, out.len, &again, NULL) == (int64_t)out.len);
    FUZZ_CHECK(again.type == f.type && again.id == f.id && again.head_len == f.head_len && again.body_len == f.body_len);
    FUZZ_CHECK(f.head_len == 0 || memcmp(again.head, f.head, f.head_len) == 0);
    FUZZ_CHECK(f.body_len == 0 || memcmp(again.body, f.body, f.body_len) == 0);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    if (size < FRAME_HEADER) return 0;
    struct frame f = fuzz_frame(data, size); /* the same bytes as a frame with a right checksum */
    struct buf out = BUF_INIT;
    if (frame_encode(&out, &f) == 0) {
        check(out.data, out.len);
        out.data[data[0] % out.len] ^= (uint8_t)(1 << data[1] % 8); /* one bit: noticed, or it looks like a longer frame */
        struct frame damaged;
        FUZZ_CHECK(frame_decode(out.data, out.len, &damaged, NULL) <= 0);
    }
    buf_fini(&out);
    return 0;
}
