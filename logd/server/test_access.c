/* Who may do what: each request with each role, patterns, names that are no roles, and requests whose stream could be read in two ways. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "logd/server/access.h"
#include "logd/server/rpc_codec.h"
#include "logd/server/rpc_stream.h"

static struct access *holder(const char *protocol, const char *const *names, unsigned n)
{
    struct tls_peer peer = {.subject = "/CN=somebody", .names = names, .n_names = n, .protocol = protocol};
    struct access *a = access_new(&peer);
    assert_non_null(a);
    return a;
}

static struct access *with_role(const char *role)
{
    char name[300];
    const char *names[] = {"DNS:localhost", name};
    snprintf(name, sizeof name, "URI:crsc://role/%s", role);
    return holder(ACCESS_PROTOCOL, names, 2);
}

/* A request of the type about the stream, as it comes over the wire. */
static struct frame request(uint16_t type, const char *stream, uint8_t head[600])
{
    size_t len = strlen(stream), at = 0;
    if (type == FRAME_RECORD_SNAPSHOT) { /* the name is in the snapshot */
        head[at++] = 0x0a;
        head[at++] = (uint8_t)(len + 2);
    }
    head[at++] = 0x0a;
    head[at++] = (uint8_t)len;
    memcpy(head + at, stream, len);
    return (struct frame){.type = type, .head = head, .head_len = at + len};
}

static int ask(const struct access *a, uint16_t type, const char *stream)
{
    uint8_t head[600];
    struct error e;
    struct frame f = request(type, stream, head);
    int rv = access_check(a, &f, &e);
    if (rv != 0) assert_true(e.text[0] != '\0');
    return rv;
}

/* ---- the table: what docs/OPERATIONS.md promises -------------------------------------------------------------- */

enum { NO, YES, OWN }; /* OWN: of the streams that the pattern matches */

static const struct {
    uint16_t type;
    const char *name;
    int admin, operator, producer, reader; /* peer: never */
} expected[] = {
    {FRAME_OPEN_PRODUCER, "OpenProducer", YES, NO, OWN, NO},
    {FRAME_APPEND, "Append", YES, NO, OWN, NO},
    {FRAME_FENCE, "Fence", YES, YES, NO, NO},
    {FRAME_RECORD_SNAPSHOT, "RecordSnapshot", YES, YES, NO, NO},
    {FRAME_TRIM, "Trim", YES, YES, NO, NO},
    {FRAME_SET_RETENTION, "SetRetention", YES, YES, NO, NO},
    {FRAME_READ, "Read", YES, YES, OWN, OWN},
    {FRAME_FOLLOW, "Follow", YES, YES, OWN, OWN},
    {FRAME_LATEST_SNAPSHOT, "LatestSnapshot", YES, YES, OWN, OWN},
    {FRAME_LIST_SNAPSHOTS, "ListSnapshots", YES, YES, OWN, OWN},
    {FRAME_FOLLOW_CREDIT, "FollowCredit", YES, YES, YES, YES},
    {FRAME_FOLLOW_CANCEL, "FollowCancel", YES, YES, YES, YES},
    {FRAME_LIST_STREAMS, "ListStreams", YES, YES, YES, YES}, /* each sees its own: access_sees() */
    {FRAME_STATUS, "Status", YES, YES, YES, YES},
    {FRAME_ADD_SERVER, "AddServer", YES, NO, NO, NO},
    {FRAME_PROMOTE_SERVER, "PromoteServer", YES, NO, NO, NO},
    {FRAME_REMOVE_SERVER, "RemoveServer", YES, NO, NO, NO},
    {FRAME_TRANSFER_LEADERSHIP, "TransferLeadership", YES, NO, NO, NO},
    {FRAME_FETCH_STATE, "FetchState", YES, NO, NO, NO},
    {FRAME_FETCH_BYTES, "FetchBytes", YES, NO, NO, NO},
};
enum { EXPECTED = sizeof expected / sizeof *expected };

static void cell(const struct access *a, unsigned i, const char *role, int wanted)
{
    int own = ask(a, expected[i].type, "shop/default/workload/cart"), other = ask(a, expected[i].type, "bank/default/workload/vault");
    bool good = own == (wanted == NO ? -ERROR_DENIED : 0) && other == (wanted == YES ? 0 : -ERROR_DENIED);
    if (!good) fail_msg("%s with the role %s: own stream %d, another's %d", expected[i].name, role, own, other);
}

static void each_request_with_each_role(void **state)
{
    (void)state;
    struct access *admin = with_role("admin"), *operator = with_role("operator"), *producer = with_role("producer/shop/*");
    struct access *reader = with_role("reader/shop/*"), *peer = with_role("peer/1"), *nobody = with_role("guest");
    for (unsigned i = 0; i < EXPECTED; i++) {
        cell(admin, i, "admin", expected[i].admin);
        cell(operator, i, "operator", expected[i].operator);
        cell(producer, i, "producer/shop/*", expected[i].producer);
        cell(reader, i, "reader/shop/*", expected[i].reader);
        cell(peer, i, "peer/1", NO);
        cell(nobody, i, "guest", NO);
    }
    access_free(admin);
    access_free(operator);
    access_free(producer);
    access_free(reader);
    access_free(peer);
    access_free(nobody);
}

/* The operator writes its account of recoveries, and nothing else. */
static void the_operator_appends_to_its_account_only(void **state)
{
    (void)state;
    struct access *a = with_role("operator");
    assert_int_equal(ask(a, FRAME_OPEN_PRODUCER, "shop/default/workload/cart/restores"), 0);
    assert_int_equal(ask(a, FRAME_APPEND, "shop/default/workload/cart/restores"), 0);
    assert_int_equal(ask(a, FRAME_APPEND, "shop/default/workload/cart/restores2"), -ERROR_DENIED);
    assert_int_equal(ask(a, FRAME_APPEND, "restores"), -ERROR_DENIED);
    access_free(a);
}

/* Every other type, those between servers included, is for no client whatever its roles. */
static void what_is_not_in_the_table_is_for_nobody(void **state)
{
    (void)state;
    const char *const all[] = {"URI:crsc://role/admin", "URI:crsc://role/operator", "URI:crsc://role/producer/*", "URI:crsc://role/reader/*",
                               "URI:crsc://role/peer/*"};
    struct access *a = holder(ACCESS_PROTOCOL, all, 5);
    for (uint32_t type = 0; type <= UINT16_MAX; type++) {
        bool known = false;
        for (unsigned i = 0; i < EXPECTED; i++) known = known || expected[i].type == type;
        assert_int_equal(ask(a, (uint16_t)type, "x"), known ? 0 : -ERROR_DENIED);
    }
    access_free(a);
    /* and the same certificate as a server is no client */
    a = holder(ACCESS_PEER_PROTOCOL, all, 5);
    for (unsigned i = 0; i < EXPECTED; i++) assert_int_equal(ask(a, expected[i].type, "x"), -ERROR_DENIED);
    assert_int_equal(access_check_client(a, NULL), -ERROR_DENIED);
    access_free(a);
}

static void without_tls_everything_is_allowed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < EXPECTED; i++) assert_int_equal(ask(NULL, expected[i].type, "x"), 0);
    assert_int_equal(access_check_peer(NULL, 7, NULL), 0);
    assert_int_equal(access_check_client(NULL, NULL), 0);
    assert_true(access_sees(NULL, "x"));
}

/* ---- identities ----------------------------------------------------------------------------------------------- */

static void a_server_is_who_its_certificate_says(void **state)
{
    (void)state;
    const char *const two[] = {"DNS:logd-2", "URI:crsc://role/peer/2"}, *const any[] = {"URI:crsc://role/peer/*"};
    const char *const client[] = {"URI:crsc://role/admin"};
    struct error e;
    struct access *a = holder(ACCESS_PEER_PROTOCOL, two, 2);
    assert_int_equal(access_check_peer(a, 2, &e), 0);
    for (uint64_t id = 0; id < 100; id++)
        if (id != 2) assert_int_equal(access_check_peer(a, id, &e), -ERROR_DENIED);
    assert_int_equal(access_check_peer(a, 22, &e), -ERROR_DENIED);
    assert_non_null(strstr(e.text, "crsc://role/peer/22"));
    access_free(a);
    a = holder(ACCESS_PROTOCOL, two, 2); /* the clients' CA does not make servers */
    assert_int_equal(access_check_peer(a, 2, &e), -ERROR_DENIED);
    access_free(a);
    a = holder(ACCESS_PEER_PROTOCOL, any, 1);
    assert_int_equal(access_check_peer(a, 12345, &e), 0);
    access_free(a);
    a = holder(ACCESS_PEER_PROTOCOL, client, 1);
    assert_int_equal(access_check_peer(a, 2, &e), -ERROR_DENIED);
    access_free(a);
}

static void what_is_no_role_grants_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {
        "URI:crsc://role/", "URI:crsc://role/admins", "URI:crsc://role/admin/", "URI:crsc://role/Admin", "URI:crsc://role/producer",
        "URI:crsc://role/producer/", "URI:crsc://roles/admin", "URI:http://role/admin", "DNS:crsc://role/admin", "URI: crsc://role/admin",
        "URI:crsc://role/reader", "URI:crsc:/role/admin", "DNS:admin", "URI:crsc://role/operator/x", "URI:x?crsc://role/admin",
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        struct access *a = holder(ACCESS_PROTOCOL, &names[i], 1);
        struct error e;
        if (access_check_client(a, &e) != -ERROR_DENIED) fail_msg("%s is a role", names[i]);
        for (unsigned k = 0; k < EXPECTED; k++) assert_int_equal(ask(a, expected[k].type, "x"), -ERROR_DENIED);
        assert_false(access_sees(a, "x"));
        access_free(a);
    }
    struct access *a = holder(ACCESS_PROTOCOL, NULL, 0);
    assert_int_equal(access_check_client(a, NULL), -ERROR_DENIED);
    access_free(a);
}

static void roles_add_up(void **state)
{
    (void)state;
    const char *const names[] = {"URI:crsc://role/producer/a/*", "URI:crsc://role/reader/b/*"};
    struct access *a = holder(ACCESS_PROTOCOL, names, 2);
    assert_int_equal(ask(a, FRAME_APPEND, "a/1"), 0);
    assert_int_equal(ask(a, FRAME_READ, "b/1"), 0);
    assert_int_equal(ask(a, FRAME_APPEND, "b/1"), -ERROR_DENIED);
    assert_int_equal(ask(a, FRAME_READ, "c/1"), -ERROR_DENIED);
    assert_true(access_sees(a, "a/1") && access_sees(a, "b/2") && !access_sees(a, "c/1"));
    access_free(a);
}

/* ---- patterns ------------------------------------------------------------------------------------------------- */

/* The definition, without care for time. */
static bool slow_match(const char *p, const char *n, size_t len)
{
    if (*p == '\0') return len == 0;
    if (*p == '*') return slow_match(p + 1, n, len) || (len > 0 && slow_match(p, n + 1, len - 1));
    return len > 0 && *p == *n && slow_match(p + 1, n + 1, len - 1);
}

static void patterns_match_as_defined(void **state)
{
    (void)state;
    uint32_t random = 1;
    char pattern[9], name[9];
    unsigned matched = 0;
    for (unsigned i = 0; i < 200000; i++) {
        char *const texts[] = {pattern, name};
        for (unsigned t = 0; t < 2; t++) {
            random = random * 1664525u + 1013904223u;
            unsigned len = random >> 29, k = 0;
            for (; k < len; k++) {
                random = random * 1664525u + 1013904223u;
                texts[t][k] = t == 0 ? "ab*"[(random >> 16) % 3] : "ab"[random >> 31];
            }
            texts[t][k] = '\0';
        }
        bool good = access_match(pattern, name, strlen(name));
        matched += good;
        if (good != slow_match(pattern, name, strlen(name))) fail_msg("%s and %s", pattern, name);
    }
    assert_true(matched > 10000 && matched < 190000);
    /* and in time: this takes for ever when each star tries all that the others left */
    char many[256], as[256];
    memset(as, 'a', 255);
    as[255] = '\0';
    for (unsigned i = 0; i < 250; i += 2) memcpy(many + i, "*a", 2);
    memcpy(many + 250, "b", 2);
    assert_false(access_match(many, as, 255));
}

/* ---- which stream? -------------------------------------------------------------------------------------------- */

static void a_stream_that_could_be_read_in_two_ways_is_refused(void **state)
{
    (void)state;
    struct access *a = with_role("reader/a");
    static const struct {
        const char *bytes;
        size_t len;
        int code;
    } cases[] = {
        {"\x0a\x01" "a", 3, 0},
        {"\x0a\x01" "b", 3, ERROR_DENIED},
        {"\x10\x05\x0a\x01" "a", 5, 0},                        /* in another order */
        {"\x8a\x00\x01" "a", 4, 0},                            /* an odd form of the same tag */
        {"\x8a\x00\x01" "b", 4, ERROR_DENIED},
        {"", 0, ERROR_DENIED},                                 /* no name is not "a" */
        {"\x0a\x01" "a" "\x0a\x01" "b", 6, ERROR_INVALID},     /* a decoder takes the last one */
        {"\x0a\x01" "b" "\x0a\x01" "a", 6, ERROR_INVALID},
        {"\x0a\x01" "a" "\x8a\x80\x80\x80\x40\x01" "b", 10, ERROR_INVALID}, /* one whose upper bits a decoder cuts off */
        {"\x08\x01", 2, ERROR_INVALID},                        /* of another kind */
        {"\x0a\x05" "a", 3, ERROR_INVALID},                    /* cut short */
        {"\x0b\x01" "a", 3, ERROR_INVALID},                    /* a group */
        {"\x0a\x01" "a" "\x10", 4, ERROR_INVALID},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct frame f = {.type = FRAME_READ, .head = (const uint8_t *)cases[i].bytes, .head_len = cases[i].len};
        int rv = access_check(a, &f, NULL);
        if (rv != -cases[i].code) fail_msg("case %u: %d, not %d", i, rv, -cases[i].code);
    }
    access_free(a);
}

/* Whatever the bytes: when the decoder and the check both take them, they mean the same stream. */
static void checked_and_served_are_the_same(void **state)
{
    (void)state;
    uint32_t random = 7;
    unsigned both = 0;
    for (unsigned i = 0; i < 300000; i++) {
        uint8_t head[24];
        size_t len = 0;
        while (len < 18) { /* fields that are mostly well-formed, often the first one */
            random = random * 1664525u + 1013904223u;
            static const uint8_t tags[] = {0x0a, 0x0a, 0x10, 0x12, 0x18, 0x8a, 0x08, 0x0d, 0x22};
            uint8_t tag = (random >> 24) % 16 == 0 ? (uint8_t)(random >> 8) : tags[(random >> 16) % sizeof tags];
            head[len++] = tag;
            if (tag == 0x8a) head[len++] = (random >> 12 & 3) == 0 ? 0x40 : 0x00;
            head[len++] = (uint8_t)(random >> 4 & 3);
            for (unsigned k = head[len - 1]; k > 0 && (tag & 7) == 2; k--) head[len++] = (uint8_t)('a' + (random >> k & 1));
            if ((random >> 20) % 3 == 0) break;
        }
        struct frame f = {.type = FRAME_READ, .head = head, .head_len = len};
        struct rpc_read read;
        const char *name;
        size_t name_len;
        if (rpc_stream(&f, &name, &name_len) != 0 || rpc_decode_read(&f, &read, NULL) != 0) continue;
        both++;
        assert_int_equal(strlen(read.stream), name_len);
        assert_memory_equal(read.stream, name, name_len);
    }
    assert_true(both > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_request_with_each_role),
        cmocka_unit_test(the_operator_appends_to_its_account_only),
        cmocka_unit_test(what_is_not_in_the_table_is_for_nobody),
        cmocka_unit_test(without_tls_everything_is_allowed),
        cmocka_unit_test(a_server_is_who_its_certificate_says),
        cmocka_unit_test(what_is_no_role_grants_nothing),
        cmocka_unit_test(roles_add_up),
        cmocka_unit_test(patterns_match_as_defined),
        cmocka_unit_test(a_stream_that_could_be_read_in_two_ways_is_refused),
        cmocka_unit_test(checked_and_served_are_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
