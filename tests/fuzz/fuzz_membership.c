/* The membership in a CHANGE entry, and the rules that change one: what is decoded encodes to the same; changes keep a voter and unique ids. */
#include <stdio.h>
#include <string.h>

#include "logd/consensus/membership.h"
#include "tests/fuzz/fuzz.h"

static void check(const struct membership *m)
{
    struct membership again;
    struct blob *payload;
    FUZZ_CHECK(m->n <= MEMBERSHIP_MAX && membership_voters(m) >= 1);
    for (unsigned i = 0; i < m->n; i++)
        for (unsigned k = 0; k < i; k++) FUZZ_CHECK(m->servers[i].id != m->servers[k].id);
    FUZZ_CHECK(membership_encode(m, &payload) == 0 && membership_decode(payload->data, payload->len, &again) == 0 && membership_equal(m, &again));
    blob_unref(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct membership m, before;
    struct fuzz_input in = {data, size};
    size_t len = (size_t)fuzz_number(&in, 2);
    if (len > in.len) len = in.len;
    if (membership_decode(in.data, len, &m) != 0) return 0;
    check(&m);
    in.data += len, in.len -= len;
    while (in.len > 0) {
        char address[32];
        uint64_t what = fuzz_number(&in, 1), id = 1 + fuzz_number(&in, 1) % 12;
        before = m;
        snprintf(address, sizeof address, "10.0.0.%d:7400", (int)fuzz_number(&in, 1));
        int rv = what % 4 == 0 ? membership_add(&m, id, address, NULL) : what % 4 == 1 ? membership_promote(&m, id, NULL) : what % 4 == 2 ? membership_remove(&m, id, NULL) : 0;
        if (what % 4 == 3) membership_note(&m, id, address, 1 + fuzz_number(&in, 1));
        FUZZ_CHECK(rv == 0 || membership_equal(&m, &before));
        FUZZ_CHECK(membership_may_follow(&before, &m));
        check(&m);
    }
    return 0;
}
