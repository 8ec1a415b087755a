#include "logd/streams/update.h"

#include <stdlib.h>

#include "logd/streams/records.h"

void update_reset(struct streams_update *u)
{
    u->n_outcomes = u->n_puts = 0;
    u->bytes.len = 0;
}

void streams_update_fini(struct streams_update *u)
{
    free(u->outcomes);
    free(u->puts);
    buf_fini(&u->bytes);
    *u = (struct streams_update)STREAMS_UPDATE_INIT;
}

/* Room for one more element of `size` bytes in *items. */
static int grow(void **items, unsigned n, unsigned *cap, size_t size)
{
    if (n < *cap) return 0;
    unsigned bigger = *cap == 0 ? 16 : *cap * 2;
    void *grown = realloc(*items, bigger * size);
    if (grown == NULL) return -ERROR_NOMEM;
    *items = grown;
    *cap = bigger;
    return 0;
}

struct streams_outcome *update_outcome(struct streams_update *u)
{
    void *items = u->outcomes;
    if (grow(&items, u->n_outcomes, &u->cap_outcomes, sizeof *u->outcomes) != 0) return NULL;
    u->outcomes = items;
    u->outcomes[u->n_outcomes] = (struct streams_outcome){0};
    return &u->outcomes[u->n_outcomes++];
}

int update_put(struct streams_update *u, enum streams_table table, const void *key, size_t key_len, const void *value,
               size_t value_len)
{
    void *items = u->puts;
    int rv = grow(&items, u->n_puts, &u->cap_puts, sizeof *u->puts);
    if (rv != 0) return rv;
    u->puts = items;
    struct streams_put put = {table, (uint32_t)u->bytes.len, (uint32_t)key_len,
                              (uint32_t)(u->bytes.len + key_len), 0};
    if ((rv = buf_add(&u->bytes, key, key_len)) != 0 || (rv = buf_add(&u->bytes, value, value_len)) != 0) return rv;
    if (value_len > 0) {
        uint8_t seal[RECORDS_SEAL];
        records_seal(key, key_len, value, value_len, seal);
        if ((rv = buf_add(&u->bytes, seal, sizeof seal)) != 0) return rv;
        put.value_len = (uint32_t)(value_len + sizeof seal);
    }
    u->puts[u->n_puts++] = put;
    return 0;
}
