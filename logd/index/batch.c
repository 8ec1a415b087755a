#include "logd/index/batch.h"

/* A write in the buffer: table, key length, value length, then key and value. */
enum { TABLE_AT = 0, KEY_LEN_AT = 4, VALUE_LEN_AT = 8, HEADER = 12, KEEP = 8 << 20 };

int batch_add(struct batch *b, uint64_t applied, const struct streams_update *update)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < update->n_puts; i++) bytes += HEADER + update->puts[i].key_len + update->puts[i].value_len;
    int rv = buf_reserve(&b->bytes, bytes);
    if (rv != 0) return rv;
    for (unsigned i = 0; i < update->n_puts; i++) {
        const struct streams_put *put = &update->puts[i];
        uint8_t header[HEADER];
        put_u32(header + TABLE_AT, put->table);
        put_u32(header + KEY_LEN_AT, put->key_len);
        put_u32(header + VALUE_LEN_AT, put->value_len);
        buf_add(&b->bytes, header, sizeof header); /* cannot fail: reserved above */
        buf_add(&b->bytes, update->bytes.data + put->key_at, put->key_len);
        if (put->value_len > 0) buf_add(&b->bytes, update->bytes.data + put->value_at, put->value_len);
    }
    b->applied = applied;
    return 0;
}

int batch_note(struct batch *b, const void *bytes, size_t len)
{
    b->note.len = 0;
    return buf_add(&b->note, bytes, len);
}

int batch_move(struct batch *b, const struct batch_move *moves, size_t n)
{
    return buf_add(&b->moves, moves, n * sizeof *moves);
}

bool batch_next(const struct batch *b, size_t *at, struct batch_write *ret_write)
{
    if (*at == b->bytes.len) return false;
    const uint8_t *p = b->bytes.data + *at;
    ret_write->table = (enum streams_table)get_u32(p + TABLE_AT);
    ret_write->key_len = get_u32(p + KEY_LEN_AT);
    ret_write->value_len = get_u32(p + VALUE_LEN_AT);
    ret_write->key = p + HEADER;
    ret_write->value = p + HEADER + ret_write->key_len;
    *at += HEADER + ret_write->key_len + ret_write->value_len;
    return true;
}

void batch_clear(struct batch *b)
{
    if (b->bytes.cap > KEEP) buf_fini(&b->bytes);
    b->bytes.len = 0;
    buf_fini(&b->moves); /* seldom, and then many */
    b->note.len = 0;
    b->applied = 0;
}

void batch_fini(struct batch *b)
{
    buf_fini(&b->bytes);
    buf_fini(&b->moves);
    buf_fini(&b->note);
    b->applied = 0;
}
