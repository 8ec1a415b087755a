#include "logd/streams/entry.h"

#include <assert.h>
#include <string.h>

enum { COUNT_AT = 8, RESERVED_AT = 12 };

int entry_begin(struct buf *out, uint64_t time_us)
{
    assert(out->len == 0);
    uint8_t header[ENTRY_HEADER] = {0};
    put_u64(header, time_us);
    return buf_add(out, header, sizeof header);
}

int entry_add(struct buf *out, const void *frame_bytes, size_t len)
{
    assert(out->len >= ENTRY_HEADER && len >= FRAME_HEADER);
    int rv = buf_add(out, frame_bytes, len);
    if (rv != 0) return rv;
    put_u32(out->data + COUNT_AT, get_u32(out->data + COUNT_AT) + 1);
    return 0;
}

int entry_open(struct entry_reader *r, const void *data, size_t len, struct error *e)
{
    const uint8_t *p = data;
    if (len < ENTRY_HEADER) return error_set(e, ERROR_CORRUPT, "an entry of %zu bytes has no header", len);
    uint32_t count = get_u32(p + COUNT_AT);
    if (count > (len - ENTRY_HEADER) / FRAME_HEADER || get_u32(p + RESERVED_AT) != 0)
        return error_set(e, ERROR_CORRUPT, "an entry of %zu bytes claims %u commands", len, count);
    *r = (struct entry_reader){.data = p, .len = len, .at = ENTRY_HEADER, .left = count, .time_us = get_u64(p)};
    return 0;
}

int entry_next(struct entry_reader *r, struct frame *ret_frame, size_t *ret_at, size_t *ret_len, struct error *e)
{
    if (r->left == 0) {
        if (r->at == r->len) return 0;
        return error_set(e, ERROR_CORRUPT, "an entry has %zu bytes behind its last command", r->len - r->at);
    }
    struct error why = {0};
    int64_t size = frame_decode(r->data + r->at, r->len - r->at, ret_frame, &why);
    if (size == 0) return error_set(e, ERROR_CORRUPT, "an entry ends within a command");
    if (size < 0) return error_set(e, ERROR_CORRUPT, "a command in an entry: %s", why.text);
    *ret_at = r->at;
    *ret_len = (size_t)size;
    r->at += (size_t)size;
    r->left--;
    return 1;
}
