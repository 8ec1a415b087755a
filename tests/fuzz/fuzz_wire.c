/* Every answer that a server gives to a client: libcrsc's decoders. What they hand out lies within the frame. */
#include "client/wire.h"
#include "tests/fuzz/fuzz.h"

static void events(const struct frame *f)
{
    struct wire_decoded d;
    if (wire_decode_events(f, &d) != 0) return;
    const struct crsc_event *list = d.items;
    for (size_t i = 0; i < d.n; i++) {
        const uint8_t *at = list[i].payload;
        FUZZ_CHECK(list[i].size == 0 || (at >= f->body && at + list[i].size <= f->body + f->body_len));
    }
    wire_decoded_fini(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame f = fuzz_frame(data, size);
    struct wire_refusal refusal;
    struct wire_decoded d;
    struct crsc_status status;
    uint64_t a, b;
    uint32_t count;
    bool duplicate;
    wire_decode_refusal(&f, &refusal);
    wire_decode_hello(&f, NULL);
    wire_decode_opened(&f, &a, &b);
    wire_decode_appended(&f, &a, &count, &duplicate);
    wire_decode_fenced(&f, &a);
    wire_decode_trimmed(&f, &a);
    events(&f);
    if (wire_decode_snapshot(&f, &d) == 0) wire_decoded_fini(&d);
    if (wire_decode_snapshots(&f, &d) == 0) wire_decoded_fini(&d);
    if (wire_decode_streams(&f, &d) == 0) wire_decoded_fini(&d);
    if (wire_decode_status(&f, &status, &d) == 0) wire_decoded_fini(&d);
    return 0;
}
