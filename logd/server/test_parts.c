/* The parts of the server that need no socket: the batcher's cuts and bounds, members in the configuration, the identity
 * file, and that no bytes whatever in a request's head crash a decoder (ASan watches). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "logd/server/batcher.h"
#include "logd/server/identity.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/session.h"
#include "logd/server/settings.h"
#include "logd/streams/entry.h"

/* The batcher's only wish of a session is a reference. */
static unsigned references;

struct session *session_ref(struct session *s)
{
    references++;
    return s;
}

/* ---- batcher ---- */

static int add(struct batcher *b, uint64_t id, size_t body, uint64_t now)
{
    static uint8_t zeros[FRAME_BODY_MAX];
    struct buf bytes = BUF_INIT;
    struct error e;
    struct frame f = {.type = FRAME_APPEND, .id = id, .head = (const uint8_t *)"h", .head_len = 1, .body = zeros, .body_len = body};
    assert_int_equal(frame_encode(&bytes, &f), 0);
    assert_true(frame_decode(bytes.data, bytes.len, &f, &e) > 0);
    int rv = batcher_add(b, &f, (struct session *)(uintptr_t)8, now, 77, &e);
    buf_fini(&bytes);
    return rv;
}

static size_t count(const struct blob *entry, uint64_t first_id)
{
    struct entry_reader r;
    struct frame f;
    struct error e;
    size_t n = 0, at, len;
    assert_int_equal(entry_open(&r, entry->data, entry->len, &e), 0);
    assert_int_equal(r.time_us, 77);
    while (entry_next(&r, &f, &at, &len, &e) == 1) assert_int_equal(f.id, first_id + n++);
    return n;
}

static void test_batcher_cuts(void **state)
{
    (void)state;
    struct batcher *b = batcher_new(4096, 200, 2);
    const struct batcher_waiter *w;
    references = 0;
    assert_null(batcher_cut(b, 0, true));
    assert_int_equal(add(b, 1, 100, 1000), 0);
    assert_int_equal(add(b, 2, 100, 1050), 0);
    assert_null(batcher_cut(b, 1100, false)); /* the disk is busy and it is young */
    struct blob *entry = batcher_cut(b, 1200, false); /* 200 us old */
    assert_non_null(entry);
    assert_int_equal(count(entry, 1), 2);
    blob_unref(entry);
    batcher_proposed(b, 10, 3);

    assert_int_equal(add(b, 3, 3000, 1300), 0);
    assert_int_equal(add(b, 4, 3000, 1300), 0); /* does not fit into the same entry */
    entry = batcher_cut(b, 1300, false);        /* so the first is full */
    assert_non_null(entry);
    assert_int_equal(count(entry, 3), 1);
    blob_unref(entry);
    batcher_proposed(b, 11, 3);
    assert_null(batcher_cut(b, 9999, true)); /* two are in flight */

    assert_int_equal(batcher_take(b, 10, 4, &w), 0); /* another leader's entry at that index */
    assert_int_equal(batcher_take(b, 9, 3, &w), 0);
    assert_int_equal(batcher_take(b, 10, 3, &w), 2);
    assert_int_equal(w[0].id, 1);
    assert_int_equal(w[1].id, 2);
    entry = batcher_cut(b, 1301, true); /* idle disk: at once */
    assert_non_null(entry);
    blob_unref(entry);
    assert_false(batcher_idle(b));
    assert_int_equal(batcher_take_all(b, &w), 2); /* one in flight, one cut and never proposed */
    assert_int_equal(w[0].id, 3);
    assert_int_equal(w[1].id, 4);
    assert_true(batcher_idle(b));
    assert_int_equal(references, 4);
    batcher_free(b);
}

static void test_batcher_bounds(void **state)
{
    (void)state;
    struct batcher *b = batcher_new(1 << 20, 0, 4);
    const struct batcher_waiter *w;
    unsigned n = 0;
    assert_int_equal(add(b, 0, FRAME_BODY_MAX, 0), -ERROR_TOO_LARGE);
    while (n < 100 && add(b, n, 1 << 20, 0) == 0) n++;
    assert_in_range(n, 50, 64); /* BATCHER_PENDING_BYTES */
    assert_int_equal(add(b, n, 1 << 20, 0), -ERROR_BUSY);
    assert_int_equal(batcher_take_all(b, &w), n);
    assert_int_equal(add(b, n, 1 << 20, 0), 0);
    assert_int_equal(batcher_take_all(b, &w), 1);
    batcher_free(b);
}

/* ---- configuration ---- */

static int parse(const char *text, struct consensus_member *m, unsigned *n)
{
    static char copy[512];
    struct error e;
    snprintf(copy, sizeof copy, "%s", text);
    return settings_parse_members(copy, m, n, &e);
}

static void test_members(void **state)
{
    (void)state;
    struct consensus_member m[CONSENSUS_MEMBERS_MAX];
    unsigned n;
    assert_int_equal(parse("3=c:3,1=127.0.0.1:1,2=[::1]:2", m, &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(m[0].id, 1);
    assert_string_equal(m[1].address, "[::1]:2");
    assert_string_equal(m[2].address, "c:3");
    static const char *const bad[] = {"",        "1",         "1=",      "=a:1",       "0=a:1",          "x=a:1",         "1=a",
                                      "1=a:x",   "1=a:99999", "1=a:1,",  "1=a:1,1=b:1", "1=a:1,2=a:1",    "-1=a:1",        "1 =a:1",
                                      "1=a:1;2", "1=::1:2",   "99999999999=a:1", "1=a:1,2=a:2,3=a:3,4=a:4,5=a:5,6=a:6,7=a:7,8=a:8,9=a:9,10=a:10"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        if (parse(bad[i], m, &n) != -ERROR_INVALID) fail_msg("accepted: %s", bad[i]);
}

static void test_identity(void **state)
{
    (void)state;
    char dir[] = "/tmp/crsc-identity-XXXXXX", deep[64], path[96];
    struct error e;
    assert_non_null(mkdtemp(dir));
    snprintf(deep, sizeof deep, "%s/a/b", dir);
    snprintf(path, sizeof path, "%s/identity", deep);
    assert_int_equal(identity_check(deep, 2, "blue", &e), 0);
    assert_int_equal(identity_check(deep, 2, "blue", &e), 0);
    assert_int_equal(identity_check(deep, 3, "blue", &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "server 2 of cluster \"blue\""));
    assert_int_equal(identity_check(deep, 2, "red", &e), -ERROR_INVALID);
    FILE *f = fopen(path, "w");
    fputs("id two\n", f);
    fclose(f);
    assert_int_equal(identity_check(deep, 2, "blue", &e), -ERROR_CORRUPT);
    unlink(path);
    rmdir(deep);
    snprintf(deep, sizeof deep, "%s/a", dir);
    rmdir(deep);
    rmdir(dir);
}

/* ---- codec ---- */

static void decode_all(const uint8_t *head, size_t len)
{
    static const uint16_t queries[] = {FRAME_LATEST_SNAPSHOT, FRAME_LIST_SNAPSHOTS, FRAME_LIST_STREAMS, FRAME_STATUS};
    struct frame f = {.type = FRAME_APPEND, .head = head, .head_len = len};
    struct rpc_hello hello;
    struct rpc_snapshot_key key;
    struct rpc_read read;
    struct rpc_follow follow;
    struct rpc_query query;
    struct error e, told;
    uint32_t bytes;
    rpc_decode_hello(&f, &hello, &e);
    rpc_decode_error(&f, &told, &e);
    rpc_decode_record_snapshot(&f, &key, &e);
    rpc_decode_read(&f, &read, &e);
    rpc_decode_follow(&f, &follow, &e);
    rpc_decode_credit(&f, &bytes, &e);
    for (int i = 0; i < 4; i++) {
        f.type = queries[i];
        rpc_decode_query(&f, &query, &e);
    }
}

static void test_codec_garbage(void **state)
{
    (void)state;
    uint64_t seed = 20240229, x = seed;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 20000; round++) {
        size_t len = (size_t)(x % 64);
        uint8_t *head = malloc(len + 1);
        for (size_t i = 0; i < len; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            head[i] = (uint8_t)(x >> 40);
            if ((x >> 20) % 3 == 0) head[i] = (uint8_t)((x >> 50) % 6 << 3 | (x >> 33) % 3); /* plausible tags */
        }
        decode_all(head, len);
        free(head);
        x = x * 6364136223846793005u + 1442695040888963407u;
    }
}

static void test_codec_limits(void **state)
{
    (void)state;
    struct buf head = BUF_INIT;
    struct rpc_hello hello;
    struct rpc_read read;
    struct rpc_query query;
    struct error e;
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(rpc_encode_hello(3, "blue", &head), 0);
    struct frame f = {.type = FRAME_HELLO, .head = head.data, .head_len = head.len};
    assert_int_equal(rpc_decode_hello(&f, &hello, &e), 0);
    assert_int_equal(hello.node_id, 3);
    assert_int_equal(hello.version, RPC_VERSION);
    assert_string_equal(hello.cluster, "blue");
    assert_int_equal(rpc_encode_hello(3, name, &head), 0);
    f.head = head.data;
    f.head_len = head.len;
    assert_int_equal(rpc_decode_hello(&f, &hello, &e), -ERROR_INVALID);
    f.head_len = 0; /* an empty message is a valid protobuf: no name, no offset */
    assert_int_equal(rpc_decode_read(&f, &read, &e), -ERROR_INVALID);
    f.type = FRAME_LATEST_SNAPSHOT;
    assert_int_equal(rpc_decode_query(&f, &query, &e), -ERROR_INVALID);
    f.type = FRAME_STATUS;
    assert_int_equal(rpc_decode_query(&f, &query, &e), 0);
    assert_false(query.linearizable);
    buf_fini(&head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batcher_cuts), cmocka_unit_test(test_batcher_bounds), cmocka_unit_test(test_members),
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_codec_garbage),  cmocka_unit_test(test_codec_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
