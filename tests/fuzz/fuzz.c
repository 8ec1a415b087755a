#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void fuzz_fail(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

uint64_t fuzz_number(struct fuzz_input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes && in->len > 0; i++, in->data++, in->len--) v = v << 8 | *in->data;
    return v;
}

struct frame fuzz_frame(const uint8_t *data, size_t len)
{
    struct fuzz_input in = {data, len};
    struct frame f = {.type = (uint16_t)fuzz_number(&in, 2), .id = 7};
    size_t head = (size_t)fuzz_number(&in, 2);
    f.head_len = head < in.len ? head : in.len;
    f.head = in.data;
    f.body = in.data + f.head_len;
    f.body_len = in.len - f.head_len;
    return f;
}
