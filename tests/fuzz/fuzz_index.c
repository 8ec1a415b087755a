/* The index' loader: records as LMDB gives them back, sealed (so that the damage is inside) or not. Nothing that no encoder made
 * is taken; a state that was taken can be asked. */
#include <string.h>

#include "logd/streams/records.h"
#include "logd/streams/streams.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct streams *s = streams_new();
    bool sound = true;
    FUZZ_CHECK(s != NULL);
    while (in.len > 0) {
        uint8_t key[RECORDS_KEY_MAX], value[RECORDS_VALUE_MAX + RECORDS_SEAL];
        unsigned table = (unsigned)fuzz_number(&in, 1);
        records_key(fuzz_number(&in, 1) % 4, fuzz_number(&in, 1), key);
        size_t key_len = (table & 7) == STREAMS_TABLE_STREAM ? 8 : (table & 64) ? 5 : 16;
        size_t len = (size_t)fuzz_number(&in, 2) % 512;
        if (len > in.len) len = in.len;
        memcpy(value, in.data, len);
        in.data += len, in.len -= len;
        if ((table & 128) == 0) {
            records_seal(key, key_len, value, len, value + len);
            len += RECORDS_SEAL;
        }
        if ((enum streams_table)(table & 3) == STREAMS_TABLE_EVENT) continue;
        sound = streams_load(s, (enum streams_table)(table & 3), key, key_len, value, len, NULL) == 0 && sound;
    }
    if (sound && streams_loaded(s, 1000, NULL) == 0) {
        struct streams_info info;
        for (uint64_t id = 0; id < 4; id++) streams_info(s, id, &info);
    }
    streams_free(s);
    return 0;
}
