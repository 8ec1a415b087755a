/* Every message there and back; then heads cut at every byte and with every bit flipped: a message or ERROR_PROTOCOL, never more
 * memory than the frame is long (ASan watches). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "logd/consensus/raft_codec.h"

static struct blob *text(const char *s)
{
    struct blob *b = blob_new(strlen(s));
    memcpy(b->data, s, strlen(s));
    return b;
}

static void there_and_back(const struct consensus_message *m, const void *body, size_t body_len, struct raft_codec_message *ret)
{
    struct buf head = BUF_INIT;
    struct error e;
    assert_int_equal(raft_codec_encode(m, &head), 0);
    struct frame f = {.type = FRAME_RAFT, .head = head.data, .head_len = head.len, .body = body, .body_len = body_len};
    assert_int_equal(raft_codec_decode(&f, ret, &e), 0);
    assert_int_equal(ret->m.type, m->type);
    assert_int_equal(ret->m.from, m->from);
    assert_int_equal(ret->m.to, m->to);
    assert_int_equal(ret->m.term, m->term);
    buf_fini(&head);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct raft_codec_message r;
    struct consensus_message vote = {.type = CONSENSUS_REQUEST_VOTE, .from = 1, .to = 2, .term = 3,
                                     .request_vote = {1, 5, 6, true, false}};
    there_and_back(&vote, NULL, 0, &r);
    assert_int_equal(r.m.request_vote.candidate, 1);
    assert_int_equal(r.m.request_vote.last_index, 5);
    assert_int_equal(r.m.request_vote.last_term, 6);
    assert_true(r.m.request_vote.disrupt_leader);
    assert_false(r.m.request_vote.pre_vote);
    raft_codec_message_fini(&r);

    struct consensus_message granted = {.type = CONSENSUS_REQUEST_VOTE_RESULT, .from = 2, .to = 1, .term = 3,
                                        .request_vote_result = {true, true, 1, 65535}};
    there_and_back(&granted, NULL, 0, &r);
    assert_true(r.m.request_vote_result.granted && r.m.request_vote_result.pre_vote);
    assert_int_equal(r.m.request_vote_result.capacity, 65535);
    raft_codec_message_fini(&r);

    struct consensus_message result = {.type = CONSENSUS_APPEND_ENTRIES_RESULT, .from = 2, .to = 1, .term = UINT64_MAX,
                                       .append_result = {7, 6, 1, 2}};
    there_and_back(&result, NULL, 0, &r);
    assert_int_equal(r.m.append_result.rejected, 7);
    assert_int_equal(r.m.append_result.last_index, 6);
    raft_codec_message_fini(&r);

    struct consensus_message now = {.type = CONSENSUS_TIMEOUT_NOW, .from = 1, .to = 2, .term = 3, .timeout_now = {8, 9}};
    there_and_back(&now, NULL, 0, &r);
    assert_int_equal(r.m.timeout_now.last_index, 8);
    assert_int_equal(r.m.timeout_now.last_term, 9);
    raft_codec_message_fini(&r);
}

static void test_entries(void **state)
{
    (void)state;
    struct consensus_entry list[3] = {{2, CONSENSUS_COMMAND, text("first")}, {2, CONSENSUS_BARRIER, text("")}, {3, CONSENSUS_COMMAND, text("third!")}};
    struct consensus_message m = {.type = CONSENSUS_APPEND_ENTRIES, .from = 1, .to = 2, .term = 3, .append = {4, 2, 3, 3, list}};
    struct raft_codec_message r;
    there_and_back(&m, "firstthird!", 11, &r);
    assert_int_equal(r.m.append.n, 3);
    assert_int_equal(r.m.append.prev_index, 4);
    assert_int_equal(r.m.append.prev_term, 2);
    assert_int_equal(r.m.append.commit, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(r.entries[i].term, list[i].term);
        assert_int_equal(r.entries[i].type, list[i].type);
        assert_int_equal(r.entries[i].payload->len, list[i].payload->len);
        assert_memory_equal(r.entries[i].payload->data, list[i].payload->data, list[i].payload->len);
    }
    raft_codec_message_fini(&r);

    struct buf head = BUF_INIT;
    struct error e;
    assert_int_equal(raft_codec_encode(&m, &head), 0);
    static const char body[] = "firstthird!x";
    for (size_t len = 0; len <= 12; len++) {
        if (len == 11) continue;
        struct frame f = {.type = FRAME_RAFT, .head = head.data, .head_len = head.len, .body = (const uint8_t *)body, .body_len = len};
        assert_int_equal(raft_codec_decode(&f, &r, &e), -ERROR_PROTOCOL);
    }
    unsigned refused = 0;
    for (size_t bit = 0; bit < head.len * 8; bit++) {
        uint8_t *copy = malloc(head.len); /* exactly as long: a byte read too far is seen */
        memcpy(copy, head.data, head.len);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        struct frame f = {.type = FRAME_RAFT, .head = copy, .head_len = head.len, .body = (const uint8_t *)body, .body_len = 11};
        int rv = raft_codec_decode(&f, &r, &e);
        assert_true(rv == 0 || rv == -ERROR_PROTOCOL);
        if (rv == 0) raft_codec_message_fini(&r);
        else refused++;
        free(copy);
    }
    assert_true(refused > 20);
    for (size_t len = 0; len < head.len; len++) {
        uint8_t *copy = malloc(len + 1);
        memcpy(copy, head.data, len);
        struct frame f = {.type = FRAME_RAFT, .head = copy, .head_len = len, .body = (const uint8_t *)body, .body_len = 11};
        assert_int_equal(raft_codec_decode(&f, &r, &e), -ERROR_PROTOCOL);
        free(copy);
    }
    for (int i = 0; i < 3; i++) blob_unref(list[i].payload);
    buf_fini(&head);
}

static void test_probe(void **state)
{
    (void)state;
    struct buf head = BUF_INIT;
    struct error e;
    uint64_t from, term;
    assert_int_equal(raft_codec_encode_probe(3, 99, &head), 0);
    struct frame f = {.type = FRAME_READ_PROBE, .head = head.data, .head_len = head.len};
    assert_int_equal(raft_codec_decode_probe(&f, &from, &term, &e), 0);
    assert_int_equal(from, 3);
    assert_int_equal(term, 99);
    f.head_len--;
    assert_int_equal(raft_codec_decode_probe(&f, &from, &term, &e), -ERROR_PROTOCOL);
    f.head_len++;
    f.body = f.head;
    f.body_len = 1;
    assert_int_equal(raft_codec_decode_probe(&f, &from, &term, &e), -ERROR_PROTOCOL);
    buf_fini(&head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_entries), cmocka_unit_test(test_probe)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
