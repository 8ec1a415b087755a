#include "common/frame.h"

#include "common/crc32c.h"

static const uint32_t magic = 0x31535243; /* "CRS1" */

enum { CRC_AT = 24 };

int64_t frame_size(const uint8_t header[static FRAME_HEADER], struct error *e)
{
    if (get_u32(header) != magic)
        return error_set(e, ERROR_PROTOCOL, "not a CRSC frame (magic %08x)", get_u32(header));
    uint32_t head = get_u32(header + 16), body = get_u32(header + 20);
    if (head > FRAME_HEAD_MAX || body > FRAME_BODY_MAX)
        return error_set(e, ERROR_TOO_LARGE, "a frame of %u + %u bytes is over the limit of %d + %d", head, body,
                         FRAME_HEAD_MAX, FRAME_BODY_MAX);
    return (int64_t)FRAME_HEADER + head + body;
}

bool frame_checksum(const uint8_t header[static FRAME_HEADER], uint32_t *ret_begin, uint32_t *ret_wanted)
{
    *ret_begin = crc32c(0, header, CRC_AT);
    *ret_wanted = get_u32(header + CRC_AT);
    return get_u32(header + CRC_AT + 4) == 0; /* the reserved bytes are under no checksum */
}

static void take(const uint8_t *data, struct frame *f)
{
    f->type = get_u16(data + 4);
    f->flags = get_u16(data + 6);
    f->id = get_u64(data + 8);
    f->head = data + FRAME_HEADER;
    f->head_len = get_u32(data + 16);
    f->body_len = get_u32(data + 20);
}

int64_t frame_peek(const uint8_t *data, size_t len, struct frame *ret_frame, struct error *e)
{
    if (len < FRAME_HEADER) return 0;
    int64_t size = frame_size(data, e);
    if (size < 0) return size;
    if (len - FRAME_HEADER < get_u32(data + 16)) return 0;
    take(data, ret_frame);
    ret_frame->body = NULL;
    return size;
}

int64_t frame_decode(const uint8_t *data, size_t len, struct frame *ret_frame, struct error *e)
{
    if (len < FRAME_HEADER) {
        /* Refuse a stranger at its first four bytes: an HTTP client would otherwise wait for ever. */
        if (len >= 4 && get_u32(data) != magic) return error_set(e, ERROR_PROTOCOL, "not a CRSC frame");
        return 0;
    }
    int64_t size = frame_size(data, e);
    if (size < 0) return size;
    if (len < (size_t)size) return 0;
    uint32_t crc = crc32c(crc32c(0, data, CRC_AT), data + FRAME_HEADER, (size_t)size - FRAME_HEADER);
    if (crc != get_u32(data + CRC_AT) || get_u32(data + CRC_AT + 4) != 0) /* the reserved bytes are under no checksum */
        return error_set(e, ERROR_CORRUPT, "a frame of type %u has a wrong checksum", get_u16(data + 4));
    take(data, ret_frame);
    ret_frame->body = ret_frame->head + ret_frame->head_len;
    return size;
}

int frame_encode_pieces(struct buf *out, const struct frame *f, const struct frame_piece *body, size_t n)
{
    size_t body_len = 0;
    for (size_t i = 0; i < n; i++) body_len += body[i].len;
    if (f->head_len > FRAME_HEAD_MAX || body_len > FRAME_BODY_MAX) return -ERROR_TOO_LARGE;
    int rv = buf_reserve(out, FRAME_HEADER + f->head_len + body_len);
    if (rv != 0) return rv;

    uint8_t *header = out->data + out->len;
    put_u32(header, magic);
    put_u16(header + 4, f->type);
    put_u16(header + 6, f->flags);
    put_u64(header + 8, f->id);
    put_u32(header + 16, (uint32_t)f->head_len);
    put_u32(header + 20, (uint32_t)body_len);
    put_u32(header + 28, 0);
    out->len += FRAME_HEADER;
    buf_add(out, f->head, f->head_len); /* cannot fail: reserved above */
    for (size_t i = 0; i < n; i++) buf_add(out, body[i].data, body[i].len);
    put_u32(header + CRC_AT,
            crc32c(crc32c(0, header, CRC_AT), header + FRAME_HEADER, f->head_len + body_len));
    return 0;
}

int frame_encode(struct buf *out, const struct frame *f)
{
    struct frame_piece body = {f->body, f->body_len};
    return frame_encode_pieces(out, f, &body, 1);
}
