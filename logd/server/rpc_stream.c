#include "logd/server/rpc_stream.h"

#include <stdbool.h>
#include <stdint.h>

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5, STREAM_FIELD = 1 };

static bool get_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t b = *(*p)++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *ret = v;
            return true;
        }
    }
    return false;
}

/* Field 1 of a message, which must be of bytes and there once at most. */
static int first_field(const uint8_t *p, size_t len, const uint8_t **ret_bytes, size_t *ret_len)
{
    const uint8_t *end = p + len;
    bool found = false;
    *ret_bytes = p;
    *ret_len = 0;
    while (p < end) {
        uint64_t tag, n = 0;
        if (!get_varint(&p, end, &tag) || tag > UINT32_MAX) return -ERROR_PROTOCOL; /* decoders cut a longer one */
        switch (tag & 7) {
        case VARINT:
            if (!get_varint(&p, end, &n)) return -ERROR_PROTOCOL;
            n = 0;
            break;
        case FIXED64: n = 8; break;
        case FIXED32: n = 4; break;
        case BYTES:
            if (!get_varint(&p, end, &n)) return -ERROR_PROTOCOL;
            break;
        default: return -ERROR_PROTOCOL;
        }
        if (n > (uint64_t)(end - p)) return -ERROR_PROTOCOL;
        if (tag >> 3 == STREAM_FIELD) {
            if (found || (tag & 7) != BYTES) return -ERROR_PROTOCOL;
            found = true;
            *ret_bytes = p;
            *ret_len = (size_t)n;
        }
        p += n;
    }
    return 0;
}

int rpc_stream(const struct frame *f, const char **ret_name, size_t *ret_len)
{
    const uint8_t *bytes;
    size_t len;
    int rv = first_field(f->head, f->head_len, &bytes, &len);
    if (rv == 0 && f->type == FRAME_RECORD_SNAPSHOT) rv = first_field(bytes, len, &bytes, &len); /* it is the snapshot's first field */
    if (rv != 0) return rv;
    *ret_name = (const char *)bytes;
    *ret_len = len;
    return 0;
}
