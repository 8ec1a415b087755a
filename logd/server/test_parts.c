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
#include "logd/server/due.h"
#include "logd/server/identity.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/session.h"
#include "logd/server/settings.h"
#include "logd/server/slow.h"
#include "logd/server/space.h"
#include "logd/server/sparse.h"
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

/* Adds `n` commands and asks for an entry; it is proposed and applied at once. */
static bool cut_of(struct batcher *b, uint64_t *index, unsigned n, uint64_t now, bool idle)
{
    const struct batcher_waiter *w;
    for (unsigned i = 0; i < n; i++) assert_int_equal(add(b, i, 10, now), 0);
    size_t waiting = batcher_waiters(b);
    struct blob *entry = batcher_cut(b, now, idle);
    if (entry == NULL) return false;
    blob_unref(entry);
    batcher_proposed(b, ++*index, 1);
    assert_int_equal(batcher_take(b, *index, 1, &w), waiting);
    return true;
}

static void test_batcher_gathers(void **state)
{
    (void)state;
    struct batcher *b = batcher_new(4096, 200, 4);
    uint64_t index = 0;
    assert_true(cut_of(b, &index, 5, 1000, true)); /* nothing is known of before */
    assert_false(cut_of(b, &index, 2, 2000, true));
    assert_true(batcher_gathers(b));
    assert_false(cut_of(b, &index, 1, 2199, true));
    assert_true(cut_of(b, &index, 0, 2200, true)); /* the rest did not come */
    assert_false(batcher_gathers(b));
    assert_true(cut_of(b, &index, 1, 3000, true)); /* before it were three: too few to wait for */
    assert_true(cut_of(b, &index, 6, 4000, true));
    assert_false(cut_of(b, &index, 4, 5000, true));
    assert_true(cut_of(b, &index, 2, 5001, true)); /* all are there */
    assert_false(cut_of(b, &index, 1, 6000, true));
    assert_false(cut_of(b, &index, 0, 6001, false)); /* busy again: what counts is its age */
    assert_false(batcher_gathers(b));
    assert_true(cut_of(b, &index, 0, 6200, false));
    batcher_free(b);
    b = batcher_new(1 << 20, 200, 4);
    assert_int_equal(add(b, 1, BATCHER_GATHER_BYTES, 6300), 0);
    assert_true(cut_of(b, &index, 5, 6300, true)); /* large: nobody waits for another like this */
    assert_true(cut_of(b, &index, 1, 6301, true));
    batcher_free(b);
    b = batcher_new(4096, 0, 4); /* one that never lingers */
    assert_true(cut_of(b, &index, 5, 7000, true));
    assert_true(cut_of(b, &index, 1, 7001, true));
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
    assert_in_range(n, 25, 32); /* BATCHER_PENDING_BYTES */
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
    uint64_t instance = 0, again = 0, renewed = 0;
    assert_non_null(mkdtemp(dir));
    snprintf(deep, sizeof deep, "%s/a/b", dir);
    snprintf(path, sizeof path, "%s/identity", deep);
    assert_int_equal(identity_check(deep, 2, "blue", &instance, &e), 0);
    assert_int_equal(identity_check(deep, 2, "blue", &again, &e), 0);
    assert_true(instance != 0 && again == instance);
    assert_int_equal(identity_renew(deep, 2, "blue", &renewed, &e), 0);
    assert_int_equal(identity_check(deep, 2, "blue", &again, &e), 0);
    assert_true(renewed != instance && again == renewed);
    assert_int_equal(identity_check(deep, 3, "blue", &instance, &e), -ERROR_INVALID);
    assert_non_null(strstr(e.text, "server 2 of cluster \"blue\""));
    assert_int_equal(identity_check(deep, 2, "red", &instance, &e), -ERROR_INVALID);
    FILE *f = fopen(path, "w");
    fputs("id two\n", f);
    fclose(f);
    assert_int_equal(identity_check(deep, 2, "blue", &instance, &e), -ERROR_CORRUPT);
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
    assert_int_equal(rpc_encode_hello(3, "blue", 7, "a:1", &head), 0);
    struct frame f = {.type = FRAME_HELLO, .head = head.data, .head_len = head.len};
    assert_int_equal(rpc_decode_hello(&f, &hello, &e), 0);
    assert_int_equal(hello.node_id, 3);
    assert_int_equal(hello.version, RPC_VERSION);
    assert_string_equal(hello.cluster, "blue");
    assert_int_equal(rpc_encode_hello(3, name, 7, "a:1", &head), 0);
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

/* ---- space ---- */

static void test_space_marks(void **state)
{
    (void)state;
    struct space s = {.reserve = 800};
    struct error e;
    char text[128];
    assert_false(space_seen(&s, 800, false));
    assert_int_equal(space_check(&s, FRAME_APPEND, &e), 0);
    assert_true(space_seen(&s, 799, false));
    assert_int_equal(space_check(&s, FRAME_APPEND, &e), -ERROR_NOSPACE);
    assert_int_equal(space_check(&s, FRAME_RECORD_SNAPSHOT, &e), 0); /* the way to a trim */
    assert_true(space_takes(&s, 1 << 20));
    assert_false(space_seen(&s, 999, false)); /* no flicker */
    assert_true(space_seen(&s, 399, false));
    assert_int_equal(space_check(&s, FRAME_RECORD_SNAPSHOT, &e), -ERROR_NOSPACE);
    assert_int_equal(space_check(&s, FRAME_TRIM, &e), 0);
    assert_false(space_takes(&s, 5000));
    assert_true(space_takes(&s, 100));
    assert_false(space_seen(&s, 199, false));
    assert_false(space_takes(&s, 100));
    space_text(&s, sizeof text, text);
    assert_non_null(strstr(text, "full"));
    assert_false(space_seen(&s, 499, false));
    assert_true(space_seen(&s, 500, false));
    assert_int_equal(s.state, SPACE_LOW);
    assert_true(space_seen(&s, 1000, false));
    space_text(&s, sizeof text, text);
    assert_string_equal(text, "");
    assert_true(space_seen(&s, 1000, true)); /* whatever seems to be free */
    assert_int_equal(s.state, SPACE_FULL);
    assert_int_equal(space_check(&s, FRAME_APPEND, &e), -ERROR_NOSPACE);
    assert_false(space_takes(&s, 100));
    assert_true(space_seen(&s, 1000, false));
    assert_int_equal(s.state, SPACE_ENOUGH);
    assert_false(space_wrote(&s, 50));
    assert_true(space_wrote(&s, 1));
}

/* One second after the other, each of `n` syncs. */
static bool seconds(struct slow *s, unsigned n_seconds, uint64_t n, uint64_t each_us, uint64_t waiting_us)
{
    bool changed = false;
    for (unsigned i = 0; i < n_seconds; i++) {
        assert_false(changed);
        changed = slow_second(s, s->count + n, s->sum_us + n * each_us, waiting_us);
    }
    return changed;
}

static void test_slow_disk(void **state)
{
    (void)state;
    struct slow s = {.limit_us = 1000000};
    char text[128];
    assert_false(seconds(&s, 100, 1000, 900000, 0));
    assert_false(seconds(&s, SLOW_AFTER - 1, 1, 1200000, 0));
    assert_false(seconds(&s, 1, 10, 1000, 0)); /* in a row, or not at all */
    assert_false(seconds(&s, SLOW_AFTER - 1, 1, 1200000, 0));
    assert_false(seconds(&s, 1, 0, 0, 700000)); /* nothing ended: neither slow nor not */
    assert_false(slow_hands_over(&s, 1000));
    assert_true(seconds(&s, 1, 0, 0, 1500000)); /* one that does not end */
    slow_text(&s, sizeof text, text);
    assert_string_equal(text, "disk slow: a sync takes 1.5 s (slow-disk: 1.0 s)");
    assert_true(slow_hands_over(&s, 1000));
    assert_false(slow_hands_over(&s, 1000 + SLOW_HAND_OVER_MS - 1));
    assert_true(slow_hands_over(&s, 1000 + SLOW_HAND_OVER_MS));
    assert_false(seconds(&s, SLOW_OVER - 1, 0, 0, 0));
    assert_false(seconds(&s, 1, 1, 1000000, 0));
    assert_true(seconds(&s, SLOW_OVER, 0, 0, 0));
    slow_text(&s, sizeof text, text);
    assert_string_equal(text, "");
    s.limit_us = 0;
    assert_false(seconds(&s, 100, 1, 60000000, 0));
}

/* A full follower answers only what ends where its log ends, and not more often than asked. */
/* A stream of 1000 runs of 3 events: run i has 100 * (i + 1) bytes before its end, and comes at i seconds. */
static unsigned asked;

static int find_made_up(void *user, uint64_t stream_id, uint64_t offset, struct streams_run *ret_run, struct error *e)
{
    (void)user;
    (void)stream_id;
    asked++;
    uint64_t i = (offset - 1) / 3;
    if (i >= 1000) return error_set(e, ERROR_CORRUPT, "there is no offset %llu", (unsigned long long)offset);
    *ret_run = (struct streams_run){.first_offset = 1 + 3 * i, .count = 3, .before = 100 * i, .time_us = i * 1000000};
    return 0;
}

static uint64_t decide(struct streams_policy policy, uint64_t first, uint64_t bound, uint64_t now_s)
{
    const struct streams_info info = {.id = 1, .first_offset = first, .last_offset = 3000, .bytes = 100000, .policy = policy};
    uint64_t offset = 77;
    asked = 0;
    assert_int_equal(due_offset(&info, bound, now_s * 1000000, find_made_up, NULL, &offset, NULL), 0);
    assert_true(asked <= 13);
    return offset;
}

static void test_due(void **state)
{
    (void)state;
    const struct streams_policy keep = {.keep_snapshots = 1}, age = {.max_age_us = 400 * 1000000}, size = {.max_bytes = 1000};
    const struct streams_policy both = {.max_age_us = 400 * 1000000, .max_bytes = 70000};
    assert_int_equal(decide(keep, 1, 1234, 0), 1234); /* all that snapshots do not need */
    assert_int_equal(decide(age, 1, 3000, 1000), 1800); /* runs 0 to 599 are older than 400 s */
    assert_int_equal(decide(age, 1, 1000, 1000), 1000); /* but only as far as it may */
    assert_int_equal(decide(age, 1, 3000, 400), 0);
    assert_int_equal(decide(age, 1, 3000, 401), 3);
    assert_int_equal(decide(age, 1, 3000, 100000), 3000);
    assert_int_equal(decide(age, 1, 3000, 10), 0); /* a clock that begins at 0 */
    assert_int_equal(decide(age, 1801, 3000, 1000), 0);
    assert_int_equal(asked, 1);
    assert_int_equal(decide(size, 1, 3000, 0), 2967); /* 10 runs of 100 stay, and the one of which an event may be needed for that */
    assert_int_equal(decide(size, 2966, 3000, 0), 2967); /* a run may be begun in the middle */
    assert_int_equal(decide(size, 2966, 2966, 0), 2966); /* and left there */
    assert_int_equal(decide(size, 2960, 2963, 0), 2963);
    assert_int_equal(decide(size, 2968, 3000, 0), 0);
    assert_int_equal(decide(size, 2969, 2969, 0), 0);
    const struct streams_policy nothing = {.max_bytes = 99999}, all = {.max_bytes = 100000};
    assert_int_equal(decide(nothing, 1, 3000, 0), 0); /* the first run is all that is too much */
    assert_int_equal(decide(all, 1, 3000, 0), 0);
    assert_int_equal(decide(both, 1, 3000, 500), 897); /* 299 runs are too much, 100 are too old */
    assert_int_equal(decide(both, 1, 3000, 800), 1200);
    const struct streams_info damaged = {.id = 1, .first_offset = 1, .last_offset = 9000, .bytes = 300000, .policy = size};
    uint64_t offset;
    struct error e;
    assert_int_equal(due_offset(&damaged, 9000, 0, find_made_up, NULL, &offset, &e), -ERROR_CORRUPT);
}

static void test_sparse(void **state)
{
    (void)state;
    struct sparse_segment dense[] = {{1, 1000, 900}, {2, 1000, 850}, {3, 1000, 700}};
    assert_int_equal(sparse_choose(dense, 3, 0), 0); /* 3000 for 2450: less than a quarter too much */
    struct sparse_segment some[] = {{1, 1000, 950}, {2, 1000, 10}, {3, 1000, 500}, {4, 1000, 900}, {5, 1000, 200}};
    assert_int_equal(sparse_choose(some, 5, 3000), 0);
    assert_int_equal(sparse_choose(some, 5, 0), 3);
    assert_int_equal(some[0].id, 2);
    assert_int_equal(some[1].id, 5);
    assert_int_equal(some[2].id, 3);
    struct sparse_segment one[] = {{1, 1000, 990}, {2, 1000, 990}, {3, 2000, 20}};
    assert_int_equal(sparse_choose(one, 3, 0), 1); /* the rest is as dense as is worth it */
    assert_int_equal(sparse_choose(NULL, 0, 0), 0);
    struct sparse_segment large[] = {{1, UINT64_C(1) << 50, UINT64_C(1) << 40}};
    assert_int_equal(sparse_choose(large, 1, 0), 1);
}

static void test_space_pass(void **state)
{
    (void)state;
    struct space s = {.reserve = 800};
    assert_false(space_pass(&s, 1000, 100, 7, 6));
    assert_false(space_pass(&s, 1000, 100, 7, 8));
    assert_true(space_pass(&s, 1000, 100, 7, 7));
    assert_false(space_pass(&s, 1099, 100, 7, 7));
    assert_true(space_pass(&s, 1100, 100, 7, 7));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_space_marks),
        cmocka_unit_test(test_space_pass),
        cmocka_unit_test(test_due),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_slow_disk),
        cmocka_unit_test(test_batcher_cuts), cmocka_unit_test(test_batcher_bounds), cmocka_unit_test(test_members),
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_codec_garbage),  cmocka_unit_test(test_codec_limits),
        cmocka_unit_test(test_batcher_gathers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
